"""`commandr app`: the server, and the page in a browser."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

import embedded
import models
from commandr_gguf.cli import main
from commandr_gguf.cli.desktop import PORT

LINE = re.compile(r"the page is at (http://127\.0\.0\.1:(\d+)/) ")


def start(tmp_path: Path, *arguments: str) -> tuple[subprocess.Popen[str], str, Path]:
    """The process, its address, and the file that a browser of ours would write what it is to open to."""
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\necho \"$1\" > '{opened}'\n", encoding="utf-8")
    browser.chmod(0o755)
    command = [sys.executable, "-m", "commandr_gguf", "app", *arguments, "--ctx", "512"]
    env = embedded.run_environment() | {"BROWSER": f"{browser} %s"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stderr is not None
    for line in process.stderr:
        if found := LINE.search(line):
            return process, found[1], opened
    raise AssertionError("it did not start")


def end(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    return said


def test_it_opens_the_page_in_the_browser(tmp_path: Path) -> None:
    process, url, opened = start(tmp_path, str(models.gguf("gqa")), "--port", "0")
    with httpx.Client(base_url=url, trust_env=False) as client:
        assert "<title>Command-R</title>" in client.get("/").text
        assert client.get("/props").json()["n_ctx"] == 512
    for _ in range(100):
        if opened.exists() and opened.read_text(encoding="utf-8"):
            break
        time.sleep(0.05)
    assert end(process) == ""
    assert opened.read_text(encoding="utf-8") == f"{url}\n"


def test_it_takes_another_port_when_its_own_is_in_use_and_no_browser_if_so_told(tmp_path: Path) -> None:
    try:
        taken = socket.create_server(("127.0.0.1", PORT))
    except OSError:
        taken = socket.socket()  # another program has it, which is as well
    with taken:
        process, url, opened = start(tmp_path, "--no-browser")
        assert not url.endswith(f":{PORT}/")
        with httpx.Client(base_url=url, trust_env=False) as client:
            assert client.get("/props").json()["model"] == "demo"
        end(process)
    assert not opened.exists()


def test_it_keeps_its_port_from_start_to_start(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PORT))
        except OSError:
            pytest.skip(f"another program has port {PORT}")
    process, url, _ = start(tmp_path, str(models.gguf("gqa")), "--no-browser")
    end(process)
    assert url == f"http://127.0.0.1:{PORT}/"


def test_a_port_that_was_asked_for_is_not_exchanged(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["app", str(models.gguf("gqa")), "--ctx", "256", "--port", port]) == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "message"), [(["--port", "70000"], "--port"), (["no.gguf"], "no.gguf")])
def test_what_cannot_be_is_told_in_a_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["app", *arguments]) == 2
    assert message in capsys.readouterr().err
