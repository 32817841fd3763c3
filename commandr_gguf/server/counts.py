"""What the engine has done so far. Its thread writes, others read."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Counts:
    """Sums since the start, and the state after the last step."""

    steps: int = 0
    """Evaluations."""
    prompt_tokens: int = 0
    """Of prompts, those evaluated."""
    prompt_seconds: float = 0.0
    """Of steps without a reply being written."""
    prompt_tokens_alone: int = 0
    """Evaluated in such steps."""
    cached_tokens: int = 0
    """Of prompts, those that were held already."""
    reply_tokens: int = 0
    reply_seconds: float = 0.0
    """Of steps that gave tokens of replies."""
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    suspended: int = 0
    """Replies that gave their cells up for others, to be taken up again."""
    refused: int = 0
    """Requests for which the queue was full."""
    ended: dict[str, int] = field(default_factory=dict)
    """Requests by how they ended: a finish reason, "timeout" or "error"."""
    seconds: float = 0.0
    """From submission to the end, all ended requests together."""
    waiting: int = 0
    active: int = 0
    kv_used: int = 0
    """Cells."""
    kv_cells: int = 0
    """At most."""
    kv_bytes: int = 0
    """What the cache has taken so far."""
    kv_bytes_limit: int = 0
    """What it takes with all cells in use."""

    def add_step(self, n_prompt: int, n_writing: int, seconds: float) -> None:
        """Count an evaluation of `n_prompt` tokens of prompts and for `n_writing` replies."""
        self.steps += 1
        self.prompt_tokens += n_prompt
        if n_writing:
            self.reply_seconds += seconds
        else:
            self.prompt_seconds += seconds
            self.prompt_tokens_alone += n_prompt

    def add_end(self, reason: str) -> None:
        """Count a request that has ended."""
        self.ended[reason] = self.ended.get(reason, 0) + 1

    def retry_after(self, n_waiting: int, n_parallel: int) -> int:
        """Seconds, 1 to 60, until as many have ended as wait, by what requests took so far."""
        n_ended = sum(self.ended.values())
        mean = self.seconds / n_ended if n_ended else 1.0
        return max(1, min(round(mean * n_waiting / n_parallel), 60))
