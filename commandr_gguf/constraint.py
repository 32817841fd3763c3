"""Which tokens a grammar allows next, on llguidance.

A grammar speaks of text. The engine knows the bytes of every token; control tokens stand apart and are allowed by no
text, and ends of generation only where the grammar is satisfied.
"""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from commandr_gguf.errors import ArgumentError, UnsupportedError, integer
from commandr_gguf.tokenizer import Tokenizer

# Tokens that match one of these are not looked at one by one where any text of that form may follow. Nearly all tokens
# have no character that ends a JSON string or begins a tag. Those with a space first are apart: they are a half of all,
# and inside of a tag, where a letter may go on with it, llguidance sees that these cannot.
_PLAIN = r'[^"\\<\x00-\x1F\x7F]'
_SLICES = (f" {_PLAIN}*", f"{_PLAIN}+")
_WORD_BITS = 32


class ConstraintEngine:
    """Makes the constraints of one vocabulary. May be shared by threads.

    llguidance's tables of the tokens (1.5 s for 256,000) are built by the first call of `constraint`.
    """

    def __init__(self, tokenizer: Tokenizer, n_vocab: int) -> None:
        """`n_vocab` is the number of logits, which may be larger than the number of tokens.

        Raises:
            ArgumentError: n_vocab is smaller than the number of tokens.
            UnsupportedError: no token ends a generation.
        """
        self._tokenizer = tokenizer
        self._n_vocab = integer("n_vocab", n_vocab, len(tokenizer))
        if not tokenizer.end_of_generation:
            raise UnsupportedError(f"{tokenizer!r} has no token that ends a generation, which constraints need")
        self._lock = threading.Lock()
        self._built: LLTokenizer | None = None

    def constraint(self, grammar: str) -> Constraint:
        """The constraint of one generation.

        Args:
            grammar: in llguidance's form of Lark, such as the functions of `chat.grammars` give.

        Raises:
            ArgumentError: the grammar is not valid or too large; the text is llguidance's.
            UnsupportedError: the vocabulary lacks tokens of single bytes.
        """
        matcher = LLMatcher(self._tables(), grammar, log_level=0, limits=_limits())
        if matcher.is_error():
            raise ArgumentError(f"the grammar is not valid: {first_line(matcher.get_error())}")
        return Constraint(matcher, self._n_vocab, self._tokenizer.end_of_generation)

    def _tables(self) -> LLTokenizer:
        with self._lock:
            if self._built is None:
                ends = sorted(self._tokenizer.end_of_generation)
                wrapper = TokenizerWrapper(_Tokens(self._tokenizer, self._n_vocab, ends[0]))
                self._built = LLTokenizer(wrapper, eos_token=ends, slices=list(_SLICES))
            return self._built


class Constraint:
    """The state of one generation: what came so far and what may follow. Used by one thread at a time."""

    def __init__(self, matcher: LLMatcher, n_vocab: int, ends: frozenset[int]) -> None:
        """Made by `ConstraintEngine.constraint`; `ends` are the tokens that end a generation."""
        self._matcher = matcher
        self._n_vocab = n_vocab
        self._ends = ends
        self._ended = False
        self._words = np.zeros((n_vocab + _WORD_BITS - 1) // _WORD_BITS, dtype=np.uint32)
        self._computed = False
        """Whether the words are those of the state."""

    def mask(self) -> npt.NDArray[np.uint32]:
        """The tokens allowed now, as `Sampler.sample` takes them: bit (i % 32) of word i // 32 allows token i.

        Ends of generation are allowed where the grammar is satisfied. Where one text is the only way on, the tokens of
        its usual encoding are allowed one after the other, and no other split of it.

        The array, [(n_vocab + 31) // 32], is the same at each call and holds until the next one.

        Raises:
            UnsupportedError: the grammar is too ambiguous to go on with.
        """
        if not self._computed:
            self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
            if self._matcher.is_error():
                raise UnsupportedError(f"the grammar cannot be followed: {first_line(self._matcher.get_error())}")
            self._computed = True
        return self._words

    def accept(self, token: int) -> None:
        """Go on behind a token.

        Raises:
            ArgumentError: the grammar does not allow the token; the state stays as it was.
        """
        token = integer("token", token, 0, self._n_vocab - 1)
        if token in self._ends:
            allowed = self._ended = self._matcher.is_accepting()
        else:
            allowed = not self._ended and self._matcher.try_consume_tokens([token]) == 1
        if not allowed:
            raise ArgumentError(f"token {token} is not allowed here by the grammar")
        self._computed = False

    def forced(self) -> list[int]:
        """The tokens that must follow now, as the tokenizer encodes their text; empty where there is a choice.

        They are not accepted yet. A token that text behind the forced one could lengthen is left out.
        """
        return list(self._matcher.compute_ff_tokens())

    def count_allowed(self, tokens: Sequence[int]) -> int:
        """How many of these tokens, one behind the other, the grammar allows now. The state stays as it is."""
        return self._matcher.validate_tokens(list(tokens))

    def lookahead(self, tokens: Sequence[int], n_most: int) -> npt.NDArray[np.uint32] | None:
        """The tokens that may come now or behind one of the first of `tokens`, as a mask; the state stays as it is.

        None where more than `n_most` may come at one of these places.

        Raises:
            UnsupportedError: see `mask`.
        """
        if _count(self.mask()) > n_most:
            return None
        found: npt.NDArray[np.uint32] = self.mask().copy()
        words = np.empty_like(found)
        matcher = self._matcher.deep_copy()
        for token in tokens:
            if token in self._ends or matcher.try_consume_tokens([token]) != 1:
                break
            matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
            if matcher.is_error() or _count(words) > n_most:
                return None
            found |= words
        return found

    @property
    def done(self) -> bool:
        """Whether nothing may follow but an end of generation."""
        return self._ended or self._matcher.is_stopped()


class _Tokens:
    """The vocabulary, in the form that llguidance's wrapper asks for."""

    def __init__(self, tokenizer: Tokenizer, n_vocab: int, eos_id: int) -> None:
        self._tokenizer = tokenizer
        self.bos_token_id = tokenizer.bos_id
        self.eos_token_id = eos_id
        self.special_token_ids = sorted(tokenizer.special_ids.values())
        # Ids without a token have no bytes, so that no text allows them.
        self.tokens = [tokenizer.token_bytes(token) for token in range(len(tokenizer))]
        self.tokens += [b""] * (n_vocab - len(self.tokens))
        special = set(self.special_token_ids)
        self._of_byte = {
            text[0]: token for token, text in enumerate(self.tokens) if len(text) == 1 and token not in special
        }
        if len(self._of_byte) < 256:  # some SentencePiece vocabularies; a text may then have no tokens
            raise UnsupportedError(f"{tokenizer!r} has no tokens of single bytes, which constraints need")

    def __call__(self, text: bytes) -> list[int]:
        """The usual tokens of a text, whose bytes are the text's."""
        return [token for piece in _composed_pieces(text.decode()) for token in self._encode(piece)]

    def _encode(self, piece: str) -> list[int]:
        if unicodedata.is_normalized("NFC", piece):
            ids = self._tokenizer.encode(piece, inside=True)
            if b"".join(self.tokens[token] for token in ids) == piece.encode():
                return ids
        return [self._of_byte[byte] for byte in piece.encode()]


def _composed_pieces(text: str) -> list[str]:
    """The text in as few pieces as the tokenizer leaves unchanged, but for characters that alone it changes.

    It composes characters (NFC), and a name in a grammar may be spelled in another way.
    """
    if unicodedata.is_normalized("NFC", text):
        return [text]
    pieces = [""]
    for character in text:
        if unicodedata.is_normalized("NFC", pieces[-1] + character):
            pieces[-1] += character
        else:
            pieces.append(character)
    return pieces


def _count(words: npt.NDArray[np.uint32]) -> int:
    return int.from_bytes(words.tobytes(), "little").bit_count()


def first_line(message: str) -> str:
    """The sentence of llguidance's error messages, without the grammar that follows it."""
    return message.strip().partition("\n")[0]


def _limits() -> LLParserLimits:
    return LLParserLimits(verbose_errors=False)
