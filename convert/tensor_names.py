"""The tensors of a checkpoint and what they are called in a GGUF file; a pure table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from convert.hparams import HParams

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}

# Buffers that old transformers versions saved; they follow from the config.
_IGNORED_SUFFIXES = (".rotary_emb.inv_freq",)


@dataclass(frozen=True)
class TensorName:
    """One tensor: its name in the checkpoint, in the GGUF file, and its shape there, rows first."""

    hf: str
    gguf: str
    shape: tuple[int, ...]


def tensor_names(hparams: HParams, *, qk_norm: bool) -> Iterator[TensorName]:
    """Every tensor of a model, in the order in which it is written: embedding, layers, output norm."""
    h = hparams
    n_embd_kv = h.n_head_kv * h.head_dim
    yield TensorName(EMBEDDING, "token_embd.weight", (h.n_vocab, h.n_embd))
    for i in range(h.n_layer):
        layer: dict[str, tuple[int, ...]] = {
            "attn_norm": (h.n_embd,),
            "attn_q": (h.n_embd, h.n_embd),
            "attn_k": (n_embd_kv, h.n_embd),
            "attn_v": (n_embd_kv, h.n_embd),
            "attn_output": (h.n_embd, h.n_embd),
            "ffn_gate": (h.n_ff, h.n_embd),
            "ffn_up": (h.n_ff, h.n_embd),
            "ffn_down": (h.n_embd, h.n_ff),
        }
        if qk_norm:
            layer |= {"attn_q_norm": (h.n_head, h.head_dim), "attn_k_norm": (h.n_head_kv, h.head_dim)}
        for kind, shape in layer.items():
            name = f"blk.{i}.{kind}.weight"
            yield TensorName(hf_name(name), name, shape)
    yield TensorName(hf_name("output_norm.weight"), "output_norm.weight", (h.n_embd,))


def hf_name(gguf_name: str) -> str:
    """What a tensor of a GGUF file is called in a checkpoint. Raises KeyError for one that these models do not have."""
    if gguf_name.startswith("blk."):
        _, layer, kind, weight = gguf_name.split(".")
        return f"model.layers.{layer}.{_LAYER_NAMES[kind]}.{weight}"
    return {"token_embd.weight": EMBEDDING, "output_norm.weight": "model.norm.weight"}[gguf_name]


def is_qk_norm(name: str) -> bool:
    """Whether a tensor of a checkpoint or of a GGUF file is a norm of query or key heads."""
    return name.endswith((".q_norm.weight", ".k_norm.weight", ".attn_q_norm.weight", ".attn_k_norm.weight"))


def is_ignored(hf_name: str) -> bool:
    """Whether a checkpoint's tensor carries nothing that the config does not say."""
    return hf_name.endswith(_IGNORED_SUFFIXES)


def is_bias(hf_name: str) -> bool:
    """Whether a checkpoint's tensor is a bias. The family has none: tools that add them write zeros."""
    return hf_name.endswith(".bias")
