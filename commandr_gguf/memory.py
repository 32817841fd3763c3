"""What a session will need, from the file's header alone."""

from __future__ import annotations

from dataclasses import dataclass

from commandr_gguf.errors import ArgumentError, FormatError, UnsupportedError
from commandr_gguf.gguf_file import GGUFFile
from commandr_gguf.quantize import row_size

_ARCHITECTURES = ("command-r", "cohere2")
# Of the native library's caches: cells come in multiples of the first, and a window cache holds this much more than
# the window, so that a sequence can be shortened a little and go on.
_CELL_MULTIPLE = 256
_WINDOW_SLACK = 64
_USUAL_PERIOD = 4  # of every published cohere2 model; their files have no key for it

DEFAULT_CACHE_BYTES = 2 << 30
DEFAULT_CONTEXT = (4096, 32768)


@dataclass(frozen=True)
class CacheShape:
    """The hyper-parameters that the size of the KV cache depends on."""

    n_ctx_train: int
    n_layer: int
    n_head_kv: int
    head_dim: int
    n_swa: int
    """Sliding window in positions; 0 = none."""
    swa_period: int
    """Every swa_period-th layer has no window."""

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> CacheShape:
        """Read them from a file's header.

        Raises:
            FormatError: a key is missing or makes no sense.
            UnsupportedError: the file is of another architecture.
        """
        architecture = file.typed("general.architecture", str)
        if architecture not in _ARCHITECTURES:
            raise UnsupportedError(
                f"{file.path}: the architecture is {architecture!r}; supported are {' and '.join(_ARCHITECTURES)}"
            )

        def number(key: str, default: int | None = None) -> int:
            value = file.typed(f"{architecture}.{key}", int, default)
            if value < 1:
                raise FormatError(f"{file.path}: the key {architecture}.{key} is {value}")
            return value

        n_head = number("attention.head_count")
        pattern_key = f"{architecture}.attention.sliding_window_pattern"
        windowed = architecture == "cohere2"
        period = 0
        if windowed:
            pattern = file.get(pattern_key, _USUAL_PERIOD)
            period = pattern if isinstance(pattern, int) else _period_of(pattern)
        return cls(
            n_ctx_train=number("context_length"),
            n_layer=number("block_count"),
            n_head_kv=number("attention.head_count_kv", n_head),
            head_dim=number("attention.key_length", max(1, number("embedding_length") // n_head)),
            n_swa=number("attention.sliding_window") if windowed else 0,
            swa_period=period,
        )

    def cache_bytes(
        self, n_ctx: int, *, n_seq_max: int = 1, n_ubatch: int = 512, type_k: str = "f16", type_v: str = "f16"
    ) -> int:
        """Bytes of the KV cache of a session with these parameters."""
        if n_ctx < 1:
            raise ArgumentError(f"n_ctx must be 1 or more, not {n_ctx}")
        width = self.n_head_kv * self.head_dim
        cell = row_size(type_k, width) + row_size(type_v, width)
        n_full = self.n_layer // self.swa_period if self.swa_period else self.n_layer
        cells = _padded(n_ctx)
        window_cells = min(cells, _padded(n_seq_max * (self.n_swa + _WINDOW_SLACK) + n_ubatch))
        return cell * (n_full * cells + (self.n_layer - n_full) * window_cells)

    def default_n_ctx(self, *, type_k: str = "f16", type_v: str = "f16") -> int:
        """The largest context whose cache fits in 2 GiB, but 4096 to 32768 tokens and at most the model's own."""
        least, most = (min(n, self.n_ctx_train) for n in DEFAULT_CONTEXT)
        candidates = range(least, most + 1, _CELL_MULTIPLE)
        fitting = [n for n in candidates if self.cache_bytes(n, type_k=type_k, type_v=type_v) <= DEFAULT_CACHE_BYTES]
        return fitting[-1] if fitting else least


def _padded(n: int) -> int:
    return -(-n // _CELL_MULTIPLE) * _CELL_MULTIPLE


def _period_of(pattern: object) -> int:
    """The period of a list that says for each layer whether it has a window."""
    flags = [bool(x) for x in pattern] if isinstance(pattern, list) else []
    return flags.index(False) + 1 if False in flags else len(flags) + 1
