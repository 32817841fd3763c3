"""Sessions and models from birth to close: interrupts, cancellation, threads and use after close."""

from __future__ import annotations

import array
import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import models
from commandr_gguf import (
    ArgumentError,
    CancelledError,
    ClosedError,
    CommandRError,
    ContextFullError,
    EvalItem,
    Model,
    Sampler,
    SamplingParams,
    Session,
)
from commandr_gguf.callbacks import Callback

LONG = np.random.default_rng(0).integers(8, 600, 12000).astype(np.int32)
SHORT = [5, 30, 40, 50]


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model(models.gguf("gqa")) as opened:
        yield opened


@pytest.fixture
def session(model: Model) -> Iterator[Session]:
    with Session(model, n_ctx=12288, n_seq_max=2, n_ubatch=128) as opened:
        yield opened


def usable(session: Session) -> bool:
    """Whether the session computes what a new one does."""
    session.seq_rm(0)
    session.seq_rm(1)
    session.eval(SHORT)
    with Session(session.model, n_ctx=256) as other:
        other.eval(SHORT)
        return bool(np.array_equal(session.logits(), other.logits()))


# ---- evaluation


def test_outputs_are_copies(session: Session) -> None:
    session.eval(SHORT, n_outputs=3, hidden=True)
    logits, hidden = session.logits(), session.hidden()
    before = logits.copy()
    assert logits.shape == (3, session.model.hparams.n_vocab)
    assert hidden.shape == (3, session.model.hparams.n_embd)
    session.eval([5, 100, 101])
    assert np.array_equal(logits, before)
    assert logits.flags.writeable


def test_all_kinds_of_token_sequences_give_the_same(session: Session) -> None:
    kinds: list[Any] = [tuple(SHORT), np.array(SHORT), np.array(SHORT, np.int32), array.array("i", SHORT)]
    session.eval(SHORT)
    expected = session.logits()
    for tokens in kinds:
        session.seq_rm(0)
        session.eval(tokens)
        assert np.array_equal(session.logits(), expected)


def test_an_array_can_grow_after_an_evaluation(session: Session) -> None:
    tokens = array.array("i", SHORT)
    session.eval(tokens)
    tokens.append(7)
    with pytest.raises(ArgumentError) as caught:
        session.eval(tokens, n_outputs=99)
    tokens.append(8)  # although the exception, and so the frames of the call, are still alive
    assert "99 outputs" in str(caught.value)


def test_several_sequences_in_one_evaluation(session: Session) -> None:
    other = [5, 60, 61]
    session.eval_batch([EvalItem(SHORT, 0, 2), EvalItem(other, 1, 0)])
    assert session.logits(0).shape[0] == 2
    with pytest.raises(ArgumentError, match="no such outputs for item 1"):
        session.logits(1)
    assert [session.seq_tokens(0), session.seq_tokens(1)] == [SHORT, other]
    assert session.n_free == session.n_ctx - 7
    session.seq_cp(1, 0)
    session.seq_keep(0)
    assert [session.seq_tokens(0), session.seq_tokens(1)] == [other, []]
    session.seq_rm(0, 1)
    assert (session.seq_length(0), session.seq_length(1)) == (1, 0)


def test_a_prefix_is_not_computed_again(session: Session) -> None:
    session.eval(SHORT)
    session.eval([*SHORT, 60, 61])
    assert session.n_reused() == 4


def test_outputs_are_gone_after_a_change(session: Session) -> None:
    session.eval(SHORT)
    session.seq_rm(0)
    for read in (session.logits, session.hidden):
        with pytest.raises(ArgumentError, match="no such outputs"):
            read()
    with pytest.raises(ArgumentError, match="no logits for item 0"):
        session.sample(Sampler(session.model.hparams.n_vocab, SamplingParams()), SHORT)


@pytest.mark.parametrize(
    ("tokens", "options"),
    [
        ([], {}),
        ([-1], {}),
        ([10**6], {}),
        ([2**40], {}),
        (np.array([2**40]), {}),
        (np.array([[1]]), {}),
        (np.array([1.5]), {}),
        (["a"], {}),
        (SHORT, {"seq_id": 2}),
        (SHORT, {"seq_id": -1}),
        (SHORT, {"seq_id": 2**40}),
        (SHORT, {"n_outputs": 5}),
        (SHORT, {"n_outputs": -1}),
    ],
)
def test_wrong_arguments_leave_the_session_as_it_was(session: Session, tokens: Any, options: dict[str, Any]) -> None:
    session.eval(SHORT)
    with pytest.raises(ArgumentError):
        session.eval(tokens, **options)
    assert session.seq_tokens() == SHORT


def test_too_many_tokens(model: Model) -> None:
    with Session(model, n_ctx=256) as session:
        session.eval(SHORT)
        with pytest.raises(ContextFullError):
            session.eval([5] * (session.n_ctx + 1))
        assert session.seq_tokens() == SHORT


@pytest.mark.parametrize(
    "options",
    [
        {"n_ctx": -1},
        {"n_ctx": 2**63},
        {"n_batch": 0},
        {"n_ubatch": -1},
        {"n_seq_max": 65},
        {"n_threads": 2**40},
        {"n_threads": 513},
        {"type_k": "q9"},
        {"type_v": "q5_k"},
        {"type_v": "q8_0", "flash_attn": False},
    ],
)
def test_wrong_parameters_name_the_argument(model: Model, options: dict[str, Any]) -> None:
    with pytest.raises(CommandRError) as caught:
        Session(model, **{"n_ctx": 256, **options})
    name = next(iter(options))
    assert name in str(caught.value) or str(options[name]) in str(caught.value)


def test_memory_is_stated(session: Session) -> None:
    uses = {use.what: use for use in session.memory()}
    hp = session.model.hparams
    assert uses["kv"].size + uses["kv-reserved"].size == 2 * 2 * hp.n_layer * hp.n_head_kv * hp.head_dim * session.n_ctx
    assert sum(use.size for use in session.model.memory()) > 0


# ---- interrupts


def interrupt_after(seconds: float) -> None:
    def interrupt() -> None:
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()


def test_ctrl_c_stops_an_evaluation(session: Session) -> None:
    interrupt_after(0.1)
    started = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        session.eval(LONG)
    assert time.perf_counter() - started < 2
    done = session.seq_length()
    assert done < len(LONG)
    assert session.seq_tokens() == LONG[:done].tolist()
    assert usable(session)


def test_an_interrupted_evaluation_goes_on_where_it_stopped(session: Session) -> None:
    tokens = LONG[:600]
    with pytest.raises(CancelledError):
        session.eval(tokens, progress=lambda done, total: done < 256)
    held = session.seq_length()
    assert 0 < held < 600
    session.eval(tokens)
    assert session.n_reused() == held
    resumed = session.logits()
    session.seq_rm(0)
    session.eval(tokens)
    assert np.allclose(resumed, session.logits(), atol=1e-2)


def test_progress_counts_up(session: Session) -> None:
    seen: list[tuple[int, int]] = []
    session.eval(LONG[:300], progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (300, 300)


def test_an_exception_in_progress_comes_out(session: Session) -> None:
    def fail(_done: int, _total: int) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        session.eval(LONG[:300], progress=fail)
    assert usable(session)


def test_an_interrupt_around_the_progress_function_comes_out(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_self: Callback, *_: int) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Callback, "call", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.eval(LONG[:300])
    assert usable(session)


def test_the_session_cannot_be_used_from_its_own_progress_function(session: Session) -> None:
    for call in (session.close, lambda: session.eval(SHORT), lambda: session.n_free):

        def progress(_done: int, _total: int, call: Callable[[], object] = call) -> None:
            call()

        with pytest.raises(CommandRError, match="its own progress function"):
            session.eval(LONG[:300], progress=progress)
    assert usable(session)


def test_load_progress_can_cancel_and_fail() -> None:
    path = models.gguf("gqa")
    seen: list[float] = []
    Model(path, use_mmap=False, progress=seen.append).close()
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    with pytest.raises(CancelledError):
        Model(path, progress=lambda _fraction: False)
    with pytest.raises(ZeroDivisionError):
        Model(path, progress=lambda _fraction: 1 / 0)


# ---- threads


def in_thread(function: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    result: list[object] = []

    def run() -> None:
        try:
            result.append(function())
        except CommandRError as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, result


def test_other_threads_run_during_an_evaluation(session: Session) -> None:
    started = threading.Event()
    thread, result = in_thread(lambda: session.eval(LONG, progress=lambda *_: started.set()))
    assert started.wait(10)
    count = 0
    while thread.is_alive() and count < 1000:
        count += 1
    assert count == 1000
    session.cancel()
    thread.join(10)
    assert isinstance(result[0], CancelledError)


def test_cancel_holds_until_it_is_lifted(session: Session) -> None:
    session.cancel()
    with pytest.raises(CancelledError):
        session.eval(SHORT)
    session.cancel(False)
    assert usable(session)


def test_close_stops_what_runs_in_another_thread(model: Model) -> None:
    session = Session(model, n_ctx=12288, n_ubatch=128)
    started = threading.Event()
    thread, result = in_thread(lambda: session.eval(LONG, progress=lambda *_: started.set()))
    assert started.wait(10)
    session.close()
    thread.join(10)
    assert isinstance(result[0], CancelledError)


def test_calls_from_threads_take_turns(session: Session) -> None:
    tasks = [in_thread(lambda i=i: session.eval(LONG[: 200 + i], seq_id=i)) for i in range(2)]  # type: ignore[misc]
    for thread, result in tasks:
        thread.join(30)
        assert result == [None]
    assert [session.seq_length(i) for i in range(2)] == [200, 201]


# ---- close


def test_use_after_close_is_an_error(model: Model) -> None:
    session = Session(model, n_ctx=256)
    session.eval(SHORT)
    session.close()
    session.close()
    uses: list[Callable[[], object]] = [
        lambda: session.eval(SHORT),
        session.logits,
        session.hidden,
        session.seq_tokens,
        session.memory,
        session.cancel,
        lambda: session.n_ctx,
        lambda: session.seq_rm(0),
        lambda: session.save_state("x"),
        lambda: session.load_state("x"),
    ]
    for use in uses:
        with pytest.raises(ClosedError, match="the session was closed"):
            use()


def test_a_closed_model_serves_its_sessions_and_nothing_else() -> None:
    model = Model(models.gguf("gqa"))
    session = Session(model, n_ctx=256)
    gguf = model.gguf
    model.close()
    model.close()
    session.eval(SHORT)
    assert session.logits().shape == (1, 768)
    session.close()
    uses: list[Callable[[], object]] = [lambda: Session(model), model.memory, lambda: gguf["general.architecture"]]
    for use in uses:
        with pytest.raises(ClosedError, match="was closed"):
            use()
    assert "closed" in repr(model)


def test_what_is_forgotten_is_freed() -> None:
    model = Model(models.gguf("gqa"))
    session = Session(model, n_ctx=256, progress=lambda *_: True)
    session.eval(SHORT)
    references: list[weakref.ref[Any]] = [weakref.ref(model), weakref.ref(session)]
    del model, session
    gc.collect()
    assert [reference() for reference in references] == [None, None]
