"""The weights of a model: immutable once loaded, shared by any number of sessions."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from commandr_gguf._native import ffi, lib
from commandr_gguf.callbacks import Callback
from commandr_gguf.devices import MemoryUse, devices, memory_uses
from commandr_gguf.errors import ArgumentError, ClosedError, check
from commandr_gguf.gguf_file import GGUFFile, encode_path
from commandr_gguf.hparams import HParams
from commandr_gguf.params import model_params
from commandr_gguf.plan.fitting import check_weights

Computer = Literal["gpu", "packed", "cpu"]
"""GPUs, our products of packed weights, or ggml's products on the CPU."""


class Model:
    """A model loaded from a GGUF file.

    Close it, or use it in a `with` statement; its sessions go on after that, and the weights are freed with the last
    of them. Sessions of one model may run in several threads at once.

    Args:
        path: a GGUF file of the architecture command-r or cohere2.
        n_gpu_layers: layers placed on GPUs, from the last; -1 = all. Ignored when no GPU is present.
        main_device: which GPU takes the head, and everything without tensor_split; -1 = spread by free memory.
        tensor_split: share of the offloaded layers per GPU, on any scale.
        use_mmap: use CPU weights in place, mapped from the file.
        repack: copy CPU weights into the layouts that are computed fastest, where there is one.
        cache_packed: keep the weights that are packed for our products in a file beside the model, whose name is the
            first file's with ".packed" behind it, and map them from there: the next load of the model packs nothing. It
            takes as much disk as they do, is written anew when it is not of the model's files as they are, and may be
            deleted at any time. Where it cannot be written, the log says why (`enable_native_log`), and the weights are
            packed in memory. Needs use_mmap and repack.
        rpc: workers that `commandr rpc-serve` runs, as "host:port" or a list of them: their devices count as GPUs, and
            come before the local ones. One that is gone later ends the evaluation with BackendError; the model must be
            loaded again then.
        n_threads: for repacking; 0 = the physical cores that this process may use.
        progress: called with the fraction of the work done, 0 to 1; returning False cancels with CancelledError, and an
            exception in it ends the load and is raised.

    Raises:
        FileError, FormatError, UnsupportedError, ArgumentError: the text names the key or tensor.
        OutOfMemoryError: the weights are more than what is free, which is found out before they are read; weights that
            stay mapped are no reason.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        n_gpu_layers: int = 0,
        main_device: int = -1,
        tensor_split: Sequence[float] | None = None,
        use_mmap: bool = True,
        repack: bool = True,
        cache_packed: bool = False,
        rpc: str | Sequence[str] | None = None,
        n_threads: int = 0,
        progress: Callable[[float], object] | None = None,
    ) -> None:
        encoded = encode_path(path)
        self.path = os.fspath(path)
        callback = Callback(progress)
        handle = ffi.new_handle(callback)
        arguments: dict[str, Any] = {
            "n_gpu_layers": n_gpu_layers,
            "main_device": main_device,
            "tensor_split": tensor_split,
            "use_mmap": use_mmap,
            "repack": repack,
            "cache_packed": cache_packed,
            "rpc": rpc,
            "n_threads": n_threads,
        }
        params, _kept = model_params(**arguments)
        check_weights(path, arguments)
        params.progress = lib.commandr_py_on_load
        params.progress_user_data = handle
        out = ffi.new("commandr_model **")
        status = lib.commandr_model_load(encoded, params[0], out)
        self._pointer: Any = out[0]
        self._finalizer = weakref.finalize(self, lib.commandr_model_free, out[0])
        callback.reraise()
        check(status)

    @property
    def pointer(self) -> Any:
        """The native handle, for other modules of this package. Raises ClosedError after close()."""
        if not self._pointer:
            raise ClosedError(f"{self.path}: the model was closed")
        return self._pointer

    @cached_property
    def hparams(self) -> HParams:
        """The hyper-parameters that the file states."""
        return HParams.from_c(lib.commandr_model_hparams(self.pointer))

    @cached_property
    def gguf(self) -> GGUFFile:
        """The file's header; usable until the model is closed."""
        return GGUFFile.borrow(lib.commandr_model_gguf(self.pointer), self.path, self)

    def memory(self) -> list[MemoryUse]:
        """Bytes of weights by place."""
        return memory_uses(lib.commandr_model_memory, self.pointer)

    @cached_property
    def computed_by(self) -> Computer:
        """What computes most of the weights' bytes."""
        gpus = {device.name for device in devices() if device.type in ("gpu", "igpu")}
        sizes: dict[Computer, int] = {"gpu": 0, "packed": 0, "cpu": 0}
        for use in self.memory():
            is_packed = use.what in ("packed", "packed-mapped")
            sizes["gpu" if use.device in gpus else "packed" if is_packed else "cpu"] += use.size
        return max(sizes, key=lambda name: sizes[name])

    def set_tensor(self, name: str, data: npt.NDArray[np.generic] | bytes) -> None:
        """Overwrite a weight, wherever it is kept: to measure how the model does with other values of it.

        No session of this model may be evaluating. What sequences hold already was computed with the old values.

        Args:
            name: in the GGUF file, such as "blk.0.attn_q.weight".
            data: as many bytes as the tensor has in the file, in its type and layout; `quantize_rows` makes them.

        Raises:
            UnsupportedError: the model was not loaded with use_mmap=False and repack=False.
            ArgumentError: there is no such tensor, or its size is another.
        """
        if not isinstance(name, str):
            raise ArgumentError(f"name must be a string, not {name!r}")
        raw = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else np.ascontiguousarray(data).view(np.uint8)
        buffer = ffi.from_buffer(raw)
        check(lib.commandr_model_set_tensor(self.pointer, name.encode("utf-8", "replace"), buffer, raw.nbytes))

    def close(self) -> None:
        """Give the weights up. Calling it again does nothing."""
        self._pointer = None
        if "gguf" in self.__dict__:
            self.gguf.close()
        self._finalizer()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Model({self.path!r}{'' if self._pointer else ', closed'})"
