"""A placement of layers: what each place holds and how fast the whole is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from commandr_gguf.hparams import HParams
from commandr_gguf.plan.needs import Parts
from commandr_gguf.plan.places import Place

MESSAGES = 2
"""That are waited for in each evaluation on a worker: its inputs are sent, its part computed, its outputs fetched."""


@dataclass(frozen=True)
class Share:
    """What one place holds, in bytes."""

    place: Place
    n_layers: int
    weights: int
    head: int
    """The output matrix, which on the host is the embedding as well."""
    kv: int
    compute: int
    growth: int
    """What a growing cache takes for a while: a layer is copied into a larger one. The host's stays in place."""

    @property
    def total(self) -> int:
        """All that stays."""
        return self.weights + self.head + self.kv + self.compute


@dataclass(frozen=True)
class Layout:
    """Layers 0 to n on the host, those behind them on the other places in their order, the head behind the last."""

    shares: tuple[Share, ...]
    n_ctx: int
    n_ubatch: int
    n_seq_max: int
    type_k: str
    type_v: str
    decode: float
    """Tokens per second with an empty cache."""
    decode_full: float
    """Tokens per second with n_ctx tokens in the cache."""
    prefill: float
    """Tokens per second of a prompt that is short."""

    @property
    def n_gpu_layers(self) -> int:
        """As `Model` takes it: one more than there are layers when the head is offloaded."""
        return sum(s.n_layers + (s.head > 0) for s in self.shares if s.place.kind != "cpu")

    @property
    def fits(self) -> bool:
        """Whether each place has memory for its share, and the host for those inside it."""
        on_host = sum(share.total for share in self.shares if share.place.kind == "cpu" or share.place.is_inside)
        each = all(share.total + share.growth <= share.place.memory for share in self.shares)
        return each and on_host <= self.shares[0].place.memory

    @property
    def is_on_cards(self) -> bool:
        """Whether all layers and the head lie in the memory of cards of this machine."""
        return all(s.place.kind == "gpu" and not s.place.is_inside for s in self.shares if s.n_layers or s.head)

    @property
    def uses_workers(self) -> bool:
        """Whether layers lie on workers."""
        return any(share.n_layers and share.place.kind == "worker" for share in self.shares)

    def split(self, *, with_workers: bool) -> list[int]:
        """The tensor_split for these devices, those of workers among them or not; empty where there is none to make."""
        counts = [
            s.n_layers for s in self.shares if s.place.kind == "gpu" or (with_workers and s.place.kind == "worker")
        ]
        return counts if len(counts) > 1 and any(counts) else []

    def arguments(self) -> dict[str, Any]:
        """Of `CommandR`, those that are not its defaults; with rpc where workers are used, and else without."""
        found: dict[str, Any] = {"n_ctx": self.n_ctx}
        if self.n_gpu_layers:
            found["n_gpu_layers"] = self.n_gpu_layers
        if split := self.split(with_workers=self.uses_workers):
            found["tensor_split"] = split
        if self.n_ubatch != 512:
            found["n_ubatch"] = self.n_ubatch
        types = {"type_k": self.type_k, "type_v": self.type_v}
        return found | {name: value for name, value in types.items() if value != "f16"}


def shares_of(places: Sequence[Place], counts: Sequence[int], parts: Parts, compute: Sequence[int]) -> list[Share]:
    """The shares of places that take so many layers each, the first place from layer 0 on."""
    last = max((i for i, n in enumerate(counts) if n), default=0)
    head_at = last if counts[0] == 0 else 0
    found, layer = [], 0
    for i, (place, n, buffers) in enumerate(zip(places, counts, compute, strict=True)):
        layers = range(layer, layer + n)
        found.append(
            Share(
                place,
                n,
                weights=sum(parts.layers[k] for k in layers),
                head=parts.head if i == head_at else 0,
                kv=sum(parts.kv(k) for k in layers),
                compute=buffers if n or i in (0, head_at) else 0,
                growth=max((parts.kv(k) for k in layers), default=0) if i else 0,
            )
        )
        layer += n
    return found


def speeds(
    shares: Sequence[Share], hparams: HParams, parts: Parts, n_ctx: int, n_seq_max: int
) -> tuple[float, float, float]:
    """Tokens per second: decoding with an empty cache, with a full one, and of a prompt."""
    per_layer = hparams.n_embd * (2 * hparams.n_head + 2 * hparams.n_head_kv) * hparams.head_dim
    per_layer += 3 * hparams.n_embd * hparams.n_ff
    empty = full = prompt = 0.0
    layer = 0
    for share in shares:
        place = share.place
        empty += (share.weights + share.head) / place.decode_read
        # A layer with a window reads one sequence's part of its cells.
        kv = sum(parts.kv(k) // (n_seq_max if parts.has_window[k] else 1) for k in range(layer, layer + share.n_layers))
        full += (share.weights + share.head + kv) / place.decode_read
        prompt += 2.0 * per_layer * share.n_layers / place.compute
        if place.link and share.n_layers:  # a vector there and one back for each token
            vectors = 2 * 4 * hparams.n_embd / place.link
            empty += vectors + MESSAGES * place.latency
            full += vectors + MESSAGES * place.latency + 2 * n_ctx / place.link  # and the mask, in F16
            prompt += vectors
        layer += share.n_layers
    return 1 / empty, 1 / full, 1 / prompt
