"""What the machine allows: its 8-bit multiply-adds and its reading, measured, and how much of both a model needs."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from commandr_gguf.devices import read_bandwidth
from commandr_gguf.gguf_file import GGUFFile
from commandr_gguf.hparams import HParams

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
F16_BYTES = 2


@dataclass(frozen=True)
class Need:
    """Of one model."""

    weight_bytes: int
    """All tensors: a decoded token reads each once, the embedding as the head."""
    cache_bytes: int
    """Keys and values of a position in F16."""
    layer_weights: int
    """Multiply-adds of a prompt's token in the layers' matrices."""
    head_weights: int
    """Those of a token whose logits are computed besides."""

    @classmethod
    def of(cls, model: Path) -> Need:
        """From a file's header."""
        with GGUFFile(model) as file:
            hparams = HParams.from_gguf(file)
            matrices = {t.name: t.shape[0] * t.shape[1] for t in file.tensors if len(t.shape) == 2}
            head = matrices.pop("token_embd.weight")
            cache = 2 * hparams.n_layer * hparams.n_head_kv * hparams.head_dim * F16_BYTES
            return cls(sum(t.size for t in file.tensors), cache, sum(matrices.values()), head)

    def decode_bytes(self, context: int) -> int:
        """What a token reads that stands behind `context` others."""
        return self.weight_bytes + context * self.cache_bytes


def last_level_cache() -> int:
    """Bytes; 0 where the system does not say."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    texts = [(index / "size").read_text(encoding="ascii").strip() for index in CACHES.glob("index*")]
    return max((int(text[:-1]) * units[text[-1]] for text in texts), default=0)


def reader(n_threads: int) -> Callable[[], float]:
    """A measurement of reading, bytes per second, in a buffer of which at most a sixteenth fits the caches."""
    n_bytes = max(1 << 30, 16 * last_level_cache())
    return lambda: read_bandwidth(n_threads, n_bytes)


def arithmetic(level: str, n_threads: int, folder: Path) -> Callable[[], float]:
    """A measurement of 8-bit multiply-adds per second (roofline.c); 0 on processors that it does not know."""
    if level == "native":
        return lambda: 0.0
    program = folder / "roofline"
    if not program.exists():
        compiler = shlex.split(os.environ.get("CC", "cc"))
        source = Path(__file__).with_suffix(".c")
        subprocess.run([*compiler, "-O2", "-pthread", str(source), "-o", str(program)], check=True)
    command = [str(program), level, str(n_threads)]
    return lambda: float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
