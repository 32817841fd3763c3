"""GGUF files of a shape without its weights: a header, and a hole where the numbers would be.

What reads a header takes them for the model. Loaded, all weights are zero; what computing costs does not depend on it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import numpy as np

from commandr_gguf.errors import ArgumentError, FileError
from commandr_gguf.gguf_file import GGUFFile
from commandr_gguf.hparams import HParams
from commandr_gguf.plan.shapes import tensor_shapes
from commandr_gguf.recipe import FILE_TYPES, ModelShape, find_file_type, tensor_type

_ALIGNMENT = 32  # GGUF's own


def write_hollow(path: Path, hparams: HParams, file_type: str) -> None:
    """Write the file; on file systems with holes it takes some kilobytes.

    Raises:
        ArgumentError: there is no such file type.
        FileError: the file cannot be written, or not be of the model's size.
    """
    recipe = find_file_type(file_type)
    if recipe is None:
        raise ArgumentError(f"there is no file type {file_type!r}: choose one of {', '.join(FILE_TYPES)}")
    shape = ModelShape(hparams.n_layer, hparams.n_head // hparams.n_head_kv)
    try:
        writer = gguf.GGUFWriter(path, hparams.architecture)
        _add_keys(writer, hparams)
        n_bytes = 0
        for name, rows_first in tensor_shapes(hparams):
            kind = gguf.GGMLQuantizationType[tensor_type(recipe, shape, name, rows_first)]
            n_block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
            size = int(np.prod(rows_first)) // n_block * block_bytes
            writer.add_tensor_info(name, rows_first, np.dtype(np.float32), size, raw_dtype=kind)
            n_bytes += -(-size // _ALIGNMENT) * _ALIGNMENT
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        with path.open("r+b") as file:
            begin = -(-file.seek(0, os.SEEK_END) // _ALIGNMENT) * _ALIGNMENT
            file.truncate(begin + n_bytes)
    except OSError as error:
        raise FileError(f"{path}: the header of a model cannot be written: {error.strerror}") from error


@contextmanager
def hollow_file(hparams: HParams, file_type: str) -> Iterator[GGUFFile]:
    """Such a file in a temporary folder, opened."""
    with tempfile.TemporaryDirectory(prefix="commandr-plan-") as folder:
        path = Path(folder) / "model.gguf"
        write_hollow(path, hparams, file_type)
        with GGUFFile(path) as file:
            yield file


def _add_keys(writer: gguf.GGUFWriter, hparams: HParams) -> None:
    writer.add_vocab_size(hparams.n_vocab)
    writer.add_block_count(hparams.n_layer)
    writer.add_context_length(hparams.n_ctx_train)
    writer.add_embedding_length(hparams.n_embd)
    writer.add_feed_forward_length(hparams.n_ff)
    writer.add_head_count(hparams.n_head)
    writer.add_head_count_kv(hparams.n_head_kv)
    writer.add_key_length(hparams.head_dim)
    writer.add_value_length(hparams.head_dim)
    writer.add_rope_dimension_count(hparams.n_rot)
    writer.add_rope_freq_base(hparams.rope_freq_base)
    writer.add_layer_norm_eps(hparams.norm_eps)
    writer.add_logit_scale(hparams.logit_scale)
    if hparams.n_swa:
        writer.add_sliding_window(hparams.n_swa)
        writer.add_sliding_window_pattern(hparams.swa_period)
