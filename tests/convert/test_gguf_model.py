"""GGUF files as input: the same file as from the checkpoint, whatever is split, and what is refused."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFValueType, GGUFWriter

import shapes
import spm_models
from convert.errors import ArgumentError, CheckpointError, ConvertError, UnsupportedError
from convert.gguf_header import read_gguf_header
from convert.gguf_model import read_gguf_model
from convert.inputs import read_input
from convert.pipeline import write_plan
from convert.plan import Plan, make_plan
from convert.provenance import PREFIX
from convert.recipe import file_type
from convert.requantize import check_requantized
from convert.source import SourceModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    return shapes.write_checkpoint(folder / "model", "r_plus", n_layers=2)


def without_provenance(model: SourceModel, name: str) -> Plan:
    plan = make_plan(model, file_type(name))
    for key in [key for key in plan.keys if key.startswith("commandr.convert.")]:
        del plan.keys[key]
    return plan


def write(source: Path, out: Path, name: str, **options: Any) -> Path:
    written = write_plan(without_provenance(read_input(str(source)), name), out, **options)
    return written.paths[0]


@pytest.fixture(scope="module")
def bf16(checkpoint: Path, folder: Path) -> Path:
    return write(checkpoint, folder / "model-BF16.gguf", "BF16")


@pytest.mark.parametrize("between", ["BF16", "F32"])
@pytest.mark.parametrize("name", ["Q4_K_M", "Q8_0", "BF16"])
def test_a_file_of_floats_gives_what_its_checkpoint_gives(
    tmp_path: Path, checkpoint: Path, between: str, name: str
) -> None:
    direct = write(checkpoint, tmp_path / "direct.gguf", name)
    detour = write(write(checkpoint, tmp_path / "between.gguf", between), tmp_path / "detour.gguf", name)
    assert detour.read_bytes() == direct.read_bytes()


def test_a_split_file_is_read_through_its_first_part(tmp_path: Path, checkpoint: Path, bf16: Path) -> None:
    first = write(checkpoint, tmp_path / "parts.gguf", "BF16", split_max_bytes=600_000)
    parts = sorted(tmp_path.glob("parts-*.gguf"))
    assert len(parts) > 2
    assert parts[0] == first
    assert read_gguf_model(first).name == "parts"
    assert write(first, tmp_path / "whole.gguf", "BF16").read_bytes() == bf16.read_bytes()
    with pytest.raises(ArgumentError, match=r"is not the first of \d+ files: give parts-00001-of-"):
        read_gguf_model(parts[1])
    parts[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(CheckpointError, match="but not called NAME-00001-of-"):
        read_gguf_model(tmp_path / "renamed.gguf")
    (tmp_path / "renamed.gguf").rename(parts[0])
    parts[1].write_bytes(parts[2].read_bytes())
    with pytest.raises(CheckpointError, match="is not part 2 of the"):
        read_gguf_model(parts[0])
    parts[1].unlink()
    with pytest.raises(CheckpointError, match=f"{parts[1].name} is missing"):
        read_gguf_model(parts[0])


def test_keys_are_those_that_the_gguf_package_reads(bf16: Path) -> None:
    header, theirs = read_gguf_header(bf16), GGUFReader(bf16)
    fields = {name: field for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert list(header.keys) == list(fields)
    for name, field in fields.items():
        value = header.keys[name]
        assert [kind for kind in (value.type, value.sub_type) if kind is not None] == field.types
        assert value.value == field.contents()
    for ours, tensor in zip(header.tensors, theirs.tensors, strict=True):
        assert (ours.name, ours.dtype, list(ours.shape)) == (
            tensor.name,
            tensor.tensor_type.name,
            tensor.shape.tolist()[::-1],
        )
        assert (ours.offset, ours.n_bytes) == (tensor.data_offset, tensor.n_bytes)


def test_every_type_of_a_key_is_kept(tmp_path: Path, bf16: Path) -> None:
    model = read_gguf_model(bf16)
    numbers = {kind: 7.5 if "FLOAT" in kind.name else 7 for kind in GGUFValueType if kind.value < 13}
    del numbers[GGUFValueType.STRING], numbers[GGUFValueType.ARRAY]
    numbers[GGUFValueType.BOOL] = True
    writer = GGUFWriter(tmp_path / "keys.gguf", "command-r")
    for kind, value in numbers.items():
        writer.add_key_value(f"one.{kind.name}", value, kind)
        writer.add_key_value(f"many.{kind.name}", [value, value], GGUFValueType.ARRAY, kind)
    writer.add_array("texts", ["a", "", "世界"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    keys = read_gguf_header(tmp_path / "keys.gguf").keys
    for kind, value in numbers.items():
        assert keys[f"one.{kind.name}"] == (value, kind, None)
        assert keys[f"many.{kind.name}"] == ([value, value], GGUFValueType.ARRAY, kind)
    assert keys["texts"].value == ["a", "", "世界"]
    assert model.keys["tokenizer.ggml.token_type"].sub_type is GGUFValueType.INT32


def test_quantized_tensors_are_copied_or_rounded_again_on_request(tmp_path: Path, checkpoint: Path) -> None:
    source = write(checkpoint, tmp_path / "model-Q4_K_M.gguf", "Q4_K_M")
    model = read_gguf_model(source)
    assert model.name == "model"
    same = make_plan(model, file_type("Q4_K_M"))
    assert check_requantized(same, allowed=False) == []
    assert write(source, tmp_path / "same.gguf", "Q4_K_M").read_bytes() == source.read_bytes()
    other = make_plan(model, file_type("Q8_0"))
    with pytest.raises(ArgumentError, match=r"\d+ tensors are quantized already, such as .*--allow-requantize"):
        check_requantized(other, allowed=False)
    assert "rounded once more" in check_requantized(other, allowed=True)[0]
    tensors = {tensor.name: tensor for tensor in GGUFReader(write(source, tmp_path / "q8.gguf", "Q8_0")).tensors}
    assert tensors["blk.0.ffn_up.weight"].tensor_type.name == "Q8_0"


def test_what_is_said_of_the_file_is_not_said_of_the_next(tmp_path: Path, checkpoint: Path) -> None:
    model = read_input(str(checkpoint))
    write_plan(make_plan(model, file_type("BF16")), tmp_path / "a.gguf")
    again = read_gguf_model(tmp_path / "a.gguf", context_length=4096)
    assert not any(key.startswith(("commandr.convert.", "split.")) for key in again.keys)
    assert "general.file_type" not in again.keys
    assert (again.keys["command-r.context_length"].value, again.n_ctx_train) == (4096, 4096)


def told(path: Path) -> dict[str, Any]:
    keys = read_gguf_header(path).keys
    return {name.removeprefix(PREFIX): value.value for name, value in keys.items() if name.startswith(PREFIX)}


def test_what_the_last_two_inputs_say_of_their_making_is_kept(tmp_path: Path, checkpoint: Path) -> None:
    model = read_input(str(checkpoint))
    model.origin["revision"] = "0123abcd"
    files = [tmp_path / f"{i}.gguf" for i in range(4)]
    write_plan(make_plan(model, file_type("BF16"), types={"blk.0.attn_q.weight": "F32"}), files[0])
    for source, out in pairwise(files):
        write_plan(make_plan(read_gguf_model(source), file_type("F16")), out)
    first, second, third, fourth = map(told, files)
    assert (first["type"], first["revision"], first["own_types_count"]) == ("BF16", "0123abcd", 1)
    of_first = {f"input.{name}": str(value) for name, value in first.items()}
    of_second = {f"input.{name}": value for name, value in second.items()}
    assert second == {"version": first["version"], "source": "0.gguf", **of_first, "type": "F16"}
    assert third == {"version": first["version"], "source": "1.gguf", **of_second, "type": "F16"}
    assert third["input.input.revision"] == "0123abcd"
    assert [name for name in fourth if name.startswith("input.")] == [
        f"input.{name}" for name in third if not name.startswith("input.input.")
    ]
    write_plan(make_plan(read_gguf_model(files[2]), file_type("F16")), tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == files[3].read_bytes()


def damaged(path: Path, out: Path, change: Any) -> Path:
    out.write_bytes(change(path.read_bytes()))
    return out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: data[:2000], "ends inside key tokenizer.ggml"),
        (lambda data: data[:-5000], "ends inside tensor"),
        (lambda data: b"GGML" + data[4:], "is not a GGUF file"),
        (lambda data: b"", "cannot read"),
        (lambda data: data[:4] + struct.pack("<I", 9) + data[8:], "GGUF version 9 is not supported"),
        (lambda data: data.replace(b"command-r", b"commAnd-r"), "general.architecture is 'commAnd-r'"),
        (lambda data: data.replace(b"blk.0.attn_q.weight", b"blk.0.attn_x.weight"), "attn_q.weight is missing"),
        (lambda data: data.replace(b"command-r.block_count", b"command-r.block_c0unt"), "block_count is None"),
        (lambda data: data.replace(b"command-r.logit_scale", b"command-r.logit_scal3"), "logit_scale is None"),
        (lambda data: data.replace(b"tool_use", b"tool_us\xff"), "not UTF-8"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, bf16: Path, change: Any, sentence: str) -> None:
    with pytest.raises(ConvertError, match=sentence):
        read_gguf_model(damaged(bf16, tmp_path / "bad.gguf", change))


def test_keys_and_tensors_must_agree(tmp_path: Path, bf16: Path) -> None:
    key = b"command-r.feed_forward_length" + struct.pack("<II", 4, 512)
    wrong = damaged(bf16, tmp_path / "a.gguf", lambda data: data.replace(key, key[:-4] + struct.pack("<I", 256)))
    with pytest.raises(CheckpointError, match=r"ffn_gate.weight has the shape \[512, 256\], the keys call for \[256"):
        read_gguf_model(wrong)
    fewer = b"command-r.block_count" + struct.pack("<II", 4, 2)
    wrong = damaged(bf16, tmp_path / "b.gguf", lambda data: data.replace(fewer, fewer[:-4] + struct.pack("<I", 1)))
    with pytest.raises(UnsupportedError, match=r"tensor blk\.1\..*has no place in this model"):
        read_gguf_model(wrong)


def with_key(path: Path, out: Path, name: str, value: tuple[int, bytes] | None) -> Path:
    """A copy where a key has another value, its type and bytes; None leaves the key out."""
    data, reader = path.read_bytes(), GGUFReader(path)
    fields = [field for field in reader.fields.values() if not field.name.startswith("GGUF.")]
    last = fields[-1]
    tensors = last.offset + sum(part.nbytes for part in last.parts)
    kept = [b"".join(part.tobytes() for part in field.parts) for field in fields if field.name != name]
    if value is not None:
        kept.append(struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", value[0]) + value[1])
    described = reader.tensors[-1].field
    end = described.offset + sum(part.nbytes for part in described.parts)
    head = data[:16] + struct.pack("<Q", len(kept)) + b"".join(kept) + data[tensors:end]
    out.write_bytes(head + bytes(-len(head) % 32) + data[reader.data_offset :])
    return out


LIST = (9, struct.pack("<IQ", 4, 2) + struct.pack("<II", 1, 2))
FLOAT = (6, struct.pack("<f", 2.0))
NAN = (6, struct.pack("<f", float("nan")))
STRING = (8, struct.pack("<Q", 1) + b"2")


def number(value: int) -> tuple[int, bytes]:
    return 4, struct.pack("<I", value)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("command-r.block_count", number(4_000_000_000), "is 4000000000, but there are only 22 tensors"),
        ("command-r.block_count", LIST, r"is \[1, 2\], not a positive whole number"),
        ("command-r.attention.head_count", number(0), "is 0, not a positive whole number"),
        ("command-r.attention.head_count", number(3), "is 3, no multiple of head_count_kv, 2"),
        ("command-r.attention.head_count_kv", number(0), "is 0, not a positive whole number"),
        ("command-r.embedding_length", number(0), "is 0, not a positive whole number"),
        ("command-r.logit_scale", NAN, "is nan, not a finite number"),
        ("split.count", LIST, r"is \[1, 2\], not a whole number"),
        ("split.count", FLOAT, "is 2.0, not a whole number"),
        ("split.count", STRING, "is '2', not a whole number"),
        ("tokenizer.ggml.tokens", FLOAT, "is 2.0, not an array"),
        ("tokenizer.ggml.tokens", number(7), "is 7, not an array"),
        *((f"{PREFIX}{name}", LIST, "neither a text nor") for name in ("revision", "repository", "lora")),
    ],
)
def test_a_key_that_cannot_be_is_named_with_its_file(
    tmp_path: Path, bf16: Path, name: str, value: tuple[int, bytes], sentence: str
) -> None:
    path = with_key(bf16, tmp_path / "bad.gguf", name, value)
    with pytest.raises(CheckpointError, match=rf"bad\.gguf: key {name}.*{sentence}"):
        read_gguf_model(path)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("split.no", None, "key split.no is None, not a whole number"),
        ("split.no", STRING, "key split.no is '2', not a whole number"),
        ("split.tensors.count", LIST, r"key split.tensors.count is \[1, 2\], not a whole number"),
    ],
)
def test_keys_of_a_split_file_that_cannot_be_are_named(
    tmp_path: Path, checkpoint: Path, name: str, value: tuple[int, bytes] | None, sentence: str
) -> None:
    first = write(checkpoint, tmp_path / "parts.gguf", "BF16", split_max_bytes=600_000)
    changed = with_key(first, tmp_path / "changed", name, value)
    changed.rename(first)
    with pytest.raises(CheckpointError, match=f"{first.name}: {sentence}"):
        read_gguf_model(first)


def test_files_changed_at_random_are_read_or_refused_in_a_sentence(tmp_path: Path, bf16: Path) -> None:
    data = bf16.read_bytes()
    n_header = min(tensor.offset for tensor in read_gguf_header(bf16).tensors)
    path = tmp_path / "bad.gguf"
    random = np.random.default_rng(0)
    n_refused = 0
    for _ in range(100):
        changed = bytearray(data)
        for place in random.integers(n_header, size=random.integers(1, 9)):
            changed[place] = random.integers(256)
        path.write_bytes(changed)
        try:
            read_gguf_model(path)
        except ConvertError as error:
            n_refused += 1
            assert str(path) in str(error)  # noqa: PT017
    assert n_refused > 10


def test_other_tokenizers_pass_through(tmp_path: Path) -> None:
    model = spm_models.train("unigram", normalization_rule_name="nmt_nfkc")
    n_vocab = spm_models.processor(model).vocab_size() + 3
    folder = shapes.write_checkpoint(tmp_path / "in", "gqa", n_layers=1, vocab_size=n_vocab)
    (folder / "tokenizer.json").unlink()
    spm_models.vocab(folder, model)
    direct = write(folder, tmp_path / "a.gguf", "F16")
    assert write(direct, tmp_path / "b.gguf", "F16").read_bytes() == direct.read_bytes()


def test_a_large_vocabulary_is_read_whole(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "large.gguf", "command-r")
    tokens = [f"token {i}" for i in range(256_000)]
    writer.add_array("tokenizer.ggml.tokens", tokens)
    writer.add_array("tokenizer.ggml.token_type", np.ones(256_000, np.int32).tolist())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    assert read_gguf_header(tmp_path / "large.gguf").keys["tokenizer.ggml.tokens"].value == tokens
