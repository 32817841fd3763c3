"""Let transformers write and evaluate a checkpoint: transformers_worker.py SHAPE FOLDER OUT.npz

FOLDER receives what `save_pretrained` of a model and a tokenizer write, in bfloat16, with random weights from
--seed: norm weights around 1, some of them negative. OUT.npz receives tokens [300], logits [300, n_vocab] and hidden
[300, n_embd] that the saved checkpoint computes in float32 with eager attention.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

import shapes
import tiny_tokenizer

N_TOKENS = 300


def random_model(shape: str, seed: int) -> Any:
    """A model of a shape, made from transformers' own config class."""
    import torch
    import transformers

    fields = shapes.config_json(shape, transformers=5)
    model_type = fields.pop("model_type")
    for key in ("architectures", "model_max_length", "dtype", "transformers_version"):
        fields.pop(key, None)
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(model_type, **fields))
    n_embd = fields["hidden_size"]
    width = 2.0 / (fields["logit_scale"] * n_embd**0.5)
    gains = {"q_proj": 1.3, "k_proj": 1.3, "o_proj": 3 * width, "down_proj": 2 * width}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            kind = name.split(".")[-2]
            if kind.endswith("norm"):
                parameter.normal_(1.0, 0.4)
            elif kind == "embed_tokens":
                parameter.normal_(0.1 * width, width)
            else:
                parameter.normal_(0.0, gains.get(kind, 1.0) / parameter.shape[1] ** 0.5)
    return model.to(torch.bfloat16)


def main() -> int:
    parser = argparse.ArgumentParser(description="Let transformers write and evaluate a checkpoint.")
    parser.add_argument("shape", choices=shapes.SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shard-size", default="50GB")
    arguments = parser.parse_args()

    import torch
    import transformers

    model = random_model(arguments.shape, arguments.seed)
    model.save_pretrained(arguments.folder, max_shard_size=arguments.shard_size)
    with tempfile.TemporaryDirectory() as folder:
        tiny_tokenizer.write_tokenizer(Path(folder))
        transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(arguments.folder)

    model = transformers.AutoModelForCausalLM.from_pretrained(
        arguments.folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    rng = np.random.default_rng(arguments.seed)
    tokens = np.append(5, rng.integers(8, 676, N_TOKENS - 1)).astype(np.int32)
    with torch.no_grad():
        outputs = model(torch.tensor(tokens[None].astype(np.int64)), output_hidden_states=True)
    np.savez(
        arguments.out, tokens=tokens, logits=outputs.logits[0].numpy(), hidden=outputs.hidden_states[-1][0].numpy()
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
