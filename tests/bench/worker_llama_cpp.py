"""Measures llama.cpp, for compare_llama_cpp.py; runs in the oracles' environment."""

from __future__ import annotations

import argparse
import ctypes
from collections.abc import Sequence

import llama_cpp
import numpy as np
import worker_common


class LlamaCpp(worker_common.Program):
    def load(self, options: argparse.Namespace) -> str:
        self.quiet = llama_cpp.llama_log_callback(lambda _level, _text, _data: None)
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(options.model.encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = options.n_ctx
        params.n_threads = params.n_threads_batch = options.threads
        self.context = llama_cpp.llama_init_from_model(model, params)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self.batch = llama_cpp.llama_batch_init(llama_cpp.llama_n_batch(self.context), 0, 1)
        info: bytes = llama_cpp.llama_print_system_info()
        return info.decode().replace(" = 1 |", "").strip()

    def run(self, tokens: Sequence[int], n_new: int, *, all_logits: bool = False) -> int:
        limit = llama_cpp.llama_n_batch(self.context)
        first = len(tokens) - n_new
        for begin in range(first, len(tokens), limit):
            self._decode(tokens, begin, min(begin + limit, len(tokens)), all_logits=all_logits)
        logits = llama_cpp.llama_get_logits_ith(self.context, -1)
        return int(np.ctypeslib.as_array(logits, (self.n_vocab,)).copy().argmax())

    def _decode(self, tokens: Sequence[int], begin: int, end: int, *, all_logits: bool) -> None:
        batch = self.batch
        batch.n_tokens = end - begin
        for i, position in enumerate(range(begin, end)):
            batch.token[i] = tokens[position]
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = all_logits or position == len(tokens) - 1
        status = llama_cpp.llama_decode(self.context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode gave {status}")

    def cut(self, n: int) -> None:
        llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self.context), 0, n, -1)


if __name__ == "__main__":
    worker_common.serve(LlamaCpp(), __doc__ or "")
