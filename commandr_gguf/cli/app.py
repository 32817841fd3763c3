"""The commands together, and what becomes of errors: one sentence on stderr and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from commandr_gguf._native import ffi, lib
from commandr_gguf.cli import bench, chat, convert, devices, generate, info
from commandr_gguf.errors import CommandRError

EXIT_ERROR = 2
EXIT_INTERRUPT = 130

_COMMANDS: dict[str, Callable[..., None]] = {
    "chat": chat.chat,
    "generate": generate.generate,
    "info": info.info,
    "devices": devices.devices,
    "bench": bench.bench,
}

app = typer.Typer(
    name="commandr",
    help="Cohere Command-R on this machine, from GGUF files. `commandr MODEL.gguf` begins a chat.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _function in _COMMANDS.items():
    app.command(_name)(_function)
app.command(
    "convert",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)(convert.convert)


def _print_version(wanted: bool) -> None:
    if wanted:
        version, ggml = (ffi.string(f()).decode() for f in (lib.commandr_version, lib.commandr_ggml_version))
        print(f"commandr {version}, ggml {ggml}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print versions and exit.")
    ] = False,
) -> None:
    del version  # its callback has done the work


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (None: the process's own); returns the exit code."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if argv and argv[0].endswith(".gguf"):
        argv.insert(0, "chat")
    try:
        app(argv, prog_name="commandr")
    except CommandRError as error:
        print(f"commandr: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPT
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    return 0
