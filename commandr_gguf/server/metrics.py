"""The engine's counts in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from commandr_gguf.server.counts import Counts

__all__ = ["CONTENT_TYPE_LATEST", "Metrics"]


class _EngineCollector(Collector):
    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        counts = self._counts
        for name, text, value in (
            ("requests_waiting", "Requests in the queue.", counts.waiting),
            ("requests_active", "Requests that are computed.", counts.active),
            ("kv_cells", "Most cells of the KV cache.", counts.kv_cells),
            ("kv_cells_used", "Cells in use, kept prompts included.", counts.kv_used),
            ("kv_bytes", "Memory that the KV cache has taken so far.", counts.kv_bytes),
            ("kv_bytes_limit", "Memory that the KV cache takes with all its cells in use.", counts.kv_bytes_limit),
            (
                "prefill_tokens_per_second",
                "Tokens of prompts, in steps with prompts alone.",
                _rate(counts.prompt_tokens_alone, counts.prompt_seconds),
            ),
            ("decode_tokens_per_second", "Tokens of replies.", _rate(counts.reply_tokens, counts.reply_seconds)),
        ):
            yield GaugeMetricFamily(f"commandr_{name}", text, value=value)
        for name, text, total in (
            ("steps", "Evaluations.", counts.steps),
            ("prompt_tokens", "Tokens of prompts that were evaluated.", counts.prompt_tokens),
            ("prompt_tokens_cached", "Tokens of prompts that were held already.", counts.cached_tokens),
            ("reply_tokens", "Tokens of replies.", counts.reply_tokens),
            ("drafted_tokens", "Guesses that were evaluated.", counts.drafted_tokens),
            ("accepted_tokens", "Guesses that became part of a reply.", counts.accepted_tokens),
            ("prefill_seconds", "Seconds of steps with prompts alone.", counts.prompt_seconds),
            ("decode_seconds", "Seconds of steps that wrote replies.", counts.reply_seconds),
            ("requests_suspended", "Replies that gave way to others for a while.", counts.suspended),
            ("requests_refused", "Requests for which the queue was full.", counts.refused),
        ):
            yield CounterMetricFamily(f"commandr_{name}", text, value=total)
        ended = CounterMetricFamily("commandr_requests", "Requests by how they ended.", labels=["reason"])
        for reason, number in sorted(counts.ended.items()):
            ended.add_metric([reason], number)
        yield ended


class Metrics:
    """What `/metrics` answers."""

    def __init__(self, counts: Counts) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_EngineCollector(counts))

    def text(self) -> bytes:
        """All of it, now."""
        return generate_latest(self._registry)


def _rate(number: int, seconds: float) -> float:
    return number / seconds if seconds else 0.0
