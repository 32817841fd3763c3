"""Perplexity and divergence as people and programs read them."""

from __future__ import annotations

import math
from typing import Any

from commandr_gguf.cli.format import count


def finite(value: Any) -> Any:
    """The same for JSON, which has neither NaN nor infinity: they become null."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_scores(figures: dict[str, Any]) -> None:
    """Lines of values with their standard errors; `figures` are those of `Scores.summary`, n_ctx and n_chunks."""
    n_chunks, n_ctx, n_tokens = (figures[key] for key in ("n_chunks", "n_ctx", "n_tokens"))
    print(f"{count(n_tokens, 'token')} scored in {count(n_chunks, 'chunk')} of {n_ctx}")
    _print("perplexity", figures, "perplexity", ".4f")
    if "kl_mean" not in figures:
        return
    _print("of the base", figures, "base_perplexity", ".4f")
    _print("ratio", figures, "perplexity_ratio", ".6f")
    _print("mean KL", figures, "kl_mean", ".6f")
    for label, key in (("median", "kl_median"), ("99 %", "kl_99"), ("99.9 %", "kl_99_9"), ("maximum", "kl_max")):
        print(f"{label:12} {figures[key]:12.6f}")
    _print("same top", figures, "same_top", ".3%")


def _print(label: str, figures: dict[str, Any], key: str, form: str) -> None:
    print(f"{label:12} {figures[key]:12{form}} ± {figures[f'{key}_error']:{form}}")
