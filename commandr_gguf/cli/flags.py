"""Arguments of Python as options of the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

OPTIONS = {
    "n_ctx": "--ctx",
    "n_gpu_layers": "--gpu-layers",
    "tensor_split": "--tensor-split",
    "rpc": "--rpc",
    "n_ubatch": "--ubatch",
    "type_k": "--type-k",
    "type_v": "--type-v",
}
_IN_MESSAGES = OPTIONS | {"n_threads": "--threads", "n_keep": "--keep", "context_shift=True": "--context-shift"}
_NAMES = re.compile(rf"(?<![\w./'\"-])({'|'.join(_IN_MESSAGES)})(?![\w/:'\"-]|\.\w)")


def in_options(message: str) -> str:
    """What is said of arguments of Python, said of options."""
    return _NAMES.sub(lambda found: _IN_MESSAGES[found[1]], message)


def flags(arguments: Mapping[str, Any]) -> list[str]:
    """Such as ["--ctx", "4096", "--no-repack"]."""
    found: list[str] = []
    for name, value in arguments.items():
        if name == "repack":
            found += [] if value else ["--no-repack"]
        elif name == "cache_packed":
            found += ["--cache-packed"] if value else []
        elif name == "tensor_split":
            found += [OPTIONS[name], ",".join(f"{share:g}" for share in value)]
        else:
            found += [OPTIONS[name], str(value)]
    return found
