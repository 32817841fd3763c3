"""Split models in llama.cpp's naming, written by the reference writer from a file of ours."""

from __future__ import annotations

import re
from pathlib import Path

import gguf


def split(source: Path, folder: Path, max_tensors: int, *, small_first: bool = False) -> list[Path]:
    """Write `source` in parts of at most `max_tensors` tensors to `folder`, and return their paths in order.

    small_first: a first part with the keys alone.
    """
    reader = gguf.GGUFReader(source)
    target = folder / f"{source.stem}.gguf"
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture, split_max_tensors=max_tensors, small_first_shard=small_first)
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            element = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], element)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = sorted(folder.glob(f"{source.stem}-*-of-*.gguf"))
    assert len(parts) == int(re.findall(r"-of-(\d{5})\.gguf$", parts[0].name)[0]) > 1
    return parts
