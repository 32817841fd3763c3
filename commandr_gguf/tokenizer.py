"""Text to token ids and back, with the tokens and merges that a GGUF file carries."""

from __future__ import annotations

import codecs
import gc
import os
import re
import threading
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from commandr_gguf.errors import ArgumentError, FormatError, UnsupportedError, integer
from commandr_gguf.gguf_file import GGUFFile
from commandr_gguf.sentence_pieces import MODELS, SentencePieces
from commandr_gguf.token_kinds import FILLER, MARKER, TokenKind

_END_OF_GENERATION = ("<|END_OF_TURN_TOKEN|>", "<EOS_TOKEN>", "<EOP_TOKEN>")


class Tokenizer:
    """Command-R's byte-level BPE: NFC, single digits, the GPT-2 split, then merges. Or SentencePiece, by `pieces`.

    A tokenizer is immutable and may be shared by threads. The merges (0.8 s for 256,000 tokens) are read by the first
    call of `encode`.

    Raises:
        FormatError: the file's tokenizer keys are missing or contradict each other.
        UnsupportedError: the file holds a tokenizer of another kind.
    """

    def __init__(
        self,
        tokens: list[str],
        merges: list[str],
        *,
        token_types: list[int] | None = None,
        bos_id: int | None = None,
        eos_id: int | None = None,
        add_bos: bool = True,
        source: str = "the tokenizer",
        pieces: SentencePieces | None = None,
    ) -> None:
        """Token texts in the order of their ids, merges as "left right", highest rank first.

        `pieces` take the place of the merges and the types.
        """
        token_types = token_types if pieces is None else pieces.types
        if token_types is not None and len(token_types) != len(tokens):
            raise FormatError(
                f"{source}: tokenizer.ggml.token_type has {len(token_types)} elements for {len(tokens)} tokens"
            )
        for name, value in (("bos", bos_id), ("eos", eos_id)):
            if value is not None and not 0 <= value < len(tokens):
                raise FormatError(
                    f"{source}: tokenizer.ggml.{name}_token_id is {value}, outside the {len(tokens)} tokens"
                )
        self._tokens = tokens
        self._merges = merges
        self._sentence_pieces = pieces
        self._source = source
        self._lock = threading.Lock()
        self._bpe: tokenizers.Tokenizer | None = None
        self.special_ids = _special_ids(tokens, token_types)
        """Ids of the control tokens by their text; none of them ever comes out of `parse_special=False`."""
        self._control_ids = frozenset(self.special_ids.values())
        self._fillers = _filler_ids(tokens, token_types)
        self.bos_id = bos_id
        self.eos_id = eos_id
        self.add_bos = add_bos

    @classmethod
    def from_gguf(cls, file: str | os.PathLike[str] | GGUFFile) -> Tokenizer:
        """Read the tokenizer of a GGUF file, whoever wrote it."""
        if not isinstance(file, GGUFFile):
            with GGUFFile(file) as opened:
                return cls.from_gguf(opened)
        model = file.typed("tokenizer.ggml.model", str)
        options: dict[str, Any] = {
            "bos_id": _optional_id(file, "tokenizer.ggml.bos_token_id"),
            "eos_id": _optional_id(file, "tokenizer.ggml.eos_token_id"),
            "add_bos": file.typed("tokenizer.ggml.add_bos_token", bool, True),
            "source": file.path,
        }
        tokens = file.typed_list("tokenizer.ggml.tokens", str)
        if model in MODELS:
            return cls(tokens, [], pieces=SentencePieces.from_gguf(file), **options)
        if model != "gpt2":
            raise UnsupportedError(f"{file.path}: tokenizer.ggml.model is {model!r}; Command-R has 'gpt2'")
        split = file.typed("tokenizer.ggml.pre", str, "command-r")
        if split != "command-r":
            raise UnsupportedError(f"{file.path}: tokenizer.ggml.pre is {split!r}; Command-R has 'command-r'")
        type_key = "tokenizer.ggml.token_type"
        return cls(
            tokens,
            file.typed_list("tokenizer.ggml.merges", str),
            token_types=file.typed_list(type_key, int) if type_key in file else None,
            **options,
        )

    def __len__(self) -> int:
        return len(self._tokens)

    def __repr__(self) -> str:
        return f"Tokenizer({self._source!r}, {len(self)} tokens)"

    @cached_property
    def end_of_generation(self) -> frozenset[int]:
        """Ids after which a reply is over: the file's end of text and every end marker of the family."""
        ids = {self.special_ids[text] for text in _END_OF_GENERATION if text in self.special_ids}
        return frozenset(ids if self.eos_id is None else ids | {self.eos_id})

    @cached_property
    def special_pattern(self) -> re.Pattern[str]:
        """Matches the text of any control token, the longest where several begin."""
        texts = sorted(self.special_ids, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, texts)) if texts else r"(?!)")

    def encode(
        self, text: str, add_special: bool = False, parse_special: bool = False, *, inside: bool = False
    ) -> list[int]:
        """Token ids of a text.

        Args:
            text: lone surrogates are refused with ArgumentError.
            add_special: put the begin token before, where the file asks for it (Command-R's do); one that the text has
                already is not doubled. No end token ever comes after, though llama.cpp's converter writes
                add_eos_token = true: text is encoded here to be continued.
            parse_special: take `<|END_OF_TURN_TOKEN|>` and the like in the text for the control tokens they spell.
                Without it they are plain text, as text from users must be.
            inside: the text goes on where other text stands before it. SentencePiece puts a space before all others.
        """
        if not isinstance(text, str):
            raise ArgumentError(f"text must be a string, not {text!r}")
        ids = self._encode_parsed(text, inside) if parse_special else self._encode_plain(text, inside)
        if add_special and self.add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        return ids

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD. `skip_special` leaves control tokens out."""
        if isinstance(ids, (str, bytes, bytearray)) or not isinstance(ids, Iterable):
            raise ArgumentError(f"ids must be token ids, not {ids!r}")
        return b"".join(self._pieces(ids, skip_special)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """What a token stands for: a part of a character, several characters, or nothing for ids without a token."""
        token = integer("token", token)
        text = self._tokens[token] if 0 <= token < len(self) else None
        if text is None:
            raise ArgumentError(f"token {token} is outside the {len(self)} tokens of {self._source}")
        if token in self._control_ids:
            return text.encode()
        if token in self._fillers:
            return b""
        if self._sentence_pieces is not None:
            return self._sentence_pieces.token_bytes(token)
        try:
            return bytes([_BYTE_OF[character] for character in text])
        except KeyError:  # a token that stands in the vocabulary as itself
            return text.encode()

    def decoder(self, skip_special: bool = True, after: int | None = None) -> Detokenizer:
        """A new incremental decoder for a stream of tokens, of which `after` stands before the first."""
        return Detokenizer(self, skip_special, after)

    def begins_with_space(self, after: int | None) -> bool:
        """Whether `encode` put a space before the text that comes behind a token, or behind none."""
        pieces = self._sentence_pieces
        return pieces is not None and pieces.begins_with_space and (after is None or self.is_special(after))

    def is_special(self, token: int) -> bool:
        """Whether a token is a control token."""
        return token in self._control_ids

    def _pieces(self, ids: Iterable[int], skip_special: bool) -> Iterator[bytes]:
        before: int | None = None
        for value in ids:
            token = integer("token", value)
            text = b"" if skip_special and token in self._control_ids else self.token_bytes(token)
            yield text.removeprefix(b" ") if self.begins_with_space(before) else text
            before = token

    def _encode_parsed(self, text: str, inside: bool) -> list[int]:
        ids: list[int] = []
        end = 0
        for match in self.special_pattern.finditer(text):
            ids += self._encode_plain(text[end : match.start()], inside and end == 0)
            ids.append(self.special_ids[match.group()])
            end = match.end()
        return ids + self._encode_plain(text[end:], inside and end == 0)

    def encode_parts(self, text: str) -> Iterator[list[int]]:
        """What `encode` gives for a plain text, part by part, for who may have to stop in between.

        The text is cut before a space or behind a line break within other text, which no token crosses.
        """
        start = 0
        while self._sentence_pieces is None and len(text) - start > _PART:
            gap = _GAP.search(text, start + _PART)
            if gap is None:
                break
            yield self.encode(text[start : gap.start()])
            start = gap.start()
        yield self.encode(text[start:])

    def _encode_plain(self, text: str, inside: bool) -> list[int]:
        if not text:
            return []
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ArgumentError("the text contains a lone surrogate, which UTF-8 cannot express") from None
        if self._sentence_pieces is not None:
            return self._sentence_pieces.encode(text, inside=inside)
        ids: list[int] = self._load_bpe().encode(text, add_special_tokens=False).ids
        return ids

    def _load_bpe(self) -> tokenizers.Tokenizer:
        if self._bpe is None:
            with self._lock:
                if self._bpe is None:
                    self._bpe = _build_bpe(self._tokens, self._merges, self._source)
        return self._bpe


class Detokenizer:
    """Turns a stream of tokens into text and never gives out a part of a character."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True, after: int | None = None) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._before = after
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that `token` completes; "" while a character is unfinished."""
        before, self._before = self._before, token
        if self._skip_special and self._tokenizer.is_special(token):
            return ""
        text = self._tokenizer.token_bytes(token)
        return self._utf8.decode(text.removeprefix(b" ") if self._tokenizer.begins_with_space(before) else text)

    def flush(self) -> str:
        """What is left when no token follows: U+FFFD for an unfinished character, else ""."""
        return self._utf8.decode(b"", final=True)


_PART = 1 << 14
"""Characters that are encoded at once, at least, where a text is encoded in parts."""
_GAP = re.compile(r"(?<=\S)(?= \S)|(?<=\S\n)(?=\S)")
_MARKED = (TokenKind.UNKNOWN, TokenKind.CONTROL, TokenKind.USER_DEFINED)


def _special_ids(tokens: list[str], types: list[int] | None) -> dict[str, int]:
    special: dict[str, int] = {}
    for i, text in enumerate(tokens):
        marked = types is not None and types[i] in _MARKED
        if (marked and text and not FILLER.fullmatch(text)) or (text[:1] == "<" and MARKER.fullmatch(text)):
            special.setdefault(text, i)
    return special


def _filler_ids(tokens: list[str], types: list[int] | None) -> frozenset[int]:
    marked = () if types is None else (i for i, kind in enumerate(types) if kind != TokenKind.NORMAL)
    return frozenset(i for i in marked if FILLER.fullmatch(tokens[i]))


def _optional_id(file: GGUFFile, key: str) -> int | None:
    return file.typed(key, int) if key in file else None


def _build_bpe(tokens: list[str], merges: list[str], source: str) -> tokenizers.Tokenizer:
    # There are no added tokens in it: nothing that a text spells can become one.
    collecting = gc.isenabled()
    gc.disable()  # half a million small objects are made, none of them in a cycle
    try:
        vocabulary = {text: i for i, text in enumerate(tokens)}
        pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
        model = models.BPE(vocab=vocabulary, merges=pairs)
    except Exception as error:  # the library raises plain Exception
        raise FormatError(f"{source}: tokenizer.ggml.merges do not fit the tokens: {error}") from error
    finally:
        if collecting:
            gc.enable()
    missing = sum(character not in vocabulary for character in _BYTE_OF)
    if missing:
        raise FormatError(f"{source}: tokenizer.ggml.tokens lacks {missing} of the 256 tokens of single bytes")
    bpe = tokenizers.Tokenizer(model)
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    return bpe


def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte: printable ones for themselves, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    return alphabet | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
