"""The commands together, and what becomes of errors: one sentence on stderr and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
import typer.core

from commandr_gguf._native import ffi, lib
from commandr_gguf.cli import (
    bench,
    chat,
    compare,
    convert,
    demo,
    desktop,
    devices,
    generate,
    imatrix,
    info,
    perplexity,
    plan,
    rpc_serve,
    sensitivity,
    serve,
)
from commandr_gguf.cli.flags import in_options
from commandr_gguf.cli.signals import Stopped, stopped_by_signals
from commandr_gguf.errors import ArgumentError, CommandRError

EXIT_OUTPUT = 1
EXIT_ERROR = 2
EXIT_INTERRUPT = 130

_COMMANDS: dict[str, Callable[..., None]] = {
    "chat": chat.chat,
    "generate": generate.generate,
    "app": desktop.app,
    "serve": serve.serve,
    "info": info.info,
    "plan": plan.plan,
    "devices": devices.devices,
    "bench": bench.bench,
    "imatrix": imatrix.imatrix,
    "perplexity": perplexity.perplexity,
    "compare": compare.compare,
    "sensitivity": sensitivity.sensitivity,
    "demo": demo.demo,
    "rpc-serve": rpc_serve.rpc_serve,
}


class _NoFlagTypes:
    """Help shows no "<bool>" behind options that take no value."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        for option in self.get_params(ctx):  # type: ignore[attr-defined]
            if getattr(option, "is_flag", False):
                option.metavar = ""
        super().format_help(ctx, formatter)  # type: ignore[misc]


class _Command(_NoFlagTypes, typer.core.TyperCommand):
    """A command."""


class _Group(_NoFlagTypes, typer.core.TyperGroup):
    """The commands together."""


app = typer.Typer(
    cls=_Group,
    name="commandr",
    help="Cohere Command-R on this machine, from GGUF files. `commandr MODEL.gguf` begins a chat.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _function in _COMMANDS.items():
    app.command(_name, cls=_Command)(_function)
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
        with stopped_by_signals():
            app(argv, prog_name="commandr")
    except (CommandRError, MemoryError) as error:
        return _fail(_sentence(error), EXIT_ERROR)
    except OSError as error:
        return _output_failed(error)
    except (KeyboardInterrupt, Stopped) as stop:
        return stop.exit_code if isinstance(stop, Stopped) else EXIT_INTERRUPT
    except SystemExit as exit_:
        if isinstance(exit_.__context__, BrokenPipeError):  # the command-line library has made an exit code of it
            return _output_failed(exit_.__context__)
        return _flush(exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None))
    return _flush(0)


def _sentence(error: Exception) -> str:
    if not isinstance(error, CommandRError):
        return "out of memory: the system, or a limit such as `ulimit -v`, leaves less than this takes"
    return in_options(str(error)) if isinstance(error, ArgumentError) else str(error)


def _flush(code: int) -> int:
    """Write what standard output holds back, while an error in that can still be told."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return _output_failed(error)
    return code


def _output_failed(error: OSError) -> int:
    _discard_output()
    if isinstance(error, BrokenPipeError):  # whoever reads, such as head, has seen enough
        return 0
    where = error.filename or "the output"
    return _fail(f"{where} cannot be read or written: {error.strerror or error}", EXIT_OUTPUT)


def _fail(message: object, code: int) -> int:
    print(f"commandr: {message}", file=sys.stderr)
    return code


def _discard_output() -> None:
    """Python flushes standard output once more when it ends; what is left goes nowhere, without a message."""
    with contextlib.suppress(OSError, ValueError):  # a stand-in for standard output may have no file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
