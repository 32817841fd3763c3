"""A GGUF file as input: its keys as they are, its tensors of whatever type, split files through the first part."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path

from gguf import GGUFValueType as Type

from convert.errors import ArgumentError, CheckpointError, UnsupportedError
from convert.gguf_header import GGUFHeader, read_gguf_header
from convert.hparams import ARCHITECTURES, HParams
from convert.metadata import Keys, Value
from convert.provenance import PREFIX
from convert.recipe import FILE_TYPES
from convert.shard import SourceTensor
from convert.source import ModelTensor, SourceModel
from convert.tensor_names import is_qk_norm, tensor_names

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_TYPE_SUFFIX = re.compile(rf"[-.]({'|'.join(map(re.escape, FILE_TYPES))})", re.IGNORECASE)

# What is said of the file that is read and not of the model; the file that is written gets its own.
_OF_THE_FILE = ("general.file_type", "general.quantization_version", "general.alignment")
_PREFIXES_OF_THE_FILE = ("split.", "quantize.imatrix.", PREFIX)

# What the input says of its own making goes on under this name, and what that one says of its own input once more.
_INPUT = "input."
_MAX_INPUTS = 2


def is_gguf(path: Path) -> bool:
    """Whether an input is a file, which must be GGUF, and not a folder."""
    return path.is_file()


def read_gguf_model(path: Path, *, context_length: int | None = None) -> SourceModel:
    """Read and check everything but the weights' values. ``context_length`` overrides the file's.

    Raises CheckpointError for a damaged or incomplete file, UnsupportedError for a model of another kind.
    """
    headers = _read_parts(path)
    keys = headers[0].keys
    hparams = _hparams(path, keys)
    tensors = [tensor for header in headers for tensor in header.tensors]
    _check_tensors(path, hparams, tensors)
    if context_length is not None:
        name = f"{hparams.architecture}.context_length"
        keys[name] = Value(context_length, Type.UINT32)
    empty = [name for name, value in keys.items() if value.value == []]
    of_model = {
        name: value
        for name, value in keys.items()
        if name not in {*_OF_THE_FILE, *empty} and not name.startswith(_PREFIXES_OF_THE_FILE)
    }
    part = _PART.fullmatch(path.name)
    stem = part["stem"] if part else path.stem
    return SourceModel(
        name=_TYPE_SUFFIX.sub("", stem) or stem,
        architecture=hparams.architecture,
        n_layer=hparams.n_layer,
        n_head=hparams.n_head,
        n_head_kv=hparams.n_head_kv,
        n_ctx_train=context_length or hparams.n_ctx_train,
        tensors=[ModelTensor(tensor.name, tensor) for tensor in tensors],
        keys=of_model,
        notes=[f"left out the key {name}, an empty array" for name in empty],
        files=[header.path for header in headers],
        origin={"source": path.name, **_origin(path, keys)},
    )


def _read_parts(path: Path) -> list[GGUFHeader]:
    first = read_gguf_header(path)
    count = _number_of(first, "split.count", 1)
    if count in {0, 1}:
        return [first]
    part = _PART.fullmatch(path.name)
    if part is None or int(part["count"]) != count:
        raise CheckpointError(f"{path} is one of {count} files, but not called NAME-00001-of-{count:05d}.gguf")
    paths = [path.with_name(f"{part['stem']}-{i + 1:05d}-of-{count:05d}.gguf") for i in range(count)]
    if _number_of(first, "split.no") != 0:
        raise ArgumentError(f"{path} is not the first of {count} files: give {paths[0].name}")
    headers = [first]
    for i, other in enumerate(paths[1:], 1):
        if not other.exists():
            raise CheckpointError(f"{other} is missing, {path.name} is one of {count} files")
        header = read_gguf_header(other)
        if [header.keys[name].value for name in ("split.no", "split.count") if name in header.keys] != [i, count]:
            raise CheckpointError(f"{other} is not part {i + 1} of the {count} files of {path.name}")
        headers.append(header)
    n = sum(len(header.tensors) for header in headers)
    expected = _number_of(first, "split.tensors.count", n)
    if n != expected:
        raise CheckpointError(f"{path}: split.tensors.count is {expected}, but the files hold {n} tensors")
    return headers


def _number_of(header: GGUFHeader, key: str, default: int | None = None) -> int:
    value = header.keys[key].value if key in header.keys else default
    if type(value) is not int or value < 0:
        raise CheckpointError(f"{header.path}: key {key} is {reprlib.repr(value)}, not a whole number")
    return value


def _origin(path: Path, keys: Keys) -> dict[str, str]:
    """What the file says of its own making, for the provenance of the next one."""
    origin = {}
    for key, value in keys.items():
        name = f"{_INPUT}{key.removeprefix(PREFIX)}"
        if not key.startswith(PREFIX) or name.startswith((_MAX_INPUTS + 1) * _INPUT):
            continue
        if type(value.value) not in {str, int}:
            raise CheckpointError(
                f"{path}: key {key} is {reprlib.repr(value.value)}, neither a text nor a whole number"
            )
        origin[name] = str(value.value)
    return origin


def _hparams(path: Path, keys: Keys) -> HParams:
    architecture = keys["general.architecture"].value if "general.architecture" in keys else None
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES.values():
        raise UnsupportedError(
            f"{path}: general.architecture is {reprlib.repr(architecture)}, not one of "
            f"{', '.join(ARCHITECTURES.values())}"
        )

    def count(name: str, default: int | None = None) -> int:
        key = f"{architecture}.{name}"
        value = keys[key].value if key in keys else default
        if type(value) is not int or value < 0 or (value == 0 and default != 0):
            raise CheckpointError(f"{path}: key {key} is {reprlib.repr(value)}, not a positive whole number")
        return value

    def number(name: str) -> float:
        value = keys[f"{architecture}.{name}"].value if f"{architecture}.{name}" in keys else None
        if not isinstance(value, float) or not math.isfinite(value):
            raise CheckpointError(f"{path}: key {architecture}.{name} is {reprlib.repr(value)}, not a finite number")
        return value

    n_embd, n_head = count("embedding_length"), count("attention.head_count")
    n_head_kv = count("attention.head_count_kv", n_head)
    if n_head % n_head_kv:
        raise CheckpointError(
            f"{path}: key {architecture}.attention.head_count is {n_head}, no multiple of head_count_kv, {n_head_kv}"
        )
    tokens = keys["tokenizer.ggml.tokens"].value if "tokenizer.ggml.tokens" in keys else []
    if not isinstance(tokens, list):
        raise CheckpointError(f"{path}: key tokenizer.ggml.tokens is {reprlib.repr(tokens)}, not an array")
    return HParams(
        architecture=architecture,
        n_vocab=count("vocab_size", len(tokens)),
        n_ctx_train=count("context_length"),
        n_embd=n_embd,
        n_ff=count("feed_forward_length"),
        n_layer=count("block_count"),
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim=count("attention.key_length", n_embd // n_head),
        rope_freq_base=number("rope.freq_base"),
        norm_eps=number("attention.layer_norm_epsilon"),
        logit_scale=number("logit_scale"),
        sliding_window=count("attention.sliding_window", 0),
        swa_period=count("attention.sliding_window_pattern", 4) if architecture == "cohere2" else 0,
        use_qk_norm=None,
    )


def _check_tensors(path: Path, hparams: HParams, tensors: list[SourceTensor]) -> None:
    """Every tensor that the keys call for is there in its shape, and no other."""
    found: Mapping[str, SourceTensor] = {tensor.name: tensor for tensor in tensors}
    if len(found) != len(tensors):
        raise CheckpointError(f"{path}: two tensors have the same name")
    if hparams.n_layer > len(tensors):  # before their names are made
        raise CheckpointError(
            f"{path}: key {hparams.architecture}.block_count is {hparams.n_layer}, but there are only {len(tensors)} "
            f"tensors"
        )
    expected = {name.gguf: name.shape for name in tensor_names(hparams, qk_norm=any(map(is_qk_norm, found)))}
    for name, shape in expected.items():
        if name not in found:
            raise CheckpointError(f"{path}: tensor {name} is missing")
        if found[name].shape != shape:
            raise CheckpointError(
                f"{found[name].path}: tensor {name} has the shape {list(found[name].shape)}, the keys call for "
                f"{list(shape)}"
            )
    for name, tensor in found.items():
        if name not in expected:
            raise UnsupportedError(f"{tensor.path}: tensor {name} has no place in this model")
