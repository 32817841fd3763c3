"""F32 files with an F32 KV cache compute the logits of transformers, however the work is cut up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import measure
import models
from commandr_gguf.model import Model
from commandr_gguf.session import EvalItem, Session

every_shape = pytest.mark.parametrize("shape", models.SHAPES)


@contextmanager
def session(shape: str, *, repack: bool = True, **options: Any) -> Iterator[Session]:
    # One thread: models as small as these are not faster with more, and far slower when the machine is busy.
    defaults: dict[str, Any] = {"n_ctx": 512, "n_threads": 1, "type_k": "f32", "type_v": "f32"}
    with Model(models.gguf(shape), repack=repack) as model, Session(model, **(defaults | options)) as opened:
        yield opened


def logits(opened: Session, tokens: npt.ArrayLike, *, seq_id: int = 0) -> npt.NDArray[np.float32]:
    """Logits for every token that the sequence is given."""
    opened.eval(np.asarray(tokens, np.int32), seq_id=seq_id, n_outputs=len(np.asarray(tokens)))
    return opened.logits()


def assert_golden(shape: str, rows: npt.NDArray[np.float32], which: str = "a") -> None:
    """Rows for all positions of a golden sequence."""
    golden = models.golden(shape)
    measure.assert_same(rows[golden[f"positions_{which}"]], golden[f"logits_{which}"])


def assert_expected(shape: str, rows: npt.NDArray[np.float32], tokens: npt.ArrayLike) -> None:
    """Rows for the last positions of any tokens."""
    measure.assert_same(rows, models.expected_logits(shape, tokens)[-len(rows) :])


@every_shape
@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("n_ubatch", [1, 7, 512])
def test_every_graph_size(shape: str, n_ubatch: int, flash_attn: bool) -> None:
    golden = models.golden(shape)
    with session(shape, n_ubatch=n_ubatch, flash_attn=flash_attn) as s:
        for which in "ab":
            s.seq_rm(0)
            assert_golden(shape, logits(s, golden[f"tokens_{which}"]), which)


@every_shape
@pytest.mark.parametrize("n_threads", [2, 3])
def test_several_threads(shape: str, n_threads: int) -> None:
    with session(shape, n_threads=n_threads) as s:
        assert_golden(shape, logits(s, models.golden(shape)["tokens_a"]))


@every_shape
@pytest.mark.parametrize("n_outputs", [1, 5])
def test_outputs_computed_in_several_graphs(shape: str, n_outputs: int) -> None:
    with session(shape, n_outputs=n_outputs) as s:
        assert_golden(shape, logits(s, models.golden(shape)["tokens_a"]))


@every_shape
@pytest.mark.parametrize("flash_attn", [False, True])
def test_token_by_token(shape: str, flash_attn: bool) -> None:
    tokens = models.golden(shape)["tokens_a"]
    with session(shape, flash_attn=flash_attn) as s:
        rows = []
        for n in range(1, len(tokens) + 1):
            s.eval(tokens[:n])
            assert s.n_reused() == n - 1
            rows.append(s.logits()[0])
    assert_golden(shape, np.array(rows))


@every_shape
def test_only_the_wanted_outputs(shape: str) -> None:
    tokens = models.golden(shape)["tokens_a"]
    with session(shape) as s:
        s.eval(tokens[:100], n_outputs=0)
        s.eval(tokens, n_outputs=9)
        rows = s.logits()
        assert rows.shape[0] == 9
        assert_expected(shape, rows, tokens)


@every_shape
def test_without_repacked_weights(shape: str) -> None:
    with session(shape, repack=False) as s:
        assert_golden(shape, logits(s, models.golden(shape)["tokens_a"]))


@every_shape
def test_hidden_states(shape: str) -> None:
    golden = models.golden(shape)
    expected = golden["hidden_a"]
    with session(shape) as s:
        s.eval(golden["tokens_a"], n_outputs=len(expected), hidden=True)
        assert measure.relative_error(s.hidden(), expected) < 1e-3
        measure.assert_same(s.logits(), golden["logits_a"][-len(expected) :])
        s.seq_rm(0)
        s.eval(golden["tokens_a"], n_outputs=len(expected), logits=False, hidden=True)
        assert measure.relative_error(s.hidden(), expected) < 1e-3


@every_shape
@pytest.mark.parametrize("flash_attn", [False, True])
def test_two_sequences_in_common_graphs(shape: str, flash_attn: bool) -> None:
    golden = models.golden(shape)
    a, b = golden["tokens_a"], golden["tokens_b"]
    with session(shape, n_seq_max=2, n_ubatch=24, flash_attn=flash_attn) as s:
        s.eval_batch([EvalItem(a, 0, len(a)), EvalItem(b, 1, len(b))])
        assert_golden(shape, s.logits(0), "a")
        assert_golden(shape, s.logits(1), "b")


@every_shape
def test_two_sequences_in_turns(shape: str) -> None:
    golden = models.golden(shape)
    a, b = golden["tokens_a"], golden["tokens_b"]
    rows: dict[str, list[npt.NDArray[np.float32]]] = {"a": [], "b": []}
    done = {"a": 0, "b": 0}
    with session(shape, n_seq_max=2) as s:
        for step in (1, 3, 11, 30, 50, 1, 64):
            items = []
            for seq_id, (name, tokens) in enumerate((("a", a), ("b", b))):
                n = min(len(tokens), done[name] + step)
                items.append(EvalItem(tokens[:n], seq_id, n - done[name]))
                done[name] = n
            s.eval_batch(items)
            for i, (name, item) in enumerate(zip("ab", items, strict=True)):
                if item.n_outputs:
                    rows[name].append(s.logits(i))
    assert done == {"a": len(a), "b": len(b)}
    assert_golden(shape, np.concatenate(rows["a"]), "a")
    assert_golden(shape, np.concatenate(rows["b"]), "b")


@every_shape
def test_many_sequences_decode_in_one_graph(shape: str) -> None:
    a = models.golden(shape)["tokens_a"]
    prompts = [np.concatenate([a[:1], a[3 * i : 3 * i + 20 + 5 * i]]) for i in range(6)]
    with session(shape, n_seq_max=6) as s:
        for seq_id, prompt in enumerate(prompts):
            s.eval(prompt[:-2], seq_id=seq_id)
        s.eval_batch([EvalItem(prompt, i, 2) for i, prompt in enumerate(prompts)])
        for i, prompt in enumerate(prompts):
            assert_expected(shape, s.logits(i), prompt)


@every_shape
@pytest.mark.parametrize("n_keep", [0, 1, 30, 155])
def test_after_forgetting_the_end(shape: str, n_keep: int) -> None:
    a, b = models.golden(shape)["tokens_a"], models.golden(shape)["tokens_b"]
    with session(shape) as s:
        s.eval(a)
        s.seq_rm(0, n_keep)
        assert s.seq_length() == n_keep
        mixed = np.concatenate([a[:n_keep], b[:40]])
        s.eval(mixed, n_outputs=40)
        assert_expected(shape, s.logits(), mixed)


@every_shape
def test_changed_tokens_are_computed_anew(shape: str) -> None:
    a, b = models.golden(shape)["tokens_a"], models.golden(shape)["tokens_b"]
    mixed = np.concatenate([a[:90], b[:30]])
    with session(shape) as s:
        s.eval(a)
        s.eval(mixed, n_outputs=30)
        assert_expected(shape, s.logits(), mixed)
        assert s.seq_tokens() == mixed.tolist()
        s.eval(a, n_outputs=10)
        assert_expected(shape, s.logits(), a)


@every_shape
def test_the_same_tokens_again(shape: str) -> None:
    a = models.golden(shape)["tokens_a"]
    with session(shape) as s:
        s.eval(a)
        s.eval(a, n_outputs=4)
        assert_expected(shape, s.logits(), a)
        s.eval(a[:50], n_outputs=2)
        assert s.seq_length() == 50
        assert_expected(shape, s.logits(), a[:50])


@every_shape
def test_a_copied_sequence_diverges(shape: str) -> None:
    a, b = models.golden(shape)["tokens_a"], models.golden(shape)["tokens_b"]
    with session(shape, n_seq_max=3) as s:
        s.eval(a[:100])
        s.seq_cp(0, 2)
        assert s.n_free == s.n_ctx - 100
        left, right = a[:130], np.concatenate([a[:95], b[:35]])
        s.eval_batch([EvalItem(left, 0, 5), EvalItem(right, 2, 5)])
        assert_expected(shape, s.logits(0), left)
        assert_expected(shape, s.logits(1), right)
        for n in (131, 132):
            s.eval_batch([EvalItem(a[:n], 0, 1), EvalItem(np.append(right, a[130:n]), 2, 1)])
            assert_expected(shape, s.logits(0), a[:n])
            assert_expected(shape, s.logits(1), np.append(right, a[130:n]))
        s.seq_rm(0)
        s.eval(np.append(right, b[:3]), seq_id=2)
        assert_expected(shape, s.logits(), np.append(right, b[:3]))


@every_shape
def test_kept_sequence_survives_the_others(shape: str) -> None:
    a, b = models.golden(shape)["tokens_a"], models.golden(shape)["tokens_b"]
    with session(shape, n_seq_max=2) as s:
        s.eval_batch([EvalItem(a[:80], 0), EvalItem(b[:80], 1)])
        s.seq_keep(1)
        assert s.seq_length(0) == 0
        s.eval(a[:60], seq_id=0)
        s.eval(b, seq_id=1, n_outputs=10)
        assert_expected(shape, s.logits(), b)


@every_shape
def test_a_full_cache(shape: str) -> None:
    a, b = models.golden(shape)["tokens_a"], models.golden(shape)["tokens_b"]
    with session(shape, n_ctx=160, n_seq_max=2) as s:
        s.eval(a[:100])
        s.eval(b[:60], seq_id=1, n_outputs=3)
        assert s.n_free == 0
        assert_expected(shape, s.logits(), b[:60])
        s.seq_rm(0, 70)
        s.eval(b[:90], seq_id=1, n_outputs=30)
        assert s.n_free == 0
        assert_expected(shape, s.logits(), b[:90])
        s.seq_rm(1)
        s.eval(a, n_outputs=90)
        assert_expected(shape, s.logits(), a)


@pytest.mark.parametrize("n_ubatch", [16, 20, 64, 512])
def test_a_sequence_of_many_windows(n_ubatch: int) -> None:
    rng = np.random.default_rng(5)
    tokens = np.append(5, rng.integers(8, 676, 699)).astype(np.int32)
    with session("cohere2", n_ctx=1024, n_ubatch=n_ubatch) as s:
        s.eval(tokens[:-3], n_outputs=200)
        assert_expected("cohere2", s.logits(), tokens[:-3])
        for n in range(len(tokens) - 2, len(tokens) + 1):
            s.eval(tokens[:n])
            assert_expected("cohere2", s.logits(), tokens[:n])
