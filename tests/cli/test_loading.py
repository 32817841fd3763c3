"""How commands load a model: where its weights are kept, and what is said of that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import kl_models
import models
from commandr_gguf import ArgumentError, Model
from commandr_gguf.cli import main

# Every command that loads a model but `sensitivity`, which changes the weights and so keeps them as they are.
COMMANDS: dict[str, list[str]] = {
    "bench": ["MODEL"],
    "chat": ["MODEL"],
    "compare": ["MODEL", "MODEL", "--text", "TEXT", "--ctx", "64"],
    "demo": ["MODEL"],
    "generate": ["MODEL", "a"],
    "imatrix": ["MODEL", "TEXT", "-o", "OUT", "--ctx", "64"],
    "perplexity": ["MODEL", "TEXT", "--ctx", "64"],
}


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, str]:
    text = tmp_path / "text.txt"
    text.write_text(kl_models.text(), encoding="utf-8")
    model = tmp_path / "model.gguf"
    shutil.copy(models.gguf("gqa", "Q4_K_M"), model)
    return {"MODEL": str(model), "TEXT": str(text), "OUT": str(tmp_path / "out")}


def is_packed(path: str) -> bool:
    with Model(path) as model:
        return model.computed_by == "packed"


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_load_the_weights_as_asked(
    command: str, paths: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[bool, bool]] = []

    def refuse(_path: Path, **options: Any) -> None:
        asked.append((options["repack"], options.get("cache_packed", False)))
        raise ArgumentError("enough is known")

    monkeypatch.setattr("commandr_gguf.cli.loading.CommandR", refuse)
    monkeypatch.setattr("commandr_gguf.cli.loading.Model", refuse)
    arguments = [command, *(paths.get(argument, argument) for argument in COMMANDS[command])]
    choices: dict[tuple[bool, bool], list[str]] = {(True, False): [], (False, False): ["--no-repack"]}
    if command != "demo":  # its model is small
        choices[True, True] = ["--cache-packed"]
    for options in choices.values():
        assert main([*arguments, *options]) == 2
    assert asked == list(choices)


@pytest.mark.parametrize(("command", "option"), [("generate", "--no-repack"), ("bench", "--no-mmap")])
def test_unpacked_weights_cannot_be_kept_packed(
    command: str, option: str, paths: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [command, *(paths.get(argument, argument) for argument in COMMANDS[command])]
    assert main([*arguments, "--cache-packed", option]) == 2
    assert capsys.readouterr().err == f"commandr: --cache-packed cannot go with {option}\n"


def test_info_tells_of_the_packed_copy(paths: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    if not is_packed(paths["MODEL"]):
        pytest.skip("this processor has no kernel of ours")
    assert main(["info", paths["MODEL"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["packed_copy"] is None
    replies = set()
    for _ in range(2):
        assert main(["generate", paths["MODEL"], "a", "-n", "4", "--temperature", "0", "--cache-packed"]) == 0
        captured = capsys.readouterr()
        replies.add(captured.out)
        assert captured.err == ""
    assert len(replies) == 1
    copy = Path(f"{paths['MODEL']}.packed")
    assert main(["info", paths["MODEL"], "--json"]) == 0
    expected = {"path": str(copy), "bytes": copy.stat().st_size}
    assert json.loads(capsys.readouterr().out)["packed_copy"] == expected
    assert main(["info", paths["MODEL"]]) == 0
    assert f"\n{copy} of " in capsys.readouterr().out
    unfinished = copy.rename(f"{copy}.tmp")
    assert main(["info", paths["MODEL"], "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["packed_copy"], report["packed_copy_unfinished"]["path"]) == (None, str(unfinished))
    assert main(["info", paths["MODEL"]]) == 0
    assert f"\n{unfinished} of " in capsys.readouterr().out


def test_a_packed_copy_that_is_not_kept_is_told(paths: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(models.gguf("gqa"), paths["MODEL"])  # F32: nothing is packed
    assert main(["generate", paths["MODEL"], "a", "-n", "1", "--cache-packed"]) == 0
    assert capsys.readouterr().err == f"commandr: {paths['MODEL']}: --cache-packed had no effect; --verbose tells why\n"
