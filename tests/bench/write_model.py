"""Write a GGUF file of a real model's size with random weights, in seconds: write_model.py OUT.gguf

The weights are blocks of random rows, quantized once per type and repeated, so that speeds are those of a real file
while the text is noise. The tokenizer is the real one where `make test-data` has fetched it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import sizes  # noqa: E402

import data  # noqa: E402
import shapes  # noqa: E402
import tiny_tokenizer  # noqa: E402
from commandr_gguf.quantize import quantize_rows  # noqa: E402
from convert.hf_model import read_hf_model  # noqa: E402
from convert.layout import lay_out  # noqa: E402
from convert.plan import PlannedTensor, make_plan  # noqa: E402
from convert.recipe import file_type  # noqa: E402
from convert.writer import Writer  # noqa: E402

BLOCK_BYTES = 16 << 20


def write_hollow_checkpoint(folder: Path, config: dict[str, Any]) -> None:
    """A checkpoint whose weights file is all header and hole: enough to plan a conversion."""
    header, end = {}, 0
    for name, shape in shapes.tensor_shapes(config).items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = data.cache_dir() / "command-r-plus"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (tokenizer / name).exists():
            tiny_tokenizer.write_tokenizer(folder)
            return
        (folder / name).write_bytes((tokenizer / name).read_bytes())


def random_rows() -> Callable[[PlannedTensor], Iterator[npt.NDArray[Any]]]:
    """A source of blocks of bytes: random rows, quantized once for each type and row length."""
    rng = np.random.default_rng(0)
    made: dict[tuple[str, int], npt.NDArray[Any]] = {}

    def rows(tensor: PlannedTensor) -> Iterator[npt.NDArray[Any]]:
        n_per_row = tensor.source.shape[-1]
        if len(tensor.source.shape) == 1:
            yield (1 + 0.1 * rng.standard_normal(n_per_row)).astype(np.float32).view(np.uint8)
            return
        key = (tensor.ggml_type, n_per_row)
        if key not in made:
            values = rng.standard_normal((256, n_per_row), np.float32) / np.float32(np.sqrt(n_per_row))
            block = quantize_rows(tensor.ggml_type, values)
            made[key] = np.tile(block, (max(1, BLOCK_BYTES // block.nbytes), 1))
        left = tensor.n_bytes
        while left > 0:
            block = made[key].reshape(-1)[:left]
            yield block
            left -= block.nbytes

    return rows


def write_model(path: Path, *, size: str = "8b", recipe: str = "Q4_K_M", n_layers: int | None = None) -> None:
    """Write the file. n_layers: instead of the size's own number."""
    config = sizes.config_json(size, n_layers)
    with tempfile.TemporaryDirectory() as folder:
        write_hollow_checkpoint(Path(folder), config)
        plan = make_plan(read_hf_model(Path(folder)), file_type(recipe))
        rows = random_rows()
        with Writer(lay_out(plan, path), "random", resume=False, overwrite=True) as writer:
            for tensor in plan.tensors:
                offset = 0
                for block in rows(tensor):
                    writer.write(tensor.name, offset, block)
                    offset += block.nbytes
            writer.commit()


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a GGUF file of a real model's size with random weights.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", choices=sizes.SIZES, default="8b")
    parser.add_argument("--type", default="Q4_K_M")
    parser.add_argument("--layers", type=int, default=None)
    arguments = parser.parse_args()
    write_model(arguments.out, size=arguments.size, recipe=arguments.type, n_layers=arguments.layers)


if __name__ == "__main__":
    main()
