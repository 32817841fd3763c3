"""Checkpoints and adapters by the name of their repository, downloaded through huggingface_hub.

Its own settings hold: the cache's place, the token, offline mode, mirrors. A download that was cut off goes on with the
files that are not there yet.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from convert.errors import DownloadError

_REPOSITORY = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)
# What is read, and not what others put beside it: weights in other formats, originals in folders of their own.
_WANTED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "README.md"]
_UNWANTED = ["*/*.safetensors", "*/*.json"]


def local_folder(name: str, *, quiet: bool = False) -> Path:
    """The path ``name``, or when there is no such file, the folder to which that repository is downloaded.

    ``name``: a path, or ORGANIZATION/NAME or ORGANIZATION/NAME@REVISION, with a branch, a tag or a commit. The folder
    of a repository is called after its commit. ``quiet``: without progress bars. Raises DownloadError.
    """
    match = _REPOSITORY.fullmatch(name)
    if match is None or name.endswith((".gguf", ".safetensors")) or Path(name).exists():
        return Path(name)
    with _bars(shown=not quiet):
        folder = _download(match["name"], match["revision"])
    if not any(folder.glob("*.safetensors")):
        raise DownloadError(f"the repository {name} holds no safetensors files, which are what is read")
    return folder


def _download(repository: str, revision: str | None) -> Path:
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED
            )
        )
    except HFValidationError as error:
        raise DownloadError(f"{repository} is neither a path here nor the name of a repository: {error}") from error
    except GatedRepoError as error:
        raise DownloadError(
            f"the repository {repository} is gated: accept its license on its page, then log in with 'hf auth login'"
        ) from error
    except RepositoryNotFoundError as error:
        raise DownloadError(
            f"{repository} is neither a path here nor a repository that you can see: check the name, and for a private "
            f"one log in with 'hf auth login'"
        ) from error
    except RevisionNotFoundError as error:
        raise DownloadError(f"the repository {repository} has no revision {revision}") from error
    except Exception as error:  # the errors of its HTTP library, which is another in each version
        raise DownloadError(
            f"cannot download {repository}, which is no path here: {_reason(error)}; when started again, a download "
            f"goes on with what is missing"
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk of the cache is full: make room, or set HF_HOME to a folder elsewhere"
    # What is not in the cache is reported so, with the reason why it was looked up there.
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
    if isinstance(cause, HfHubHTTPError) and cause.response is not None:
        return f"the server answered {cause.response.status_code}"
    if isinstance(error, LocalEntryNotFoundError):
        return "there is no connection, and the cache does not hold all of it"
    return str(error).strip().partition("\n")[0] or type(error).__name__


@contextmanager
def _bars(*, shown: bool) -> Iterator[None]:
    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
