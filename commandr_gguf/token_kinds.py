"""What kinds of tokens a GGUF file knows, and the texts that tell a token's kind whatever the file says."""

from __future__ import annotations

import re
from enum import IntEnum


class TokenKind(IntEnum):
    """Values of tokenizer.ggml.token_type."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


MARKER = re.compile(r"<\|[A-Z0-9_]+\|>|<(?:PAD|UNK|CLS|SEP|MASK_TOKEN|BOS_TOKEN|EOS_TOKEN|EOP_TOKEN)>")
"""Files mark turn tokens CONTROL, USER_DEFINED or, rarely, NORMAL; their spelling is the same everywhere."""

FILLER = re.compile(r"\[PAD\d+\]|<unused\d+>")
"""Rows of the embedding without a token are often written out as user-defined tokens of this spelling."""
