"""Repositories as input, served by a small stand-in for the hub."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from convert.errors import DownloadError
from convert.hub import local_folder

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b"{}",
    "README.md": b"# a card",
    "model-00001-of-00002.safetensors": b"first" * 1000,
    "model-00002-of-00002.safetensors": b"second" * 2_000_000,
    "model.safetensors.index.json": b'{"weight_map": {}}',
    "tokenizer.model": b"pieces",
    "chat_template.jinja": b"{{ messages }}",
    "additional_chat_templates/rag.jinja": b"{{ documents }}",
    "original/consolidated.safetensors": b"other weights",
    "onnx/config.json": b"{}",
    "pytorch_model.bin": b"pickle",
    "model-Q4_K_M.gguf": b"GGUF",
}
READ = set(FILES) - {
    *("original/consolidated.safetensors", "onnx/config.json", "pytorch_model.bin", "model-Q4_K_M.gguf"),
}
LAST = "model-00002-of-00002.safetensors"


class Hub(ThreadingHTTPServer):
    """Serves FILES as org/model at the branch main and the tag v1; org/gated and org/broken answer 403 and 500."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fetched: list[tuple[str, str | None]] = []
        """Path and range of each file that was asked for."""
        self.cut: set[str] = set()
        """Files whose connection breaks in the middle, once."""
        self.refused: set[str] = set()
        """Files that are not given out."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path in ("/api/models/org/model/revision/main", "/api/models/org/model/revision/v1"):
            siblings = [{"rfilename": name} for name in FILES]
            self._json(200, {"id": "org/model", "sha": COMMIT, "siblings": siblings})
        elif path == f"/api/models/org/model/tree/{COMMIT}":
            self._json(200, [{"type": "file", "path": n, "size": len(d), "oid": _oid(d)} for n, d in FILES.items()])
        elif path.startswith(f"/org/model/resolve/{COMMIT}/"):
            self._file(path.split("/", 5)[5])
        elif path.startswith("/api/models/org/model/revision/"):
            self._json(404, {"error": "Invalid rev id"}, code="RevisionNotFound")
        elif path.startswith("/api/models/org/gated/"):
            self._json(403, {"error": "Access to model org/gated is restricted"}, code="GatedRepo")
        else:
            self._json(404, {"error": "Repository not found"}, code="RepoNotFound")

    do_HEAD = do_GET  # noqa: N815  # the base class's name for it

    def _json(self, status: int, value: object, code: str | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _file(self, name: str) -> None:
        if name in self.server.refused:
            self._json(403, {"error": "no"})
            return
        data, asked = FILES[name], self.headers.get("Range")
        first = 0
        if self.command == "GET":
            self.server.fetched.append((name, asked))
            first = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        self.send_response(206 if first else 200)
        self.send_header("ETag", f'"{_oid(data)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if name in self.server.cut:
            self.server.cut.remove(name)
            self.wfile.write(data[: len(data) - 1000])
            self.close_connection = True
            return
        self.wfile.write(data[first:])

    def log_message(self, *_: object) -> None:
        pass


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


_SCRIPT = """
import sys
from convert.errors import DownloadError
from convert.errors import DownloadError
from convert.hub import local_folder
for name in sys.argv[1:]:
    try:
        print(local_folder(name, quiet=True))
    except DownloadError as error:
        print("error:", error)
"""


def fetch(home: Path, endpoint: str, *names: str, **settings: str) -> list[str]:
    """What local_folder gives for each name, or its error, in a process whose hub is `endpoint`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": str(ROOT), "NO_PROXY": "*", **settings}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *names], env=environment, cwd=home, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_repository_is_downloaded_but_for_what_is_not_read(tmp_path: Path, hub: Hub) -> None:
    folder, tagged = map(Path, fetch(tmp_path, hub.url, "org/model", "org/model@v1"))
    assert folder == tagged
    assert folder.name == COMMIT
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == READ
    assert all((folder / name).read_bytes() == FILES[name] for name in READ)
    assert {name for name, _ in hub.fetched} == READ


def test_a_downloaded_repository_needs_no_connection(tmp_path: Path, hub: Hub) -> None:
    first = fetch(tmp_path, hub.url, "org/model")
    asked = len(hub.fetched)
    assert fetch(tmp_path, hub.url, "org/model", HF_HUB_OFFLINE="1") == first
    assert fetch(tmp_path, "http://127.0.0.1:9", "org/model") == first
    assert len(hub.fetched) == asked


def test_a_connection_that_breaks_goes_on_where_it_broke(tmp_path: Path, hub: Hub) -> None:
    hub.cut.add(LAST)
    (folder,) = fetch(tmp_path, hub.url, "org/model")
    if folder.startswith("error: "):  # older versions of the library leave it to the next run
        (folder,) = fetch(tmp_path, hub.url, "org/model")
    assert (Path(folder) / LAST).read_bytes() == FILES[LAST]
    ranges = [asked for name, asked in hub.fetched if name == LAST]
    assert len(ranges) == 2
    assert ranges[1] is not None
    assert ranges[1] != "bytes=0-"


def test_a_download_that_failed_goes_on_with_the_files_that_are_missing(tmp_path: Path, hub: Hub) -> None:
    hub.refused.add(LAST)
    (sentence,) = fetch(tmp_path, hub.url, "org/model")
    assert sentence.startswith("error: cannot download org/model, which is no path here: the server answered 403; ")
    assert len(hub.fetched) > 0
    hub.refused.clear()
    (folder,) = fetch(tmp_path, hub.url, "org/model")
    assert (Path(folder) / LAST).read_bytes() == FILES[LAST]
    assert sorted(name for name, _ in hub.fetched) == sorted(READ)  # each once


def test_what_cannot_be_downloaded_is_told_in_one_sentence(tmp_path: Path, hub: Hub) -> None:
    missing, gated, revision, invalid = fetch(tmp_path, hub.url, "org/nothing", "org/gated", "org/model@v9", "a/b--c")
    assert missing.startswith("error: org/nothing is neither a path here nor a repository that you can see")
    assert gated.startswith("error: the repository org/gated is gated: accept its license on its page, then")
    assert "hf auth login" in gated
    assert revision == "error: the repository org/model has no revision v9"
    assert invalid.startswith("error: a/b--c is neither a path here nor the name of a repository: ")
    (unreachable,) = fetch(tmp_path, "http://127.0.0.1:9", "org/model")
    assert unreachable.startswith("error: cannot download org/model, which is no path here: there is no connection")
    (offline,) = fetch(tmp_path, hub.url, "org/model", HF_HUB_OFFLINE="1")
    assert offline == unreachable


def test_a_full_disk_is_told_with_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")),
    )
    with pytest.raises(DownloadError, match="cannot download org/model, .* the disk of the cache is full: .*HF_HOME"):
        local_folder("org/model")


@pytest.mark.parametrize("name", ["org/model", "model.gguf", "./a/b", "/a/b", "a/b/c", "org/model.gguf", "~/a"])
def test_paths_are_taken_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert local_folder(name) == Path(name)
