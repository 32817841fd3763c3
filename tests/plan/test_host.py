"""What the system says is free: the least of memory, control groups and resource limits."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from commandr_gguf.plan.host import available_memory

MIB = 1 << 20
NO_LIMIT = 9223372036854771712


def write(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


MEMINFO = {"proc/meminfo": "MemTotal: 16384000 kB\nMemFree: 1 kB\nMemAvailable: 8192000 kB\n"}


def test_memory_that_the_system_calls_available(tmp_path: Path) -> None:
    assert available_memory(write(tmp_path, MEMINFO)) == 8192000 * 1024


def test_cgroups_of_version_2_up_to_the_root(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/user/chat\n",
        "sys/fs/cgroup/user/chat/memory.max": "max\n",
        "sys/fs/cgroup/user/chat/memory.current": "1\n",
        "sys/fs/cgroup/user/memory.max": f"{1000 * MIB}\n",
        "sys/fs/cgroup/user/memory.current": f"{400 * MIB}\n",
        "sys/fs/cgroup/user/memory.stat": f"anon 5\ninactive_file {100 * MIB}\n",
    }
    assert available_memory(write(tmp_path, MEMINFO | files)) == 700 * MIB


def test_cgroups_of_version_1(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "3:cpuset:/\n4:memory:/docker/ab\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{500 * MIB}\n",  # a container sees its group as the root
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{200 * MIB}\n",
        "sys/fs/cgroup/memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {50 * MIB}\n",
    }
    assert available_memory(write(tmp_path, MEMINFO | files)) == 350 * MIB


def test_no_limit_is_none(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "4:memory:/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{NO_LIMIT}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{200 * MIB}\n",
    }
    assert available_memory(write(tmp_path, MEMINFO | files)) == 8192000 * 1024


def test_a_full_group_leaves_nothing(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": f"{100 * MIB}\n",
        "sys/fs/cgroup/memory.current": f"{101 * MIB}\n",
    }
    assert available_memory(write(tmp_path, MEMINFO | files)) == 0


def test_where_the_system_does_not_tell_the_cpu_device_does(tmp_path: Path) -> None:
    assert available_memory(str(tmp_path)) > 64 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine() -> None:
    assert 64 * MIB < available_memory() < 1 << 50
