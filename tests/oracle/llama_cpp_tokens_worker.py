"""Split texts with llama.cpp, in the oracles' interpreter: llama_cpp_tokens_worker.py MODEL TEXTS.json OUT.json

TEXTS.json holds a list of texts, OUT.json receives the token ids of each, without a begin token. Of MODEL only the
vocabulary is read.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main() -> int:
    import llama_cpp

    model, texts, out = map(Path, sys.argv[1:])
    llama = llama_cpp.Llama(str(model), vocab_only=True, verbose=False)
    ids = [
        llama.tokenize(text.encode(), add_bos=False, special=False)
        for text in json.loads(texts.read_text(encoding="utf-8"))
    ]
    out.write_text(json.dumps(ids), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
