"""Measures llama.cpp, for compare_llama_cpp.py; runs in the oracles' environment."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import numpy as np
import worker_common


def main() -> None:
    options = worker_common.arguments(__doc__ or "")
    state: dict[str, Any] = {}
    quiet = llama_cpp.llama_log_callback(lambda _level, _text, _data: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))

    def load() -> None:
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(options.model.encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = options.n_ctx
        params.n_threads = params.n_threads_batch = options.threads
        state["context"] = llama_cpp.llama_init_from_model(model, params)
        state["n_vocab"] = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def restart() -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(state["context"]), True)

    def run(tokens: list[int], n_new: int) -> int:
        new = (llama_cpp.llama_token * n_new)(*tokens[-n_new:])
        # Without positions and flags the batch goes on where the sequence ends and wants the last token's logits.
        status = llama_cpp.llama_decode(state["context"], llama_cpp.llama_batch_get_one(new, n_new))
        if status != 0:
            raise RuntimeError(f"llama_decode gave {status}")
        logits = llama_cpp.llama_get_logits_ith(state["context"], -1)
        return int(np.ctypeslib.as_array(logits, (state["n_vocab"],)).copy().argmax())

    worker_common.serve(options.cpu_time, load, restart, run)


if __name__ == "__main__":
    main()
