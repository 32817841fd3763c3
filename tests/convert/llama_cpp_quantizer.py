"""llama.cpp's quantizer, run by the oracles' interpreter: llama_cpp_quantizer.py REQUEST.json

REQUEST is {"models": [MODEL, ...], "file_types": [number, ...], "imatrix": IMATRIX}. MODEL is {"architecture",
"n_embd", "n_ff", "n_layer", "n_head", "n_head_kv", "tensors": {name: shape, rows first}}, whose weights are zero, or
{"file": an existing GGUF file, "out": where its quantized form goes, with {} for the number of the file type}. IMATRIX
is absent or null, "ones" for an importance matrix of ones for every tensor, or {tensor name: weights of its columns}.
Prints JSON: for each model a list with, for each file type, {tensor name: ggml type}.
"""

from __future__ import annotations

import ctypes
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt

Weights = Mapping[str, npt.NDArray[np.float32]]


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


def importance(source: Path, imatrix: Any) -> Weights:
    if imatrix == "ones":
        tensors = gguf.GGUFReader(source).tensors
        return {tensor.name: np.ones(int(tensor.shape[0]), np.float32) for tensor in tensors}
    return {name: np.asarray(weights, np.float32) for name, weights in (imatrix or {}).items()}


def quantized_types(source: Path, target: Path, file_type: int, weights: Weights) -> dict[str, str]:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = file_type
    params.nthread = 2
    if weights:
        entries = (llama_cpp.llama_model_imatrix_data * (len(weights) + 1))()  # the last one stays empty: the end
        for entry, (name, values) in zip(entries, weights.items(), strict=False):
            entry.name, entry.size = name.encode(), values.size
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = entries
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
            weights = importance(source, request.get("imatrix"))
            types = [quantized_types(source, Path(target.format(n)), n, weights) for n in request["file_types"]]
            answer.append(types)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
