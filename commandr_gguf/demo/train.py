"""Trains the embedded checkpoint from nothing: tokenizer, weights, and the files of a Hugging Face checkpoint.

    python -m commandr_gguf.demo.train commandr_gguf/demo/checkpoint --minutes 56

It needs the extra `demo-train`. README.md beside this file says what was tried and what came out.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from commandr_gguf.demo.data.example import TASKS
from commandr_gguf.demo.data.source import Source
from commandr_gguf.demo.network import Network, Shape, begin_with_copying, load_checkpoint, save_checkpoint
from commandr_gguf.demo.rows import Batches, Encoder, Row, corpus
from commandr_gguf.demo.tokenizer import write_tokenizer

BATCH_TOKENS = 4096
PEAK_LEARNING_RATE, EMBEDDING_LEARNING_RATE = 2e-3, 3e-4
WARM_UP, DECAY = 0.01, 0.6
"""The parts of the training in which the learning rate rises from and falls to zero."""
_REPORT_SECONDS, _SAVE_SECONDS = 120.0, 600.0
_IGNORED = -100


def collate(rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids [n_rows, length], the positions [n_rows, n_wanted] before those of a reply, and the replies' tokens.

    Replies are as long as the longest; what is missing has the target _IGNORED.
    """
    length = max(len(row.tokens) for row in rows)
    n_wanted = max(len(row.tokens) - row.start for row in rows)
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    wanted = torch.zeros(len(rows), n_wanted, dtype=torch.long)
    targets = torch.full((len(rows), n_wanted), _IGNORED)
    for i, row in enumerate(rows):
        reply = torch.tensor(row.tokens[row.start :])
        tokens[i, : len(row.tokens)] = torch.tensor(row.tokens)
        wanted[i, : len(reply)] = torch.arange(row.start - 1, len(row.tokens) - 1)
        targets[i, : len(reply)] = reply
    return tokens, wanted, targets


class Trainer:
    """A network, its optimizers, and how far they are."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.n_steps = self.n_tokens = 0
        self.loss = 0.0
        """Mean over the last steps, in nats for each token of a reply."""
        matrices = [p for layer in network.layers for p in (*layer.w_in, *layer.w_out)]
        norms = [network.norm, *(layer.norm for layer in network.layers)]
        # The head gives every token's embedding a gradient in every step. At the rate of the matrices those of rare
        # tokens would drift together, and could no longer be copied.
        slow = {"params": [network.embedding], "peak": EMBEDDING_LEARNING_RATE}
        self._optimizers = [
            torch.optim.Muon(
                [{"params": matrices, "peak": PEAK_LEARNING_RATE}], weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW([{"params": norms, "peak": PEAK_LEARNING_RATE}, slow], betas=(0.9, 0.98), weight_decay=0),
        ]

    def step(self, batches: Sequence[Sequence[Row]], progress: float) -> None:
        """Learn from some batches at once; `progress` is the part of the training that is done."""
        factor = max(0.0, min(1.0, progress / WARM_UP, (1.0 - progress) / DECAY))
        n_targets = sum(len(row.tokens) - row.start for rows in batches for row in rows)
        total = 0.0
        for rows in batches:
            tokens, wanted, targets = collate(rows)
            with torch.autocast("cpu", torch.bfloat16):
                logits = self.network(tokens, wanted).flatten(0, 1)
            loss = functional.cross_entropy(logits.float(), targets.flatten(), ignore_index=_IGNORED, reduction="sum")
            (loss / n_targets).backward()
            total += loss.item() / n_targets
            self.n_tokens += tokens.numel()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            optimizer.step()
            optimizer.zero_grad()
        self.loss = 0.98 * self.loss + 0.02 * total if self.n_steps else total
        self.n_steps += 1

    @torch.no_grad()
    def exact(self, rows: Sequence[Row]) -> float:
        """The part of the rows whose whole reply greedy decoding would write."""
        right = 0
        for start in range(0, len(rows), 25):
            tokens, wanted, targets = collate(rows[start : start + 25])
            with torch.autocast("cpu", torch.bfloat16):
                best = self.network(tokens, wanted).argmax(-1)
            right += int(((best == targets) | (targets == _IGNORED)).all(dim=1).sum())
        return right / len(rows)


def train(folder: Path, minutes: float, seed: int, log: Path, start_from: Path | None = None) -> None:
    """Train for `minutes` of wall time and leave a checkpoint in `folder`.

    `start_from` is a checkpoint to go on from, with its tokenizer, instead of from nothing.
    """
    torch.manual_seed(seed)
    network = Network(Shape())
    if start_from is None:
        write_tokenizer(folder, corpus())
        begin_with_copying(network)
    else:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_bytes((start_from / name).read_bytes())
        load_checkpoint(network, start_from)
    encoder = Encoder(folder)
    held_out = {task: [encoder.row(e) for e in Source("test", 1).examples(task, 100)] for task in TASKS}
    trainer, batches = Trainer(network), Batches(encoder, seed, BATCH_TOKENS)
    if start_from is not None:
        batches.progress = 1.0  # full size from the first batch on
    begin = time.monotonic()
    next_report, next_save = 0.0, _SAVE_SECONDS
    for step in batches:
        elapsed = time.monotonic() - begin
        progress = elapsed / (60 * minutes)
        if progress >= 1:
            break
        if start_from is None:
            batches.progress = progress
        trainer.step(step, progress)
        if elapsed >= next_report:
            scores = {task: round(trainer.exact(some), 3) for task, some in held_out.items()}
            entry: dict[str, Any] = {"minute": round(elapsed / 60, 1), "step": trainer.n_steps}
            entry |= {"tokens": trainer.n_tokens, "loss": round(trainer.loss, 4), "exact": scores}
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            print(entry, flush=True)
            next_report = elapsed + _REPORT_SECONDS
        if elapsed >= next_save:
            save_checkpoint(network, folder)
            next_save = elapsed + _SAVE_SECONDS
    save_checkpoint(network, folder)
    rows_of = {task: [encoder.row(e) for e in Source("test", 2).examples(task, 300)] for task in TASKS}
    print("whole replies exactly right:", {task: trainer.exact(rows) for task, rows in rows_of.items()}, flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the embedded checkpoint.")
    parser.add_argument("folder", type=Path, help="where the checkpoint goes")
    parser.add_argument("--minutes", type=float, default=56.0, help="of wall time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data (default: %(default)s)")
    parser.add_argument("--start-from", type=Path, metavar="FOLDER", help="a checkpoint to go on from")
    parser.add_argument("--log", type=Path, default=Path("train.jsonl"), help="a line every two minutes")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    train(arguments.folder, arguments.minutes, arguments.seed, arguments.log, arguments.start_from)


if __name__ == "__main__":
    main()
