"""Which cores and how much of them a process may use, read from folders like those of Linux."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("cores") / "test_cores"
    source = ROOT / "native/src"
    command = [*shlex.split(os.environ.get("CC", "cc")), "-std=c11", "-D_GNU_SOURCE", f"-I{source}"]
    command += [str(Path(__file__).with_suffix(".c")), str(source / "cores.c"), str(source / "cgroup.c")]
    subprocess.run([*command, "-o", str(target)], check=True)
    return target


def measure(program: Path, root: Path, files: Mapping[str, str], allowed: Iterable[int] = range(64)) -> tuple[int, int]:
    """Cores and quota, in a system that has these files."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n", encoding="utf-8")
    done = subprocess.run([str(program), str(root), *map(str, allowed)], capture_output=True, text=True, check=True)
    cores, quota = map(int, done.stdout.split())
    return cores, quota


def siblings(*groups: Iterable[int]) -> dict[str, str]:
    """Files that say which CPUs share a core."""
    folder = "sys/devices/system/cpu"
    return {
        f"{folder}/cpu{cpu}/topology/thread_siblings_list": ",".join(map(str, group))
        for group in groups
        for cpu in group
    }


def capacities(*values: int) -> dict[str, str]:
    return {f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity": str(value) for cpu, value in enumerate(values)}


# Two performance cores of two CPUs each, four efficient ones of one.
HYBRID = siblings([0, 1], [2, 3], [4], [5], [6], [7]) | {
    "sys/devices/cpu_core/cpus": "0-3",
    "sys/devices/cpu_atom/cpus": "4-7",
}


@pytest.mark.parametrize(
    ("allowed", "n_cores"),
    [
        (range(8), 2),
        ([1, 3, 4, 5], 2),
        ([0, 1, 4, 5, 6, 7], 1),
        ([3], 1),
        ([4, 5, 6], 3),  # an efficient core is better than none
        ([], 0),
    ],
)
def test_performance_cores_count_alone_if_one_is_allowed(
    program: Path, tmp_path: Path, allowed: Iterable[int], n_cores: int
) -> None:
    assert measure(program, tmp_path, HYBRID, allowed) == (n_cores, 0)


@pytest.mark.parametrize(
    ("text", "n_cores"), [("0-1,4,6-7", 5), ("3", 1), ("0-63", 8), ("70-80", 8), ("", 8), ("x", 8)]
)
def test_lists_of_processors(program: Path, tmp_path: Path, text: str, n_cores: int) -> None:
    assert measure(program, tmp_path, {"sys/devices/cpu_core/cpus": text}, range(8)) == (n_cores, 0)


@pytest.mark.parametrize(
    ("values", "allowed", "n_cores"),
    [
        ((1024, 1024, 1024, 1024), range(4), 4),
        ((446, 446, 446, 446, 1024, 1024), range(6), 2),
        ((325, 325, 325, 325, 870, 870, 870, 1024), range(8), 4),  # the one of the highest clock has company
        ((446, 446, 446, 446, 1024, 1024), range(4), 4),
        ((446, 446, 446, 446, 1024, 1024), [0, 1, 5], 1),
    ],
)
def test_cores_of_much_less_capacity_than_the_best_allowed_one_do_not_count(
    program: Path, tmp_path: Path, values: tuple[int, ...], allowed: Iterable[int], n_cores: int
) -> None:
    assert measure(program, tmp_path, capacities(*values), allowed) == (n_cores, 0)


def test_without_a_description_every_processor_is_a_core(program: Path, tmp_path: Path) -> None:
    assert measure(program, tmp_path, {}, range(6)) == (6, 0)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 0),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "250000 100000"}, 3),
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/b/cpu.max": "800000 100000",
                "sys/fs/cgroup/a/cpu.max": "200000 100000",
            },
            2,
        ),
        ({"proc/self/cgroup": "0::/of/the/host", "sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        (
            {
                "proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/x\n0::/",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "400000",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000",
            },
            4,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/x",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000",
            },
            0,
        ),
        ({"proc/self/cgroup": "4:cpuset:/x", "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "100000"}, 0),
    ],
)
def test_the_smallest_quota_up_to_the_root_of_the_control_groups_counts(
    program: Path, tmp_path: Path, files: Mapping[str, str], quota: int
) -> None:
    assert measure(program, tmp_path, files)[1] == quota
