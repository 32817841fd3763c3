"""Peak memory follows the block size, not the checkpoint; and tensors beyond 2^31 elements."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

import shapes
import tiny_tokenizer
from commandr_gguf.quantize import dequantize_rows
from convert.hparams import read_hparams
from convert.tensor_names import tensor_names

ROOT = Path(__file__).parents[2]
MEBI = 2**20

PEAK = """
import resource, sys
from convert.cli import main
status = main(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak // 1024 if sys.platform == "darwin" else peak)
raise SystemExit(status)
"""


def peak_memory(*arguments: object) -> int:
    """Bytes that a conversion held at most; Python and the packages included."""
    command = [sys.executable, "-c", PEAK, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return 1024 * int(done.stdout)


def write_sparse(
    folder: Path,
    config: Mapping[str, Any],
    rows: Mapping[str, Mapping[int, Any]] | None = None,
    *,
    shard_bytes: int = 2**62,
) -> Path:
    """A checkpoint of zeros that takes no place on disk, but for some rows: tensor -> row -> its float32 values."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    tiny_tokenizer.write_tokenizer(folder)
    shards: list[dict[str, Any]] = [{}]
    end = 0
    for name in tensor_names(read_hparams(config), qk_norm=bool(config.get("use_qk_norm"))):
        size = 2 * math.prod(name.shape)
        if shards[-1] and end + size > shard_bytes:
            shards.append({})
            end = 0
        shards[-1][name.hf] = {"dtype": "BF16", "shape": list(name.shape), "data_offsets": [end, end + size]}
        end += size
    places: dict[str, Path] = {}
    for i, header in enumerate(shards):
        path = folder / (
            "model.safetensors" if len(shards) == 1 else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        )
        places |= dict.fromkeys(header, path)
        text = json.dumps(header).encode()
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            start = file.tell()
            file.truncate(start + max(entry["data_offsets"][1] for entry in header.values()))
            for name_ in header.keys() & (rows or {}).keys():
                entry = header[name_]
                for row, values in (rows or {})[name_].items():
                    file.seek(start + entry["data_offsets"][0] + 2 * row * entry["shape"][-1])
                    file.write(shapes.encode(values, "BF16"))
    if len(shards) > 1:
        index = {"weight_map": {name: path.name for name, path in places.items()}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def config(**overrides: Any) -> dict[str, Any]:
    return shapes.config_json("v01", num_hidden_layers=1, num_key_value_heads=1, **overrides)


@pytest.mark.parametrize("recipe", ["Q8_0", "F32", "BF16"])
def test_peak_memory_does_not_follow_the_checkpoint(tmp_path: Path, recipe: str) -> None:
    small = write_sparse(tmp_path / "small", config(hidden_size=256, intermediate_size=256, num_attention_heads=2))
    # One matrix of 128 MiB in BF16, of 256 MiB as float32; 400 MiB of weights in all.
    large = write_sparse(tmp_path / "large", config(hidden_size=1024, intermediate_size=65536, num_attention_heads=8))
    base = peak_memory(small, "-o", tmp_path / "small.gguf", "--type", recipe, "--quiet")
    peak = peak_memory(large, "-o", tmp_path / "large.gguf", "--type", recipe, "--quiet")
    assert (tmp_path / "large.gguf").stat().st_size > 200 * MEBI
    # A block of 32 MiB as float32, as it was read, as it is written, and a few of its parts.
    assert peak - base < 130 * MEBI


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for path in tmp_path.glob("*.gguf"):  # gigabytes that pytest would keep
        path.unlink()


@pytest.mark.large
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("recipe", ["Q4_K", "Q8_0"])
def test_embedding_of_command_r_plus(scratch: Path, recipe: str) -> None:
    """256000 x 12288 = 3.1e9 elements: beyond 2^31, where a 32-bit index would write or read the wrong rows."""
    n_vocab, n_embd = 256000, 12288
    rows = {i: shapes.normal(i, "row", (n_embd,)) for i in (0, 1, 174762, 174763, 200000, n_vocab - 1)}
    folder = write_sparse(
        scratch / "checkpoint",
        config(vocab_size=n_vocab, hidden_size=n_embd, intermediate_size=256, num_attention_heads=96),
        {"model.embed_tokens.weight": rows},
    )
    assert 174763 * n_embd > 2**31 > 174762 * n_embd
    output = scratch / "large.gguf"
    peak = peak_memory(folder, "-o", output, "--type", recipe, "--quiet")
    assert peak < 600 * MEBI

    embedding = next(tensor for tensor in GGUFReader(output).tensors if tensor.name == "token_embd.weight")
    assert embedding.n_elements == n_vocab * n_embd
    kind = embedding.tensor_type.name
    for i, values in rows.items():
        found = dequantize_rows(kind, np.ascontiguousarray(embedding.data[i : i + 1]), n_embd)[0]
        assert np.sqrt(np.mean((found - values) ** 2)) < 0.03, (kind, i)
        for beside in {i - 1, i + 1} & set(range(n_vocab)) - rows.keys():
            assert not np.any(dequantize_rows(kind, np.ascontiguousarray(embedding.data[beside : beside + 1]), n_embd))


@pytest.mark.large
@pytest.mark.timeout(3600)
def test_all_of_command_r_plus_stays_under_a_gibibyte(scratch: Path) -> None:
    """104 B weights in 44 shards, 208 GB that take no place on the disk; the file takes 40 GB."""
    if shutil.disk_usage(scratch).free < 45 * 10**9:
        pytest.skip("the file of 40 GB has no room here")
    shape = shapes.config_json(
        "r_plus",
        num_hidden_layers=64,
        hidden_size=12288,
        intermediate_size=33792,
        num_attention_heads=96,
        num_key_value_heads=8,
        vocab_size=256000,
    )
    rows = {row: shapes.normal(row, "row", (12288,)) for row in (0, 33791)}
    last = "model.layers.63.mlp.up_proj.weight"
    folder = write_sparse(scratch / "checkpoint", shape, {last: rows}, shard_bytes=5 * 10**9)
    assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) > 207e9
    output = scratch / "large.gguf"
    assert peak_memory(folder, "-o", output, "--type", "Q2_K", "--quiet") < 2**30
    tensor = next(tensor for tensor in GGUFReader(output).tensors if tensor.name == "blk.63.ffn_up.weight")
    assert tensor.data_offset > 30e9
    for row, values in rows.items():
        found = dequantize_rows("Q2_K", np.ascontiguousarray(tensor.data[row : row + 1]), 12288)[0]
        assert np.sqrt(np.mean((found - values) ** 2)) < 0.4
