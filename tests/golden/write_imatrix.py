"""Write what llama.cpp's imatrix tool collects from the models of tests/tiny_models.py to tests/golden/imatrix.

    python tests/golden/write_imatrix.py PATH/TO/llama-imatrix

The files in the repository were written on 2026-11-22 by the llama-imatrix of llama.cpp 0.5.0-dev with ggml 0.25.3,
compiled from the sources in the source distribution of llama-cpp-python 0.3.36:

    llama-imatrix -m MODEL -f TEXT -o OUT -c 64 -b 64 -ub 64 -t 1 --no-ppl --process-output
"""

from __future__ import annotations

import argparse
import gzip
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))

import tiny_models  # noqa: E402  (tests/ is not a package)

FLAGS = ["-c", "64", "-b", "64", "-ub", "64", "-t", "1", "--no-ppl", "--process-output"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the importance matrices that tests compare with.")
    parser.add_argument("tool", help="llama.cpp's llama-imatrix")
    tool = parser.parse_args().tool
    with tempfile.TemporaryDirectory() as name:
        text, out = Path(name) / "text.txt", Path(name) / "out.gguf"
        text.write_text(tiny_models.TEXT, encoding="utf-8")
        for shape, file_type in tiny_models.WITH_IMATRIX:
            model = tiny_models.gguf(shape, file_type)
            command = [tool, "-m", str(model), "-f", "text.txt", "-o", str(out), *FLAGS]
            subprocess.run(command, check=True, cwd=name)
            packed = gzip.compress(out.read_bytes(), mtime=0)
            (FOLDER / "imatrix" / f"{shape}-{file_type}.gguf.gz").write_bytes(packed)


if __name__ == "__main__":
    main()
