"""Command-R's forward pass in numpy float64: slow, short, and with nothing in common with the code under test.

It stands between transformers and the tests: tests/runtime/test_reference.py holds it to the logits that transformers
wrote (tests/golden), and other tests can then ask it about any tokens, any checkpoint of tests/shapes.py, and what the
rounded weights of a GGUF file should give.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import gguf.quants
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Angles = Callable[[npt.NDArray[np.int64], float, int], Array]
_ROWS = 128  # whose attention is computed at a time


def read_safetensors(path: Path) -> dict[str, Array]:
    """Every tensor of a file as float64."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:start]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = data[start + begin : start + end]
        if entry["dtype"] == "BF16":
            values = (np.frombuffer(raw, "<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
        else:
            values = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[entry["dtype"]])
        tensors[name] = values.astype(np.float64).reshape(entry["shape"])
    return tensors


_HF_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "blk.": "model.layers.",
    "attn_norm": "input_layernorm",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "ffn_": "mlp.",
    ".weight": "_proj.weight",
}


def checkpoint_name(tensor: str) -> str:
    """The checkpoint's name for a tensor of a GGUF file."""
    name = tensor
    for ours, theirs in _HF_NAMES.items():
        if ours != ".weight" or ".ffn_" in tensor:
            name = name.replace(ours, theirs)
    return name


def read_gguf(path: Path) -> dict[str, Array]:
    """Every tensor of a GGUF file as the float64 that its blocks stand for, under the checkpoint's name for it."""
    tensors = {}
    for tensor in gguf.GGUFReader(path).tensors:
        name = checkpoint_name(tensor.name)
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        tensors[name] = values.astype(np.float64).reshape([int(n) for n in reversed(tensor.shape)])
    return tensors


def _layer_norm(x: Array, weight: Array, eps: float) -> Array:
    centered = x - x.mean(-1, keepdims=True)
    result: Array = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + eps) * weight
    return result


def exact_angles(positions: npt.NDArray[np.int64], theta: float, dim: int) -> Array:
    """[n, dim / 2]: how far RoPE rotates each pair of dimensions at each position, in radians."""
    result: Array = positions[:, None] * theta ** (-np.arange(0, dim, 2) / dim)
    return result


def _rotate(x: Array, angles: Array) -> Array:
    """Rotate consecutive pairs. x: [n_tokens, n_head, head_dim]; angles: [n_tokens, head_dim / 2]."""
    angle = angles[:, None]
    turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)
    return np.stack([turned.real, turned.imag], -1).reshape(x.shape)


class Reference:
    """One checkpoint, loaded."""

    def __init__(self, folder: Path, *, weights: dict[str, Array] | None = None, angles: Angles = exact_angles) -> None:
        """weights: instead of those in the folder's files, under the same names. angles: of RoPE."""
        self._angles = angles
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.weights: dict[str, Array] = weights or {}
        self.inputs: dict[str, Array] = {}
        """What each matrix was multiplied with in the last computation, [n_tokens, n_in], by the matrix's name."""
        if not weights:
            for file in sorted(folder.glob("*.safetensors")):
                self.weights |= read_safetensors(file)

    def hidden(self, tokens: npt.ArrayLike, at: npt.ArrayLike | None = None) -> Array:
        """[n_tokens, n_embd]: the normed hidden state at every position, or only those of `at`.

        The last layer then is computed for these alone: all there is to do in a long sequence when it is the only layer
        that sees everything.
        """
        config, weights = self.config, self.weights
        x = weights["model.embed_tokens.weight"][np.asarray(tokens)]
        eps = config["layer_norm_eps"]
        for i in range(config["num_hidden_layers"]):
            prefix = f"model.layers.{i}."
            h = _layer_norm(x, weights[prefix + "input_layernorm.weight"], eps)
            is_last = i == config["num_hidden_layers"] - 1
            rows = np.arange(len(x)) if at is None or not is_last else np.asarray(at)
            mixed = self._attention(i, prefix + "self_attn.", h, rows)
            h, x = h[rows], x[rows]
            gate = self._product(prefix + "mlp.gate_proj.weight", h)
            up = self._product(prefix + "mlp.up_proj.weight", h)
            ffn = self._product(prefix + "mlp.down_proj.weight", gate / (1 + np.exp(-gate)) * up)
            x = x + mixed + ffn
        return _layer_norm(x, weights["model.norm.weight"], eps)

    def logits(self, tokens: npt.ArrayLike, at: npt.ArrayLike | None = None) -> Array:
        """[n_tokens, n_vocab], or only the rows of some positions, see `hidden`."""
        hidden = self.hidden(tokens, at)
        result: Array = self._product("model.embed_tokens.weight", hidden) * self.config["logit_scale"]
        return result

    def _product(self, name: str, x: Array) -> Array:
        self.inputs[name] = x
        result: Array = x @ self.weights[name].T
        return result

    def _attention(self, i: int, prefix: str, h: Array, rows: npt.NDArray[np.int64]) -> Array:
        """[n_rows, n_embd]: what the layer's attention gives to the positions `rows`, ascending ones."""
        config, n = self.config, len(h)
        n_head, n_head_kv = config["num_attention_heads"], config["num_key_value_heads"]
        q = self._product(prefix + "q_proj.weight", h[rows]).reshape(len(rows), n_head, -1)
        k = self._product(prefix + "k_proj.weight", h).reshape(n, n_head_kv, -1)
        v = self._product(prefix + "v_proj.weight", h).reshape(n, n_head_kv, -1)
        if config.get("use_qk_norm"):
            q = _layer_norm(q, self.weights[prefix + "q_norm.weight"], config["layer_norm_eps"])
            k = _layer_norm(k, self.weights[prefix + "k_norm.weight"], config["layer_norm_eps"])
        windowed = config["model_type"] == "cohere2" and (i + 1) % 4 != 0
        if windowed or config["model_type"] == "cohere":
            theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
            q = _rotate(q, self._angles(rows, theta, q.shape[-1]))
            k = _rotate(k, self._angles(np.arange(n), theta, q.shape[-1]))
        window = config["sliding_window"] if windowed else n
        mixed = [_mix(q[b : b + _ROWS], k, v, rows[b : b + _ROWS], window) for b in range(0, len(rows), _ROWS)]
        return self._product(prefix + "o_proj.weight", np.concatenate(mixed))


def _mix(q: Array, k: Array, v: Array, rows: npt.NDArray[np.int64], window: int) -> Array:
    """[n_rows, n_head * head_dim]: the values that queries at the positions `rows` see, by their weights."""
    first, end = max(0, int(rows[0]) - window + 1), int(rows[-1]) + 1
    distance = rows[:, None] - np.arange(first, end)
    seen = (distance >= 0) & (distance < window)
    group = q.shape[1] // k.shape[1]
    heads = []
    for head in range(q.shape[1]):
        scores = q[:, head] @ k[first:end, head // group].T / np.sqrt(q.shape[-1])  # [n_rows, n_seen]
        scores = np.where(seen, scores, -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        heads.append(scores @ v[first:end, head // group] / scores.sum(-1, keepdims=True))
    return np.stack(heads, 1).reshape(len(rows), -1)
