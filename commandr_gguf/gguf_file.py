"""The header of a GGUF file or of a split model's files: keys and tensor descriptions, without tensor data."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from commandr_gguf._native import ffi, lib
from commandr_gguf.errors import ArgumentError, ClosedError, FormatError, check

Value = int | float | bool | str | list[int] | list[float] | list[bool] | list[str]

_T = TypeVar("_T")
_KIND_NAMES = {int: "an integer", float: "a number", bool: "a boolean", str: "a string"}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a model."""

    name: str
    type: str
    """Name of its ggml_type, such as "Q4_K"."""
    shape: tuple[int, ...]
    """Elements per dimension, the contiguous one first."""
    path: str
    """The file that it lies in."""
    offset: int
    """Bytes from the start of that file."""
    size: int
    """Bytes."""


class GGUFFile(Mapping[str, Value]):
    """A mapping from the keys of a GGUF file to their values, in file order; arrays come as lists.

    Values are read when they are asked for: keep what is used twice. Close it, or use it in a `with` statement. Of a
    model that llama.cpp's tools have split in files NAME-00001-of-00003.gguf and so on, the first is to be given; the
    tensors are those of all files.

    Raises:
        FileError: a file cannot be read.
        FormatError: it is not a GGUF file, it is damaged, or the files of a split model do not belong together.
        ArgumentError: it is another file of a split model than the first.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        encoded = encode_path(path)
        self.path = os.fspath(path)
        out = ffi.new("commandr_gguf **")
        check(lib.commandr_gguf_open(encoded, out))
        self._attach(out[0], None)
        self._finalizer: Callable[[], object] | None = weakref.finalize(self, lib.commandr_gguf_free, out[0])

    @classmethod
    def borrow(cls, pointer: Any, path: str, owner: object) -> GGUFFile:
        """A view on a handle that belongs to `owner`, which is kept alive; close() then frees nothing."""
        self = cls.__new__(cls)
        self.path = path
        self._attach(pointer, owner)
        self._finalizer = None
        return self

    def _attach(self, pointer: Any, owner: object) -> None:
        self._pointer: Any = pointer
        self._owner = owner

    def close(self) -> None:
        """Free the header. Calling it again does nothing."""
        self._pointer = None
        self._owner = None
        if self._finalizer is not None:
            self._finalizer()

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"GGUFFile({self.path!r})"

    @property
    def pointer(self) -> Any:
        """The native handle, for other modules of this package. Raises ClosedError after close()."""
        if self._pointer is None:
            raise ClosedError(f"{self.path}: the GGUF file was closed")
        return self._pointer

    def __len__(self) -> int:
        return int(lib.commandr_gguf_n_keys(self.pointer))

    def __iter__(self) -> Iterator[str]:
        pointer = self.pointer
        for index in range(len(self)):
            yield _text(lib.commandr_gguf_key(pointer, index))

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._find(key) >= 0

    def __getitem__(self, key: str) -> Value:
        index = self._find(key)
        if index < 0:
            raise KeyError(key)
        value = self._describe(index)
        if value.n >= 0:
            return self._array(index, value)
        if value.kind == lib.COMMANDR_KIND_INT:
            return int(value.i)
        if value.kind == lib.COMMANDR_KIND_BOOL:
            return bool(value.i)
        if value.kind == lib.COMMANDR_KIND_FLOAT:
            return float(value.f)
        return _text(value.s)

    def array_length(self, key: str) -> int | None:
        """Length of an array without reading it; None for a single value. Raises KeyError when the key is absent."""
        index = self._find(key)
        if index < 0:
            raise KeyError(key)
        n = int(self._describe(index).n)
        return n if n >= 0 else None

    def typed(self, key: str, kind: type[_T], default: _T | None = None) -> _T:
        """The single value of a key that must be of type `kind` (int, float, bool or str).

        Raises:
            FormatError: the key is absent and there is no default, or its value is of another type.
        """
        if key not in self:
            if default is None:
                raise FormatError(f"{self.path}: the key {key} is missing")
            return default
        value = self[key]
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise FormatError(f"{self.path}: the key {key} is not {_KIND_NAMES.get(kind, kind.__name__)}")
        return value

    def typed_list(self, key: str, kind: type[_T]) -> list[_T]:
        """The array of a key whose elements must be of type `kind` (int, float, bool or str).

        Raises:
            FormatError: the key is absent, or its value is something else.
        """
        if key not in self:
            raise FormatError(f"{self.path}: the key {key} is missing")
        value = self[key]
        if not isinstance(value, list) or (value and type(value[0]) is not kind):
            raise FormatError(f"{self.path}: the key {key} is not an array of {kind.__name__} values")
        return value  # type: ignore[return-value]  # the elements of a GGUF array are of one type

    @property
    def tensors(self) -> list[TensorInfo]:
        """The tensors in file order, those of a split model's first file first."""
        pointer = self.pointer
        info = ffi.new("commandr_tensor_info *")
        tensors = []
        for index in range(lib.commandr_gguf_n_tensors(pointer)):
            check(lib.commandr_gguf_tensor(pointer, index, info))
            name = lib.commandr_type_name(info.type)
            tensors.append(
                TensorInfo(
                    name=_text(info.name),
                    type=_text(name) if name else f"type {info.type}",
                    shape=tuple(info.ne[0 : info.n_dims]),
                    path=os.fsdecode(ffi.string(info.path)),
                    offset=info.offset,
                    size=info.size,
                )
            )
        return tensors

    @property
    def files(self) -> list[str]:
        """The paths of the files that hold the keys and the tensors: one, or those of a split model."""
        return list(dict.fromkeys([os.fsdecode(self.path), *(tensor.path for tensor in self.tensors)]))

    def _find(self, key: str) -> int:
        return int(lib.commandr_gguf_find(self.pointer, key.encode("utf-8", "replace")))

    def _describe(self, index: int) -> Any:
        value = ffi.new("commandr_gguf_value *")
        check(lib.commandr_gguf_get(self.pointer, index, value))
        return value

    def _array(self, index: int, value: Any) -> Value:
        n_bytes = ffi.new("int64_t *")
        if value.kind == lib.COMMANDR_KIND_STRING:
            check(lib.commandr_gguf_get_array(self.pointer, index, ffi.NULL, n_bytes))
            buffer = ffi.new("char[]", n_bytes[0] + 1)
            check(lib.commandr_gguf_get_array(self.pointer, index, buffer, n_bytes))
            text = bytes(ffi.buffer(buffer, n_bytes[0])).decode("utf-8", "replace")
            return text.split("\0")[: value.n]
        elements = ffi.new("double[]" if value.kind == lib.COMMANDR_KIND_FLOAT else "int64_t[]", value.n)
        n_bytes[0] = ffi.sizeof(elements)
        check(lib.commandr_gguf_get_array(self.pointer, index, elements, n_bytes))
        unpacked: list[Any] = ffi.unpack(elements, value.n) if value.n else []
        return [bool(x) for x in unpacked] if value.kind == lib.COMMANDR_KIND_BOOL else unpacked


def encode_path(path: str | os.PathLike[str]) -> bytes:
    """The bytes under which the native library finds a file."""
    try:
        encoded = os.fsencode(path)
    except TypeError:
        raise ArgumentError(f"a path must be a string or a path object, not {path!r}") from None
    if not encoded:
        raise ArgumentError("the path of the file is empty")
    if b"\0" in encoded:
        raise ArgumentError("a path cannot contain a NUL character")
    return encoded


def _text(pointer: Any) -> str:
    text: bytes = ffi.string(pointer)
    return text.decode("utf-8", "replace")
