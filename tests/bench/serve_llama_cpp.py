"""Runs llama.cpp's own server, as the wheel of xllamacpp carries it, for server_load.py; in the oracles' environment.

Beside what is asked for it has its own defaults: continuous batching, batches of 2048 tokens in graphs of 512, prompts
kept in their slots, flash attention where it helps, weights repacked.
"""

from __future__ import annotations

import argparse
import signal
import sys

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    for name in ("threads", "slots", "ctx", "port"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.n_parallel = options.slots
    params.n_ctx = options.ctx
    params.port = options.port
    server = xllamacpp.Server(params)
    print(f"listening at {server.listening_address}; {xllamacpp.get_system_info()}", file=sys.stderr, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
