"""`commandr imatrix`: what it writes, adds up, saves when stopped, and refuses."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

import models
import tiny_models
from commandr_gguf.cli import main
from commandr_gguf.imatrix import ColumnSums, ImportanceMatrix
from commandr_gguf.imatrix_collection import ImatrixCollector

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(tiny_models.TEXT, encoding="utf-8")
    return path


def run(*arguments: object) -> int:
    """With options of its own, which those among the arguments replace."""
    return main(["imatrix", str(tiny_models.gguf("gqa")), "--ctx", "64", "--threads", "1", *map(str, arguments)])


def n_tokens(path: Path) -> int:
    return ImportanceMatrix.read(path).entries["blk.0.attn_q.weight"].n_tokens


def test_it_writes_what_llama_cpp_writes(text: Path, capsys: Capture) -> None:
    out = text.with_name("x.gguf")
    assert run(text, "-o", out) == 0
    assert capsys.readouterr().out == f"{out}: 6 chunks of 64 tokens\n"
    ours, theirs = ImportanceMatrix.read(out), tiny_models.llama_cpp_imatrix("gqa")
    assert ours.entries.keys() == theirs.entries.keys()
    assert all(np.allclose(ours.entries[k].sums, theirs.entries[k].sums, rtol=1e-5) for k in theirs.entries)
    assert ours.datasets == (str(text),)


def test_parts_of_a_text_add_up_to_the_whole(text: Path) -> None:
    whole, first, both = (text.with_name(name) for name in ("whole.gguf", "first.gguf", "both.gguf"))
    assert run(text, "-o", whole, "--process-output") == 0
    assert run(text, "-o", first, "--process-output", "--chunks", 2) == 0
    assert run(text, "-o", both, "--process-output", "--from-chunk", 2, "--in-file", first) == 0
    assert (n_tokens(first), n_tokens(both)) == (2 * 64, 6 * 64)
    a, b = ImportanceMatrix.read(whole), ImportanceMatrix.read(both)
    assert "token_embd.weight" in a.entries
    assert a.entries.keys() == b.entries.keys()
    assert all(np.allclose(a.entries[k].sums, b.entries[k].sums, rtol=1e-6) for k in a.entries)


def test_files_are_added_up_without_a_text(text: Path, capsys: Capture) -> None:
    one, two, copy = (text.with_name(name) for name in ("one.gguf", "two.gguf", "copy.gguf"))
    assert run(text, "-o", one, "--chunks", 1) == 0
    assert run("-o", copy, "--in-file", one) == 0
    assert capsys.readouterr().out == f"{one}: 1 chunk of 64 tokens\n{copy}: 1 file added up\n"
    assert run("-o", two, "--in-file", one, "--in-file", one) == 0
    assert n_tokens(two) == 2 * n_tokens(one)


@pytest.mark.parametrize(("n_before", "saved"), [(0, None), (3, 3 * 64)])
def test_ctrl_c_keeps_the_chunks_that_were_read(
    n_before: int, saved: int | None, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    add = ImatrixCollector.add
    calls: list[object] = []

    def interrupted(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) > n_before:
            raise KeyboardInterrupt
        add(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ImatrixCollector, "add", interrupted)
    out = text.with_name("x.gguf")
    assert run(text, "-o", out) == 130
    message = capsys.readouterr().err
    if saved is None:
        assert not out.exists()
        assert message == ""
    else:
        assert n_tokens(out) == saved
        assert message == (
            f"commandr: stopped; {out} holds 3 of 6 chunks; "
            f"to go on, give --in-file {out} --from-chunk 3 and another --output\n"
        )


def stop_after(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C when n chunks have been read."""
    add = ImatrixCollector.add
    calls: list[object] = []

    def interrupted(*arguments: object) -> None:
        if len(calls) == n:
            monkeypatch.setattr(ImatrixCollector, "add", add)
            raise KeyboardInterrupt
        calls.append(arguments)
        add(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ImatrixCollector, "add", interrupted)


def test_the_options_that_a_stop_prints_lead_to_the_whole(
    text: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    names = ("whole.gguf", "first part.gguf", "second.gguf", "third.gguf")
    whole, *parts = (text.with_name(name) for name in names)
    assert run(text, "-o", whole, "--chunks", 5, "--from-chunk", 1) == 0
    arguments = ["--chunks", "5", "--from-chunk", "1"]
    for part, said in ((parts[0], ""), (parts[1], ", in place of the --in-file given,")):
        stop_after(2, monkeypatch)
        assert run(text, "-o", part, *arguments) == 130
        told = capsys.readouterr().err.partition("to go on, give ")[2]
        assert told.endswith(f"{said} and another --output\n")
        arguments = shlex.split(told.removesuffix(f"{said} and another --output\n"))
    assert arguments == ["--in-file", str(parts[1]), "--from-chunk", "5", "--chunks", "1"]
    assert run(text, "-o", parts[2], *arguments) == 0
    assert n_tokens(parts[2]) == n_tokens(whole) == 5 * 64
    a, b = ImportanceMatrix.read(whole), ImportanceMatrix.read(parts[2])
    assert all(np.allclose(a.entries[k].sums, b.entries[k].sums, rtol=1e-6) for k in a.entries)


def test_the_same_command_after_a_stop_keeps_what_was_done(
    text: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    out = text.with_name("x.gguf")
    stop_after(3, monkeypatch)
    assert run(text, "-o", out) == 130
    capsys.readouterr()
    assert run(text, "-o", out) == 2
    assert f"{out} exists: give --force to replace it" in capsys.readouterr().err
    assert n_tokens(out) == 3 * 64


def test_ctrl_c_in_a_chunk_saves_the_chunks_before_it(
    text: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Chunks of 600 tokens go through two graphs. Gone on with, the file is that of a run which nobody stopped."""
    text.write_text(4 * tiny_models.TEXT, encoding="utf-8")
    add = ImatrixCollector.add

    def interrupted(self: ImatrixCollector, tokens: object, _: object) -> None:
        def stop(n_done: int, _: int) -> None:
            if self.n_chunks == 1 and n_done >= 512:
                raise KeyboardInterrupt

        add(self, tokens, stop)  # type: ignore[arg-type]

    stopped, resumed, whole = (text.with_name(name) for name in ("stopped.gguf", "resumed.gguf", "whole.gguf"))
    command = ["imatrix", str(tiny_models.gguf("gqa")), str(text), "--ctx", "600", "--chunks"]
    with monkeypatch.context() as patch:
        patch.setattr(ImatrixCollector, "add", interrupted)
        assert main([*command, "2", "-o", str(stopped)]) == 130
    told = f"commandr: stopped; {stopped} holds 1 of 2 chunks; to go on, give --in-file {stopped} --from-chunk 1 "
    assert capsys.readouterr().err == f"{told}--chunks 1 and another --output\n"
    assert main([*command, "1", "-o", str(resumed), "--in-file", str(stopped), "--from-chunk", "1"]) == 0
    assert main([*command, "2", "-o", str(whole)]) == 0
    a, b = ImportanceMatrix.read(resumed), ImportanceMatrix.read(whole)
    for name, entry in b.entries.items():
        assert a.entries[name].n_tokens == entry.n_tokens == 1200
        assert np.allclose(a.entries[name].sums, entry.sums, rtol=1e-6), name


def test_long_runs_save_what_they_have(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the fourth chunk, with a save due after each."""
    out = text.with_name("x.gguf")
    add = ImatrixCollector.add

    def killed(*arguments: object) -> None:
        if out.exists() and n_tokens(out) == 3 * 64:
            raise SystemExit(9)
        add(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("commandr_gguf.cli.imatrix._SAVE_SECONDS", 0.0)
    monkeypatch.setattr(ImatrixCollector, "add", killed)
    assert run(text, "-o", out) == 9
    assert n_tokens(out) == 3 * 64


def test_special_tokens_are_text_unless_asked_for(text: Path) -> None:
    text.write_text("<|START_OF_TURN_TOKEN|>" * 70, encoding="utf-8")
    out = text.with_name("x.gguf")
    assert run(text, "-o", out, "--parse-special") == 0
    assert n_tokens(out) == 64
    assert run(text, "-o", out, "--force") == 0
    assert n_tokens(out) > 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.gguf"], "nothing to do: give a text or --in-file"),
        (["short.txt", "-o", "x.gguf"], "short.txt: the text has 6 tokens, fewer than a chunk of 64"),
        (["absent.txt", "-o", "x.gguf"], "absent.txt: the text cannot be read: No such file"),
        (["latin.txt", "-o", "x.gguf"], "latin.txt: the file is no text in UTF-8: unexpected end of data at byte 3"),
        (["text.txt", "-o", "."], "--output .: it is a folder"),
        (["text.txt", "-o", "absent/x.gguf"], "its folder does not exist"),
        (["text.txt", "-o", "text.txt"], "--output text.txt would replace what is read"),
        (["text.txt", "-o", "x.gguf", "--from-chunk", "6"], "--from-chunk 6 leaves nothing: text.txt has 6 chunks"),
        (["text.txt", "-o", "x.gguf", "--from-chunk", "-1"], "--from-chunk must be 0 or more, not -1"),
        (["text.txt", "-o", "x.gguf", "--chunks", "0"], "--chunks must be 1 or more, not 0"),
        (["text.txt", "-o", "x.gguf", "--ctx", "1"], "--ctx must be 2 or more, not 1"),
        (["text.txt", "-o", "x.gguf", "--threads", "-1"], "--threads must be 0 or more, not -1"),
        (["text.txt", "-o", "x.gguf", "--in-file", "text.txt"], "text.txt: is no importance matrix"),
        (["text.txt", "-o", "x.gguf", "--in-file", "other.gguf"], "blk.0.attn_q.weight has 5 and 64 columns"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    arguments: list[str], message: str, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(text.parent)
    Path("short.txt").write_text("12345", encoding="utf-8")
    Path("latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    ImportanceMatrix({"blk.0.attn_q.weight": ColumnSums(np.ones(5), 64)}, ("a",)).write("other.gguf")
    before = sorted(Path().iterdir())
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert sorted(Path().iterdir()) == before


def test_packed_weights_give_nearly_the_same(text: Path) -> None:
    """A Q8_0 file, whose products round inputs and weights to 8 bits, stands in for one that does not fit in memory."""
    paths = []
    for file_type in ("BF16", "Q8_0"):
        paths.append(text.with_name(f"{file_type}.gguf"))
        command = ["imatrix", str(models.gguf("gqa", file_type)), str(text), "-o", str(paths[-1]), "--ctx", "64"]
        assert main(command) == 0
    exact, rounded = map(ImportanceMatrix.read, paths)
    for name, entry in exact.entries.items():
        assert np.abs(rounded.entries[name].sums / entry.sums - 1).max() < 0.1, name
