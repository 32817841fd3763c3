"""`commandr serve` as a process."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

import models
from commandr_gguf.cli import main

LINE = re.compile(r"listening at (http://\S+)\n")


def start(*arguments: str, env: dict[str, str] | None = None) -> tuple[subprocess.Popen[str], str]:
    """The process and the address that it tells."""
    command = [sys.executable, "-m", "commandr_gguf", "serve", str(models.gguf("gqa")), "--port", "0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stderr is not None
    for line in process.stderr:
        found = LINE.search(line)
        if found:
            return process, found[1]
    raise AssertionError("it did not start")


def stop(process: subprocess.Popen[str], number: int) -> str:
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    return said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("more", [[], ["--verbose"]])
def test_it_serves_until_a_signal(number: int, code: int, more: list[str]) -> None:
    process, url = start("--ctx", "512", "--model-alias", "tiny", "--temperature", "0.9", "--parallel", "2", *more)
    with httpx.Client(base_url=url, trust_env=False) as client:
        props = client.get("/props").json()
        body = {"model": "any", "messages": [{"role": "user", "content": "secret words"}], "max_tokens": 3}
        answer = client.post("/v2/chat", json=body).json()
        assert "message-end" in client.post("/v2/chat", json={**body, "stream": True}).text
    said = stop(process, number)
    assert (props["model"], props["parallel"], props["n_ctx"]) == ("tiny", 2, 512)
    assert props["sampling"]["temperature"] == pytest.approx(0.9)
    assert answer["usage"]["tokens"]["output_tokens"] <= 3
    assert '"path": "/v2/chat"' in said
    assert "secret words" not in said
    assert "Traceback" not in said
    assert process.returncode == code


def test_the_key_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMANDR_API_KEY", "k")
    process, url = start("--ctx", "256", "--host", "0.0.0.0")
    port = url.rpartition(":")[2]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        assert client.get("/props").status_code == 401
        assert client.get("/props", headers={"Authorization": "Bearer k"}).status_code == 200
    stop(process, signal.SIGTERM)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines in, which needs --api-key"),
        (["--parallel", "0"], "--parallel must be 1 to 64, not 0"),
        (["--port", "70000"], "--port must be 0 to 65535"),
        (["--temperature", "-1"], "temperature must be 0 or more"),
        (["--host", "256.1.1.1", "--api-key", "k"], "cannot listen on 256.1.1.1 port 8080"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["serve", str(models.gguf("gqa")), "--ctx", "256", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_port_in_use_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    process, url = start("--ctx", "256")
    port = url.rpartition(":")[2]
    assert main(["serve", str(models.gguf("gqa")), "--ctx", "256", "--port", port]) == 2
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in capsys.readouterr().err
    stop(process, signal.SIGTERM)


def test_without_its_packages_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing: Any = None
    for name in list(sys.modules):
        if name.startswith("commandr_gguf.server"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", missing)
    assert main(["serve", str(tmp_path / "x.gguf")]) == 2
    assert "the server needs the package uvicorn: pip install 'commandr-gguf[server]'" in capsys.readouterr().err
