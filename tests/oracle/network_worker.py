"""Compare the demo's training network with transformers: network_worker.py FOLDER OUT.npz

A network of random weights becomes a checkpoint in FOLDER. OUT.npz receives what both compute in float32 for the same
rows of tokens: trained [2, 40, n_vocab] of the network, loaded [2, 40, n_vocab] of the checkpoint in transformers, and
taken_back [2, 40, n_vocab] of another network that took its weights, the last 40 positions of 2 rows of 100.
begins_with_copying and begins_at_random are the parts of random tokens, repeated once, that untrained networks foretell
when they come again.
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

    from commandr_gguf.demo.network import Network, Shape, begin_with_copying, load_checkpoint, save_checkpoint

    def foretold(network: Network) -> float:
        once = torch.randint(8, network.shape.vocab_size, (4, 60))
        wanted = torch.arange(62, 119).repeat(4, 1)  # when two tokens of the repetition have been seen
        tokens = torch.cat((once, once), dim=1)
        with torch.no_grad():
            found = network(tokens, wanted).argmax(-1) == tokens.gather(1, wanted + 1)
        return float(found.float().mean())

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
    other = Network(shape)
    load_checkpoint(other, arguments.folder)
    with torch.no_grad():
        trained, loaded, taken_back = network(tokens, wanted), model(tokens).logits[:, 60:], other(tokens, wanted)
    random, copying = Network(shape), Network(shape)
    begin_with_copying(copying)
    np.savez(
        arguments.out,
        trained=trained.numpy(),
        loaded=loaded.numpy(),
        taken_back=taken_back.numpy(),
        begins_with_copying=foretold(copying),
        begins_at_random=foretold(random),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
