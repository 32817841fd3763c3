"""The tensors of a checkpoint and what they are called in a GGUF file; a pure table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from convert.hparams import HParams

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"

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
        layer = [
            ("input_layernorm", "attn_norm", (h.n_embd,)),
            ("self_attn.q_proj", "attn_q", (h.n_embd, h.n_embd)),
            ("self_attn.k_proj", "attn_k", (n_embd_kv, h.n_embd)),
            ("self_attn.v_proj", "attn_v", (n_embd_kv, h.n_embd)),
            ("self_attn.o_proj", "attn_output", (h.n_embd, h.n_embd)),
            ("mlp.gate_proj", "ffn_gate", (h.n_ff, h.n_embd)),
            ("mlp.up_proj", "ffn_up", (h.n_ff, h.n_embd)),
            ("mlp.down_proj", "ffn_down", (h.n_embd, h.n_ff)),
        ]
        if qk_norm:
            layer += [
                ("self_attn.q_norm", "attn_q_norm", (h.n_head, h.head_dim)),
                ("self_attn.k_norm", "attn_k_norm", (h.n_head_kv, h.head_dim)),
            ]
        for hf, gguf, shape in layer:
            yield TensorName(f"model.layers.{i}.{hf}.weight", f"blk.{i}.{gguf}.weight", shape)
    yield TensorName("model.norm.weight", "output_norm.weight", (h.n_embd,))


def is_qk_norm(hf_name: str) -> bool:
    """Whether a checkpoint's tensor is a norm of query or key heads."""
    return hf_name.endswith((".q_norm.weight", ".k_norm.weight"))


def is_ignored(hf_name: str) -> bool:
    """Whether a checkpoint's tensor carries nothing that the config does not say."""
    return hf_name.endswith(_IGNORED_SUFFIXES)


def is_bias(hf_name: str) -> bool:
    """Whether a checkpoint's tensor is a bias. The family has none: tools that add them write zeros."""
    return hf_name.endswith(".bias")
