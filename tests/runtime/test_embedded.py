"""The embedded checkpoint becomes a GGUF file in the user's cache folder, once and whole."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import embedded as embedded_model
import models
from commandr_gguf import ArgumentError, CommandR, CommandRError, FileError
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
    assert list(embedded.CONVERTER.glob("*.py")) != []
    made: list[Path] = []
    monkeypatch.setattr(embedded, "_convert", lambda recipe, path, progress: made.append(path))
    gguf_path("Q8_0")
    gguf_path("Q4_K_M")
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in models.checkpoint("gqa").iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(embedded, "CHECKPOINT", changed)
    gguf_path("Q8_0")
    converter = tmp_path / "converter"
    converter.mkdir()
    (converter / "recipe.py").write_text("1")
    monkeypatch.setattr(embedded, "CONVERTER", converter)
    gguf_path("Q8_0")
    for content in ("2", "1"):
        (converter / "recipe.py").write_text(content)
        (converter / "recipe.pyc").write_text(content)
        gguf_path("Q8_0")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        with (changed / name).open("a") as file_:
            file_.write(" ")
        gguf_path("Q8_0")
    version = ffi.new("char[]", b"9.9.9")
    monkeypatch.setattr(embedded, "lib", SimpleNamespace(commandr_version=lambda: version))
    gguf_path("Q8_0")
    assert made[0] == made[2]
    assert made[3] == made[5]
    assert len(set(made)) == len(made) - 2 == 9


@pytest.mark.parametrize("safe", ["", "1"])
def test_the_converter_beside_the_package_is_run_wherever_one_is(
    safe: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked for as where the package is not installed for editing: there a folder on Python's path comes first."""
    started: list[tuple[Path, str]] = []

    def start(command: list[str], *, cwd: Path, env: dict[str, str], **options: Any) -> Any:
        find = [command[0], "-S", "-c", "import importlib.util as u; print(u.find_spec('convert').origin)"]
        found = subprocess.run(find, cwd=cwd, env=env, capture_output=True, text=True, check=True)
        started.append((cwd, found.stdout.strip()))
        return really_start(command, cwd=cwd, env=env, **options)

    really_start = subprocess.Popen
    monkeypatch.setattr(embedded, "Popen", start)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "convert.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("PYTHONPATH", str(elsewhere))
    monkeypatch.setenv("PYTHONSAFEPATH", safe)
    path = gguf_path("F16")
    assert path.is_absolute()
    assert path.exists()
    ((folder, origin),) = started
    assert Path(origin) == Path(embedded.__file__).parents[2] / "convert" / "__init__.py"
    assert folder.parent == path.parent


def test_the_progress_of_a_conversion(cache: Path) -> None:
    told: list[float] = []
    gguf_path("Q8_0", progress=told.append)
    assert told == sorted(set(told))
    assert len(told) > 3
    assert told[-1] == 1.0
    gguf_path("Q8_0", progress=told.append)
    assert told.count(1.0) == 1
    with pytest.raises(CommandRError, match="Stop!"):
        gguf_path("F16", progress=_refuse)
    assert [path.name.split("-")[1] for path in cache.rglob("*.gguf")] == ["Q8_0"]


def _refuse(_: float) -> None:
    raise CommandRError("Stop!")


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
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(CommandRError, match="cannot be converted to F32: exit code 1"):
        gguf_path("F32")
    monkeypatch.setattr(sys, "executable", str(cache / "absent"))
    with pytest.raises(CommandRError, match=r"cannot be converted to F32: .*absent: No such file"):
        gguf_path("F32")
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_what_a_converter_says_in_another_encoding(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = cache / "python"
    program.write_bytes(b"#!/bin/sh\nprintf 'error: \\377 is no text\\n' >&2\nexit 2\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(ArgumentError, match=r"cannot be converted to F32: .+ is no text"):
        gguf_path("F32")


def test_a_checkpoint_that_is_not_there(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "CHECKPOINT", cache / "absent")
    with pytest.raises(FileError, match=r"absent: the embedded checkpoint cannot be read"):
        gguf_path()


def test_a_cache_folder_that_cannot_be_made(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "file"))
    monkeypatch.setenv("HOME", str(cache / "file"))
    with pytest.raises(
        FileError,
        match=r"commandr-gguf.*: the demo's model cannot be written: Not a directory; "
        "set XDG_CACHE_HOME to a folder that can be written to$",
    ):
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
    (call,) = reply.tool_calls
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
    assert (reply.documents_relevant, reply.documents_cited) == ([right], [right])
    assert (reply.answer is None) == (citation_mode == "fast")
    assert reply.citations
    for citation in reply.citations:
        assert citation.documents == (right,)
        assert [source.document for source in citation.sources] == [showcase.DOCUMENTS[right]]
        assert citation.text in showcase.DOCUMENTS[right]["text"]


def test_the_example_of_the_readme(demo_path: Path) -> None:
    assert demo_path.exists()
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^(?: {4}.*)?\n)+", readme, re.MULTILINE)  # indented lines and the empty ones between
    (block,) = [block for block in blocks if "CommandR.demo()" in block]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(block)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        env=embedded_model.run_environment(),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["1987 (1,)", 'get_population(city="Harrow") Harrow has 12,000 people.']
