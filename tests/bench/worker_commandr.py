"""Measures commandr-gguf, for compare_llama_cpp.py; runs in the project's own environment."""

from __future__ import annotations

import argparse
import array
import os
from collections.abc import Sequence

import worker_common

from commandr_gguf.devices import devices
from commandr_gguf.model import Model
from commandr_gguf.session import Session
from commandr_gguf.tokenizer import Tokenizer


class CommandR(worker_common.Program):
    def load(self, options: argparse.Namespace) -> str:
        model = Model(options.model, n_threads=options.threads)
        Tokenizer.from_gguf(model.gguf)
        self.session = Session(model, n_ctx=options.n_ctx, n_threads=options.threads)
        level = os.environ.get("COMMANDR_CPU", "any")
        return f"weights {model.computed_by}, kernels for {level}; ggml: {devices()[0].features}"

    def run(self, tokens: Sequence[int], n_new: int, *, all_logits: bool = False) -> int:
        self.session.eval(array.array("i", tokens), n_outputs=n_new if all_logits else 1)
        return int(self.session.logits()[-1].argmax())

    def cut(self, n: int) -> None:
        self.session.seq_rm(0, n)


if __name__ == "__main__":
    worker_common.serve(CommandR(), __doc__ or "")
