"""The embedded checkpoint becomes a GGUF file in the user's cache folder, once and whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import embedded as embedded_model
import models
from commandr_gguf import ArgumentError, CommandR, CommandRError, FileError, parse_actions, parse_grounded_answer
from commandr_gguf._native import ffi
from commandr_gguf.chat.request import CitationMode
from commandr_gguf.demo import embedded, showcase
from commandr_gguf.demo.embedded import gguf_path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, and a test checkpoint in the place of the embedded one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(embedded, "CHECKPOINT", models.checkpoint("gqa"))
    return tmp_path


def test_a_file_is_converted_once(cache: Path) -> None:
    told: list[str] = []
    path = gguf_path("q8_0", notify=told.append)
    assert path.is_relative_to(cache)
    assert path.read_bytes() == models.gguf("gqa", "Q8_0").read_bytes()
    assert told == [f"converting the embedded checkpoint to Q8_0: {path}"]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]  # nothing is left beside it
    written = path.stat().st_mtime_ns
    assert gguf_path("Q8_0", notify=told.append) == path
    assert (path.stat().st_mtime_ns, len(told)) == (written, 1)


def test_the_name_changes_with_recipe_checkpoint_and_version(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    monkeypatch.setattr(embedded, "_convert", lambda recipe, path: made.append(path))
    gguf_path("Q8_0")
    gguf_path("Q4_K_M")
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in models.checkpoint("gqa").iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(embedded, "CHECKPOINT", changed)
    gguf_path("Q8_0")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        with (changed / name).open("a") as file_:
            file_.write(" ")
        gguf_path("Q8_0")
    version = ffi.new("char[]", b"9.9.9")
    monkeypatch.setattr(embedded, "lib", SimpleNamespace(commandr_version=lambda: version))
    gguf_path("Q8_0")
    assert made[0] == made[2]
    assert len(set(made)) == len(made) - 1 == 7


def test_the_converter_beside_the_package_is_run_wherever_one_is(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []

    def run(command: list[str], *, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
        folders.append(cwd)
        return really_run(command, cwd=cwd, **options)

    really_run = subprocess.run
    monkeypatch.setattr(subprocess, "run", run)
    (tmp_path / "convert.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert gguf_path("F16").is_absolute()
    assert gguf_path("F16").exists()
    # A folder on Python's path comes first only where the package is not installed for editing.
    assert [(folder / "convert" / "__main__.py").exists() for folder in folders] == [True]


def test_two_processes_at_once(cache: Path) -> None:
    program = (
        "import pathlib, sys\n"
        "from commandr_gguf.demo import embedded\n"
        "embedded.CHECKPOINT = pathlib.Path(sys.argv[1])\n"
        "sys.stdin.read(1)\n"
        "print(embedded.gguf_path('Q8_0'))\n"
    )
    command = [sys.executable, "-c", program, str(models.checkpoint("gqa"))]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        assert process.stdin is not None
        process.stdin.write(".")
        process.stdin.flush()
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    paths = {Path(out.strip()) for out, _ in outputs}
    assert len(paths) == 1
    path = paths.pop()
    assert path.read_bytes() == models.gguf("gqa", "Q8_0").read_bytes()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("recipe", ["", "../Q8_0", "Q8 0", "a/b", None, 8])
def test_what_is_no_name_of_a_recipe(cache: Path, recipe: str) -> None:
    with pytest.raises(ArgumentError, match="the recipe must be the name of a file type"):
        gguf_path(recipe)
    assert list(cache.iterdir()) == []


def test_an_unknown_recipe(cache: Path) -> None:
    with pytest.raises(ArgumentError, match=r"the embedded checkpoint cannot be converted to Q9: .*Q4_K_M"):
        gguf_path("Q9")
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_a_converter_that_breaks(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(CommandRError, match="cannot be converted to F32: exit code 1"):
        gguf_path("F32")
    monkeypatch.setattr(sys, "executable", "/bin/absent")
    with pytest.raises(FileError, match="cannot be written: No such file"):
        gguf_path("F32")
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_a_checkpoint_that_is_not_there(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "CHECKPOINT", cache / "absent")
    with pytest.raises(FileError, match=r"absent: the embedded checkpoint cannot be read"):
        gguf_path()


def test_a_cache_folder_that_cannot_be_made(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "file"))
    monkeypatch.setenv("HOME", str(cache / "file"))
    with pytest.raises(FileError, match=r"commandr-gguf.*: the demo's model cannot be written: Not a directory"):
        gguf_path()


def test_a_demo_model_takes_the_options_of_the_class(cache: Path) -> None:
    with CommandR.demo("Q8_0", n_ctx=300) as model:
        assert model.n_ctx == 300
        assert os.path.basename(model.model.path).startswith("demo-Q8_0-")  # noqa: PTH119  # it is a string
    with pytest.raises(TypeError, match="no_such_option"):
        CommandR.demo("Q8_0", no_such_option=1)


# ---- what the embedded model says


@pytest.fixture(scope="module")
def demo_path() -> Path:
    return embedded_model.path()


def test_it_chats(demo_path: Path) -> None:
    with CommandR(demo_path) as model:
        reply = model.chat([{"role": "user", "content": showcase.CHAT}], temperature=0, max_tokens=100)
    assert reply.finish_reason == "stop"
    assert "commandr-gguf" in reply.text


def test_it_calls_the_tool_that_is_asked_for(demo_path: Path) -> None:
    with CommandR(demo_path) as model:
        reply = model.chat(
            [{"role": "user", "content": showcase.TOOL_QUESTION}], tools=showcase.TOOLS, temperature=0, max_tokens=200
        )
    (call,) = parse_actions(reply.text)
    (offered,) = [tool for tool in showcase.TOOLS if tool["name"] == call.name]
    assert call.parameters.keys() == offered["parameter_definitions"].keys()
    assert all(str(value) in showcase.TOOL_QUESTION for value in call.parameters.values())


@pytest.mark.parametrize("citation_mode", ["accurate", "fast"])
def test_it_cites_the_document_that_holds_the_answer(demo_path: Path, citation_mode: CitationMode) -> None:
    (right,) = [i for i, document in enumerate(showcase.DOCUMENTS) if document["title"] in showcase.QUESTION]
    with CommandR(demo_path) as model:
        reply = model.chat(
            [{"role": "user", "content": showcase.QUESTION}],
            documents=showcase.DOCUMENTS,
            citation_mode=citation_mode,
            temperature=0,
            max_tokens=200,
        )
    answer = parse_grounded_answer(reply.text)
    assert (answer.relevant, answer.cited) == ([right], [right])
    assert (answer.answer is None) == (citation_mode == "fast")
    assert answer.citations
    for citation in answer.citations:
        assert citation.documents == (right,)
        assert citation.text in showcase.DOCUMENTS[right]["text"]
