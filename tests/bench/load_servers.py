"""The servers that server_load.py compares: how each is started with the same file, threads and slots."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import oracles  # noqa: E402

OURS = "commandr serve"
LLAMA_CPP = "llama.cpp"
LLAMA_CPP_PYTHON = "llama-cpp-python"
NAMES = (OURS, LLAMA_CPP, LLAMA_CPP_PYTHON)
_ORACLE = oracles.FOLDER / "bin" / "python"
_SECONDS = 120.0
"""That a server may take to load."""


@dataclass(frozen=True)
class Setting:
    """What the servers have in common."""

    model: Path
    n_threads: int
    n_slots: int
    n_ctx: int
    """Tokens of a slot."""


@dataclass(frozen=True)
class Server:
    """A program that serves a model."""

    name: str
    python: Path
    arguments: tuple[str, ...]
    together: bool = True
    """Whether it computes several requests at once."""

    @property
    def missing(self) -> str:
        """What has to be installed first; "" when nothing is."""
        return "" if self.python.exists() else f"{self.python} is absent: run `make bench-server`"

    def version(self) -> str:
        """Of the program."""
        package = {OURS: "commandr-gguf", LLAMA_CPP: "xllamacpp", LLAMA_CPP_PYTHON: "llama-cpp-python"}[self.name]
        code = f"import importlib.metadata as m; print({package!r}, m.version({package!r}))"
        done = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=False)
        return done.stdout.strip() or f"{package} is not installed"


def servers(setting: Setting) -> list[Server]:
    """Ours first."""
    n_all = setting.n_slots * setting.n_ctx
    model, threads, slots = str(setting.model), str(setting.n_threads), str(setting.n_slots)
    ours = ("-m", "commandr_gguf", "serve", model, "--threads", threads, "--parallel", slots, "--ctx", str(n_all))
    native = (str(HERE / "serve_llama_cpp.py"), model, "--threads", threads, "--slots", slots, "--ctx", str(n_all))
    wrapped = (
        *("-m", "llama_cpp.server", "--model", model, "--n_threads", threads, "--n_threads_batch", threads),
        # Else it computes the logits of whole prompts, and a new request ends the one at work.
        *("--logits_all=false", "--interrupt_requests=false", "--verbose=false", "--n_ctx", str(setting.n_ctx)),
    )
    return [
        Server(OURS, Path(sys.executable), ours),
        Server(LLAMA_CPP, _ORACLE, native),
        Server(LLAMA_CPP_PYTHON, _ORACLE, wrapped, together=False),
    ]


@contextlib.contextmanager
def running(server: Server, log: Path) -> Iterator[int]:
    """Start a server; gives its port. What it says goes into the file `log`."""
    port = _free_port()
    command = [str(server.python), *server.arguments, "--port", str(port)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=os.environ | {"HF_HUB_OFFLINE": "1"}
        )
        try:
            _wait(process, port, server, log)
            yield port
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, server: Server, log: Path) -> None:
    """Until it answers."""
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", "/v1/models")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"{server.name} did not start: {log.read_text(errors='replace')[-2000:]}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        port: int = opened.getsockname()[1]
        return port
