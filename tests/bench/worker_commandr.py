"""Measures commandr-gguf, for compare_llama_cpp.py; runs in the project's own environment."""

from __future__ import annotations

import array
from typing import Any

import worker_common

from commandr_gguf.model import Model
from commandr_gguf.session import Session
from commandr_gguf.tokenizer import Tokenizer


def main() -> None:
    options = worker_common.arguments(__doc__ or "")
    state: dict[str, Any] = {}

    def load() -> None:
        model = Model(options.model, n_threads=options.threads)
        Tokenizer.from_gguf(model.gguf)
        state["session"] = Session(model, n_ctx=options.n_ctx, n_threads=options.threads)

    def run(tokens: list[int], _n_new: int) -> int:
        state["session"].eval(array.array("i", tokens))
        return int(state["session"].logits()[0].argmax())

    worker_common.serve(options.cpu_time, load, lambda: state["session"].seq_rm(0), run)


if __name__ == "__main__":
    main()
