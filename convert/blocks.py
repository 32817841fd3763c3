"""Blocks of rows on their way from the checkpoint into the files, several at a time.

A block is one piece of work: it is read, converted and written by one thread. So reading, converting and writing
overlap, memory holds a block a thread, and blocks are taken in the order in which they lie in the files they are read
from.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convert.errors import CheckpointError, ConvertError, UnsupportedError
from convert.plan import Plan, PlannedTensor
from convert.quantize import convert_rows
from convert.rows import FileRows, row_blocks
from convert.writer import Writer

Progress = Callable[[PlannedTensor, int], None]

_SYNC_SECONDS = 2.0
_MAX_BLOCK = 16 * 2**20  # bytes as float32, unless one row is larger
_MEMORY = 384 * 2**20  # of all blocks together: as they were read, as float32 where they have to be, and converted


@dataclass(frozen=True)
class Block:
    """Rows first.. of a tensor."""

    tensor: PlannedTensor
    first: int
    n: int


def convert_block(rows: FileRows, block: Block) -> tuple[npt.NDArray[np.uint8], int]:
    """The block's bytes in the file [n, row_bytes], and how many of its values are NaN or infinite.

    Raises CheckpointError when it cannot be read, UnsupportedError for a value too large for its type.
    """
    tensor, source = block.tensor, block.tensor.source
    if tensor.delta is None:
        data, dtype = rows.read(source, block.first, block.n), source.dtype
    else:
        floats = rows.floats(source, block.first, block.n)
        floats += tensor.delta.rows(block.first, block.n)
        data, dtype = floats.view(np.uint8), "F32"
    try:
        return convert_rows(dtype, data, tensor.ggml_type, source.n_per_row, importance=tensor.importance)
    except ConvertError as error:
        raise UnsupportedError(f"{source.path}: tensor {source.name} {error}") from error


class _NonfiniteError(Exception):
    """A block of this tensor holds a NaN or an infinity: how many there are in all is counted by one thread."""

    def __init__(self, tensor: PlannedTensor) -> None:
        super().__init__()
        self.tensor = tensor


class BlockWriter:
    """Writes all blocks of a plan that are not written yet. ``progress`` is told tensor and bytes after each of them.

    ``nonfinite`` has the number of NaN and infinities of each tensor that holds any.
    """

    def __init__(
        self,
        plan: Plan,
        rows: FileRows,
        writer: Writer,
        *,
        n_threads: int,
        allow_nonfinite: bool,
        progress: Progress | None,
    ) -> None:
        self._rows = rows
        self._writer = writer
        self._allow_nonfinite = allow_nonfinite
        self._progress = progress
        self._n_workers = n_threads + 1  # one more than compute: somebody waits for the disk
        self._tensors = sorted(plan.tensors, key=lambda tensor: (str(tensor.source.path), tensor.source.offset))
        self._left = Counter({tensor.name: tensor.n_bytes for tensor in plan.tensors})
        self._done: dict[str, int] = {}
        self._synced = time.monotonic()
        self._syncing: Future[None] | None = None
        self.nonfinite = Counter({name: n for name, n in writer.finished.items() if n})

    def run(self) -> None:
        """Returns when all blocks are written; raises the first error of any thread."""
        blocks = self._blocks()
        running: set[Future[tuple[Block, int]]] = set()
        pool = ThreadPoolExecutor(self._n_workers, thread_name_prefix="convert")
        try:
            while True:
                while len(running) < 2 * self._n_workers and (block := next(blocks, None)) is not None:
                    running.add(pool.submit(self._work, block))
                if not running:
                    break
                ready, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ready:
                    self._account(*future.result())
                self._note_finished(pool)
            if self._syncing is not None:
                self._syncing.result()
        except _NonfiniteError as error:
            pool.shutdown(cancel_futures=True)
            raise self._describe(error.tensor) from None
        finally:
            pool.shutdown(cancel_futures=True)

    def _blocks(self) -> Iterator[Block]:
        size = min(_MAX_BLOCK, _MEMORY // self._n_workers // 3)
        for tensor in self._tensors:
            if tensor.name in self._writer.finished:
                if self._progress is not None:
                    self._progress(tensor, tensor.n_bytes)
                continue
            for first, n in row_blocks(tensor.source, size):
                yield Block(tensor, first, n)

    def _work(self, block: Block) -> tuple[Block, int]:
        data, n_nonfinite = convert_block(self._rows, block)
        if n_nonfinite and not self._allow_nonfinite:
            raise _NonfiniteError(block.tensor)
        self._writer.write(block.tensor.name, block.first * block.tensor.row_bytes, data)
        return block, n_nonfinite

    def _account(self, block: Block, n_nonfinite: int) -> None:
        tensor, size = block.tensor, block.n * block.tensor.row_bytes
        self.nonfinite[tensor.name] += n_nonfinite
        self._left[tensor.name] -= size
        if self._left[tensor.name] == 0:
            self._done[tensor.name] = self.nonfinite[tensor.name]
        if self._progress is not None:
            self._progress(tensor, size)

    def _note_finished(self, pool: ThreadPoolExecutor) -> None:
        """Have what is finished synced and noted, now and then, beside the other work."""
        busy = self._syncing is not None and not self._syncing.done()
        if not self._done or busy or time.monotonic() - self._synced < _SYNC_SECONDS:
            return
        if self._syncing is not None:
            self._syncing.result()
        self._syncing = pool.submit(self._writer.finish, self._done)
        self._done, self._synced = {}, time.monotonic()

    def _describe(self, tensor: PlannedTensor) -> CheckpointError:
        source = tensor.source
        n = sum(convert_block(self._rows, Block(tensor, *rows))[1] for rows in row_blocks(source))
        return CheckpointError(
            f"{source.path}: tensor {source.name} holds {n} values that are NaN or infinite, of {source.n_elements}; "
            f"--allow-nonfinite converts it nevertheless"
        )
