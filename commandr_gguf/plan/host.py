"""How much memory this process can still get from the system: /proc/meminfo, control groups and resource limits.

root is put before every path: "" but in tests.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from commandr_gguf.devices import devices

_LIMITLESS = 1 << 60  # version 1 writes a number near 2^63 for "no limit"


def available_memory(root: str = "") -> int:
    """Bytes that can be allocated without swapping and without meeting a limit.

    The least of what the system calls available, what each control group from the process's own up to the root leaves
    (files that it has cached do not count as taken), and what the limits of `ulimit -v` and `ulimit -d` leave. Where
    the system does not tell, it is the memory that the CPU device reports as free.
    """
    found = [*_meminfo(root), *_cgroups(root), *_limits(root)]
    if not found:
        found = [device.memory_free for device in devices() if device.type == "cpu"]
    return max(0, min(found, default=0))


def _meminfo(root: str) -> Iterator[int]:
    for line in _lines(f"{root}/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _cgroups(root: str) -> Iterator[int]:
    for line in _lines(f"{root}/proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            yield from _left(f"{root}/sys/fs/cgroup", group, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _left(f"{root}/sys/fs/cgroup/memory", group, *names)


def _left(base: str, group: str, limit_name: str, used_name: str, cached_name: str) -> Iterator[int]:
    """Of each group up to the root. A container often sees its host's name of its group, and only the root's files."""
    path = PurePosixPath(group)
    for folder in (path, *path.parents):
        place = Path(f"{base}/{str(folder).strip('/')}")
        limit, used = _number(place / limit_name), _number(place / used_name)
        if limit is None or used is None or limit >= _LIMITLESS:
            continue
        cached = (int(line.split()[1]) for line in _lines(place / "memory.stat") if line.startswith(f"{cached_name} "))
        yield limit - used + next(cached, 0)


def _limits(root: str) -> Iterator[int]:
    lines = (line.split() for line in _lines(f"{root}/proc/self/status") if line.startswith("Vm"))
    sizes = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}
    for kind, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft = resource.getrlimit(kind)[0]
        if soft != resource.RLIM_INFINITY and name in sizes:
            yield soft - sizes[name]


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].strip().isdigit() else None


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
