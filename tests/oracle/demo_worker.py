"""Let transformers answer prompts of the embedded model: demo_worker.py CHECKPOINT REQUESTS.json OUT.json

REQUESTS.json is a list of {"template", "messages", "tools", "documents", "citation_mode", "max_tokens"}. OUT.json
receives for each the rendered prompt, its token ids, and those of the greedy reply, computed in float32, without the
end token.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    parser = argparse.ArgumentParser(description="Let transformers answer prompts of the embedded model.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("requests", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()

    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.checkpoint)
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.checkpoint, dtype=torch.float32).eval()

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        max_tokens, template = request.pop("max_tokens"), request.pop("template")
        messages = request.pop("messages")
        prompt = tokenizer.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=True, tokenize=False, **request
        )
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            out = model.generate(**ids, max_new_tokens=max_tokens, do_sample=False)
        n_prompt = ids["input_ids"].shape[1]
        reply = out[0, n_prompt:].tolist()
        if reply[-1] == model.generation_config.eos_token_id:
            reply.pop()
        return {"prompt": prompt, "tokens": ids["input_ids"][0].tolist(), "reply": reply}

    requests = json.loads(arguments.requests.read_text(encoding="utf-8"))
    answers = [answer(request) for request in requests]
    arguments.out.write_text(json.dumps(answers), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
