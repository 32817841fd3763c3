"""SentencePiece vocabularies: the model that a file was made from, put together again for the sentencepiece package.

The package reads a protocol buffer (sentencepiece_model.proto), of which a GGUF file holds the parts that matter:

    1 pieces (repeated)   1 piece, 2 score (float), 3 type: the numbers of tokenizer.ggml.token_type
    2 trainer_spec        3 model_type (1 unigram, 2 BPE), 35 byte_fallback
    3 normalizer_spec     2 precompiled_charsmap, 3 add_dummy_prefix, 4 remove_extra_whitespaces
"""

from __future__ import annotations

import re
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sentencepiece

from commandr_gguf.errors import FormatError
from commandr_gguf.gguf_file import GGUFFile
from commandr_gguf.token_kinds import FILLER, MARKER, TokenKind

MODELS = {"llama": 2, "t5": 1}
"""tokenizer.ggml.model -> model_type: BPE and unigram."""

_UNKNOWN_IDS = {2: 0, 1: 2}  # what a file means that does not say
_SPACE = "\u2581"  # stands for a space in pieces
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_BRACKETS = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")


@dataclass(frozen=True)
class Spelling:
    """How a text is changed before it is split into pieces: the keys of the same names."""

    add_space_prefix: bool
    remove_extra_whitespaces: bool
    charsmap: bytes


class SentencePieces:
    """Splits texts as the sentencepiece package does, and knows what each piece stands for.

    May be shared by threads. The pieces (1 s for 256,000) are put together by the first call of `encode`.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        scores: Sequence[float],
        types: Sequence[int],
        *,
        model_type: int,
        spelling: Spelling,
        source: str,
    ) -> None:
        """`tokens`, `scores` and `types` in the order of the ids; `model_type` is one of MODELS.

        Raises:
            FormatError: they are not of one length, or a type is not known.
        """
        if not len(tokens) == len(scores) == len(types):
            raise FormatError(
                f"{source}: tokenizer.ggml.tokens, scores and token_type have {len(tokens)}, {len(scores)} and "
                f"{len(types)} elements"
            )
        unknown = set(types) - set(TokenKind)
        if unknown:
            raise FormatError(f"{source}: tokenizer.ggml.token_type holds {min(unknown)}, which is no type")
        self._tokens = tokens
        self._scores = scores
        self.types = [_text_type(text, kind) for text, kind in zip(tokens, types, strict=True)]
        """The file's, with CONTROL for what must not come out of a text and NORMAL for what may."""
        self._file_types = types
        self._model_type = model_type
        self._spelling = spelling
        self._source = source
        self._lock = threading.Lock()
        self._processors: dict[bool, sentencepiece.SentencePieceProcessor] = {}

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> SentencePieces:
        """Read the keys of a file whose tokenizer.ggml.model is one of MODELS."""
        prefix, spaces, charsmap = (
            f"tokenizer.ggml.{name}"
            for name in ("add_space_prefix", "remove_extra_whitespaces", "precompiled_charsmap")
        )
        model_type = MODELS[file.typed("tokenizer.ggml.model", str)]
        types = file.typed_list("tokenizer.ggml.token_type", int)
        if TokenKind.UNKNOWN not in types:  # other converters mark it as a control token
            unknown = file.typed("tokenizer.ggml.unknown_token_id", int, _UNKNOWN_IDS[model_type])
            types[unknown : unknown + 1] = [TokenKind.UNKNOWN] * (0 <= unknown < len(types))
        return cls(
            file.typed_list("tokenizer.ggml.tokens", str),
            file.typed_list("tokenizer.ggml.scores", float),
            types,
            model_type=model_type,
            spelling=Spelling(
                add_space_prefix=file.typed(prefix, bool, True),
                remove_extra_whitespaces=file.typed(spaces, bool, False),
                charsmap=bytes(i & 0xFF for i in file.typed_list(charsmap, int)) if charsmap in file else b"",
            ),
            source=str(file.path),
        )

    @property
    def begins_with_space(self) -> bool:
        """Whether a space is put before a text, which is to be taken away from what its tokens stand for."""
        return self._spelling.add_space_prefix

    def encode(self, text: str, *, inside: bool) -> list[int]:
        """Ids of a text; `inside`: behind other text, so that no space comes before it and none is taken away."""
        ids: list[int] = self._processor(inside).encode(text)
        return ids

    def token_bytes(self, token: int) -> bytes:
        """What the token stands for in a text."""
        text = self._tokens[token]
        if self._file_types[token] == TokenKind.BYTE:
            match = _BYTE.fullmatch(text)
            return bytes([int(match[1], 16)]) if match else b""
        return text.replace(_SPACE, " ").encode()

    def _processor(self, inside: bool) -> sentencepiece.SentencePieceProcessor:
        if inside not in self._processors:
            with self._lock:
                if inside not in self._processors:
                    self._processors[inside] = self._build(inside)
        return self._processors[inside]

    def _build(self, inside: bool) -> sentencepiece.SentencePieceProcessor:
        spelling = self._spelling
        normalizer = (
            _field(2, spelling.charsmap)
            + _field(3, spelling.add_space_prefix and not inside)
            + _field(4, spelling.remove_extra_whitespaces and not inside)
        )
        trainer = _field(3, self._model_type) + _field(35, TokenKind.BYTE in self._file_types)
        model = b"".join(self._pieces()) + _field(2, trainer) + _field(3, normalizer)
        try:
            return sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, ValueError) as error:
            problem = " ".join(str(error).split())
            raise FormatError(f"{self._source}: the tokens are no SentencePiece vocabulary: {problem}") from error

    def _pieces(self) -> Iterator[bytes]:
        """The pieces as messages, under names of their own where no text is split into them."""
        seen: set[str] = set()
        for i, (text, score, kind) in enumerate(zip(self._tokens, self._scores, self._file_types, strict=True)):
            name = text.replace(" ", _SPACE) if kind == TokenKind.USER_DEFINED else text
            is_hidden = self.types[i] == TokenKind.CONTROL or not name or name in seen
            name = f"\ufdd0{i}" if is_hidden else name
            number = TokenKind.CONTROL if is_hidden else kind
            seen.add(name)
            yield _field(1, _field(1, name.encode()) + b"\x15" + struct.pack("<f", score) + _field(3, number))


def _text_type(text: str, kind: int) -> int:
    """CONTROL for a token that only a template may spell: user-defined ones are often turn markers."""
    if kind == TokenKind.USER_DEFINED:
        return TokenKind.CONTROL if _BRACKETS.fullmatch(text) else TokenKind.NORMAL
    return TokenKind.CONTROL if FILLER.fullmatch(text) or MARKER.fullmatch(text) else kind


def _field(number: int, value: bytes | int) -> bytes:
    """A field of a protocol buffer: bytes with their length, or a number."""
    if isinstance(value, bytes):
        return _varint(number << 3 | 2) + _varint(len(value)) + value
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
