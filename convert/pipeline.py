"""The story of a conversion: lay the files out, convert block after block into them, give them their names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from convert.blocks import BlockWriter, Progress
from convert.errors import ArgumentError, CheckpointError
from convert.layout import OutputFile, lay_out
from convert.plan import Plan
from convert.quantize import default_n_threads
from convert.rows import FileRows
from convert.source import SourceModel
from convert.writer import Writer, journal_of


@dataclass(frozen=True)
class Written:
    """``nonfinite``: how many NaN and infinities each tensor has that has any."""

    paths: list[Path]
    nonfinite: dict[str, int] = field(default_factory=dict)


def write_plan(
    plan: Plan,
    output: Path,
    *,
    n_threads: int = 0,
    overwrite: bool = False,
    resume: bool = False,
    allow_nonfinite: bool = False,
    split_max_bytes: int | None = None,
    progress: Progress | None = None,
) -> Written:
    """Carry a plan out.

    n_threads: 0 = the physical cores that this process may use. overwrite: whether existing files may be replaced; what
    the model is read from never is. resume: go on where an earlier call was stopped, and keep what is done if this one
    is. allow_nonfinite: keep a NaN or an infinity in F32, F16 and BF16 and make it 0 in blocks, where it is an error
    otherwise. split_max_bytes: the largest size of a file. progress: told, on the calling thread, the tensor and the
    bytes after each block. Raises OutputError when writing fails; the output is then as it was before.
    """
    files = lay_out(plan, output, max_bytes=split_max_bytes)
    fingerprint = _fingerprint(plan, files, allow_nonfinite=allow_nonfinite)
    # Stopped while files were given their names, some have theirs already.
    is_committing = resume and journal_of(files, fingerprint).is_committing()
    for file in files:
        check_output(plan.model, file.path, overwrite=overwrite or is_committing)
    with FileRows() as rows, Writer(files, fingerprint, resume=resume, overwrite=overwrite) as writer:
        blocks = BlockWriter(
            plan,
            rows,
            writer,
            n_threads=n_threads or default_n_threads(),
            allow_nonfinite=allow_nonfinite,
            progress=progress,
        )
        blocks.run()
        writer.commit()
    return Written([file.path for file in files], {name: n for name, n in blocks.nonfinite.items() if n})


def check_output(model: SourceModel, output: Path, *, overwrite: bool) -> None:
    """Raises ArgumentError when ``output`` cannot be a new file or may not be replaced."""
    if output.is_dir():
        raise ArgumentError(f"{output} is a folder")
    if not output.parent.is_dir():
        raise ArgumentError(f"{output.parent} is not a folder: make it first")
    if not output.exists():
        return
    if not output.is_file():
        raise ArgumentError(f"{output} is not a regular file and is not replaced")
    if any(path.exists() and path.samefile(output) for path in model.files):
        raise ArgumentError(f"{output} is a file of the checkpoint itself and is not replaced")
    if not overwrite:
        raise ArgumentError(f"{output} exists: give --force to replace it")


def _fingerprint(plan: Plan, files: list[OutputFile], *, allow_nonfinite: bool) -> str:
    """Of all that the files' bytes follow from, short of reading the weights."""
    digest = hashlib.sha256(repr(allow_nonfinite).encode())
    for file in files:
        digest.update(file.header)
    for path in sorted({tensor.source.path for tensor in plan.tensors}):
        try:
            status = path.stat()
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
        digest.update(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}".encode())
    for tensor in plan.tensors:
        digest.update(f"{tensor.name} {tensor.source}".encode())
        if tensor.importance is not None:
            digest.update(tensor.importance.tobytes())
    return digest.hexdigest()
