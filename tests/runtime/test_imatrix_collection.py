"""Collected importance matrices are those of llama.cpp's tool, from the same files and text."""

from __future__ import annotations

import numpy as np
import pytest

import models
import tiny_models
from commandr_gguf.errors import ArgumentError, CancelledError, ClosedError
from commandr_gguf.imatrix import ImportanceMatrix
from commandr_gguf.imatrix_collection import ImatrixCollector, chunks, collect_imatrix
from commandr_gguf.model import Model
from commandr_gguf.tokenizer import Tokenizer

N_CTX = 64
# Both add up floats in another order, and the KV cache rounds what comes of it to half floats, a few of them the other
# way: single columns differ, the more so the more layers there are (64 in r_plus), between two vector widths of ours as
# well. Products in BF16 round their inputs, and not on all processors alike.
TOLERANCE = {"v01": 1e-4, "gqa": 1e-4, "cohere2": 5e-4, "r_plus": 3e-3}
TOLERANCE_BF16 = 3e-3
# What does not come of a few such roundings: before the first cache, and in the sum of all columns.
TIGHT, TIGHT_TOTAL = 1e-5, 3e-4


def collected(shape: str = "gqa", file_type: str = "F32", **options: object) -> ImportanceMatrix:
    with Model(tiny_models.gguf(shape, file_type)) as model:
        return collect_imatrix(model, tiny_models.TEXT, n_ctx=N_CTX, n_threads=1, **options)  # type: ignore[arg-type]


def assert_same(ours: ImportanceMatrix, theirs: ImportanceMatrix, tolerance: float) -> None:
    assert ours.entries.keys() == theirs.entries.keys()
    for name, entry in theirs.entries.items():
        assert ours.entries[name].n_tokens == entry.n_tokens
        assert np.abs(ours.entries[name].sums / entry.sums - 1).max() < tolerance, name


@pytest.mark.parametrize(("shape", "file_type"), tiny_models.WITH_IMATRIX)
def test_it_is_what_llama_cpp_collects(shape: str, file_type: str) -> None:
    """Its tool was run with --process-output, without effect: in models of this family embedding and head are one."""
    theirs = tiny_models.llama_cpp_imatrix(shape, file_type)
    ours = collected(shape, file_type, dataset="text.txt")
    assert_same(ours, theirs, TOLERANCE[shape] if file_type == "F32" else TOLERANCE_BF16)
    first = "blk.0.attn_q.weight"
    assert np.abs(ours.entries[first].sums / theirs.entries[first].sums - 1).max() < TIGHT
    for name, entry in theirs.entries.items():
        assert ours.entries[name].sums.sum() == pytest.approx(entry.sums.sum(), rel=TIGHT_TOTAL), name
    assert (ours.datasets, ours.chunk_size, ours.n_chunks) == (theirs.datasets, theirs.chunk_size, theirs.n_chunks)


def test_the_head_is_included_when_asked_for() -> None:
    with_head, without = collected(process_output=True), collected()
    assert with_head.entries.keys() - without.entries.keys() == {"token_embd.weight"}
    assert with_head.entries["token_embd.weight"].n_tokens == without.n_chunks * N_CTX


def test_chunks_begin_with_the_begin_token_and_leave_the_rest_out() -> None:
    tokenizer = Tokenizer.from_gguf(tiny_models.gguf("gqa"))
    ids = tokenizer.encode(tiny_models.TEXT, add_special=True)
    rows = chunks(tokenizer, tiny_models.TEXT, N_CTX)
    assert rows.shape == (len(ids) // N_CTX, N_CTX)
    assert (rows[:, 0] == tokenizer.bos_id).all()
    assert np.array_equal(rows[:, 1:], np.array(ids[: rows.size]).reshape(rows.shape)[:, 1:])
    assert np.array_equal(chunks(tokenizer, ids, N_CTX), rows)


def test_a_model_without_a_begin_token_keeps_its_chunks_whole() -> None:
    tokenizer = Tokenizer.from_gguf(tiny_models.gguf("gqa"))
    tokenizer.add_bos = False
    ids = tokenizer.encode(tiny_models.TEXT, add_special=True)
    assert np.array_equal(chunks(tokenizer, tiny_models.TEXT, N_CTX).ravel(), ids[: len(ids) // N_CTX * N_CTX])


def test_every_chunk_is_read_as_if_alone() -> None:
    """What a chunk adds does not depend on the chunks before it."""
    with Model(tiny_models.gguf("cohere2")) as model:
        rows = chunks(Tokenizer.from_gguf(model.gguf), tiny_models.TEXT, N_CTX)[:3]
        alone = []
        for row in rows:
            with ImatrixCollector(model, n_ctx=N_CTX, n_threads=1) as collector:
                collector.add(row)
                alone.append(collector.result())
    assert_same(collected("cohere2", n_chunks=3), ImportanceMatrix.merge(alone), 1e-6)


def test_chunks_longer_than_a_graph_are_read_in_one_sequence() -> None:
    """600 tokens go through two graphs; a collector that took them for two sequences would see other attention."""
    tokens = np.random.default_rng(1).integers(8, 600, 600)
    with Model(tiny_models.gguf("gqa")) as model, ImatrixCollector(model, n_ctx=600, n_threads=1) as collector:
        collector.add(tokens)
        whole = collector.result()
        collector.add(tokens[:512])
        collector.add(tokens[512:])
        parts = collector.result()
    name = "blk.1.attn_output.weight"
    assert whole.entries[name].n_tokens == 600
    assert parts.entries[name].n_tokens == 1200
    again = parts.entries[name].sums - whole.entries[name].sums
    assert not np.allclose(again, whole.entries[name].sums, rtol=1e-3)


def test_a_chunk_broken_off_leaves_the_sums_as_they_were() -> None:
    """600 tokens go through two graphs, and Ctrl-C comes between them."""
    tokens = np.random.default_rng(1).integers(8, 600, 600)

    def stop(n_done: int, _: int) -> None:
        if n_done >= 512:
            raise KeyboardInterrupt

    with Model(tiny_models.gguf("gqa")) as model, ImatrixCollector(model, n_ctx=600, n_threads=1) as collector:
        collector.add(tokens)
        before = collector.result(process_output=True)
        with pytest.raises(KeyboardInterrupt):
            collector.add(tokens, stop)
        after = collector.result(process_output=True)
        assert collector.n_chunks == 1
        with pytest.raises(ClosedError):
            collector.add(tokens)
    assert after.entries.keys() == before.entries.keys()
    for name, entry in before.entries.items():
        assert after.entries[name].n_tokens == entry.n_tokens == 600
        assert np.array_equal(after.entries[name].sums, entry.sums), name


def test_progress_counts_all_chunks_and_cancels() -> None:
    seen = []
    collected(progress=lambda done, total: seen.append((done, total)))
    n = 6 * N_CTX
    assert seen[-1] == (n, n)
    assert sorted({done for done, _ in seen} - {0}) == list(range(N_CTX, n + 1, N_CTX))
    with pytest.raises(CancelledError):
        collected(progress=lambda done, _: done < 2 * N_CTX)


def test_a_text_shorter_than_a_chunk_is_refused() -> None:
    with (
        Model(models.gguf("gqa")) as model,
        pytest.raises(ArgumentError, match=r"the text has 6 tokens, fewer than a chunk of 512"),
    ):
        collect_imatrix(model, "12345")
