"""`commandr chat` with documents and tools, and `commandr generate` with a schema."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rich.console import Console

import embedded
import models
from commandr_gguf import CommandR, Finish, PlainAnswer, Reply, Text
from commandr_gguf.cli import main, replies, sources
from commandr_gguf.cli.loading import load
from commandr_gguf.cli.replies import CitationPrinter
from scripted import ScriptedModel

GROUNDED = (
    "Relevant Documents: 0,1\nCited Documents: 1\nAnswer: It was opened in 1987.\n"
    "Grounded answer: It was opened in <co: 1>1987</co: 1>."
)
CALL = 'Plan: I will ask.\nAction: ```json\n[{"tool_name": "forecast", "parameters": {"city": "Oslo"}}]\n```'
SUNNY = "Relevant Documents: 0\nCited Documents: 0\nAnswer: It is sunny.\nGrounded answer: It is <co: 0>sunny</co: 0>."
WEATHER = '''
LIMIT = 3

def forecast(city: str) -> str:
    """Gets the weather.

    Args:
        city: The city.
    """
    return f"It is sunny in {city}."

def loud(city: str) -> str:
    """Gets the weather, and prints."""
    print("asking", city)
    return "sunny"

def get_population(city: str) -> dict:
    """Gets the population.

    Args:
        city: The city.
    """
    return {"title": city, "text": f"{city} has 12,000 people."}

class Station:
    @staticmethod
    def wind(city: str) -> int:
        """Gets the wind."""
        return 7

def odd(*values):
    """Takes what no model can give."""
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with documents and with a module of functions."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a library.txt").write_text("The Harrow Library was founded in 1921.\n")
    (tmp_path / "docs" / "bridge.txt").write_text("The Velmora Bridge was opened in 1987.\n")
    (tmp_path / "weather.py").write_text(WEATHER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("weather", "broken", "leaving"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def chat(monkeypatch: pytest.MonkeyPatch, model: ScriptedModel, text: str, *arguments: str) -> int:
    """Type a text into a chat with a model in the place of the file's."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))
    monkeypatch.setattr("commandr_gguf.cli.chat.load", lambda path, **options: model)
    return main(["chat", "model.gguf", *arguments])


def run(*arguments: str, stdin: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "commandr_gguf", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
        cwd=cwd,
        env=embedded.run_environment(),
    )


# ---- documents


def test_answers_and_cited_documents_through_a_pipe(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ScriptedModel(GROUNDED, GROUNDED)
    assert chat(monkeypatch, model, "When?\n\nAnd?\n", "--docs", "docs") == 0
    out, err = capsys.readouterr()
    once = "    It was opened in 1987[2].\n\n    [2] bridge.txt\n        The Velmora Bridge was opened in 1987.\n"
    assert out == 2 * once
    assert err == "commandr: 2 parts of 2 files\n"
    first, second = (options["documents"] for _, options in model.asked)
    assert first == second
    assert [document["data"]["title"] for document in first] == ["a library.txt", "bridge.txt"]
    assert [len(messages) for messages, _ in model.asked] == [1, 3]
    assert [options["citation_mode"] for _, options in model.asked] == ["accurate"] * 2


def test_fast_answers_are_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ScriptedModel("Relevant Documents: 1\nCited Documents: 1\nGrounded answer: In <co: 1>1987</co: 1>.")
    assert chat(monkeypatch, model, "When?", "--docs", "docs/bridge.txt", "--docs", "docs", "--fast") == 0
    assert model.asked[0][1]["citation_mode"] == "fast"
    assert "In 1987[2]." in capsys.readouterr().out


def test_replies_as_json(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert chat(monkeypatch, ScriptedModel(GROUNDED, GROUNDED), "When?\nAnd?\n", "--docs", "docs", "--json") == 0
    values = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(values) == 2
    (citation,) = values[0]["citations"]
    assert (citation["text"], citation["documents"]) == ("1987", [1])
    (source,) = citation["sources"]
    assert source["document"]["text"] == "The Velmora Bridge was opened in 1987."
    assert re.fullmatch(r"docs/bridge\.txt#\d+", source["id"])
    assert (values[1]["text"], values[1]["answer"]) == ("It was opened in 1987.", "It was opened in 1987.")


def shown(monkeypatch: pytest.MonkeyPatch, events: list[Any], *, terminal: bool) -> str:
    """What a `CitationPrinter` prints."""
    out = io.StringIO()
    console = Console(
        file=out, width=60, force_terminal=terminal, color_system="standard" if terminal else None, _environ={}
    )
    monkeypatch.setattr(replies, "make_console", lambda: console)
    CitationPrinter([{"text": "It was opened in 1987."}])(iter(events))
    return out.getvalue()


def test_a_terminal_shows_what_is_written_and_then_the_answer_in_color(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ScriptedModel("Relevant Documents: 0\nAnswer: In 1987.\nGrounded answer: In <co: 0>1987</co: 0>.")
    events = list(model.chat([{"role": "user", "content": "When?"}], documents=["It was opened in 1987."], stream=True))
    text = shown(monkeypatch, events, terminal=True)
    draft, _, answer = text.partition("\n\n")
    assert re.sub(r"\x1b\[[0-9;]*m", "", draft) == "In 1987."
    assert "\x1b[2m" in draft
    assert answer.startswith("    In \x1b[36m1987\x1b[0m\x1b[1;36m[1]\x1b[0m.\n")
    assert "It was opened in \x1b[1;36m1987\x1b[0m." in answer
    assert "\x1b" not in shown(monkeypatch, events, terminal=False)


def test_a_terminal_shows_fast_answers_while_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, [Text("In "), Text("1987."), Finish(Reply("In 1987."))], terminal=True)
    assert re.sub(r"\x1b\[[0-9;]*m", "", text) == "In 1987.\n\n    In 1987.\n\n"


def test_a_line_that_was_begun_is_ended_when_the_reply_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def events() -> Any:
        yield PlainAnswer("In 19")
        raise KeyboardInterrupt

    out = io.StringIO()
    console = Console(file=out, width=60, force_terminal=True, color_system=None, _environ={})
    monkeypatch.setattr(replies, "make_console", lambda: console)
    with pytest.raises(KeyboardInterrupt):
        CitationPrinter([])(events())
    assert out.getvalue() == "In 19\n"


def test_the_embedded_model_answers_from_a_folder(folder: Path) -> None:
    model = str(embedded.path())
    options = ("--docs", "docs", "--temperature", "0", "--threads", "1")
    question = "When was the Velmora Bridge opened?\n"
    plain = run("chat", model, *options, stdin=question, cwd=folder)
    assert (plain.returncode, plain.stderr) == (0, "commandr: 2 parts of 2 files\n")
    assert "\x1b" not in plain.stdout
    asked_twice = run("chat", model, *options, "--json", stdin=question * 2, cwd=folder)
    assert asked_twice.returncode == 0, asked_twice.stderr
    first, second = (json.loads(line) for line in asked_twice.stdout.splitlines())
    assert re.sub(r"\[\d+\]", "", plain.stdout.split("\n")[0]).strip() == first["text"].split("\n")[0]
    assert second["usage"]["cached_tokens"] > 0


def test_the_bar_of_files_read_begins_with_their_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    err = io.StringIO()
    console = Console(file=err, width=60, force_terminal=True, color_system=None, _environ={})
    monkeypatch.setattr(sources, "Console", lambda **_: console)
    assert len(sources.read([folder / "docs"])) == 2
    assert "/2" in err.getvalue()
    assert "/?" not in err.getvalue()


def test_the_beginnings_of_prompts_are_kept_in_a_folder(folder: Path) -> None:
    command = ("chat", str(models.gguf("gqa")), "--system", "Answer in verse. " * 40, "-n", "3", "--json")
    replies_ = [
        json.loads(run(*command, "--prompt-cache", "cache", stdin=f"{text}\n", cwd=folder).stdout)
        for text in ("Hello", "Who?")
    ]
    assert replies_[0]["usage"]["cached_tokens"] == 0
    assert replies_[1]["usage"]["cached_tokens"] > 100
    assert any((folder / "cache").iterdir())


# ---- tools


def test_functions_are_called_and_the_answer_is_printed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ScriptedModel(CALL, SUNNY)
    assert (
        chat(monkeypatch, model, "Weather in Oslo?", "--tools", "weather:forecast", "--tools", "weather:Station.wind")
        == 0
    )
    out, err = capsys.readouterr()
    assert out == "It is sunny.\n"
    assert "I will ask." in err
    assert '-> forecast(city="Oslo")' in err
    assert "<- 'It is sunny in Oslo.'" in err
    assert [tool["name"] for tool in model.asked[0][1]["tools"]] == ["forecast", "wind"]


def test_json_with_tools_is_the_last_reply(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ScriptedModel(CALL, SUNNY)
    assert chat(monkeypatch, model, "Weather?", "--tools", "weather:forecast", "--json") == 0
    out, err = capsys.readouterr()
    assert err == ""
    value = json.loads(out)
    assert (value["text"], value["tool_calls"]) == ("It is sunny.", [])
    assert value["citations"][0]["sources"][0]["document"] == {"output": "It is sunny in Oslo."}


def test_a_run_without_an_answer_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chat(monkeypatch, ScriptedModel(*[CALL] * 9), "Weather?", "--tools", "weather:forecast") == 0
    out, err = capsys.readouterr()
    assert out == "\n"
    assert "no answer: the limit of tool steps is reached" in err


def test_what_functions_print_is_no_reply(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "weather.py").write_text(WEATHER + "\nprint('loaded')\n")
    model = ScriptedModel(CALL.replace("forecast", "loud"), SUNNY)
    assert chat(monkeypatch, model, "Weather?", "--tools", "weather:loud", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["text"] == "It is sunny."
    assert err == "loaded\nasking Oslo\n"


def test_one_step_of_tools(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    model = ScriptedModel(CALL.partition("\n")[2], SUNNY)
    asked: list[dict[str, Any]] = []

    def note(*arguments: Any, **options: Any) -> Any:
        asked.append(options)
        return ScriptedModel.chat(model, *arguments, **options)

    monkeypatch.setattr(model, "chat", note)
    assert chat(monkeypatch, model, "Weather?", "--tools", "weather:forecast", "--single-step") == 0
    assert capsys.readouterr().out == "It is sunny.\n"
    assert [options["multi_step"] for options in asked] == [False, False]


def test_a_cut_call_is_no_answer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = {"text": CALL, "reason": "length"}
    assert chat(monkeypatch, ScriptedModel(cut), "Weather?", "--tools", "weather:forecast") == 0
    assert "no answer: the reply was cut, see --max-tokens and --ctx" in capsys.readouterr().err


def test_the_embedded_model_takes_one_step(folder: Path) -> None:
    question = "Show me the population for the city of Harrow.\n"
    options = ("--tools", "weather:get_population", "--single-step", "--json", "--temperature", "0", "--threads", "1")
    done = run("chat", str(embedded.path()), *options, stdin=question, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    reply = json.loads(done.stdout)
    assert ("12,000 people" in reply["text"], reply["tool_calls"]) == (True, [])
    (result,) = reply["tool_results"]
    assert (result["name"], result["parameters"]) == ("get_population", {"city": "Harrow"})
    (citation,) = reply["citations"]
    assert citation["sources"][0]["document"]["text"] == "Harrow has 12,000 people."
    timings = reply["timings"]
    assert timings["decode_tokens_per_second"] == pytest.approx(timings["decode_tokens"] / timings["decode_seconds"])
    assert timings["prefill_tokens_per_second"] > 0


# ---- a smaller model that drafts


@pytest.mark.parametrize("command", ["chat", "generate"])
def test_a_draft_model_is_loaded_beside_the_model(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    opened: list[CommandR] = []

    def keep(path: Path, **options: Any) -> CommandR:
        opened.append(load(path, **options))
        return opened[-1]

    monkeypatch.setattr(f"commandr_gguf.cli.{command}.load", keep)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Hello"), encoding="utf-8"))
    drafts = str(models.gguf("gqa", "Q8_0"))
    assert main([command, str(models.gguf("gqa")), "--draft-model", drafts, "-n", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["usage"]["completion_tokens"] <= 4
    (model,) = opened
    assert model._draft is not None
    assert model._draft.model.path == drafts


def test_a_draft_model_that_does_not_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drafts = str(embedded.path())
    assert main(["generate", str(models.gguf("gqa")), "a", "--draft-model", drafts, "-n", "4"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"commandr: {drafts} cannot draft for ")
    assert main(["generate", str(models.gguf("gqa")), "a", "--draft-model", "absent.gguf"]) == 2
    assert "absent.gguf" in capsys.readouterr().err


# ---- errors


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--tools", "absent:forecast"], "--tools absent:forecast: the module 'absent' cannot be imported"),
        (["--tools", "broken:f"], "--tools broken:f: the module 'broken' cannot be imported: ValueError: no"),
        (["--tools", "leaving:f"], "--tools leaving:f: the module 'leaving' cannot be imported: SystemExit: 3"),
        (["--tools", "weather:absent"], "--tools weather:absent: the module 'weather' has no function 'absent'"),
        (["--tools", "weather:LIMIT"], "--tools weather:LIMIT: the module 'weather' has no function 'LIMIT'"),
        (["--tools", "weather"], "--tools must be MODULE:FUNCTION, not 'weather'"),
        (["--tools", ":forecast"], "--tools must be MODULE:FUNCTION, not ':forecast'"),
        (["--tools", "weather:odd"], "the parameter 'values' of tool 'odd' cannot be given by name"),
        (["--tools", "weather:forecast", "--tools", "weather:forecast"], "two tools have the name 'forecast'"),
        (["--docs", "docs", "--tools", "weather:forecast"], "--docs and --tools cannot be given together"),
        (["--fast"], "--fast needs --docs"),
        (["--single-step"], "--single-step needs --tools"),
        (["--docs", "absent"], "absent: cannot be read: No such file or directory"),
        (["--docs", "empty"], "empty: "),
    ],
)
def test_errors_are_one_sentence_before_the_model_is_loaded(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    (folder / "empty").mkdir()
    (folder / "broken.py").write_text("raise ValueError('no')\n")
    (folder / "leaving.py").write_text("raise SystemExit(3)\n")
    assert main(["chat", "absent.gguf", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("commandr: ")
    assert sentence in err
    assert "absent.gguf" not in err
    assert err.count("\n") == 1


def test_documents_that_are_too_long_for_the_context(folder: Path) -> None:
    (folder / "docs" / "long.txt").write_text("A long report on bridges. " * 60)
    done = run("chat", str(models.gguf("gqa")), "--docs", "docs", "--ctx", "512", stdin="When?\n", cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(
        r"commandr: the prompt with 3 documents is \d+ tokens too long for n_ctx = 512; "
        r"the longest is document 2 \(id 'docs/long\.txt#\d+'\) with \d+ tokens\n$",
        done.stderr,
    )


# ---- generate --schema

SCHEMA = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "green"]}, "count": {"type": "integer", "minimum": 1, "maximum": 99}},
    "required": ["color", "count"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", ["1", "2"])
def test_what_is_generated_fits_the_schema(folder: Path, capsys: pytest.CaptureFixture[str], seed: str) -> None:
    (folder / "schema.json").write_text(json.dumps(SCHEMA))
    command = ["generate", str(models.gguf("gqa")), "A color:", "--schema", "schema.json", "--temperature", "1"]
    assert main([*command, "--seed", seed]) == 0
    out, err = capsys.readouterr()
    jsonschema.validate(json.loads(out), SCHEMA)
    assert err == ""
    assert main([*command, "--seed", seed, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["text"] == out.removesuffix("\n")
    assert value["finish_reason"] == "stop"


def test_a_value_that_was_cut_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "schema.json").write_text(json.dumps(SCHEMA))
    assert main(["generate", str(models.gguf("gqa")), "A", "--schema", "schema.json", "-n", "2"]) == 2
    assert "the value is not complete: it was cut after 2 tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "schema.json: the schema cannot be read: No such file or directory"),
        (b"{", "schema.json: the schema is not valid JSON"),
        (b"\xff", "schema.json: the schema is no text in UTF-8"),
        (b"3", "schema.json: the schema must be a mapping or True, not 3"),
        (b'{"typ": "string"}', "schema.json: the schema has the keyword 'typ', which is not known"),
        (b'{"type": "strin"}', "schema.json: "),
        (b"false", "schema.json: "),
    ],
)
def test_bad_schemas(folder: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, sentence: str) -> None:
    if content is not None:
        (folder / "schema.json").write_bytes(content)
    assert main(["generate", "absent.gguf", "A", "--schema", "schema.json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"commandr: {sentence}")
    assert "absent.gguf" not in err


def test_files_with_the_same_heading_are_told_apart(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "reports").mkdir()
    for year in (1986, 1987):
        text = f"# Overview\n\nThe Velmora Bridge was opened in {year}.\n"
        (folder / "reports" / f"{year}.md").write_text(text, encoding="utf-8")
    assert chat(monkeypatch, ScriptedModel(GROUNDED), "When?\n", "--docs", "reports") == 0
    assert "[2] Overview (reports/1987.md)" in capsys.readouterr().out


def test_input_in_another_encoding_is_no_error(folder: Path) -> None:
    command = [sys.executable, "-m", "commandr_gguf", "chat", str(embedded.path()), "-n", "5", "--threads", "1"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(
        command, input="caf\xe9\n".encode("latin-1"), capture_output=True, env=environment, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
