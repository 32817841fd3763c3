"""Write, or check, what transformers computes for 8,192 tokens and the checkpoints of tests/long_models.py.

    python tests/golden/write_long.py            # tests/golden/long.npz
    python tests/golden/write_long.py --check    # compare it with this transformers; exit code 1 when it differs

In float32 with eager attention, as tests/golden/write.py does it:

    tokens [8192], positions [16]               the same for all shapes
    <shape>_logits [16, n_vocab]                at those positions
    <shape>_weights_sha256                      of the checkpoint's model.safetensors
    written_by                                  command and versions
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))

import long_models  # noqa: E402  (tests/ is not a package)
import shapes  # noqa: E402

N = 8192
POSITIONS = np.r_[100, 1023, 2047, 4094:4098, 6000, N - 8 : N]
MARKED = (*range(255, N, 256), *range(256, N, 1024), *range(N - 4, N))
N_LAYERS = {"v01": 2, "gqa": 2, "r_plus": 2, "cohere2": 4}


def compute() -> dict[str, Any]:
    """The arrays of the file."""
    import torch
    import transformers

    tokens = long_models.tokens(N, MARKED)
    arrays: dict[str, Any] = {"tokens": tokens.astype(np.int16), "positions": POSITIONS.astype(np.int16)}
    for shape in shapes.SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            path = long_models.write_checkpoint(Path(folder), shape, num_hidden_layers=N_LAYERS[shape])
            model = transformers.AutoModelForCausalLM.from_pretrained(
                path, dtype=torch.float32, attn_implementation="eager"
            ).eval()
            digest = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
        with torch.no_grad():
            logits = model(torch.tensor(tokens[None].astype(np.int64))).logits[0, POSITIONS]
        arrays |= {f"{shape}_logits": logits.numpy(), f"{shape}_weights_sha256": digest}
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}, numpy {np.__version__}"
    return arrays | {"written_by": f"python tests/golden/write_long.py, {versions}"}


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the reference logits of 8,192 tokens.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    arrays = compute()
    if not check:
        np.savez_compressed(FOLDER / "long.npz", **arrays)
        return 0
    old = np.load(FOLDER / "long.npz")
    wrong = [key for key in arrays if key.endswith(("tokens", "sha256")) and not np.array_equal(old[key], arrays[key])]
    for key in (f"{shape}_logits" for shape in shapes.SHAPES):
        error = float(np.abs(old[key] - arrays[key]).max())
        if error > 1e-3 * float(old[key].std()):  # RoPE's angles are rounded: the error grows with the position
            wrong.append(f"{key} (by {error:.2e})")
    print(f"long.npz differs in {', '.join(wrong)}" if wrong else f"long.npz agrees with {arrays['written_by']}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
