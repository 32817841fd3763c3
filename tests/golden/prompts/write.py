"""Write, or check, what is kept of the reference prompts: their lengths and checksums.

    python tests/golden/prompts/write.py command_r_plus TOKENIZER                  # transformers
    python tests/golden/prompts/write.py command_r7b TOKENIZER TEMPLATE.jinja      # transformers
    python tests/golden/prompts/write.py multi_step                                # langchain-cohere
    ... --check                                    # compare instead of writing; exit code 1 when something differs

TOKENIZER is the folder of Command-R+'s tokenizer, see tests/data.py. TEMPLATE.jinja is Command R7B's tool_use template,
as models/templates in llama.cpp's sources has it. The text of both templates is licensed for non-commercial use, and
with it the prompts: they are not kept. Each file holds `written_by`, command and versions, and for each name of
cases.py the number of characters and the SHA-256 of the prompt in UTF-8.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
WORKERS = FOLDER.parents[1] / "oracle"


def summary(text: str) -> dict[str, Any]:
    """What is kept of a prompt."""
    return {"characters": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def prompts(kind: str, sources: list[Path]) -> dict[str, Any]:
    """The file of one kind, computed by this interpreter's packages."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        if kind == "multi_step":
            command = [WORKERS / "multi_step_worker.py", out]
        elif kind == "command_r_plus":
            command = [WORKERS / "prompts_worker.py", sources[0], out]
        else:
            command = [WORKERS / "prompts_worker.py", *sources[:1], out, Path("--command-r7b"), *sources[1:]]
        subprocess.run([sys.executable, *map(str, command)], check=True)
        made = json.loads(out.read_text(encoding="utf-8"))
    texts = made.pop("prompts")
    versions = ", ".join(f"{name} {version}" for name, version in made.items())
    names = " ".join([kind, *(path.name for path in sources)])
    hashed = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sources if path.is_file()}
    return {
        "written_by": f"python tests/golden/prompts/write.py {names}, {versions}",
        "sources": hashed,
        "prompts": {name: summary(text) for name, text in texts.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the checksums of tests/golden/prompts.")
    parser.add_argument("kind", choices=("command_r_plus", "command_r7b", "multi_step"))
    parser.add_argument("sources", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    arguments = parser.parse_args()
    file = FOLDER / f"{arguments.kind}.json"
    new = prompts(arguments.kind, arguments.sources)
    if not arguments.check:
        file.write_text(json.dumps(new, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        return 0
    old = json.loads(file.read_text(encoding="utf-8"))
    names = old["prompts"].keys() | new["prompts"].keys()
    wrong = sorted(name for name in names if old["prompts"].get(name) != new["prompts"].get(name))
    print(f"{file.name}: {'differs in ' + ', '.join(wrong) if wrong else 'agrees with ' + old['written_by']}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
