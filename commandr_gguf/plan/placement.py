"""The best placement: context, types of the cache and layers per device.

The rules, in this order:

1. As many layers as fit go on the cards, from the last one on, the head behind them: on one card, or on as many
   as it takes, shared out by their memory if they are equally fast, else each filled in turn.
2. A model of which all fits on cards with 4096 tokens stays there. Else 32768 tokens are worth more than some layers on
   a card, and else 8192 are. The cache is Q4_0 only where nothing else fits.
3. Of what is left, what decodes at nine tenths of the fastest choice or more is fast enough.
4. Of that, the cache is F16 if that leaves 32768 tokens, else Q8_0 if that does, else one of these if it leaves 8192,
   on the CPU alone also Q8_0 for K with Q4_0 for V; and the context is the longest.

With workers, instead of 1: of all ways to share the layers out, faster places filled first, that which decodes soonest.
That leaves on workers what does not fit here, unless one of them is so much faster that the way to it pays.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from commandr_gguf.gguf_file import GGUFFile
from commandr_gguf.hparams import HParams
from commandr_gguf.memory import kv_cache_bytes
from commandr_gguf.params import CACHE_PAIRS
from commandr_gguf.plan.layout import Layout, shares_of, speeds
from commandr_gguf.plan.needs import Parts, measure, parts
from commandr_gguf.plan.places import Place

N_PROMPTS = 4
"""How many prompts `CommandR` keeps of a model without a sliding window; with one each takes memory of its own."""
FAST_ENOUGH = 0.9
EQUALLY_FAST = 0.9
ON_CARDS = 4096
"""Tokens with which a model on cards alone is of use."""
WORTHWHILE = (32768, 8192)
STEPS = (
    (32768, CACHE_PAIRS[:1]),
    (32768, CACHE_PAIRS[1:2]),
    (8192, CACHE_PAIRS[:3]),
    (0, CACHE_PAIRS),
)
"""Least contexts, and the types of K and V that are looked at for them."""
CONTEXTS = (131072, 65536, 32768, 16384, 8192, 4096)
UBATCHES = (512, 128)
LONGEST = 8
"""In contexts of the model: what is longer is not laid out to be measured, which would take memory and time."""


def n_prompts(hparams: HParams) -> int:
    """Sequences that `CommandR` keeps when it is not told."""
    return 2 if hparams.n_swa > 0 else N_PROMPTS


class Planner:
    """Places one model on some places; the host is the first of them."""

    def __init__(self, file: GGUFFile, places: Sequence[Place], *, n_seq_max: int | None = None) -> None:
        self.file = file
        self.hparams = HParams.from_gguf(file)
        self.places = list(places)
        self.n_seq_max = n_seq_max or n_prompts(self.hparams)

    def best(
        self,
        n_ctx: Sequence[int] | None = None,
        types: Sequence[tuple[str, str]] | None = None,
        n_ubatch: int | None = None,
    ) -> Layout | None:
        """The best layout of those that fit.

        Args:
            n_ctx: the contexts to choose from; None takes the model's own and shorter ones.
            types: those of the K and V caches, the best first; None takes CACHE_PAIRS.
            n_ubatch: None takes 512, or 128 where that is too much.
        """
        trained = self.hparams.n_ctx_train
        contexts = n_ctx or sorted({trained, *(n for n in CONTEXTS if n < trained)}, reverse=True)
        kinds = types or [(k, v) for k, v in CACHE_PAIRS if k == v or len(self.places) == 1]
        found = [layout for kind in kinds for n in contexts if (layout := self._fit(n, kind, n_ubatch))]
        if not found:
            return None
        pool = self._worthwhile(found, max(contexts), any_type=types is not None)
        fastest = max(layout.decode for layout in pool)
        fast = [layout for layout in pool if layout.decode >= FAST_ENOUGH * fastest]
        longest = max(contexts)
        for least, pairs in STEPS:
            pool = [x for x in fast if x.n_ctx >= min(least, longest) and (types or (x.type_k, x.type_v) in pairs)]
            if pool:
                break
        return max(pool, key=lambda layout: layout.n_ctx)  # the first of equals, which has the better types

    @staticmethod
    def _worthwhile(found: Sequence[Layout], longest: int, *, any_type: bool) -> Sequence[Layout]:
        """Rule 2. any_type: the types were asked for, so that none of them is worse than another."""
        exact = [x for x in found if any_type or x.type_k != "q4_0"]
        pool = [x for x in exact if x.is_on_cards and x.n_ctx >= min(ON_CARDS, longest)]
        for least in WORTHWHILE:
            pool = pool or [x for x in exact if x.n_ctx >= min(least, longest)]
        return pool or exact or found

    def smallest(self, n_ctx: int, types: tuple[str, str], n_ubatch: int | None = None) -> Layout:
        """All of the model on the host, whether it fits or not: to say by how much it does not."""
        sizes = self._sizes(n_ctx, types, n_ubatch or UBATCHES[0])
        counts = [self.hparams.n_layer, *(0 for _ in self.places[1:])]
        return self._layout(counts, sizes, n_ctx, types, n_ubatch or UBATCHES[0])

    def most_spread(self, n_ctx: int, types: tuple[str, str], n_ubatch: int) -> Layout | None:
        """The fastest layout with layers on workers, for a comparison; None where none fits."""
        sizes = self._sizes(n_ctx, types, n_ubatch)
        every = (self._layout(counts, sizes, n_ctx, types, n_ubatch) for counts in self._counts(sizes))
        fitting = (x for x in every if x.uses_workers and x.fits)
        return max(fitting, key=lambda x: x.decode, default=None)

    def _fit(self, n_ctx: int, types: tuple[str, str], n_ubatch: int | None) -> Layout | None:
        if self._is_far_too_long(n_ctx, types):
            return None
        for ubatch in [n_ubatch] if n_ubatch else UBATCHES:
            sizes = self._sizes(n_ctx, types, ubatch)
            every = (self._layout(counts, sizes, n_ctx, types, ubatch) for counts in self._counts(sizes))
            fitting = (x for x in every if x.fits)
            # On cards most layers are best. A worker may be slower than the host, and is behind a link in any case.
            is_spread = any(place.kind == "worker" for place in self.places)
            layout = max(fitting, key=lambda x: x.decode, default=None) if is_spread else next(fitting, None)
            if layout is not None:
                return layout
        return None

    def _is_far_too_long(self, n_ctx: int, types: tuple[str, str]) -> bool:
        """Whether the cache alone is more than all memory: laying it out takes memory, too."""
        size = kv_cache_bytes(self.hparams, n_ctx, n_seq_max=self.n_seq_max, type_k=types[0], type_v=types[1])
        return size > sum(place.memory for place in self.places)

    def _counts(self, sizes: tuple[Parts, int, int]) -> Iterator[list[int]]:
        """Layers per place, most on the cards first; with workers for every set of places that take any."""
        if any(place.kind == "worker" for place in self.places):
            for n_used in range(len(self.places)):
                for used in itertools.combinations(range(1, len(self.places)), n_used):
                    yield from self._spread(used, sizes)
            return
        for n_offload in range(self.hparams.n_layer, -1, -1):
            filled = self._filled(n_offload, sizes)
            if balanced := self._balanced(filled, sizes):
                yield balanced
            if sum(filled) == self.hparams.n_layer:
                yield filled

    def _filled(self, n_offload: int, sizes: tuple[Parts, int, int]) -> list[int]:
        """Each card filled in turn; fewer layers in all where there is no room for the last ones."""
        found, _, on_card = sizes
        n_layer = self.hparams.n_layer
        growth = max(found.kv(layer) for layer in range(n_layer))
        counts = [n_layer - n_offload]
        layer = n_layer - n_offload
        for place in self.places[1:]:
            room, n = place.memory - on_card - growth, 0
            while layer < n_layer and (size := found.layers[layer] + found.kv(layer)) <= room:
                # Behind the last layer of all, the head has to fit as well.
                if layer == n_layer - 1 and n_offload == n_layer and found.head + size > room:
                    break
                room, n, layer = room - size, n + 1, layer + 1
            counts.append(n)
        return counts

    def _balanced(self, filled: Sequence[int], sizes: tuple[Parts, int, int]) -> list[int] | None:
        """The layers of cards that are equally fast, shared out by their memory, so that all of them keep some free.

        None where one card holds them all, or they differ. Whether the shares fit is not looked at.
        """
        found, _, on_card = sizes
        used = [i for i, n in enumerate(filled) if n and i > 0]
        rates = {self.places[i].decode_read for i in used}
        if len(used) < 2 or min(rates) < EQUALLY_FAST * max(rates) or any(self.places[i].is_inside for i in used):
            return None
        rooms = [max(0, place.memory - on_card) if i in used else 0 for i, place in enumerate(self.places)]
        if filled[0] == 0:
            rooms[used[-1]] = max(0, rooms[used[-1]] - found.head)
        n_offload = self.hparams.n_layer - filled[0]
        ends = [round(n_offload * done / max(1, sum(rooms))) for done in itertools.accumulate(rooms[1:], initial=0)]
        return [filled[0], *(end - begin for begin, end in itertools.pairwise(ends))]

    def _spread(self, used: Sequence[int], sizes: tuple[Parts, int, int]) -> Iterator[list[int]]:
        """Layers per place with these beside the host, fewest on them first, the faster ones filled before others."""
        found, _, on_card = sizes
        n_layer = self.hparams.n_layer
        largest = max(found.layers[layer] + found.kv(layer) for layer in range(n_layer))
        growth = max(found.kv(layer) for layer in range(n_layer))
        fastest_first = sorted(used, key=lambda i: -self.places[i].decode_read)
        for n_offload in range(len(used), n_layer + 1) if used else [0]:
            counts, left = [n_layer - n_offload, *(0 for _ in self.places[1:])], n_offload
            for i in fastest_first:
                counts[i] = min(left, max(0, self.places[i].memory - on_card - growth) // largest)
                left -= counts[i]
            if left == 0:
                yield counts

    def _sizes(self, n_ctx: int, types: tuple[str, str], n_ubatch: int) -> tuple[Parts, int, int]:
        """The model's parts, and bytes of compute buffers on the host and on a card.

        A card that is not there cannot be measured. It is taken to need what the host does for the whole graph with
        ggml's own products, which is more than a part of the graph takes; and, as CUDA does, F16 copies of a layer's
        cache of another type.
        """
        sizes: dict[str, Any] = {"n_seq_max": self.n_seq_max, "n_ubatch": n_ubatch}
        sizes |= {"type_k": types[0], "type_v": types[1]}
        found = parts(self.file, self.hparams, n_ctx=n_ctx, **sizes)
        laid_out = min(n_ctx, LONGEST * self.hparams.n_ctx_train)
        compute = [
            sum(u.size for u in measure(self.file, loading, {"n_ctx": laid_out, **sizes}) if u.what == "compute")
            for loading in ({}, {"repack": False})
        ]
        copies = 0 if types == ("f16", "f16") else 2 * 2 * n_ctx * self.hparams.n_head_kv * self.hparams.head_dim
        return found, compute[0], compute[1] + copies

    def _layout(
        self,
        counts: Sequence[int],
        sizes: tuple[Parts, int, int],
        n_ctx: int,
        types: tuple[str, str],
        n_ubatch: int,
    ) -> Layout:
        found, on_host, on_card = sizes
        compute = [on_host, *(on_card for _ in self.places[1:])]
        shares = shares_of(self.places, counts, found, compute)
        rates = speeds(shares, self.hparams, found, n_ctx, self.n_seq_max)
        return Layout(tuple(shares), n_ctx, n_ubatch, self.n_seq_max, *types, *rates)
