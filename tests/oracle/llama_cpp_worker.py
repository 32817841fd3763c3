"""Evaluate a GGUF file with llama.cpp, in the oracles' interpreter: llama_cpp_worker.py MODEL TOKENS.npy OUT.npz

OUT.npz receives logits [n_tokens, n_vocab] for the tokens, evaluated as one sequence from empty, greedy [n_greedy], the
tokens that llama.cpp then goes on with, and lead [n_greedy], by how much the logit of each was ahead of the next.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np


def main() -> int:
    parser = argparse.ArgumentParser(description="Evaluate a GGUF file with llama.cpp.")
    parser.add_argument("model")
    parser.add_argument("tokens")
    parser.add_argument("out")
    parser.add_argument("--greedy", type=int, default=0, help="tokens to generate")
    parser.add_argument("--type-kv", type=int, default=1, help="ggml_type of the KV cache: 0 = F32, 1 = F16")
    arguments = parser.parse_args()

    import llama_cpp

    tokens = [int(token) for token in np.load(arguments.tokens)]
    n = len(tokens)
    model = llama_cpp.Llama(
        arguments.model,
        n_ctx=n + arguments.greedy,
        n_batch=n,
        n_threads=2,
        n_threads_batch=2,
        logits_all=True,
        type_k=arguments.type_kv,
        type_v=arguments.type_kv,
        swa_full=True,
        verbose=False,
    )
    model.eval(tokens)
    logits = np.array(model.scores[:n], np.float32)
    greedy: list[int] = []
    lead: list[float] = []
    while len(greedy) < arguments.greedy:
        row = model.scores[model.n_tokens - 1]
        second, first = np.argpartition(row, -2)[-2:]
        greedy.append(int(first))
        lead.append(float(row[first] - row[second]))
        model.eval(greedy[-1:])
    np.savez(arguments.out, logits=logits, greedy=np.array(greedy, np.int32), lead=np.array(lead, np.float32))
    return 0


if __name__ == "__main__":
    sys.exit(main())
