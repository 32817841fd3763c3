"""llama.cpp's quantizer, run by the oracles' interpreter: llama_cpp_quantizer.py REQUEST.json

REQUEST is {"models": [MODEL, ...], "file_types": [number, ...]}; MODEL is {"architecture", "n_embd", "n_ff", "n_layer",
"n_head", "n_head_kv", "tensors": {name: shape, rows first}}, whose weights are zero, or {"file": an existing GGUF file,
"out": where its quantized form goes, with {} for the number of the file type}. Prints JSON: for each model a list with,
for each file type, {tensor name: ggml type}.
"""

from __future__ import annotations

import ctypes
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np


def write_model(path: Path, model: dict[str, Any]) -> None:
    writer = gguf.GGUFWriter(path, model["architecture"])
    writer.add_block_count(model["n_layer"])
    writer.add_context_length(64)
    writer.add_embedding_length(model["n_embd"])
    writer.add_feed_forward_length(model["n_ff"])
    writer.add_head_count(model["n_head"])
    writer.add_head_count_kv(model["n_head_kv"])
    writer.add_layer_norm_eps(1e-5)
    writer.add_logit_scale(1.0)
    writer.add_sliding_window(16)
    for name, shape in model["tensors"].items():
        norm = name.endswith("_norm.weight")
        writer.add_tensor(name, np.zeros(shape, np.float32 if norm else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantized_types(source: Path, target: Path, file_type: int) -> dict[str, str]:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type
    params.nthread = 2
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if status != 0:
        raise SystemExit(f"llama_model_quantize failed for file type {file_type}")
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(target).tensors}


def main() -> None:
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, None)
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    answer = []
    with tempfile.TemporaryDirectory() as folder:
        for model in request["models"]:
            source = Path(model.get("file", Path(folder, "source.gguf")))
            target = model.get("out", str(Path(folder, "target.gguf")))
            if "file" not in model:
                write_model(source, model)
            answer.append([quantized_types(source, Path(target.format(n)), n) for n in request["file_types"]])
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
