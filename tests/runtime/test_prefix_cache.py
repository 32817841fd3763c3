"""Prompts that begin alike: what the cache spares, in memory and on disk, and that it changes no result."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import measure
import models
from commandr_gguf import (
    ArgumentError,
    CancelledError,
    CommandR,
    ContextFullError,
    FileError,
    Model,
    OutOfMemoryError,
    Session,
)
from commandr_gguf.prefix_cache import PrefixCache
from commandr_gguf.prefix_slots import Lease, common_prefix

EXACT: dict[str, Any] = {"n_ctx": 1024, "n_ubatch": 32, "n_threads": 1, "type_k": "f32", "type_v": "f32"}

LONG = EXACT | {"n_ctx": 2048}  # holds sequences that overflow the window's cells


def words(seed: int, n: int) -> list[int]:
    ids: list[int] = np.random.default_rng(seed).integers(8, 600, n).tolist()
    return ids


HEAD = [5, *words(0, 79)]
A, B, C = (HEAD + words(seed, 30) for seed in (1, 2, 3))


@pytest.fixture(scope="module", params=models.SHAPES)
def any_model(request: pytest.FixtureRequest) -> Iterator[Model]:
    with Model(models.gguf(request.param)) as opened:
        yield opened


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model(models.gguf("gqa")) as opened:
        yield opened


@pytest.fixture(scope="module")
def windowed() -> Iterator[Model]:
    with Model(models.gguf("cohere2")) as opened:
        yield opened


def fresh_logits(model: Model, tokens: list[int]) -> npt.NDArray[np.float32]:
    with Session(model, **EXACT) as session:
        session.eval(tokens)
        return session.logits()


def evaluate(cache: PrefixCache, tokens: list[int], **options: Any) -> Lease:
    """Acquire, compute as a fresh session would, release."""
    session = cache._session
    with cache.acquire(tokens, **options) as lease:
        session.eval(tokens, seq_id=lease.seq_id)
        assert session.n_reused() == lease.held_tokens + lease.computed_tokens
        measure.assert_same(session.logits(), fresh_logits(session.model, tokens))
        return lease


# ---- in memory


def test_prompts_with_one_head_compute_it_once_in_every_shape(any_model: Model) -> None:
    with Session(any_model, n_seq_max=3, **EXACT) as session:
        cache = PrefixCache(session)
        assert evaluate(cache, A, stable=80).memory_tokens == 0
        assert evaluate(cache, B, stable=80).memory_tokens == 80
        assert evaluate(cache, C, stable=80).memory_tokens == 80


def test_the_next_turn_goes_on_in_the_same_sequence(any_model: Model) -> None:
    with Session(any_model, n_seq_max=3, **EXACT) as session:
        cache = PrefixCache(session)
        first = evaluate(cache, A)
        reply = A + words(4, 20)
        session.eval(reply, seq_id=first.seq_id)
        second = evaluate(cache, reply + words(5, 15))
        assert (second.seq_id, second.memory_tokens) == (first.seq_id, len(reply))


def test_another_reply_to_the_same_prompt_takes_the_same_sequence(any_model: Model) -> None:
    with Session(any_model, n_seq_max=3, **EXACT) as session:
        cache = PrefixCache(session)
        first = evaluate(cache, A)
        session.eval(A + words(4, 20), seq_id=first.seq_id)
        again = evaluate(cache, A)
        assert (again.seq_id, again.memory_tokens) == (first.seq_id, len(A) - 1)


def test_a_prompt_that_departs_leaves_the_other_conversation_as_it_was(model: Model) -> None:
    with Session(model, n_seq_max=2, **EXACT) as session:
        cache = PrefixCache(session)
        first = evaluate(cache, A)
        n_free = session.n_free
        second = evaluate(cache, B)
        assert second.seq_id != first.seq_id
        assert session.seq_tokens(first.seq_id) == A
        assert n_free - session.n_free == 30  # the cells of the head are shared
        assert evaluate(cache, A).memory_tokens == len(A) - 1


def test_three_users_take_turns_in_two_sequences(any_model: Model) -> None:
    talks = {"a": A, "b": B, "c": C}
    with Session(any_model, n_seq_max=2, **EXACT) as session:
        cache = PrefixCache(session)
        reused: dict[str, list[int]] = {"a": [], "b": [], "c": []}
        for turn in range(3):
            for i, user in enumerate(talks):
                reused[user].append(evaluate(cache, talks[user], stable=80).memory_tokens)
                talks[user] = talks[user] + words(100 + 10 * turn + i, 60)
        assert reused == {"a": [0, 80, 80], "b": [80, 80, 80], "c": [80, 80, 80]}


def test_two_users_in_two_sequences_each_go_on_in_their_own(model: Model) -> None:
    talks = {"a": A, "b": B}
    with Session(model, n_seq_max=2, **EXACT) as session:
        cache = PrefixCache(session)
        for turn in range(3):
            for i, user in enumerate(talks):
                before = len(talks[user]) - 25 if turn else 80 * i
                assert evaluate(cache, talks[user]).memory_tokens == before
                talks[user] = talks[user] + words(100 + 10 * turn + i, 25)


@pytest.mark.parametrize("n_seq_max", [2, 3])
def test_a_head_outlives_conversations_that_have_left_its_window_behind(windowed: Model, n_seq_max: int) -> None:
    with Session(windowed, n_seq_max=n_seq_max, **LONG) as session:
        cache = PrefixCache(session)
        for tokens, n_reused in ((A, 0), (B, 80), (C, 80), (A, 80)):
            assert evaluate(cache, tokens + words(7, 600 + len(tokens)), stable=80).memory_tokens == n_reused


def test_without_a_stable_length_a_window_learns_the_head_from_two_prompts(windowed: Model) -> None:
    with Session(windowed, n_seq_max=3, **LONG) as session:
        cache = PrefixCache(session)
        lengths = [evaluate(cache, tokens + words(7, 600)).memory_tokens for tokens in (A, B, C)]
        assert lengths == [0, 0, 80]


def test_one_sequence_is_enough_to_be_right(any_model: Model) -> None:
    with Session(any_model, **EXACT) as session:
        cache = PrefixCache(session)
        for tokens in (A, B, A + words(1, 300), C):
            evaluate(cache, tokens, stable=80)


def test_a_sequence_changed_behind_the_cache_costs_time_only(model: Model) -> None:
    with Session(model, n_seq_max=2, **EXACT) as session:
        cache = PrefixCache(session)
        first = evaluate(cache, A)
        session.eval(C[:90], seq_id=first.seq_id)
        assert evaluate(cache, A).memory_tokens == 80


def test_a_long_random_mix_computes_what_fresh_sessions_do(any_model: Model) -> None:
    random = np.random.default_rng(5)
    talks = [A, B, C, [5, *words(6, 40)]]
    with Session(any_model, n_seq_max=3, **(EXACT | {"n_ctx": 512})) as session:
        cache = PrefixCache(session, min_tokens=16)
        for step in range(12):
            i = int(random.integers(len(talks)))
            evaluate(cache, talks[i], stable=80 if i < 3 else None)
            talks[i] = talks[i] + words(50 + step, int(random.integers(1, 60)))


# ---- room


def test_a_prompt_that_fits_alone_is_never_too_long_because_of_the_cache(any_model: Model) -> None:
    with Session(any_model, n_seq_max=3, **(EXACT | {"n_ctx": 256})) as session:
        cache = PrefixCache(session)
        for seed in range(3):
            evaluate(cache, [5, *words(seed, 119)])
        evaluate(cache, [5, *words(9, 255)])


def test_room_for_the_reply_is_made_from_what_is_least_recently_used(model: Model) -> None:
    with Session(model, n_seq_max=3, **(EXACT | {"n_ctx": 256})) as session:
        cache = PrefixCache(session)
        old, new = [5, *words(1, 79)], [7, *words(2, 79)]
        evaluate(cache, old)
        evaluate(cache, new)
        lease = cache.acquire([6, *words(3, 49)], reserve=100)
        assert [session.seq_length(i) for i in range(3)] == [0, 80, 0]
        session.eval([6, *words(3, 149)], seq_id=lease.seq_id)
        assert cache.make_room(80)
        assert session.n_free >= 80
        assert not cache.make_room(200)


def test_idle_sequences_give_way_where_the_cache_cannot_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    with CommandR(models.gguf("gqa"), n_ctx=1024, n_seq_max=3, n_threads=1) as model:
        tokens = np.array([5, *words(3, 99)], np.int32)
        expected, embedding = model.logits(tokens), model.embed("a b c")
        for seq_id in range(3):
            model.session.eval([7, *words(seq_id, 199)], seq_id=seq_id)
        evaluate = Session.eval

        def within(session: Session, wanted: Any, *, seq_id: int = 0, **options: Any) -> Any:
            if sum(session.seq_length(i) for i in range(3) if i != seq_id) + len(wanted) > 300:
                raise OutOfMemoryError("the cache cannot grow")
            return evaluate(session, wanted, seq_id=seq_id, **options)

        monkeypatch.setattr(Session, "eval", within)
        np.testing.assert_allclose(model.logits(tokens), expected, atol=1e-3)
        np.testing.assert_allclose(model.embed("a b c"), embedding, atol=1e-3)
        with pytest.raises(OutOfMemoryError):
            model.logits([5, *words(3, 300)])


def test_a_sequence_in_use_never_gives_way(model: Model) -> None:
    with Session(model, n_seq_max=2, **(EXACT | {"n_ctx": 256})) as session:
        cache = PrefixCache(session)
        lease = cache.acquire(A)
        session.eval(A, seq_id=lease.seq_id)
        long = [6, *words(9, 199)]
        other = cache.acquire(long)
        with pytest.raises(ContextFullError):
            session.eval(long, seq_id=other.seq_id)
        assert session.seq_tokens(lease.seq_id) == A
        lease.release()
        other.release()
        evaluate(cache, long)


def test_a_prompt_that_goes_on_from_a_sequence_in_use_gets_a_copy(any_model: Model) -> None:
    with Session(any_model, n_seq_max=2, **EXACT) as session:
        cache = PrefixCache(session)
        lease = cache.acquire(A)
        session.eval(A, seq_id=lease.seq_id)
        assert evaluate(cache, A + words(4, 20)).memory_tokens == len(A)
        assert session.seq_tokens(lease.seq_id) == A


def test_when_all_sequences_are_in_use_one_is_shared(any_model: Model) -> None:
    with Session(any_model, n_seq_max=2, **EXACT) as session:
        cache = PrefixCache(session)
        leases = [cache.acquire(tokens) for tokens in (A, B, C)]
        assert leases[2].seq_id == leases[0].seq_id
        for _ in range(2):
            for lease, tokens in zip(leases, (A, B, C), strict=True):
                session.eval(tokens, seq_id=lease.seq_id)
                measure.assert_same(session.logits(), fresh_logits(any_model, tokens))


def test_a_lease_that_its_owner_lost_is_free_again(model: Model) -> None:
    with Session(model, **EXACT) as session:
        cache = PrefixCache(session)
        lease = cache.acquire(A)
        session.eval(A, seq_id=lease.seq_id)
        del lease
        gc.collect()
        with cache.acquire(C) as other:
            assert session.seq_tokens(other.seq_id) == HEAD  # cut back: nobody else has it


def test_a_lease_given_back_twice_frees_no_one_elses(model: Model) -> None:
    with Session(model, n_seq_max=2, **EXACT) as session:
        cache = PrefixCache(session)
        first = cache.acquire(A)
        first.release()
        second = cache.acquire(A)
        first.release()
        assert cache.acquire(A).seq_id != second.seq_id


def test_threads_share_the_sequences(model: Model) -> None:
    prompts = [HEAD + words(20 + i, 40) for i in range(4)]
    expected = [fresh_logits(model, tokens) for tokens in prompts]
    failed: list[BaseException] = []
    with Session(model, n_seq_max=4, **EXACT) as session:
        cache = PrefixCache(session)

        def run(tokens: list[int]) -> None:
            try:
                for _ in range(5):
                    with cache.acquire(tokens, stable=80) as lease:
                        session.next_token(tokens, None, seq_id=lease.seq_id)
                        assert session.seq_tokens(lease.seq_id) == tokens
            except BaseException as error:  # noqa: BLE001  # shown below
                failed.append(error)

        threads = [threading.Thread(target=run, args=(tokens,)) for tokens in prompts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        for tokens, logits in zip(prompts, expected, strict=True):
            with cache.acquire(tokens) as lease:
                session.eval(tokens, seq_id=lease.seq_id)
                measure.assert_same(session.logits(), logits)


@pytest.mark.parametrize(
    ("tokens", "options", "match"),
    [
        ([], {}, "the prompt is empty"),
        ("abc", {}, "token ids"),
        (b"abcd", {}, "token ids"),
        ([2**40], {}, "token ids"),
        (A, {"stable": -1}, "stable"),
        (A, {"stable": len(A) + 1}, "stable"),
        (A, {"reserve": -1}, "reserve"),
    ],
)
def test_wrong_arguments_are_named(model: Model, tokens: Any, options: dict[str, Any], match: str) -> None:
    with Session(model, **EXACT) as session, pytest.raises(ArgumentError, match=match):
        PrefixCache(session).acquire(tokens, **options)


def test_tokens_may_be_an_array(model: Model) -> None:
    with Session(model, **EXACT) as session:
        cache = PrefixCache(session)
        with cache.acquire(np.array(A)) as lease:
            session.eval(A, seq_id=lease.seq_id)
        assert evaluate(cache, A).memory_tokens == len(A) - 1


@pytest.mark.parametrize("n", [0, 1, 1023, 1024, 1025, 3000])
def test_the_common_prefix_of_lists_of_any_length(n: int) -> None:
    same = words(0, n)
    assert common_prefix(same, list(same)) == n
    assert common_prefix([*same, 1], [*same, 2, 3]) == n


# ---- on disk


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_second_session_reads_the_head_from_disk_in_every_shape(any_model: Model, tmp_path: Path) -> None:
    with Session(any_model, n_seq_max=2, **EXACT) as session:
        first = evaluate(PrefixCache(session, tmp_path), A + words(7, 200), stable=80)
        assert (first.memory_tokens, first.disk_tokens, first.computed_tokens) == (0, 0, 80)
    [name] = files(tmp_path)
    assert name.startswith("80-")
    with Session(any_model, n_seq_max=2, **EXACT) as session:
        cache = PrefixCache(session, tmp_path)
        second = evaluate(cache, B + words(8, 200), stable=80)
        assert (second.memory_tokens, second.disk_tokens, second.computed_tokens) == (0, 80, 0)
        third = evaluate(cache, C + words(9, 200), stable=80)
        assert (third.memory_tokens, third.disk_tokens) == (80, 0)
    assert files(tmp_path) == [name]


def test_a_whole_prompt_on_disk_spares_all_but_its_last_token(any_model: Model, tmp_path: Path) -> None:
    for expected in (0, len(A) - 1):
        with Session(any_model, **EXACT) as session:
            assert evaluate(PrefixCache(session, tmp_path), A, stable=len(A)).disk_tokens == expected


def test_what_two_prompts_share_is_stored_without_being_told(model: Model, tmp_path: Path) -> None:
    with Session(model, n_seq_max=2, **EXACT) as session:
        cache = PrefixCache(session, tmp_path)
        evaluate(cache, A)
        assert files(tmp_path) == []
        evaluate(cache, B)
        evaluate(cache, B + words(4, 100))  # goes on, departs nowhere
    assert [name.split("-")[0] for name in files(tmp_path)] == ["80"]


def test_a_head_that_a_window_has_left_behind_is_read_again(windowed: Model, tmp_path: Path) -> None:
    with Session(windowed, **LONG) as session:
        cache = PrefixCache(session, tmp_path)
        evaluate(cache, A + words(7, 600), stable=80)
        lease = evaluate(cache, B + words(8, 600), stable=80)
        assert (lease.memory_tokens, lease.disk_tokens) == (0, 80)


def test_the_longest_stored_prefix_is_taken(model: Model, tmp_path: Path) -> None:
    with Session(model, n_seq_max=2, **EXACT) as session:
        cache = PrefixCache(session, tmp_path, min_tokens=16)
        for length in (20, 60, 100):
            evaluate(cache, A, stable=length)
    with Session(model, **EXACT) as session:
        cache = PrefixCache(session, tmp_path, min_tokens=16)
        assert evaluate(cache, B).disk_tokens == 60
        assert evaluate(cache, A).disk_tokens == 100


def test_a_head_that_memory_holds_in_a_longer_sequence_is_stored_from_a_copy(any_model: Model, tmp_path: Path) -> None:
    with Session(any_model, n_seq_max=2, **EXACT) as session:
        evaluate(PrefixCache(session), A)
        cache = PrefixCache(session, tmp_path)
        assert evaluate(cache, A, stable=80).memory_tokens == len(A) - 1
    assert [name.split("-")[0] for name in files(tmp_path)] == ["80"]


def test_a_prompt_is_kept_beside_its_head(any_model: Model, tmp_path: Path) -> None:
    asked, other = A + words(7, 200), B + words(8, 200)
    with Session(any_model, n_seq_max=2, **EXACT) as session:
        lease = evaluate(PrefixCache(session, tmp_path), asked, stable=80, whole=True)
        assert (lease.held_tokens, lease.computed_tokens) == (0, len(asked) - 1)
    assert sorted(name.split("-")[0] for name in files(tmp_path)) == sorted(["80", str(len(asked) - 1)])
    for prompt, expected in ((asked, len(asked) - 1), (other, 80)):
        with Session(any_model, n_seq_max=2, **EXACT) as session:
            lease = evaluate(PrefixCache(session, tmp_path), prompt, stable=80, whole=True)
            assert (lease.disk_tokens, lease.computed_tokens) == (expected, len(prompt) - 1 - expected)


def test_another_process_reads_what_this_one_stored(model: Model, tmp_path: Path) -> None:
    with Session(model, **EXACT) as session:
        evaluate(PrefixCache(session, tmp_path), A, stable=80)
    script = f"""
from commandr_gguf import Model, Session
from commandr_gguf.prefix_cache import PrefixCache
with Model({model.path!r}) as model, Session(model, **{EXACT!r}) as session:
    lease = PrefixCache(session, {str(tmp_path)!r}).acquire({B!r})
    print(lease.disk_tokens, session.seq_length(lease.seq_id))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["80", "80"]


def test_models_and_cache_types_share_a_folder(model: Model, tmp_path: Path) -> None:
    half = EXACT | {"type_k": "f16", "type_v": "f16"}

    def reused(model: Model, options: dict[str, Any]) -> int:
        with Session(model, **options) as session, PrefixCache(session, tmp_path).acquire(A, stable=80) as lease:
            return lease.disk_tokens

    with Model(models.gguf("v01")) as other:
        kinds = [(model, EXACT), (model, half), (other, EXACT)]
        assert [reused(*kind) for kind in kinds] == [0, 0, 0]
        assert len(files(tmp_path)) == 3
        assert [reused(*kind) for kind in kinds] == [80, 80, 80]
        assert len(files(tmp_path)) == 3


@pytest.mark.parametrize("place", ["header", "length", "rows", "cut", "empty", "garbage"])
def test_a_damaged_file_is_replaced_and_never_an_error(model: Model, tmp_path: Path, place: str) -> None:
    with Session(model, **EXACT) as session:
        evaluate(PrefixCache(session, tmp_path), A, stable=80)
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    data = bytearray(whole)
    if place in ("header", "length", "rows"):
        data[{"header": 24, "length": 55, "rows": len(data) // 2}[place]] ^= 0x40
    path.write_bytes({"cut": bytes(data[:-9]), "empty": b"", "garbage": b"garbage" * 100}.get(place, bytes(data)))
    with Session(model, **EXACT) as session:
        cache = PrefixCache(session, tmp_path)
        assert evaluate(cache, A, stable=80).disk_tokens == 0
    assert path.read_bytes() == whole
    with Session(model, **EXACT) as session:
        assert evaluate(PrefixCache(session, tmp_path), B).disk_tokens == 80


def test_a_damaged_file_leaves_what_memory_holds_elsewhere(model: Model, tmp_path: Path) -> None:
    with Session(model, **EXACT) as session:
        evaluate(PrefixCache(session, tmp_path), A, stable=100)
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    with Session(model, n_seq_max=2, **EXACT) as session:
        cache = PrefixCache(session, tmp_path, min_tokens=16)
        evaluate(cache, B)
        lease = evaluate(cache, A)
        assert (lease.memory_tokens, lease.disk_tokens) == (80, 0)


def test_a_file_known_to_be_of_this_model_is_removed_when_it_is_damaged(model: Model, tmp_path: Path) -> None:
    other = [7, *words(3, 99)]
    with Session(model, **EXACT) as session:
        evaluate(PrefixCache(session, tmp_path), A, stable=80)
        [whole] = tmp_path.iterdir()
        evaluate(PrefixCache(session, tmp_path), other, stable=80)
        [damaged] = set(tmp_path.iterdir()) - {whole}
        damaged.write_bytes(damaged.read_bytes()[:-9])
    with Session(model, **EXACT) as session:
        cache = PrefixCache(session, tmp_path)
        assert evaluate(cache, B).disk_tokens == 80
        assert evaluate(cache, other).disk_tokens == 0
    assert list(tmp_path.iterdir()) == [whole]


def test_a_file_of_another_model_is_tried_once(model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Model(models.gguf("v01")) as other, Session(other, **EXACT) as session:
        evaluate(PrefixCache(session, tmp_path), A, stable=80)
    [path] = tmp_path.iterdir()
    caplog.set_level("INFO", "commandr_gguf.prefix_store")
    with Session(model, **EXACT) as session:
        cache = PrefixCache(session, tmp_path)
        for tokens in (A, [6], B):
            assert evaluate(cache, tokens).disk_tokens == 0
    assert caplog.text.count("passed over a file of the prompt cache") == 1
    assert path.exists()


def test_room_for_a_file_is_made_from_other_conversations(model: Model, tmp_path: Path) -> None:
    with Session(model, n_seq_max=3, **(EXACT | {"n_ctx": 256})) as session:
        evaluate(PrefixCache(session, tmp_path), A, stable=80)
        session.seq_rm(0)
        cache = PrefixCache(session, tmp_path)
        evaluate(cache, [6, *words(1, 99)])
        evaluate(cache, [7, *words(2, 99)])
        assert evaluate(cache, B).disk_tokens == 80


def test_a_file_that_finds_no_room_is_read_when_there_is(model: Model, tmp_path: Path) -> None:
    with Session(model, n_seq_max=2, **(EXACT | {"n_ctx": 256})) as session:
        evaluate(PrefixCache(session, tmp_path), A, stable=80)
        session.seq_rm(0)
        cache = PrefixCache(session, tmp_path)
        with cache.acquire([6, *words(1, 199)]) as lease:
            session.eval([6, *words(1, 199)], seq_id=lease.seq_id)
            cache.acquire(B).release()
        assert evaluate(cache, B).disk_tokens == 80


def test_sessions_that_share_a_folder_and_its_limit_are_all_right(model: Model, tmp_path: Path) -> None:
    prompts = [[5, *words(seed, 99)] for seed in range(6)]
    failed: list[BaseException] = []

    def run(seed: int) -> None:
        try:
            with Session(model, **EXACT) as session:
                cache = PrefixCache(session, tmp_path, max_bytes=400_000)
                for i in np.random.default_rng(seed).integers(0, len(prompts), 15):
                    with cache.acquire(prompts[i], stable=80) as lease:
                        # Less than the head, where another session removed its file between its listing and its use.
                        held = session.seq_tokens(lease.seq_id)
                        assert held == prompts[i][: len(held)]
        except BaseException as error:  # noqa: BLE001  # shown below
            failed.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert all(name.endswith(".state") for name in files(tmp_path))
    assert 0 < sum(path.stat().st_size for path in tmp_path.iterdir()) <= 400_000
    with Session(model, **EXACT) as session:
        cache = PrefixCache(session, tmp_path)
        n_disk = [evaluate(cache, tokens).disk_tokens for tokens in prompts]
    assert sorted(n_disk) == [0] * (6 - len(files(tmp_path))) + [80] * len(files(tmp_path))


def test_files_that_are_not_ours_are_left_alone(model: Model, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "folder.state").mkdir()
    with Session(model, **EXACT) as session:
        evaluate(PrefixCache(session, tmp_path, max_bytes=1), A, stable=80)
    assert files(tmp_path) == ["folder.state", "notes.txt"]


def test_the_least_recently_used_files_are_removed_beyond_the_limit(model: Model, tmp_path: Path) -> None:
    heads = [[5, *words(seed, 99)] for seed in range(3)]
    with Session(model, **EXACT) as session:
        evaluate(PrefixCache(session, tmp_path), heads[0], stable=90)
        [first] = tmp_path.iterdir()
        size = first.stat().st_size
        cache = PrefixCache(session, tmp_path, max_bytes=2 * size)
        evaluate(cache, heads[1], stable=90)
        [second] = set(tmp_path.iterdir()) - {first}
        os.utime(first, (1, 1))
        os.utime(second, (2, 2))
        assert evaluate(cache, heads[0]).disk_tokens == 90  # and so the first is the more recent one
        evaluate(cache, heads[2], stable=90)
    left = set(tmp_path.iterdir())
    assert first in left
    assert second not in left
    assert len(left) == 2


def test_what_a_dead_process_left_half_written_is_removed(model: Model, tmp_path: Path) -> None:
    old, new = tmp_path / "80-aa.1.0.new.1.0.tmp", tmp_path / "80-bb.1.0.new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    with Session(model, **EXACT) as session:
        PrefixCache(session, tmp_path)
    assert files(tmp_path) == [new.name]


def test_a_folder_that_vanishes_costs_the_cache_and_nothing_else(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache"
    with Session(model, **EXACT) as session:
        cache = PrefixCache(session, folder)
        folder.rmdir()
        evaluate(cache, A, stable=80)
    assert "the prompt cache cannot be written" in caplog.text


def test_a_folder_that_cannot_be_made_is_an_error_at_once(model: Model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        Session(model, **EXACT) as session,
        pytest.raises(FileError, match="file/cache: the folder of the prompt cache"),
    ):
        PrefixCache(session, tmp_path / "file" / "cache")


def test_the_folder_is_made_for_its_user_alone(model: Model, tmp_path: Path) -> None:
    with Session(model, **EXACT) as session:
        PrefixCache(session, tmp_path / "a" / "cache")
    assert (tmp_path / "a" / "cache").stat().st_mode & 0o077 == 0


# ---- stopping


def test_a_cancelled_head_gives_the_sequence_back_and_goes_on_later(model: Model, tmp_path: Path) -> None:
    with Session(model, **EXACT) as session:
        cache = PrefixCache(session, tmp_path)
        with pytest.raises(CancelledError):
            cache.acquire(A, stable=80, progress=lambda done, total: done < 40)
        assert files(tmp_path) == []
        held = session.seq_length()
        assert 0 < held < 80
        assert evaluate(cache, A, stable=80).memory_tokens == held
    assert len(files(tmp_path)) == 1


def test_a_prompt_beyond_the_context_is_not_begun(model: Model, tmp_path: Path) -> None:
    with Session(model, **(EXACT | {"n_ctx": 256})) as session:
        cache = PrefixCache(session, tmp_path)
        lease = cache.acquire([5] * 300, stable=200)
        assert (lease.computed_tokens, session.seq_length(lease.seq_id)) == (0, 0)
