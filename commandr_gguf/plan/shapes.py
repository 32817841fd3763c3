"""The published models of the family: hyper-parameters of their configs, and the tensors that follow from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from commandr_gguf.errors import ArgumentError
from commandr_gguf.hparams import HParams

_COMMON: dict[str, Any] = {
    "architecture": "command-r",
    "n_vocab": 256000,
    "n_ctx_train": 131072,
    "head_dim": 128,
    "n_rot": 128,
    "n_swa": 0,
    "swa_period": 0,
    "norm_eps": 1e-5,
    "logit_scale": 0.0625,
    "has_qk_norm": False,
}
_COHERE2 = _COMMON | {
    "architecture": "cohere2",
    "n_swa": 4096,
    "swa_period": 4,
    "rope_freq_base": 50000.0,
    "logit_scale": 0.25,
}
_WIDTH_4096 = {"n_layer": 32, "n_embd": 4096, "n_ff": 14336, "n_head": 32, "n_head_kv": 8}
_WIDTH_8192 = {"n_layer": 40, "n_embd": 8192, "n_head": 64}
_WIDTH_12288 = {"n_layer": 64, "n_embd": 12288, "n_head": 96, "n_head_kv": 8}

SHAPES: dict[str, HParams] = {
    name: HParams(**fields)
    for name, fields in {
        "command-r-v01": _COMMON | _WIDTH_8192 | {"n_ff": 22528, "n_head_kv": 64, "rope_freq_base": 8e6},
        "command-r-08-2024": _COMMON | _WIDTH_8192 | {"n_ff": 24576, "n_head_kv": 8, "rope_freq_base": 4e6},
        "command-r-plus": _COMMON
        | _WIDTH_12288
        | {"n_ff": 33792, "rope_freq_base": 75e6, "logit_scale": 0.8333333, "has_qk_norm": True},
        "aya-8b": _COMMON | _WIDTH_4096 | {"n_ctx_train": 8192, "rope_freq_base": 10000.0, "logit_scale": 0.125},
        "command-r7b": _COHERE2 | _WIDTH_4096,
        # Its card promises 256K, and its config says this.
        "command-a": _COHERE2 | _WIDTH_12288 | {"n_ff": 36864},
    }.items()
}


def find_shape(name: str) -> HParams:
    """A published model by its name. Raises ArgumentError with the choices."""
    if name not in SHAPES:
        raise ArgumentError(f"there is no shape {name!r}: choose one of {', '.join(SHAPES)}")
    return SHAPES[name]


def tensor_shapes(hparams: HParams) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Each tensor's name in a GGUF file and its shape, rows first."""
    n_embd, n_ff = hparams.n_embd, hparams.n_ff
    n_q, n_kv = hparams.n_head * hparams.head_dim, hparams.n_head_kv * hparams.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (n_embd,),
        "attn_q": (n_q, n_embd),
        "attn_k": (n_kv, n_embd),
        "attn_v": (n_kv, n_embd),
        "attn_output": (n_embd, n_q),
        "ffn_gate": (n_ff, n_embd),
        "ffn_up": (n_ff, n_embd),
        "ffn_down": (n_embd, n_ff),
    }
    if hparams.has_qk_norm:
        layer["attn_q_norm"] = (hparams.n_head, hparams.head_dim)
        layer["attn_k_norm"] = (hparams.n_head_kv, hparams.head_dim)
    yield "token_embd.weight", (hparams.n_vocab, n_embd)
    for i in range(hparams.n_layer):
        yield from ((f"blk.{i}.{kind}.weight", shape) for kind, shape in layer.items())
    yield "output_norm.weight", (n_embd,)
