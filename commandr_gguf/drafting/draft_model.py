"""Drafts from a smaller model with the same vocabulary."""

from __future__ import annotations

import array
from collections.abc import Sequence

from commandr_gguf.drafting.drafter import Draft, GoOn, Limit, Source
from commandr_gguf.errors import ArgumentError, ContextFullError
from commandr_gguf.model import Model
from commandr_gguf.sampling import Sampler, SamplingParams
from commandr_gguf.session import Session

_VOCABULARY_KEYS = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges")


class DraftModel:
    """Drafts what another model would write greedily, such as Command R7B for Command-R.

    Args:
        session: of the smaller model, not used by anything else; the caller closes it. Its context should be as long as
            the larger model's: beyond it there are no drafts.
        target: the model whose replies are drafted.
        n_max: the longest draft in tokens, each of which costs an evaluation of the smaller model.

    Raises:
        ArgumentError: the two models' vocabularies differ, or n_max is below 1.
    """

    def __init__(self, session: Session, target: Model, n_max: int = 16) -> None:
        _check_vocabularies(session.model, target)
        if n_max < 1:
            raise ArgumentError(f"n_max must be 1 or more, not {n_max}")
        self._session = session
        self._n_max = n_max
        self._source = Source(f"draft model {session.model.path}", cost=_weight(session.model) / _weight(target))
        self._sampler = Sampler(session.model.hparams.n_vocab, SamplingParams(temperature=0))

    def draft(self, tokens: Sequence[int], limit: Limit, go_on: GoOn | None = None) -> Draft | None:
        """See `Drafter.draft`."""
        text = array.array("i", tokens)
        try:
            for _ in range(min(limit(self._source), self._n_max)):
                self._session.eval(text, progress=go_on)
                text.append(self._session.sample(self._sampler, text)[0])
        except ContextFullError:
            pass
        guess = list(text[len(tokens) :])
        return Draft(guess, self._source) if guess else None


def _weight(model: Model) -> int:
    """Bytes that an evaluation of one token reads."""
    return sum(use.size for use in model.memory())


def _check_vocabularies(draft: Model, target: Model) -> None:
    sizes = draft.hparams.n_vocab, target.hparams.n_vocab
    if sizes[0] != sizes[1]:
        raise ArgumentError(
            f"{draft.path} cannot draft for {target.path}: its vocabulary has {sizes[0]} tokens, not {sizes[1]}"
        )
    for key in _VOCABULARY_KEYS:
        theirs, ours = (model.gguf.typed_list(key, str) if key in model.gguf else [] for model in (draft, target))
        if theirs != ours:
            at = next(
                (i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours))
            )
            raise ArgumentError(f"{draft.path} cannot draft for {target.path}: {key} differs at element {at}")
