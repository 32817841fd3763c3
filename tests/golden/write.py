"""Write, or check, the reference logits of transformers for the checkpoints of tests/shapes.py.

    python tests/golden/write.py            # tests/golden/<shape>.npz for every shape
    python tests/golden/write.py --check    # compare them with the installed transformers; exit code 1 when they differ

Each file holds two token sequences and what transformers computes for them in float32 with eager attention:

    tokens_a [160], positions_a [36], logits_a [36, n_vocab]     the first 8 and the last 28 positions
    tokens_b [96],  positions_b [10], logits_b [10, n_vocab]     the last 10 positions
    hidden_a [8, n_embd]                                         last_hidden_state at the last 8 positions of a
    weights_sha256                                               of the checkpoint's model.safetensors
    written_by                                                   command and versions
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

import shapes  # noqa: E402  (tests/ is not a package)

N_A, N_B = 160, 96
POSITIONS_A = np.r_[0:8, N_A - 28 : N_A]
POSITIONS_B = np.arange(N_B - 10, N_B)
N_HIDDEN = 8


def tokens(stream: str, n: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """<BOS_TOKEN> and n - 1 tokens of ordinary text, the same for every shape."""
    raw = np.random.PCG64([11, len(stream)]).random_raw(n - 1)
    text = 8 + (np.asarray(raw, np.uint64) >> np.uint64(33)) % np.uint64(668)
    return np.append(np.int32(5), text.astype(np.int32))


def compute(shape: str, folder: Path) -> dict[str, Any]:
    """The arrays of one shape, its checkpoint being written to `folder`."""
    import torch
    import transformers

    path = shapes.write_checkpoint(folder, shape)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    a, b = tokens("a", N_A), tokens("bb", N_B)
    with torch.no_grad():
        of_a = model(torch.tensor(a[None].astype(np.int64)), output_hidden_states=True)
        of_b = model(torch.tensor(b[None].astype(np.int64)))
    return {
        "tokens_a": a,
        "positions_a": POSITIONS_A,
        "logits_a": of_a.logits[0, POSITIONS_A].numpy(),
        "tokens_b": b,
        "positions_b": POSITIONS_B,
        "logits_b": of_b.logits[0, POSITIONS_B].numpy(),
        "hidden_a": of_a.hidden_states[-1][0, -N_HIDDEN:].numpy(),
        "weights_sha256": hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest(),
        "written_by": f"python tests/golden/write.py, transformers {transformers.__version__}, "
        f"torch {torch.__version__}, numpy {np.__version__}",
    }


def differences(shape: str, new: dict[str, Any]) -> list[str]:
    """What of a computed shape is not as the file has it; numbers may differ by float32 rounding."""
    old = np.load(FOLDER / f"{shape}.npz")
    wrong = [key for key in ("tokens_a", "tokens_b", "weights_sha256") if not np.array_equal(old[key], new[key])]
    for key in ("logits_a", "logits_b", "hidden_a"):
        error = float(np.abs(old[key] - new[key]).max())
        if error > 1e-4 * float(old[key].std()):
            wrong.append(f"{key} (by {error:.2e})")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the reference logits of tests/golden.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    status = 0
    for shape in shapes.SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            arrays = compute(shape, Path(folder))
        if not check:
            np.savez_compressed(FOLDER / f"{shape}.npz", **arrays)
            continue
        wrong = differences(shape, arrays)
        print(f"{shape}: {'differs in ' + ', '.join(wrong) if wrong else 'agrees with ' + arrays['written_by']}")
        status |= bool(wrong)
    return status


if __name__ == "__main__":
    sys.exit(main())
