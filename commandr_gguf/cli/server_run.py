"""Running the server, for the commands that do."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from commandr_gguf.cli.loading import load
from commandr_gguf.errors import ArgumentError, UnsupportedError
from commandr_gguf.prefix_cache import MAX_SEQUENCES

_KEPT = 4
"""Prompts that are kept beside those that are computed."""


def check_server_packages() -> None:
    """Raises UnsupportedError where the packages of the extra "server" are not there."""
    try:
        importlib.import_module("commandr_gguf.server.serving")
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            f"the server needs the package {error.name}: pip install 'commandr-gguf[server]'"
        ) from error


def run_server(
    model: Path,
    ready: Callable[[str], object],
    *,
    settings: Mapping[str, Any],
    engine: Mapping[str, int],
    any_port: bool = False,
    level: int = logging.INFO,
    **loading: Any,
) -> None:
    """Load a model and serve it until a signal asks to stop.

    Args:
        model: its file.
        ready: called with the address once the server listens.
        settings: arguments of `Settings`.
        engine: arguments of `Engine` beside the model.
        any_port: where the settings' port is in use, take a free one.
        level: of the log on standard error.
        loading: further arguments of `CommandR`.

    Raises:
        ArgumentError: an argument is out of range, or it cannot listen at the address.
        CommandRError: the model cannot be loaded.
    """
    from commandr_gguf.server.engine import Engine  # noqa: PLC0415  # see above
    from commandr_gguf.server.heaps import limit_heaps  # noqa: PLC0415
    from commandr_gguf.server.serving import listen, serve  # noqa: PLC0415
    from commandr_gguf.server.settings import Settings  # noqa: PLC0415

    chosen = Settings(**settings)
    limit_heaps()
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    for name in ("uvicorn", "sse_starlette", "asyncio"):  # at the level of --verbose they would show what is answered
        logging.getLogger(name).setLevel(logging.WARNING)
    n_seq_max = min(engine["n_parallel"] + _KEPT, MAX_SEQUENCES)
    with load(model, n_seq_max=n_seq_max, **loading) as opened:
        if any_port:
            with contextlib.suppress(ArgumentError), listen(chosen):
                any_port = False
        chosen = dataclasses.replace(chosen, port=0) if any_port else chosen
        serve(Engine(opened, **engine), chosen, ready)
