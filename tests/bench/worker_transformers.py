"""Measures transformers in bfloat16 with random weights, for compare_llama_cpp.py; runs in the oracles' environment."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import torch
import transformers
import worker_common


class Transformers(worker_common.Program):
    def load(self, options: argparse.Namespace) -> str:
        torch.set_num_threads(options.threads)
        fields = json.loads(options.model)
        config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
        self.model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
        self.cut(0)
        return f"PyTorch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"

    def run(self, tokens: Sequence[int], n_new: int, *, all_logits: bool = False) -> int:
        with torch.inference_mode():
            logits = self.model(
                torch.tensor([list(tokens[-n_new:])]),
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=n_new if all_logits else 1,
            ).logits
        return int(logits[0, -1].argmax())

    def cut(self, n: int) -> None:
        if n == 0:
            self.cache = transformers.DynamicCache()
        else:
            self.cache.crop(n)


if __name__ == "__main__":
    worker_common.serve(Transformers(), __doc__ or "")
