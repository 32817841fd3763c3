"""The KV cache takes memory as its cells come into use, up to n_ctx, and loses nothing on the way."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import measure
import models
from commandr_gguf import EvalItem, Model, Session, kv_cache_bytes

TOKENS = np.r_[5, np.random.default_rng(3).integers(8, 600, 3999)].astype(np.int32)


@pytest.fixture(scope="module", params=["gqa", "cohere2"])
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    with Model(models.gguf(request.param)) as opened:
        yield opened


def held(session: Session) -> dict[str, int]:
    """Bytes of the cache, and those that it may grow by."""
    return {use.what: use.size for use in session.memory() if use.what.startswith("kv")}


def test_a_session_of_the_whole_context_begins_small(model: Model) -> None:
    with Session(model, n_threads=1) as session:
        assert session.n_ctx == 131072
        kv = held(session)
        assert kv["kv"] + kv["kv-reserved"] == kv_cache_bytes(model.hparams, 131072)
        assert kv["kv"] < kv["kv-reserved"] / 10


def test_what_was_held_before_growing_is_held_after(model: Model) -> None:
    options: dict[str, Any] = {"n_ctx": 8192, "n_seq_max": 2, "n_ubatch": 64, "n_threads": 2}
    sizes = []
    with Session(model, **options) as grown, Session(model, **options) as large:
        large.eval(TOKENS[::-1].copy(), seq_id=1, n_outputs=0, logits=False)  # all cells that are needed have memory
        large.seq_rm(1)
        for n in (300, 350, 513, 1400, 3999):
            large.eval(TOKENS[:n])
            grown.eval(TOKENS[:n])
            np.testing.assert_array_equal(grown.logits(), large.logits())
            sizes.append(held(grown)["kv"])
        assert grown.n_reused() == 1400
        assert sizes[0] == sizes[1] < sizes[2] < sizes[3] < sizes[4]
        assert sum(held(grown).values()) == sum(held(large).values())


def test_sequences_share_what_grows(model: Model) -> None:
    with Session(model, n_ctx=8192, n_seq_max=3, n_threads=2) as session:
        session.eval_batch([EvalItem(TOKENS[:400], 0), EvalItem(TOKENS[400:800], 1)])
        expected = session.logits(1)
        session.eval(TOKENS[:3000], seq_id=2, n_outputs=0, logits=False)
        session.eval(TOKENS[400:800], seq_id=1)
        assert session.n_reused() == 399
        measure.assert_same(session.logits(), expected)


def test_what_is_given_up_is_used_again_before_more_is_taken(model: Model) -> None:
    with Session(model, n_ctx=8192, n_threads=1) as session:
        session.eval(TOKENS[:2000], n_outputs=0, logits=False)
        before = held(session)
        for start in (500, 1000, 2000):
            session.eval(TOKENS[start : start + 2000], n_outputs=0, logits=False)
        assert held(session) == before


def test_a_state_file_gets_the_cells_that_it_needs(model: Model, tmp_path: Any) -> None:
    with Session(model, n_ctx=8192, n_threads=1) as first, Session(model, n_ctx=8192, n_threads=1) as second:
        first.eval(TOKENS)
        first.save_state(tmp_path / "state")
        second.load_state(tmp_path / "state")
        first.seq_rm(0, len(TOKENS) - 1)
        for session in (first, second):
            session.eval(TOKENS)
            assert session.n_reused() == len(TOKENS) - 1
        measure.assert_same(second.logits(), first.logits())  # with a window, rows lie in other cells


_NO_MEMORY = """
import resource, sys
import numpy as np
from commandr_gguf import Model, OutOfMemoryError, Session

tokens = np.r_[5, np.random.default_rng(3).integers(8, 600, 99999)].astype(np.int32)
with Model(sys.argv[1]) as model, Session(model, n_threads=1, n_seq_max=2, n_ubatch=64) as session:
    session.eval(tokens[:400], seq_id=1, n_outputs=0, logits=False)
    session.eval(tokens[:100])
    expected = session.logits()
    with open("/proc/self/status") as file:
        kib = next(int(line.split()[1]) for line in file if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, ((kib + 16384) << 10, resource.RLIM_INFINITY))
    try:
        session.eval(tokens)
    except OutOfMemoryError as error:
        print(error)
    assert session.seq_length(1) == 400 and session.seq_tokens(0) == tokens[:100].tolist()
    session.eval(tokens[:100])
    assert session.n_reused() == 99 and np.allclose(session.logits(), expected, atol=1e-3)
    session.eval(tokens[:3000])  # what there is memory for
    assert session.n_reused() == 100
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_DATA") or sys.platform != "linux", reason="Linux counts mappings")
def test_growth_that_fails_leaves_the_session_as_it_was() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _NO_MEMORY, str(models.gguf("gqa"))], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "GiB for the KV cache of 100608 cells cannot be allocated on CPU" in done.stdout


def test_a_fitted_context_is_the_models_own_where_memory_is_plenty(model: Model) -> None:
    with Session(model, n_ctx=None, n_threads=1) as session:
        assert session.n_ctx == 131072
