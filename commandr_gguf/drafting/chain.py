"""Several drafters, asked in turn."""

from __future__ import annotations

from collections.abc import Sequence

from commandr_gguf.drafting.drafter import Draft, Drafter, GoOn, Limit


class Chain:
    """Takes the draft of the first drafter that has one."""

    def __init__(self, drafters: Sequence[Drafter]) -> None:
        self._drafters = list(drafters)

    def draft(self, tokens: Sequence[int], limit: Limit, go_on: GoOn | None = None) -> Draft | None:
        """See `Drafter.draft`."""
        for drafter in self._drafters:
            draft = drafter.draft(tokens, limit, go_on)
            if draft is not None:
                return draft
        return None
