"""Write what llama.cpp's perplexity tool makes of a small model: write_kl.py LLAMA_PERPLEXITY

kl-base.bin is its file of log-probabilities for the base model of tests/kl_models.py, its first chunk; kl.json is what
it printed for all chunks and for the other model compared with them, with the commands and the version. Needs the
project's own packages, to convert the models.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))

from kl_models import N_CTX, base_model, other_model, text  # noqa: E402  (tests/ is not a package)

N_CHUNKS_STORED = 1
# Attention in F32 throughout: its flash attention rounds logits of these models by 0.001.
OPTIONS = ("-c", str(N_CTX), "-t", "1", "-ctk", "f32", "-ctv", "f32", "-fa", "off")
_NUMBER = r"(-?[\d.]+)"
_FIGURES = {
    "kl_mean": rf"Mean    KLD: +{_NUMBER} ± +{_NUMBER}",
    "kl_median": rf"Median  KLD: +{_NUMBER}",
    "kl_99": rf"99\.0%   KLD: +{_NUMBER}",
    "kl_99_9": rf"99\.9%   KLD: +{_NUMBER}",
    "kl_max": rf"Maximum KLD: +{_NUMBER}",
    "perplexity": rf"Mean PPL\(Q\) +: +{_NUMBER} ± +{_NUMBER}",
    "base_perplexity": rf"Mean PPL\(base\) +: +{_NUMBER} ± +{_NUMBER}",
    "perplexity_ratio": rf"Mean PPL\(Q\)/PPL\(base\) +: +{_NUMBER} ± +{_NUMBER}",
    "same_top": rf"Same top p: +{_NUMBER} ± +{_NUMBER}",
}


def run(program: str, *arguments: str) -> str:
    """Run the tool until its last line has come: it sometimes ends before all of its output is written."""
    for _ in range(20):
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=True)
        output = done.stdout + done.stderr
        if "Final estimate" in output or "Same top p: " in output:
            return output
    raise SystemExit("the tool never printed its result")


def figures(output: str) -> dict[str, float]:
    """The figures of a comparison under the names of `Scores.summary`."""
    found: dict[str, float] = {}
    for name, pattern in _FIGURES.items():
        match = re.search(pattern, output)
        assert match is not None, f"no {name} in the output"
        unit = 100 if name == "same_top" else 1
        found[name] = float(match[1]) / unit
        if match.lastindex == 2:
            found[f"{name}_error"] = float(match[2]) / unit
    return found


def main() -> int:
    program = sys.argv[1]
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base, other, source = base_model(), other_model(), folder / "text.txt"
        source.write_text(text(), encoding="utf-8")
        store = ("-m", str(base), "-f", str(source), *OPTIONS, "--kl-divergence-base", str(folder / "all.bin"))
        final = re.search(rf"PPL = {_NUMBER} \+/- {_NUMBER}", run(program, *store))
        assert final is not None
        stored = ("--chunks", str(N_CHUNKS_STORED), "--kl-divergence-base", str(FOLDER / "kl-base.bin"))
        run(program, *store[:-2], *stored)
        against = ("-m", str(other), *store[2:], "--kl-divergence")
        content: dict[str, Any] = {
            "program": "llama-perplexity of llama-cpp-python 0.3.36",
            "version": (version.stdout + version.stderr).split("\n", maxsplit=1)[0],
            "commands": [" ".join(Path(word).name for word in command) for command in (store, against)],
            "base": {"perplexity": float(final[1]), "perplexity_error": float(final[2])},
            "other": figures(run(program, *against)),
        }
    (FOLDER / "kl.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
