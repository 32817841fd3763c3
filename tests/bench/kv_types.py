"""What the types of the KV cache cost the embedded model: `python tests/bench/kv_types.py DEMO.gguf`.

    python -m convert commandr_gguf/demo/checkpoint -o demo.gguf --type F32

Two tasks of rising length, for each pair of types of K and V. *Needles* are held-out questions whose documents are the
first of many; the rest, behind them, are those of other questions. *Copies* are texts that stand twice in the prompt,
and the second time is scored. Tokens are evaluated after the right ones before them, so that a reply counts as right
when greedy decoding would write all of it. KL is the mean divergence from an F32 cache, in nats, of the scored tokens;
changed is the share of them with another most likely token.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import numpy.typing as npt

import measure
from commandr_gguf import CommandR, Session
from commandr_gguf.demo.data.example import Example
from commandr_gguf.demo.data.source import Source

PAIRS = (
    *(("f16", "f16"), ("f16", "q8_0"), ("q8_0", "f16"), ("q8_0", "q8_0")),
    *(("f16", "q4_0"), ("q8_0", "q4_0"), ("q4_0", "f16"), ("q4_0", "q8_0"), ("q4_0", "q4_0")),
)
"""Types of K and V."""
BITS = {"f16": 16.0, "q8_0": 8.5, "q4_0": 4.5}


@dataclass(frozen=True)
class Sample:
    """Tokens of which the last n_scored are compared."""

    tokens: list[int]
    n_scored: int


@dataclass(frozen=True)
class Outcome:
    """What a pair of types gave for some samples."""

    kl: float
    changed: float
    """From 0 to 1."""
    right: float
    """The part of the samples (of the tokens in copies) whose scored tokens are all the most likely ones."""


def needles(model: CommandR, length: int, count: int, seed: int) -> Iterator[Sample]:
    """Questions with about `length` tokens of prompt, or with their own documents alone when that is 0."""
    source, others = Source("test", seed), Source("test", seed + 1000)
    for _ in range(count):
        example = source.example("fast")
        documents = list(example.documents)
        while length and len(_prompt(model, example, documents)) < length:
            documents += _others(others, example)
        prompt = _prompt(model, example, documents)
        reply = model.tokenizer.encode(example.reply)
        yield Sample([*prompt, *reply], len(reply))


def _others(source: Source, example: Example) -> Iterator[dict[str, str]]:
    """Documents of another question, with the keys of the example's."""
    text_key = next(key for key in example.documents[0] if key != "title")
    titled = "title" in example.documents[0]
    for document in source.example("fast").documents:
        text = next(value for key, value in document.items() if key != "title")
        if not any(fact in text for fact in example.facts):
            yield {"title": document.get("title", "Notes"), text_key: text} if titled else {text_key: text}


def _prompt(model: CommandR, example: Example, documents: list[dict[str, str]]) -> list[int]:
    return list(model.prompt(example.messages, documents=documents, citation_mode="fast").tokens)


def copies(model: CommandR, length: int, count: int, seed: int) -> Iterator[Sample]:
    """Texts of documents, of `length` tokens together with their copies."""
    source, begin = Source("test", seed), model.tokenizer.encode("", add_special=True)
    for _ in range(count):
        half: list[int] = []
        while len(half) < length // 2:
            for document in source.example("fast").documents:
                half += model.tokenizer.encode("\n" + " ".join(document.values()))
        half = half[: length // 2]
        # The copy begins with some known tokens, or nothing would say that it is one.
        yield Sample([*begin, *half, *half], len(half) - 16)


def rows(session: Session, sample: Sample) -> npt.NDArray[np.float32]:
    """The logits before each scored token."""
    session.seq_rm(0)
    session.eval(sample.tokens[:-1], n_outputs=sample.n_scored)
    return session.logits()


def compare(model: CommandR, samples: Sequence[Sample], threads: int, *, whole: bool) -> dict[tuple[str, str], Outcome]:
    """Every pair beside an F32 cache. whole: a sample is right or wrong as one."""
    most = max(len(sample.tokens) for sample in samples)
    options: dict[str, Any] = {"n_ctx": most, "n_batch": 4096, "n_outputs": 512, "n_threads": threads}

    def compute(type_k: str, type_v: str) -> list[npt.NDArray[np.float32]]:
        with Session(model.model, type_k=type_k, type_v=type_v, **options) as session:
            return [rows(session, sample) for sample in samples]

    expected = compute("f32", "f32")
    found = {("f32", "f32"): _outcome(samples, expected, expected, whole=whole)}
    for pair in PAIRS:
        found[pair] = _outcome(samples, compute(*pair), expected, whole=whole)
    return found


def _outcome(
    samples: Sequence[Sample],
    logits: Sequence[npt.NDArray[np.float32]],
    expected: Sequence[npt.NDArray[np.float32]],
    *,
    whole: bool,
) -> Outcome:
    hits = [x.argmax(-1) == sample.tokens[-sample.n_scored :] for x, sample in zip(logits, samples, strict=True)]
    all_hits = np.array([hit.all() for hit in hits]) if whole else np.concatenate(hits)
    pairs = list(zip(logits, expected, strict=True))
    return Outcome(
        float(np.concatenate([measure.kl_divergences(*pair) for pair in pairs]).mean()),
        sum(measure.top_1_differences(*pair) for pair in pairs) / sum(sample.n_scored for sample in samples),
        float(all_hits.mean()),
    )


def table(title: str, by_length: dict[int, dict[tuple[str, str], Outcome]]) -> str:
    """In Markdown: a line for each pair, and of each length right / changed / KL."""
    lines = [f"| {title}: K, V | bits | " + " | ".join(f"{n:,} tokens" for n in by_length) + " |"]
    lines.append("|---" * (2 + len(by_length)) + "|")
    for pair in (("f32", "f32"), *PAIRS):
        bits = sum(BITS.get(kv_type, 32.0) for kv_type in pair) / 2
        cells = []
        for found in by_length.values():
            outcome = found[pair]
            cell = f"{100 * outcome.right:.1f} %"
            if pair[0] != "f32":
                cell += f", {100 * outcome.changed:.2f} %, {outcome.kl:.1e}"
            cells.append(cell)
        lines.append(f"| {', '.join(pair)} | {bits:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="What the types of the KV cache cost the embedded model.")
    parser.add_argument("model", type=Path, help="the embedded model as an F32 file")
    parser.add_argument("--needles", type=int, nargs="*", default=(0, 384, 512, 768), help="lengths of prompts")
    parser.add_argument("--copies", type=int, nargs="*", default=(256, 512, 1024, 2048, 4096), help="lengths")
    parser.add_argument("--count", type=int, default=60, help="questions of each length")
    parser.add_argument("--copied", type=int, default=8192, help="tokens of copies of each length")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; default: 1, enough for so small a model")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    with CommandR(arguments.model, n_ctx=256) as model:
        tables: list[tuple[str, dict[int, dict[tuple[str, str], Outcome]]]] = [("needles", {}), ("copies", {})]
        for length in arguments.needles:
            asked = list(needles(model, length, arguments.count, arguments.seed))
            mean = round(sum(len(sample.tokens) for sample in asked) / len(asked))
            tables[0][1][mean] = compare(model, asked, arguments.threads, whole=True)
        for length in arguments.copies:
            texts = list(copies(model, length, max(4, arguments.copied // length), arguments.seed))
            tables[1][1][length] = compare(model, texts, arguments.threads, whole=False)
    for title, by_length in tables:
        if by_length:
            print(table(title, by_length) + "\n")


if __name__ == "__main__":
    main()
