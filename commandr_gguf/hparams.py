"""What a model's architecture keys say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from commandr_gguf._native import ffi, lib
from commandr_gguf.errors import check
from commandr_gguf.gguf_file import GGUFFile


@dataclass(frozen=True)
class HParams:
    """A model's hyper-parameters."""

    architecture: str
    """command-r or cohere2."""
    n_vocab: int
    n_ctx_train: int
    n_embd: int
    n_ff: int
    n_layer: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_rot: int
    n_swa: int
    """Sliding window in positions, the token itself included; 0 = none."""
    swa_period: int
    """Every swa_period-th layer has no window; 0 = no windows."""
    rope_freq_base: float
    norm_eps: float
    logit_scale: float
    has_qk_norm: bool

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> HParams:
        """Read them from a file's header.

        Raises:
            FormatError: a key is missing or makes no sense; the text names it.
            UnsupportedError: the file is of another architecture, or has a value that is not known.
        """
        c = ffi.new("commandr_hparams *")
        check(lib.commandr_gguf_hparams(file.pointer, c))
        return cls.from_c(c)

    @classmethod
    def from_c(cls, c: Any) -> HParams:
        """From a `const commandr_hparams *`."""
        fields = {name: getattr(c, name) for name in cls.__dataclass_fields__ if name != "architecture"}
        return cls(architecture=ffi.string(c.architecture).decode(), **fields)

    def as_c(self) -> Any:
        """A new `commandr_hparams *`."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return ffi.new("commandr_hparams *", fields | {"architecture": self.architecture.encode()})
