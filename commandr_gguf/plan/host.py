"""How much memory this process can still get from the system."""

from __future__ import annotations

from commandr_gguf.devices import devices


def available_memory() -> int:
    """Bytes that can be taken without swapping and without meeting a limit: what the CPU device has free.

    That is the least of what the system calls available, what each control group from the process's own up to the root
    leaves (files that it has cached do not count as taken), and what `ulimit -v` and `ulimit -d` leave.
    """
    return next((device.memory_free for device in devices() if device.type == "cpu"), 0)
