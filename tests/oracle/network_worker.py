"""Compare the demo's training network with transformers: network_worker.py FOLDER OUT.npz

A network of random weights becomes a checkpoint in FOLDER. OUT.npz receives what both compute in float32 for the same
rows of tokens: trained [2, 40, n_vocab] of the network and loaded [2, 40, n_vocab] of the checkpoint, the last 40
positions of 2 rows of 100.
"""

from __future__ import annotations

import argparse
import sys
import types
from pathlib import Path

import numpy as np

PACKAGE = Path(__file__).parents[2] / "commandr_gguf"


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the demo's training network with transformers.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()

    # The package without its native library, which is not built for this interpreter.
    package = types.ModuleType("commandr_gguf")
    package.__path__ = [str(PACKAGE)]
    sys.modules["commandr_gguf"] = package

    import torch
    import transformers

    from commandr_gguf.demo.network import Network, Shape, save_checkpoint

    torch.manual_seed(3)
    shape = Shape()
    network = Network(shape)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.normal_(1.0, 0.4)
            parameter.copy_(parameter.to(torch.bfloat16))  # as the checkpoint holds it
    arguments.folder.mkdir()
    save_checkpoint(network, arguments.folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.folder, dtype=torch.float32).eval()
    tokens = torch.randint(8, shape.vocab_size, (2, 100))
    wanted = torch.arange(60, 100).repeat(2, 1)
    with torch.no_grad():
        trained, loaded = network(tokens, wanted), model(tokens).logits[:, 60:]
    np.savez(arguments.out, trained=trained.numpy(), loaded=loaded.numpy())
    return 0


if __name__ == "__main__":
    sys.exit(main())
