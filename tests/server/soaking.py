"""`commandr serve` with the embedded model, as a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import embedded
from server.soak import MAX_BODY


@contextlib.contextmanager
def served_demo(*, threads: int = 1, seconds: float = 60.0) -> Iterator[tuple[int, int]]:
    """Start it; gives its port and its process's id."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        port: int = opened.getsockname()[1]
    command = [sys.executable, "-m", "commandr_gguf", "serve", str(embedded.path("Q8_0")), "--port", str(port)]
    command += ["--threads", str(threads), "--ctx", "4096", "--parallel", "4", "--max-body", str(MAX_BODY >> 20)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + seconds
        while not _answers(port):
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.1)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(30)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    return False
