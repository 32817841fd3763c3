"""`commandr demo`: what it prints of replies, good and bad, and how it is asked for other things."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import embedded as embedded_model
import models
from commandr_gguf import Finish, Reply, Source, Timings, Usage
from commandr_gguf.chat.filter import reply_parser
from commandr_gguf.chat.reply_builder import ReplyBuilder
from commandr_gguf.chat.request import Request, make_request
from commandr_gguf.chat.tools import Parameter, Tool
from commandr_gguf.cli import demo, main
from commandr_gguf.cli.citations import document_texts
from commandr_gguf.demo import embedded, showcase
from commandr_gguf.demo.embedded import gguf_path

if sys.platform != "win32":
    import pty

CALL = """\
Action: ```json
[
    {"tool_name": "book_table", "parameters": {"restaurant": "Osteria Brun", "people": 4}}
]
```"""
GROUNDED = (
    "Relevant Documents: 1\nCited Documents: 1\nAnswer: It opened in 1987.\n"
    "Grounded answer: It opened in <co: 1>1987</co: 1>."
)


PEOPLE = Parameter(description="How many.", type="int", required=True)
ASKED = SimpleNamespace(
    CHAT="Hello?",
    TOOLS=[
        Tool(name="get_time", description="Gives the time.", parameter_definitions={}),
        Tool(name="book_table", description="Books a table.", parameter_definitions={"people": PEOPLE}),
    ],
    TOOL_QUESTION="Book a table.",
    DOCUMENTS=[{"title": "Library", "text": "It has books."}, {"title": "Bridge", "text": "It was opened in 1987."}],
    QUESTION="When was the bridge opened?",
)


SHOWN = """\
Chat
  > Hello?
    Hello!

Tool call
  > Book a table.
    get_time(): Gives the time.
    book_table(people: int): Books a table.
    book_table(restaurant="Osteria Brun", people=4)
    {"tool_name": "book_table", "parameters": {"restaurant": "Osteria Brun", "people": 4}}

Grounded answer
  > When was the bridge opened?
    It opened in 1987[2].

    [1] Library  not cited
        It has books.
    [2] Bridge
        It was opened in 1987.

                 prompt tokens  tokens/s  reply tokens  tokens/s
chat                        90       160            21        10
tool call                   90       160            21        10
grounded answer             90       160            21        10
"""


class Stream:
    def __init__(self, asked: Request, text: str, reason: Any) -> None:
        parser = reply_parser(asked.reply_format)
        builder = ReplyBuilder([Source(document.id, document.texts) for document in asked.citable])
        pieces = [part for word in re.findall(r"\S+\s*", text) for part in parser.write(word)]
        self.events = [builder.add(part) for part in [*pieces, *parser.flush()]]
        self.reply = builder.build(
            finish_reason=reason,
            usage=Usage(prompt_tokens=90, cached_tokens=10, completion_tokens=21),
            timings=Timings(prefill_seconds=0.5, prefill_tokens=80, decode_seconds=2.0, decode_tokens=20),
            raw_text=text,
        )

    def __iter__(self) -> Any:
        return iter([*self.events, Finish(self.reply)])

    def finish(self) -> Reply:
        return self.reply


class Scripted:
    """Says what it was told to say, by kind of request."""

    def __init__(self, chat: str = "Hello!", call: str = CALL, grounded: str = GROUNDED, reason: str = "stop") -> None:
        self.replies = {"default": chat, "tool_use": call, "rag": grounded}
        self.reason = reason
        self.asked: list[Any] = []

    def chat(self, messages: Any, *, temperature: float, max_tokens: int, stream: bool, **request: Any) -> Stream:
        assert temperature == 0
        checked = make_request(messages, **request)
        self.asked.append(checked)
        return Stream(checked, self.replies[checked.template], self.reason)

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(model: Scripted, *arguments: str) -> str:
        monkeypatch.setattr(demo, "load", lambda path, **options: model)
        monkeypatch.setattr(demo, "showcase", ASKED)
        assert main(["demo", "model.gguf", *arguments]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    return run


def test_the_whole_show(show: Any) -> None:
    model = Scripted()
    assert show(model) == SHOWN
    assert [asked.template for asked in model.asked] == ["default", "tool_use", "rag"]
    assert model.asked[2].citation_mode == "accurate"


def test_fast_citations(show: Any) -> None:
    model = Scripted()
    show(model, "--fast")
    assert model.asked[2].citation_mode == "fast"


def test_bad_replies_are_shown_as_they_are(show: Any) -> None:
    text = show(Scripted("", "I would rather not.", "No idea <co: 0", reason="length"))
    assert "    no tool; the model answers by itself\n    I would rather not.\n" in text
    assert "    No idea\n" in text
    assert text.count("stopped after 21 tokens") == 3


def test_an_answer_without_marks_has_its_citations(show: Any) -> None:
    text = show(Scripted(grounded="It opened in <co: 1>1987</co: 1>."))
    assert "    It opened in 1987[2].\n" in text
    assert "[1] Library  not cited" in text
    assert "<co" not in text
    assert "; it is" not in text


@pytest.mark.parametrize(
    ("passage", "text", "marked"),
    [
        ("東京", "橋は東京にある。東京は大きい。", ["東京", "東京"]),
        ("鐵橋", "這是一座鐵橋的照片。", ["鐵橋"]),
        ("1987", "橋は1987年に開通した。", ["1987"]),
        ("4", "In 1984 and 2004.", []),
        ("87", "橋は1987年に開通した。", []),
        ("oak", "Soaked oak is heavy.", ["oak"]),
    ],
)
def test_passages_are_marked_where_words_have_no_spaces(passage: str, text: str, marked: list[str]) -> None:
    _, field = document_texts(0, {"text": text}, [passage], cited=True)
    assert field.plain == text
    assert [text[span.start : span.end] for span in field.spans] == marked


def test_a_call_of_no_tool(show: Any) -> None:
    text = show(Scripted(call='Action: ```json\n[{"tool_name": "directly_answer", "parameters": {}}]\n```'))
    assert "no tool; the model answers by itself" in text
    assert "directly" not in text


def test_replies_cannot_control_the_terminal(show: Any) -> None:
    bad = "\x1b[2J\x9b\x07\r"
    text = show(Scripted(bad, CALL.replace("Osteria", "\\u001b[2J"), GROUNDED.replace("opened", bad)))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
    assert "It \N{REPLACEMENT CHARACTER}[2J" in text


def test_a_question_of_ones_own(show: Any, tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text("It is Ünïtéd.\n", encoding="utf-8")
    model = Scripted(grounded=GROUNDED.replace("1987", "steel"))
    text = show(model, "-q", "What is it?", "-d", "A text", "-d", f"@{tmp_path / 'report.txt'}", "--fast")
    (asked,) = model.asked
    assert asked.data["messages"] == [{"role": "user", "content": "What is it?"}]
    assert asked.data["documents"] == [{"text": "A text"}, {"title": "report", "text": "It is Ünïtéd."}]
    assert asked.citation_mode == "fast"
    assert "It opened in steel[2]." in text
    assert "[1]  not cited\n        A text\n    [2] report\n        It is Ünïtéd.\n" in text
    assert "chat" not in text


def test_a_document_that_begins_with_an_at_sign(show: Any) -> None:
    model = Scripted()
    show(model, "-q", "Who?", "-d", "@@ada wrote it.", "-d", "@@@")
    assert model.asked[0].data["documents"] == [{"text": "@ada wrote it."}, {"text": "@@"}]


@pytest.mark.parametrize("content", ["", " \n\t\n"])
def test_an_empty_document(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "empty.txt"
    path.write_text(content)
    assert main(["demo", "model.gguf", "-q", "Who?", "-d", f"@{path}"]) == 2
    assert capsys.readouterr().err == f"commandr: {path}: the document is empty\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--question", "Who?"], "--question and --document need each other"),
        (["--document", "A text"], "--question and --document need each other"),
        (["-q", "Who?", "-d", "@absent.txt"], "absent.txt: the document cannot be read: No such file"),
        (["-q", "Who?", "-d", f"@{sys.executable}"], "the document is no text in UTF-8"),
        (["model.gguf", "--path"], "--path is for the embedded model"),
        (["model.gguf", "--type", "Q8_0"], "--type is for the embedded model"),
        (["--type", "../x"], "the recipe must be the name of a file type"),
        (["absent.gguf"], "absent.gguf"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_the_path_of_the_converted_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(embedded, "CHECKPOINT", models.checkpoint("gqa"))
    for again in (False, True):
        assert main(["demo", "--path", "--type", "Q8_0"]) == 0
        captured = capsys.readouterr()
        path = Path(captured.out.removesuffix("\n"))
        assert path.read_bytes() == models.gguf("gqa", "Q8_0").read_bytes()
        assert captured.err == ("" if again else f"commandr: converting the embedded checkpoint to Q8_0: {path}\n")


def test_the_embedded_model_is_introduced_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `make demo` does, which converts and runs `commandr info` before it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(embedded, "CHECKPOINT", models.checkpoint("gqa"))
    monkeypatch.setattr(demo, "load", lambda path, **options: Scripted())
    monkeypatch.setattr(demo, "showcase", ASKED)
    assert main(["demo", "--type", "Q8_0"]) == 0
    captured = capsys.readouterr()
    path = gguf_path("Q8_0")
    assert captured.err == f"commandr: converting the embedded checkpoint to Q8_0: {path}\n"  # no bar in a file
    summary, _, rest = captured.out.partition("\n\n")
    assert rest == SHOWN
    lines = summary.split("\n")
    assert lines[0] == str(path)
    assert "command-r" in lines[1]
    assert any(re.fullmatch(r"command-r\.embedding_length +256", line) for line in lines)
    assert "tokenizer" not in summary
    assert re.fullmatch(r"weights [0-9.]+ MiB: Q8_0 .+, F32 .+", lines[-1])
    assert main(["demo", "-q", "Who?", "-d", "A text", "--type", "Q8_0"]) == 0
    assert capsys.readouterr().out.startswith("Grounded answer\n")  # and nothing else


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_bar_in_a_terminal_on_the_first_use(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys\n"
        "from commandr_gguf.cli import main\n"
        "from commandr_gguf.demo import embedded\n"
        "embedded.CHECKPOINT = pathlib.Path(sys.argv[1])\n"
        "sys.exit(main(['demo', '--path', '--type', sys.argv[2]]))\n"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path), "TERM": "xterm"}

    def run(recipe: str) -> tuple[int, str, str]:
        ours, theirs = pty.openpty()
        command = [sys.executable, "-c", program, str(models.checkpoint("gqa")), recipe]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment)
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # how Linux tells that the other side is closed
            while piece := os.read(ours, 4096):
                seen += piece
        os.close(ours)
        out, _ = process.communicate(timeout=60)
        return process.returncode, out, seen.decode()

    code, out, shown = run("Q8_0")
    assert code == 0
    assert Path(out.removesuffix("\n")).exists()
    assert "converting" in shown
    assert "100%" in shown
    assert "wrote" not in shown  # into the folder that is gone
    assert run("Q8_0") == (0, out, "")
    code, out, shown = run("Q9")
    assert (code, out) == (2, "")
    assert "cannot be converted to Q9" in shown.replace("\r\n", "")


def test_a_real_model_that_knows_nothing() -> None:
    """Random weights: whatever comes out, it is shown and the command ends well."""
    command = [sys.executable, "-m", "commandr_gguf", "demo", str(models.gguf("gqa")), "--threads", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
    assert (done.returncode, done.stderr) == (0, "")
    for part in ("Chat\n", "Tool call\n", "Grounded answer\n", "tokens/s"):
        assert part in done.stdout
    assert "\x1b" not in done.stdout


def test_the_embedded_model() -> None:
    embedded_model.path()
    command = [sys.executable, "-m", "commandr_gguf", "demo"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, encoding="utf-8", env=embedded_model.run_environment()
    )
    assert (done.returncode, done.stderr) == (0, "")
    (right,) = [i for i, document in enumerate(showcase.DOCUMENTS, 1) if document["title"] in showcase.QUESTION]
    lines = done.stdout.splitlines()
    answer = lines[lines.index(f"  > {showcase.QUESTION}") + 1]
    assert set(re.findall(r"\[(\d+)\]", answer)) == {str(right)}
    for number, document in enumerate(showcase.DOCUMENTS, 1):
        heading = f"    [{number}] {document['title']}"
        assert (heading if number == right else f"{heading}  not cited") in lines
    assert "; it is" not in done.stdout  # all replies had their form
