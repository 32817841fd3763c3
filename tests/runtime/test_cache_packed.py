"""Packed weights that are kept beside the model: used again, never trusted, and never in the way of a load."""

from __future__ import annotations

import fcntl
import logging
import os
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import models
import split_files
from commandr_gguf import ArgumentError, CancelledError, CommandR, GGUFFile, Model, Session, enable_native_log

TOKENS = np.arange(40, dtype=np.int32) * 7 % 700 + 20
# The header: magic, version, numbers of sources and entries, fingerprint, hash. Then the sources and the entries.
HEADER, SOURCE, ENTRY = struct.Struct("<8sIiqQQ"), struct.Struct("<qq"), struct.Struct("<64s5qQ")
HASH_AT = HEADER.size - 8


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A model in a folder of its own."""
    path = tmp_path / "model.gguf"
    shutil.copy(models.gguf("gqa", "Q4_K_M"), path)
    with Model(path) as model:
        if model.computed_by != "packed":
            pytest.skip("this processor has no kernel of ours")
    return path


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """What the native library has warned of."""
    enable_native_log()
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    enable_native_log(False)


def load(path: Path, **options: Any) -> tuple[npt.NDArray[np.float32], set[str]]:
    """The logits of a model, and where its packed weights are."""
    with Model(path, n_threads=2, **options) as model, Session(model, n_ctx=256, n_threads=1) as session:
        assert model.computed_by == "packed"
        session.eval(TOKENS, n_outputs=len(TOKENS))
        return session.logits().copy(), {use.what for use in model.memory()} - {"mapped"}


def packed(path: Path) -> Path:
    return path.with_name(f"{path.name}.packed")


def names(path: Path) -> list[str]:
    """What lies in the model's folder."""
    return sorted(entry.name for entry in path.parent.iterdir())


def expect_cached(path: Path) -> None:
    """A load with the option computes what one without it computes, from the file."""
    expected, where = load(path)
    assert where == {"packed"}
    got, where = load(path, cache_packed=True)
    assert where == {"packed-mapped"}
    np.testing.assert_array_equal(got, expected)
    assert names(path) == [path.name, packed(path).name]


def expect_in_memory(path: Path) -> None:
    """A load with the option does without the file."""
    got, where = load(path, cache_packed=True)
    assert where == {"packed"}
    np.testing.assert_array_equal(got, load(path)[0])


# ---- used


def test_the_second_load_maps_what_the_first_one_wrote(path: Path) -> None:
    expect_cached(path)
    before = packed(path).stat()
    assert before.st_size >= path.stat().st_size / 2  # norms and F32 tensors stay
    expect_cached(path)
    after = packed(path).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_without_the_option_nothing_is_written_or_read(path: Path) -> None:
    load(path)
    assert names(path) == [path.name]
    load(path, cache_packed=True)
    assert load(path)[1] == {"packed"}


def test_it_is_read_by_whom_the_model_is_read(path: Path) -> None:
    for mode in (0o600, 0o644):
        path.chmod(mode)
        packed(path).unlink(missing_ok=True)
        load(path, cache_packed=True)
        assert packed(path).stat().st_mode & 0o777 == mode


def test_progress_reaches_one_whether_it_is_written_or_mapped(path: Path) -> None:
    for _ in range(2):
        told: list[float] = []
        load(path, cache_packed=True, progress=told.append)
        assert told == sorted(told)
        assert told[-1] == pytest.approx(1.0)


def test_a_split_model_has_one_beside_its_first_part(path: Path) -> None:
    folder = path.parent / "split"
    folder.mkdir()
    parts = split_files.split(path, folder, 12)
    for _ in range(2):
        got, where = load(parts[0], cache_packed=True)
        assert where == {"packed-mapped"}
        np.testing.assert_array_equal(got, load(path)[0])
    assert names(parts[0]) == sorted([*(part.name for part in parts), packed(parts[0]).name])
    inode = packed(parts[0]).stat().st_ino
    os.utime(parts[-1], ns=(0, 12345))
    assert load(parts[0], cache_packed=True)[1] == {"packed-mapped"}
    assert packed(parts[0]).stat().st_ino != inode


def test_a_model_and_its_draft_have_one_each(path: Path) -> None:
    draft = path.with_name("draft.gguf")
    shutil.copy(models.gguf("gqa", "Q8_0"), draft)
    with CommandR(path, n_ctx=256, draft=draft, cache_packed=True):
        pass
    assert names(path) == ["draft.gguf", "draft.gguf.packed", "model.gguf", "model.gguf.packed"]


@pytest.mark.parametrize("option", ["use_mmap", "repack"])
def test_it_needs_what_it_keeps(path: Path, option: str) -> None:
    options: dict[str, Any] = {"cache_packed": True, option: False}
    with pytest.raises(ArgumentError, match="cache_packed needs use_mmap and repack"):
        Model(path, **options)
    assert names(path) == [path.name]


def test_nothing_is_kept_where_nothing_is_packed(tmp_path: Path, warnings: Callable[[], list[str]]) -> None:
    path = tmp_path / "model.gguf"
    shutil.copy(models.gguf("gqa"), path)
    with Model(path, cache_packed=True) as model:
        assert model.computed_by == "cpu"
    assert names(path) == [path.name]
    assert warnings() == [f"{path}: no packed weights are kept: none are packed here"]


# ---- not trusted


def fnv1a(data: bytes | bytearray) -> int:
    value = 14695981039346656037
    for byte in data:
        value = (value ^ byte) * 1099511628211 % 2**64
    return value


class Damage:
    """A packed file's header in its parts, written back with the hash that belongs to it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.data = bytearray(file.read_bytes())
        self.fields = list(HEADER.unpack_from(self.data))

    def entry(self, change: Callable[[list[Any]], None]) -> None:
        """Change the last entry: [name, type, ne[0], ne[1], offset, size, sample]."""
        at = HEADER.size + SOURCE.size * self.fields[2] + ENTRY.size * (self.fields[3] - 1)
        fields = list(ENTRY.unpack_from(self.data, at))
        change(fields)
        ENTRY.pack_into(self.data, at, *fields)

    def write(self) -> None:
        end = HEADER.size + max(0, SOURCE.size * self.fields[2] + ENTRY.size * self.fields[3])
        HEADER.pack_into(self.data, 0, *self.fields)
        HEADER.pack_into(
            self.data, 0, *self.fields[:-1], fnv1a(self.data[:HASH_AT] + self.data[HEADER.size : min(end, 1 << 20)])
        )
        self.file.write_bytes(self.data)


def set_field(number: int, value: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        damage = Damage(packed(path))
        damage.fields[number] = value(damage.fields[number]) if callable(value) else value
        damage.write()

    return change


def set_entry(number: int, value: Any) -> Callable[[Path], None]:
    def set_value(fields: list[Any]) -> None:
        fields[number] = value(fields[number]) if callable(value) else value

    def change(path: Path) -> None:
        damage = Damage(packed(path))
        damage.entry(set_value)
        damage.write()

    return change


def zero(start: int, end: int | None) -> Callable[[Path], None]:
    """What a page that never reached the disk reads as."""

    def change(path: Path) -> None:
        data = np.fromfile(packed(path), np.uint8)
        data[start:end] = 0
        data.tofile(packed(path))

    return change


def flip(at: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = bytearray(packed(path).read_bytes())
        data[at] ^= 1
        packed(path).write_bytes(data)

    return change


def other_weights(path: Path) -> None:
    """The size, header and time of before, and another first row of the head."""
    before = path.stat()
    with GGUFFile(path) as file:
        at = next(tensor.offset for tensor in file.tensors if tensor.name == "token_embd.weight")
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CASES: dict[str, Callable[[Path], object]] = {
    "the model was modified later": lambda p: os.utime(p, ns=(0, p.stat().st_mtime_ns + 1)),
    "the model has other weights": other_weights,
    "empty": lambda p: packed(p).write_bytes(b""),
    "its end is missing": lambda p: os.truncate(packed(p), packed(p).stat().st_size - 1),
    "its header alone": lambda p: os.truncate(packed(p), 4096),
    "half its header": lambda p: os.truncate(packed(p), 200),
    "a file of another program": lambda p: packed(p).write_bytes(b"something else" * 1000),
    "an older order": set_field(1, lambda version: version - 1),
    "a newer order": set_field(1, lambda version: version + 1),
    "no first page of weights": zero(4096, 8192),
    "no last page of weights": zero(-4096, None),
    "another sample": set_entry(6, lambda sample: sample ^ 1),
    "a flipped bit of a size": flip(HEADER.size),
    "a flipped bit of an offset": flip(HEADER.size + SOURCE.size + 64 + 3 * 8 + 2),
    "another model": set_field(4, 0),
    "no source": set_field(2, 0),
    "negative sources": set_field(2, -1),
    "many sources": set_field(2, 2**31 - 1),
    "no tensor": set_field(3, 0),
    "a tensor less": set_field(3, lambda n: n - 1),
    "negative tensors": set_field(3, -(2**63)),
    "many tensors": set_field(3, 2**62),
    "a name without an end": set_entry(0, b"x" * 64),
    "an unknown name": set_entry(0, b"blk.99.attn_q.weight"),
    "a name twice": set_entry(0, b"token_embd.weight"),
    "another type": set_entry(1, 2),
    "another shape": set_entry(2, lambda n: 2 * n),
    "an offset in the header": set_entry(4, 0),
    "a negative offset": set_entry(4, -4096),
    "an offset between pages": set_entry(4, lambda at: at - 32),
    "an offset at the end": set_entry(4, lambda at: at + 4096),
    "an offset that overflows": set_entry(4, 2**63 - 4096),
    "another size": set_entry(5, 64),
    "a size that overflows": set_entry(5, 2**63 - 1),
    "a negative size": set_entry(5, -1),
}


@pytest.mark.parametrize("case", CASES)
def test_one_that_does_not_fit_is_written_anew(case: str, path: Path) -> None:
    load(path, cache_packed=True)
    good, before = packed(path).read_bytes(), packed(path).stat().st_ino
    CASES[case](path)
    expect_cached(path)
    assert packed(path).stat().st_ino != before
    if not case.startswith("the model"):
        assert packed(path).read_bytes() == good


def test_bytes_come_from_the_file(path: Path) -> None:
    """What makes the tests above say something: bytes of a tensor that are changed change the result.

    They are of a tensor's middle, of which there is no sample: reading all would take as long as packing."""
    expected = load(path, cache_packed=True)[0]
    data = np.fromfile(packed(path), np.uint8)
    data[-9000:-8000] ^= 0x11
    data.tofile(packed(path))
    got, where = load(path, cache_packed=True)
    assert where == {"packed-mapped"}
    assert (got != expected).any()


# ---- never in the way


def put_folder(path: Path) -> None:
    packed(path).mkdir()


def put_pipe(path: Path) -> None:
    os.mkfifo(packed(path))


def put_folder_for_temporary(path: Path) -> None:
    path.with_name("model.gguf.packed.tmp").mkdir()


def put_link_for_temporary(path: Path) -> None:
    path.with_name("model.gguf.packed.tmp").symlink_to(path)


def put_hard_link_for_temporary(path: Path) -> None:
    path.with_name("model.gguf.packed.tmp").hardlink_to(path)


OBSTACLES: dict[Callable[[Path], None], str] = {
    put_folder: "what has their name is not a file",
    put_pipe: "what has their name is not a file",
    put_folder_for_temporary: "Is a directory",
    put_link_for_temporary: "Too many levels of symbolic links",
    put_hard_link_for_temporary: "what is to be the temporary file is something else",
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_stands_in_its_place_stays(
    obstacle: Callable[[Path], None], path: Path, warnings: Callable[[], list[str]]
) -> None:
    obstacle(path)
    before, model = names(path), path.read_bytes()
    expect_in_memory(path)
    assert warnings() == [f"{path}.packed: the packed weights are not kept: {OBSTACLES[obstacle]}"]
    assert (names(path), path.read_bytes()) == (before, model)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(path: Path, warnings: Callable[[], list[str]]) -> None:
    path.parent.chmod(0o500)
    try:
        expect_in_memory(path)
    finally:
        path.parent.chmod(0o700)
    assert warnings() == [f"{path}.packed: the packed weights are not kept: Permission denied"]
    assert names(path) == [path.name]


LOAD = """
import hashlib, sys
from commandr_gguf import Model, Session, enable_native_log
import logging
logging.basicConfig(level=logging.WARNING, format="%(message)s")
enable_native_log()
told = []
options = {"cache_packed": True, "progress": told.append}
with Model(sys.argv[1], **options) as model, Session(model, n_ctx=64, n_threads=1) as session:
    assert told == sorted(told) and told[-1] == 1, told
    session.eval([5, 100, 200])
    print(hashlib.sha256(session.logits().tobytes()).hexdigest(), *[use.what for use in model.memory()])
"""


def load_elsewhere(path: Path, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", LOAD, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_a_write_that_fails_leaves_nothing(path: Path) -> None:
    limit = path.stat().st_size // 2
    with load_elsewhere(path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, f"{path}.packed: the packed weights are not kept: File too large\n")
    assert "packed" in out.split()
    assert names(path) == [path.name]


def test_a_disk_without_room_is_seen_before(path: Path) -> None:
    if not sys.platform.startswith("linux") or shutil.which("unshare") is None:
        pytest.skip("needs a disk of its own")
    room = path.stat().st_size * 3 // 2
    mount = f'mount -t tmpfs -o size={room} none "$1" && cp "$2" "$1" && "$3" -c "$4" "$1/model.gguf" && ls "$1"'
    folder = path.parent / "disk"
    folder.mkdir()
    arguments = ["sh", str(folder), str(path), sys.executable, LOAD]
    command = ["unshare", "--map-root-user", "--user", "--mount", "sh", "-c", mount, *arguments]
    if subprocess.run(
        [*command[:4], "mount", "-t", "tmpfs", "none", folder], capture_output=True, check=False
    ).returncode:
        pytest.skip("may not mount")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "model.gguf.packed: the packed weights are not kept: they take 0.00 GiB, and 0.00 are free" in done.stderr
    assert done.stdout.splitlines()[1:] == ["model.gguf"]


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_a_load_that_is_cancelled_leaves_nothing(error: type[BaseException] | None, path: Path) -> None:
    told: list[float] = []
    load(path, cache_packed=True, progress=told.append)
    assert len(told) > 3
    for stop in range(len(told)):
        packed(path).unlink(missing_ok=True)
        calls = iter(range(len(told)))

        def progress(_: float, stop: int = stop, calls: Iterator[int] = calls) -> bool:
            if next(calls) < stop:
                return True
            if error is not None:
                raise error
            return False

        with pytest.raises(error or CancelledError):
            Model(path, n_threads=2, cache_packed=True, progress=progress)
        is_complete = stop == len(told) - 1  # the last call comes then
        assert names(path) == [path.name, *([packed(path).name] if is_complete else [])]
    expect_cached(path)


def test_an_older_file_stays_when_writing_is_cancelled(path: Path) -> None:
    packed(path).write_bytes(b"old")
    with pytest.raises(CancelledError):
        Model(path, cache_packed=True, progress=lambda _: False)
    assert packed(path).read_bytes() == b"old"
    assert names(path) == [path.name, packed(path).name]


def test_what_a_killed_process_left_is_replaced(path: Path) -> None:
    load(path, cache_packed=True)
    good = packed(path).read_bytes()
    packed(path).unlink()
    path.with_name("model.gguf.packed.tmp").write_bytes(b"\xff" * 2 * path.stat().st_size)
    expect_cached(path)
    assert packed(path).read_bytes() == good


def test_while_another_process_writes_it_weights_are_packed_in_memory(
    path: Path, warnings: Callable[[], list[str]]
) -> None:
    temporary = path.with_name("model.gguf.packed.tmp")
    with temporary.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        expect_in_memory(path)
        assert temporary.exists()
    assert warnings() == [f"{path}.packed: the packed weights are not kept: another process is writing them"]
    expect_cached(path)


def test_processes_that_start_at_once_all_load(path: Path) -> None:
    processes = [load_elsewhere(path) for _ in range(4)]
    results = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert len({result[0] for result in results}) == 1
    assert any("packed-mapped" in result for result in results)
    expect_cached(path)
