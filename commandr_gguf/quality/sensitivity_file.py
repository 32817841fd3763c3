"""The file of measured sensitivities, written after every tensor so that a measurement can go on where it stopped.

JSON:

    {"format": "commandr-sensitivity", "version": 1, "model": file name, "text_sha256": of its UTF-8 bytes,
     "type": wanted type of the probes, "n_ctx": tokens of a chunk, "n_tokens": scored tokens,
     "tensors": {name: {"type": of this probe, "relative_error": E, "kl": K}, ...}}

E is the squared relative error of the rounding, sum((w - w')^2) / sum(w^2), K the mean KL(unmodified || probed) in nats
per token. To first order, another rounding of the tensor with the squared error E' gives K * E' / E, and several
roundings add up.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from commandr_gguf.errors import ArgumentError, FileError, FormatError
from commandr_gguf.quality.sensitivity import Sensitivity

_FORMAT = {"format": "commandr-sensitivity", "version": 1}
_LARGEST = 1 << 26  # some other file, such as a model, is not read to its end


@dataclass(frozen=True)
class Subject:
    """What is measured; results go together when all of it is the same."""

    model: str
    """Name of the file, without its folder."""
    text_sha256: str
    type: str
    """The wanted type of the probes."""
    n_ctx: int
    n_tokens: int
    """Scored tokens."""


def read_sensitivities(path: Path, subject: Subject) -> dict[str, Sensitivity]:
    """What was measured before, by tensor; nothing when there is no such file.

    Raises:
        FileError: the file cannot be read.
        FormatError: it is no file of sensitivities.
        ArgumentError: it holds those of another subject.
    """
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_LARGEST))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise FileError(f"{path}: the sensitivities cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: this is no file of sensitivities: it is not JSON") from error
    if not isinstance(content, dict) or any(content.get(key) != value for key, value in _FORMAT.items()):
        raise FormatError(f"{path}: this is no file of sensitivities, version {_FORMAT['version']}")
    for key, value in asdict(subject).items():
        if content.get(key) != value:
            raise ArgumentError(
                f"{path}: it was begun with {key} = {content.get(key)!r}, now {value!r}; "
                "choose another output, or delete it to begin again"
            )
    try:
        return {name: _sensitivity(**entry) for name, entry in content["tensors"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: its tensors are not what this program writes: {error}") from error


def _sensitivity(*, type: str, relative_error: float, kl: float) -> Sensitivity:  # noqa: A002  # a key of the file
    found = Sensitivity(str(type), float(relative_error), float(kl))
    if not math.isfinite(found.relative_error) or not math.isfinite(found.kl):
        raise ValueError(f"{found} is not finite")
    return found


def write_sensitivities(path: Path, subject: Subject, tensors: dict[str, Sensitivity]) -> None:
    """Replace the file as a whole, or leave it as it is. Raises FileError."""
    content: dict[str, Any] = _FORMAT | asdict(subject)
    content["tensors"] = {name: asdict(found) for name, found in tensors.items()}
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        try:
            temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"{path}: the sensitivities cannot be written: {error.strerror}") from error
