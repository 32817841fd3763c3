"""The Command-R network in torch, arranged for training on a CPU, and how it becomes a Hugging Face checkpoint.

Attention and FFN of a layer read the same normalized vector, so that their five products are one here, and the two that
lead back into the residual stream are another one. The checkpoint has the separate tensors of `CohereForCausalLM`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from commandr_gguf.demo.tokenizer import CONTEXT_LENGTH, VOCAB_SIZE, turn_token_id

EMBEDDING_SPREAD = 0.1
_INPUTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
_OUTPUTS = ("self_attn.o_proj", "mlp.down_proj")


@dataclass(frozen=True)
class Shape:
    """Sizes of the network; the names are those of config.json."""

    hidden_size: int = 256
    intermediate_size: int = 512
    num_hidden_layers: int = 5
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    vocab_size: int = VOCAB_SIZE
    logit_scale: float = 0.5
    rope_theta: float = 1000000.0
    layer_norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        """Values of one head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def widths(self) -> list[int]:
        """Rows of the query, key, value, gate and up projections."""
        kv = self.num_key_value_heads * self.head_dim
        return [self.hidden_size, kv, kv, self.intermediate_size, self.intermediate_size]


class Layer(nn.Module):
    """One parallel block: x + W_o attention(h) + W_down (silu(W_gate h) * W_up h) with h = norm(x).

    The weights are separate, so that each is trained at a rate of its own, and are joined for each product.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.norm = nn.Parameter(torch.ones(shape.hidden_size))
        spread = shape.hidden_size**-0.5
        self.w_in = nn.ParameterList(torch.randn(width, shape.hidden_size) * spread for width in shape.widths)
        # A layer begins by adding nothing: the residual stream is the token itself, not noise about it.
        widths = (shape.hidden_size, shape.intermediate_size)
        self.w_out = nn.ParameterList(torch.zeros(shape.hidden_size, width) for width in widths)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """[n_rows, length, hidden_size] to the same."""
        joined = functional.linear(self.normalized(x), torch.cat(list(self.w_in)))
        q, k, v, gate, up = joined.split(self.shape.widths, dim=-1)
        q, k, v = (self.heads(t) for t in (q, k, v))
        q, k, v = rope(q, cos, sin), self.grouped(rope(k, cos, sin)), self.grouped(v)
        positions = torch.arange(x.shape[1])
        return x + self.leave(attention(q, k, v, positions), gate, up)

    def forward_at(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """The same at the positions `wanted` [n_rows, n_wanted] only: [n_rows, n_wanted, hidden_size].

        Keys and values are needed everywhere, the rest of the last layer only where logits are.
        """
        shape = self.shape
        h = self.normalized(x)
        at = wanted[..., None].expand(-1, -1, shape.hidden_size)
        w_q, w_k, w_v, w_gate, w_up = self.w_in
        k, v = functional.linear(h, torch.cat((w_k, w_v))).chunk(2, dim=-1)
        q, gate, up = functional.linear(h.gather(1, at), torch.cat((w_q, w_gate, w_up))).split(
            [shape.hidden_size, shape.intermediate_size, shape.intermediate_size], dim=-1
        )
        q = rope(self.heads(q), cos[wanted][:, None], sin[wanted][:, None])
        k, v = self.grouped(rope(self.heads(k), cos, sin)), self.grouped(self.heads(v))
        return x.gather(1, at) + self.leave(attention(q, k, v, wanted[:, None]), gate, up)

    def normalized(self, x: torch.Tensor) -> torch.Tensor:
        """What attention and FFN both read."""
        return functional.layer_norm(x, (self.shape.hidden_size,), self.norm, None, self.shape.layer_norm_eps)

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        """[n_rows, length, heads * head_dim] to [n_rows, heads, length, head_dim]."""
        return x.unflatten(-1, (-1, self.shape.head_dim)).transpose(1, 2)

    def grouped(self, x: torch.Tensor) -> torch.Tensor:
        """Keys or values once for each query head."""
        return x.repeat_interleave(self.shape.num_attention_heads // self.shape.num_key_value_heads, dim=1)

    def leave(self, attended: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Attention's and FFN's contribution to the residual stream."""
        both = torch.cat((attended.transpose(1, 2).flatten(-2), functional.silu(gate) * up), dim=-1)
        return functional.linear(both, torch.cat(list(self.w_out), dim=1))


class Network(nn.Module):
    """Token ids to logits; embedding and head are one tensor."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.randn(shape.vocab_size, shape.hidden_size) * EMBEDDING_SPREAD)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = nn.Parameter(torch.ones(shape.hidden_size))

    def forward(self, tokens: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Logits [n_rows, n_wanted, vocab_size] at the positions `wanted` [n_rows, n_wanted] of `tokens`.

        `tokens` is [n_rows, length]. Padding stands at the end of a row: what comes later changes nothing before it.
        """
        shape = self.shape
        x = functional.embedding(tokens, self.embedding)
        angles = torch.arange(tokens.shape[1])[:, None] * shape.rope_theta ** (
            -torch.arange(0, shape.head_dim, 2) / shape.head_dim
        )
        # Under autocast the heads are bfloat16, and stay so.
        dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
        cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
        for layer in self.layers[:-1]:
            x = layer(x, cos, sin)
        x = self.layers[-1].forward_at(x, cos, sin, wanted)
        x = functional.layer_norm(x, (shape.hidden_size,), self.norm, None, shape.layer_norm_eps)
        return functional.linear(x, self.embedding) * shape.logit_scale


@torch.no_grad()
def begin_with_copying(network: Network) -> None:
    """Set heads of the first two layers so that an untrained network continues a text that was there before.

    All that the model does rests on copying, and an hour on a CPU is short for copying to be found by chance. Two heads
    of the first layer keep, with each token, which tokens were one and two places before it. Four heads of the second
    layer look for the places where those are the tokens of here, and write what stands there. Training goes on from
    this with every weight. Only a few dimensions of the rotary embedding serve: those that turn fast tell neighbors
    apart, those that turn slowly compare tokens far from each other.
    """
    shape = network.shape
    size, dim = shape.hidden_size, shape.head_dim
    first, second = network.layers[0], network.layers[1]
    here, one_back, two_back = torch.linalg.qr(torch.randn(size, size)).Q.split(dim)[:3]
    found = torch.linalg.qr(torch.randn(size, size)).Q.split(dim)[:2]
    marker = _mark_all_tokens(network)
    n_pairs = 8
    fast, slow = slice(0, 2 * n_pairs), slice(24, dim)
    angles = shape.rope_theta ** (-torch.arange(0, dim, 2) / dim)[:n_pairs]

    def rows(head: int) -> slice:
        return slice(head * dim, (head + 1) * dim)

    def turned(steps: int) -> torch.Tensor:
        """The same query or key for every token, as if it stood `steps` places on: [2 * n_pairs, hidden_size]."""
        pairs = torch.stack(((steps * angles).cos(), (steps * angles).sin()), dim=1)
        return torch.outer(pairs.flatten(), marker)

    # A key that is turned by one place meets the query of the next token, and one that is turned back the one after.
    w_q, w_k, w_v, _, _ = first.w_in
    gain = 2**0.5
    w_k[rows(0)] = 0
    w_k[rows(0)][fast] = gain * turned(1)
    w_v[rows(0)] = here
    for head, (steps, kept) in enumerate(((0, one_back), (-1, two_back))):
        w_q[rows(head)] = 0
        w_q[rows(head)][fast] = gain * turned(steps)
        first.w_out[0][:, rows(head)] = EMBEDDING_SPREAD * kept.T

    # Where was the token of here one back; and where was that of one back two back? Half of the heads ask each.
    w_q, w_k, w_v, _, _ = second.w_in
    gain = 2.0
    for group, (asked, known) in enumerate(((here, one_back), (one_back, two_back))):
        w_k[rows(group)] = 0
        w_k[rows(group)][slow] = gain * known[slow]
        w_v[rows(group)] = found[group]
        for head in (2 * group, 2 * group + 1):
            w_q[rows(head)] = 0
            w_q[rows(head)][slow] = gain * asked[slow]
            second.w_out[0][:, rows(head)] = 0.25 * found[group].T


def _mark_all_tokens(network: Network) -> torch.Tensor:
    """Give all embeddings the same part along one direction, which is returned: [hidden_size], of length 1."""
    noise = torch.randn(network.shape.hidden_size)
    marker = functional.normalize(noise - noise.mean(), dim=0)  # a layer norm removes the mean
    network.embedding += torch.outer(4 * EMBEDDING_SPREAD - network.embedding @ marker, marker)
    return marker


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Causal attention for queries at `positions` [..., n_queries]; on a CPU this is faster than torch's fused one."""
    later = torch.arange(k.shape[-2]) > positions[..., None]
    mask = torch.zeros(later.shape, dtype=q.dtype).masked_fill_(later, -torch.inf)
    return ((q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5 + mask).softmax(-1) @ v


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate consecutive pairs of values by their position's angles; x is [n_rows, heads, length, head_dim]."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)


def tensors(network: Network) -> dict[str, torch.Tensor]:
    """The weights under the names of `CohereForCausalLM`, as bfloat16."""
    named: dict[str, torch.Tensor] = {"model.embed_tokens.weight": network.embedding, "model.norm.weight": network.norm}
    for i, layer in enumerate(network.layers):
        parts: dict[str, torch.Tensor] = dict(zip(_INPUTS + _OUTPUTS, [*layer.w_in, *layer.w_out], strict=True))
        parts["input_layernorm"] = layer.norm
        named |= {f"model.layers.{i}.{name}.weight": tensor for name, tensor in parts.items()}
    return {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in sorted(named.items())}


@torch.no_grad()
def load_checkpoint(network: Network, folder: Path) -> None:
    """Take the weights of a checkpoint that `save_checkpoint` wrote. The shape must be the same."""
    stored = load_file(folder / "model.safetensors")
    network.embedding.copy_(stored["model.embed_tokens.weight"])
    network.norm.copy_(stored["model.norm.weight"])
    for i, layer in enumerate(network.layers):
        part = {name.removeprefix(f"model.layers.{i}."): tensor for name, tensor in stored.items()}
        layer.norm.copy_(part["input_layernorm.weight"])
        for name, weight in zip(_INPUTS + _OUTPUTS, [*layer.w_in, *layer.w_out], strict=True):
            weight.copy_(part[f"{name}.weight"])


def save_checkpoint(network: Network, folder: Path) -> None:
    """Write model.safetensors, config.json and generation_config.json."""
    shape = network.shape
    path = folder / "model.safetensors"
    save_file(tensors(network), path, metadata={"format": "pt"})
    path.chmod(0o644)  # it is written for its owner alone
    ids = {"bos_token_id": 5, "eos_token_id": turn_token_id("<|END_OF_TURN_TOKEN|>"), "pad_token_id": 0}
    config: dict[str, Any] = {
        "architectures": ["CohereForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate_size,
        "layer_norm_eps": shape.layer_norm_eps,
        "logit_scale": shape.logit_scale,
        "max_position_embeddings": CONTEXT_LENGTH,
        "model_max_length": CONTEXT_LENGTH,
        "model_type": "cohere",
        "num_attention_heads": shape.num_attention_heads,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_key_value_heads": shape.num_key_value_heads,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_qk_norm": False,
        "vocab_size": shape.vocab_size,
        **ids,
    }
    for name, value in (("config.json", config), ("generation_config.json", {"_from_model_config": True, **ids})):
        (folder / name).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
