"""How much memory a process can take, read from folders like those of Linux."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import c_programs

MIB = 1 << 20
MEMINFO = {"proc/meminfo": "MemTotal: 4096 kB\nMemFree: 1024 kB\nMemAvailable:    2048 kB"}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("memory") / "test_host_memory"
    sources = [str(Path(__file__).with_suffix(".c")), str(c_programs.NATIVE / "src/host-memory.c")]
    subprocess.run([*c_programs.command(), *sources, "-o", str(target)], check=True)
    return target


def group(limit: object, used: int, inactive: int = 0) -> dict[str, str]:
    return {"memory.max": str(limit), "memory.current": str(used), "memory.stat": f"anon 5\ninactive_file {inactive}"}


def at(folder: str, files: dict[str, str]) -> dict[str, str]:
    return {f"{folder}/{name}": text for name, text in files.items()}


V2 = "sys/fs/cgroup"
V1 = {
    "memory.limit_in_bytes": "3000",
    "memory.usage_in_bytes": "2500",
    "memory.stat": "cache 9\ntotal_inactive_file 70",
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, -1),
        (MEMINFO, 2 * MIB),
        (MEMINFO | {"proc/self/cgroup": "0::/a"} | at(f"{V2}/a", group("max", 5)), 2 * MIB),
        (MEMINFO | {"proc/self/cgroup": "0::/a"} | at(f"{V2}/a", group(5000, 4000, 300)), 1300),
        (MEMINFO | {"proc/self/cgroup": "0::/a"} | at(f"{V2}/a", group(5000, 6000)), 0),
        (MEMINFO | {"proc/self/cgroup": "0::/a"} | at(f"{V2}/a", group(8 * MIB, 0)), 2 * MIB),
        ({"proc/self/cgroup": "0::/a/b"} | at(f"{V2}/a", group(900, 100)) | at(f"{V2}/a/b", group(5000, 0)), 800),
        ({"proc/self/cgroup": "0::/host/name"} | at(V2, group(700, 100)), 600),
        ({"proc/self/cgroup": "4:cpu:/a\n9:memory:/a"} | at(f"{V2}/memory/a", V1), 570),
    ],
)
def test_available_memory(program: Path, tmp_path: Path, files: dict[str, str], expected: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n", encoding="utf-8")
    done = subprocess.run([str(program), str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) == expected


def test_this_machine_has_some(program: Path) -> None:
    done = subprocess.run([str(program)], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 64 * MIB
