"""The command `commandr demo`."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from commandr_gguf.chat import events
from commandr_gguf.chat.reply import Reply
from commandr_gguf.chat.request import CitationMode
from commandr_gguf.chat.tools import Tool
from commandr_gguf.cli import options
from commandr_gguf.cli.citations import print_grounded
from commandr_gguf.cli.format import size
from commandr_gguf.cli.info import describe
from commandr_gguf.cli.loading import load, set_verbose
from commandr_gguf.cli.terminal import make_console, print_text, printable
from commandr_gguf.command_r import CommandR
from commandr_gguf.demo import showcase
from commandr_gguf.demo.embedded import gguf_path
from commandr_gguf.errors import ArgumentError, FileError, FormatError
from commandr_gguf.gguf_file import GGUFFile

_RECIPE = "Q4_K_M"
_MAX_TOKENS = 512


def demo(
    model: Annotated[
        Path | None,
        typer.Argument(metavar="MODEL", help="A GGUF file; without it the small embedded model.", show_default=False),
    ] = None,
    question: Annotated[
        str | None, typer.Option("--question", "-q", help="Answer this question from documents, and nothing else.")
    ] = None,
    document: Annotated[
        list[str] | None,
        typer.Option(
            "--document",
            "-d",
            metavar="TEXT|@FILE",
            help="A document for --question, as text or in a text file; may be given several times. "
            "A text that begins with @ is given as @@TEXT.",
        ),
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Write grounded answers once, with citations at once.")] = False,
    recipe: Annotated[
        str | None,
        typer.Option("--type", help=f"File type of the embedded model, such as Q8_0; {_RECIPE} without it."),
    ] = None,
    path: Annotated[bool, typer.Option("--path", help="Print the path of the embedded model's file and exit.")] = False,
    n_threads: options.Threads = 0,
    repack: options.Repack = True,
    verbose: options.Verbose = False,
) -> None:
    """Show a chat turn, a tool call and a grounded answer with its citations, and the speed of each.

    The embedded model is converted on the first use and kept in the cache folder. It is a real Command-R in its
    formats and a toy in its knowledge. What its file holds is printed before.

    For example:

    `commandr demo`

    `commandr demo --question "When was the Velmora Bridge opened?" --document "The Velmora Bridge was opened in 1987."`

    `commandr demo command-r.gguf --question "What does it cost?" --document @offer.txt`

    `commandr chat "$(commandr demo --path)"`
    """
    set_verbose(verbose)
    if model is not None and (recipe is not None or path):
        raise ArgumentError(f"{'--path' if path else '--type'} is for the embedded model; it cannot go with a MODEL")
    if (question is None) != (not document):
        raise ArgumentError("--question and --document need each other")
    documents = [_read_document(text) for text in document or ()]
    embedded = model is None
    if model is None:
        model = embedded_model(recipe or _RECIPE)
    if path:
        print(model)
        return
    if embedded and question is None:
        _print_summary(model)
    with load(model, n_threads=n_threads, repack=repack) as opened:
        show = _Show(opened, "fast" if fast else "accurate")
        if question is None:
            show.chat(showcase.CHAT)
            show.tool_call(showcase.TOOL_QUESTION, showcase.TOOLS)
            show.grounded_answer(showcase.QUESTION, showcase.DOCUMENTS)
        else:
            show.grounded_answer(question, documents)
        show.speed()


def _read_document(text: str) -> dict[str, str]:
    if not text.startswith("@") or text.startswith("@@"):
        return {"text": text.removeprefix("@") if text.startswith("@@") else text}
    path = Path(text[1:])
    try:
        content = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise FileError(f"{path}: the document cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: the document is no text in UTF-8") from error
    if not content:
        raise FormatError(f"{path}: the document is empty")
    return {"title": path.stem, "text": content}


def embedded_model(recipe: str = _RECIPE) -> Path:
    """The embedded model's file; on the first use with a sentence and, in a terminal, a bar on standard error."""
    console = Console(stderr=True)
    columns = (TextColumn("converting"), BarColumn(), TaskProgressColumn())
    bar = Progress(*columns, console=console)
    task = bar.add_task("", total=1.0)
    with ExitStack() as shown:

        def notify(text: str) -> None:
            print(f"commandr: {text}", file=sys.stderr)
            if console.is_terminal:
                shown.enter_context(bar)

        return gguf_path(recipe, notify=notify, progress=lambda done: bar.update(task, completed=done))


def _print_summary(path: Path) -> None:
    """The beginning of what `commandr info` prints: the model's metadata, and its tensors in one line."""
    with GGUFFile(path) as file:
        report = describe(file, None)
    console = make_console()
    shown = {key: value for key, value in report["metadata"].items() if not key.startswith("tokenizer.")}
    width = max(map(len, shown), default=0)
    tensors = ", ".join(f"{name} {size(entry['bytes'])}" for name, entry in report["tensors"].items())
    weights = size(sum(entry["bytes"] for entry in report["tensors"].values()))
    lines = [f"{key:{width}}  {f'{value:.6g}' if isinstance(value, float) else value}" for key, value in shown.items()]
    for line in (str(path), *lines, f"weights {weights}: {tensors}"):
        console.print(Text(printable(line)), soft_wrap=True)
    console.print()


class _Show:
    """Asks the model and prints what it says, one method for each kind of request."""

    def __init__(self, model: CommandR, citation_mode: CitationMode) -> None:
        self._model = model
        self._citation_mode = citation_mode
        self._console = make_console()
        self._replies: dict[str, Reply] = {}

    def chat(self, message: str) -> None:
        """Print a reply while the model writes it."""
        self._begin("Chat", message)
        stream = self._model.chat(_user(message), temperature=0, max_tokens=_MAX_TOKENS, stream=True)
        self._console.print("    ", end="")
        for event in stream:
            if isinstance(event, events.Text):
                self._console.print(Text(printable(event.text)), end="", soft_wrap=True)
        self._console.print()
        self._end("chat", stream.reply)

    def tool_call(self, message: str, tools: list[Tool]) -> None:
        """Print the tools that are offered and which of them the model calls."""
        self._begin("Tool call", message)
        for tool in tools:
            print_text(self._console, f"{_signature(tool)}: {tool['description']}", "dim")
        reply = self._ask(message, tools=tools)
        for call in reply.tool_calls:
            print_text(self._console, str(call), "bold green")
            value = {"tool_name": call.name, "parameters": call.parameters}
            print_text(self._console, json.dumps(value, ensure_ascii=False))
        if not reply.tool_calls:
            print_text(self._console, "no tool; the model answers by itself", "yellow")
            print_text(self._console, reply.text)
        self._end("tool call", reply)

    def grounded_answer(self, message: str, documents: list[dict[str, str]]) -> None:
        """Print an answer with its citations and the documents."""
        self._begin("Grounded answer", message)
        reply = self._ask(message, documents=documents, citation_mode=self._citation_mode)
        print_grounded(self._console, reply, documents)
        self._end("grounded answer", reply)

    def speed(self) -> None:
        """Print the tokens of each part and how fast they were."""
        columns = ("", "prompt tokens", "tokens/s", "reply tokens", "tokens/s")
        table = Table(box=None, pad_edge=False)
        for column in columns:
            table.add_column(column, justify="right" if column else "left")
        for name, reply in self._replies.items():
            table.add_row(
                name,
                str(reply.usage.prompt_tokens),
                f"{reply.timings.prefill_tokens_per_second:.0f}",
                str(reply.usage.completion_tokens),
                f"{reply.timings.decode_tokens_per_second:.0f}",
            )
        self._console.print(table)

    def _begin(self, title: str, message: str) -> None:
        self._console.print(Text(title, "bold"))
        print_text(self._console, f"> {message}", "dim", indent=2)

    def _ask(self, message: str, **request: Any) -> Reply:
        return self._model.chat(_user(message), temperature=0, max_tokens=_MAX_TOKENS, stream=True, **request).finish()

    def _end(self, name: str, reply: Reply) -> None:
        if reply.finish_reason == "length":
            print_text(self._console, f"stopped after {reply.usage.completion_tokens} tokens", "yellow")
        self._console.print()
        self._replies[name] = reply


def _user(message: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": message}]


def _signature(tool: Tool) -> str:
    parameters = (f"{name}: {definition['type']}" for name, definition in tool["parameter_definitions"].items())
    return f"{tool['name']}({', '.join(parameters)})"
