"""Sessions: one KV cache, the sequences in it and the outputs of the last evaluation."""

from __future__ import annotations

import array
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from commandr_gguf._native import ffi, lib
from commandr_gguf.errors import ArgumentError, CommandRError, check, int32, integer
from commandr_gguf.eval_items import EvalItem, NextToken, Want
from commandr_gguf.sampling import Logprobs, Sampler, logprobs, mask_buffer
from commandr_gguf.session_handle import Progress, SessionHandle
from commandr_gguf.token_buffer import Tokens, token_buffer
from commandr_gguf.token_constraint import TokenConstraint
from commandr_gguf.verification import n_common, verify

__all__ = ["EvalItem", "NextToken", "Progress", "Session", "Tokens", "Want"]


class Session(SessionHandle):
    """The mutable side of a model: what its sequences hold.

    A session is told what a sequence shall hold, from its first token to its last; it computes only what follows the
    longest prefix that it holds already. Calls from several threads take turns; only `cancel` does not wait. A session
    keeps its model's weights alive. Close it, or use it in a `with` statement.

    Args:
        model: the weights.
        n_ctx: most KV cells, shared by all sequences. They get memory as they come into use. 0 = the model's context
            length; None = that, but no more than fit now beside the weights: in half of the host's free memory and
            three quarters of each GPU's, at least 4096.
        n_batch: most outputs of one evaluation, all items together.
        n_ubatch: most tokens in one graph.
        n_outputs: most outputs in one graph; 0 = 64.
        n_seq_max: sequences, 1 to 64.
        n_threads: CPU threads; 0 = the physical cores that this process may use.
        type_k: type of the K cache: f32, f16, bf16, q8_0 or q4_0.
        type_v: type of the V cache; quantized ones need flash attention. On workers whose CPU would sum values of F16
            in half precision, "f16" is kept as bf16, in state files as well.
        flash_attn: None = where every device in use has it.
        imatrix: sum up the squared inputs of all weight matrices, see `imatrix_sums`; an evaluation with one that is
            not finite then fails with BackendError.
        progress: called after each graph and about every 50 ms inside one that runs on the CPU.
    """

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def eval(
        self,
        tokens: Tokens,
        *,
        seq_id: int = 0,
        n_outputs: int = 1,
        logits: bool = True,
        hidden: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Make one sequence hold `tokens` and compute the outputs for its last `n_outputs` positions.

        See `eval_batch` for errors and the state they leave.
        """
        self.eval_batch([EvalItem(tokens, seq_id, n_outputs)], logits=logits, hidden=hidden, progress=progress)

    def eval_batch(
        self,
        items: Sequence[EvalItem],
        *,
        logits: bool = True,
        hidden: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Make each item's sequence hold its tokens and compute the outputs, all items in common graphs.

        Ctrl-C, an exception in `progress` and `cancel` stop it within about 50 ms; the sequences then hold a prefix of
        their items, so that the same call goes on where this one stopped. Other errors that the arguments cause leave
        all sequences as they were. In every such case no outputs are held.

        Args:
            items: each sequence at most once.
            logits: compute logits.
            hidden: compute hidden states.
            progress: instead of the session's.

        Raises:
            ContextFullError: the tokens do not fit in n_ctx.
            OutOfMemoryError: there is no memory for their cells; the sequences are as they were.
            CancelledError: `cancel` was called or `progress` returned False.
            ArgumentError, BackendError
        """
        outputs = (lib.COMMANDR_OUTPUT_LOGITS if logits else 0) | (lib.COMMANDR_OUTPUT_HIDDEN if hidden else 0)
        with self._use() as pointer:
            self._eval(pointer, items, outputs, progress)

    def next_token(
        self,
        tokens: Tokens,
        sampler: Sampler | None,
        *,
        seq_id: int = 0,
        mask: npt.NDArray[np.uint32] | None = None,
        top_logprobs: int | None = None,
        progress: Progress | None = None,
    ) -> NextToken:
        """Make one sequence hold `tokens` and pick the token after them, with no other thread's call in between.

        This is how several threads generate with one session, each in a sequence of its own.

        Args:
            tokens: see `eval`; the errors and the state they leave are those of `eval_batch`.
            sampler: None only makes the sequence hold the tokens, and no logits are computed.
            seq_id: the sequence.
            mask: see `Sampler.sample`. The logits that are held afterwards may be -inf for tokens that it forbids.
            top_logprobs: see `sample`.
            progress: instead of the session's.
        """
        with self._use() as pointer:
            n_outputs = 0 if sampler is None else 1
            needed = mask if top_logprobs is None else None
            self._eval(pointer, [EvalItem(tokens, seq_id, n_outputs, needed)], lib.COMMANDR_OUTPUT_LOGITS, progress)
            n_reused = int(lib.commandr_session_n_reused(pointer, 0))
            if sampler is None:
                return NextToken(None, None, n_reused)
            return NextToken(*self._sample(pointer, sampler, tokens, 0, mask, top_logprobs), n_reused)

    def next_tokens(
        self,
        tokens: Tokens,
        draft: Sequence[int],
        sampler: Sampler,
        *,
        seq_id: int = 0,
        constraint: TokenConstraint | None = None,
        end_tokens: Collection[int] = (),
        top_logprobs: int | None = None,
        progress: Progress | None = None,
    ) -> list[NextToken]:
        """Like `next_token`, and as many further tokens as `draft` guesses right, all from one evaluation.

        Every token is the sampler's own pick after the tokens before it, so a draft changes how fast tokens come and
        not which: they are those of `next_token` call by call, as far as logits computed together equal logits computed
        one by one. They are the same bits with packed weights (`Model.computed_by`) and no sliding window. Else sums
        may be made in another order, and their rounding can turn the choice between two tokens that are nearly as
        likely. Neither choice is the better one.

        What the draft guessed wrong is forgotten. No outputs are held afterwards.

        Args:
            tokens: see `next_token`.
            draft: guesses of what follows `tokens`, of which the first `n_draft_max` count.
            sampler: picks a token in each row.
            seq_id: the sequence.
            constraint: gives the mask of each row and is told each token. Unless log-probabilities are wanted, tokens
                that it forces are taken without sampling; those at the end are not evaluated yet. Then, too, only the
                logits that it needs are computed where they are few.
            end_tokens: nothing comes after one of these, and the constraint is not told of it.
            top_logprobs: see `sample`.
            progress: instead of the session's.

        Returns:
            At least one token.
        """
        want = Want(tokens, sampler, seq_id, draft, constraint, end_tokens, top_logprobs)
        [found] = self.advance([want], progress=progress)
        if isinstance(found, CommandRError):
            raise found
        return found

    def advance(
        self, wants: Sequence[Want], *, progress: Progress | None = None
    ) -> list[list[NextToken] | CommandRError]:
        """Do `next_tokens` for several sequences, with all of them in common graphs.

        This is how many generations share one session without waiting for each other. No outputs are held afterwards.

        Args:
            wants: each sequence at most once.
            progress: instead of the session's.

        Returns:
            For each want its tokens, at least one, or the error of choosing one: no token is allowed, a logit is NaN,
            a grammar cannot be followed. It concerns that want alone.

        Raises:
            CommandRError: nothing was chosen; errors and the state they leave are those of `eval_batch`.
        """
        sequences = [self._with_draft(want) for want in wants]
        items = [want.item(sequence, self._max_masked) for want, sequence in zip(wants, sequences, strict=True)]
        with self._use() as pointer:
            self._eval(pointer, items, lib.COMMANDR_OUTPUT_LOGITS, progress)
            results: list[list[NextToken] | CommandRError] = []
            for number, (want, item) in enumerate(zip(wants, items, strict=True)):
                try:
                    results.append(self._choose(pointer, number, want, item))
                except CommandRError as error:
                    results.append(error)
            self._items = []
            for want, item, found in zip(wants, items, results, strict=True):
                self._forget_wrong(pointer, want, item, found)
            return results

    def _with_draft(self, want: Want) -> Tokens:
        """The tokens of a want and behind them its draft; the tokens themselves where there is none."""
        if not want.draft:
            return want.tokens
        buffer = token_buffer(want.tokens)
        sequence = array.array("i")
        sequence.frombytes(ffi.buffer(buffer))
        ffi.release(buffer)
        sequence.extend(want.draft[: self.n_draft_max])
        return sequence

    def _choose(self, pointer: Any, number: int, want: Want, item: EvalItem) -> list[NextToken]:
        """The next tokens of a want, the evaluation's item of this number."""
        n_reused = int(lib.commandr_session_n_reused(pointer, number))
        if want.sampler is None:
            return [NextToken(None, None, n_reused)]
        sampler, n_tokens = want.sampler, len(want.tokens)
        history = token_buffer(item.tokens)

        def pick(row: int, mask: npt.NDArray[np.uint32] | None) -> tuple[int, Logprobs | None]:
            logits = lib.commandr_session_logits(pointer, number, row)
            return self._pick(logits, sampler, history, n_tokens + row, mask, want.top_logprobs)

        try:
            draft = want.draft[: item.n_outputs - 1]
            found = verify(draft, pick, want.constraint, want.end_tokens, force=want.top_logprobs is None)
        finally:
            ffi.release(history)
        return [NextToken(token, entry, n_reused) for token, entry in found]

    def _forget_wrong(self, pointer: Any, want: Want, item: EvalItem, found: list[NextToken] | CommandRError) -> None:
        """Cut a sequence behind what its draft guessed right."""
        draft = want.draft[: item.n_outputs - 1] if item.n_outputs else ()
        taken = [] if isinstance(found, CommandRError) else [step.token for step in found if step.token is not None]
        n_right = n_common(draft, taken)
        if n_right < len(draft):
            check(lib.commandr_session_seq_rm(pointer, want.seq_id, len(want.tokens) + n_right))

    def _eval(self, pointer: Any, items: Sequence[EvalItem], outputs: int, progress: Progress | None) -> None:
        c_items = ffi.new("commandr_eval_item[]", len(items))
        buffers = []  # keeps the arrays alive that the items point to
        for c_item, item in zip(c_items, items, strict=True):
            buffer = token_buffer(item.tokens)
            buffers.append(buffer)
            c_item.tokens = buffer
            c_item.n_tokens = len(buffer)
            c_item.seq_id = int32("seq_id", item.seq_id)
            c_item.n_outputs = integer("n_outputs", item.n_outputs)
            if item.mask is not None:
                buffers.append(mask_buffer(item.mask, self._n_vocab))
                c_item.mask = buffers[-1]
        self._items = []
        self._callback.function = progress or self.progress
        try:
            status = lib.commandr_session_eval(pointer, c_items, len(items), outputs)
        finally:
            self._callback.function = None
            for buffer in buffers:
                ffi.release(buffer)  # an array("i") can grow again
        self._callback.reraise()
        check(status)
        self._items = [item.n_outputs for item in items]

    def logits(self, item: int = 0) -> npt.NDArray[np.float32]:
        """A copy of an item's logits of the last evaluation, [n_outputs, n_vocab]; the last row is the last token's."""
        return self._outputs(lib.commandr_session_logits, item, self._n_vocab)

    def hidden(self, item: int = 0) -> npt.NDArray[np.float32]:
        """A copy of an item's normalized hidden states of the last evaluation, [n_outputs, n_embd]."""
        return self._outputs(lib.commandr_session_hidden, item, self._n_embd)

    def sample(
        self,
        sampler: Sampler,
        history: Tokens,
        *,
        item: int = 0,
        mask: npt.NDArray[np.uint32] | None = None,
        top_logprobs: int | None = None,
    ) -> tuple[int, Logprobs | None]:
        """Pick the token after an item's last one, from the logits of the last evaluation and without a copy of them.

        Where several threads use the session, the last evaluation may be another thread's: see `next_token`.

        Args:
            sampler: with its parameters and random stream.
            history: the tokens so far, for the penalties.
            item: of the last evaluation.
            mask: of the allowed tokens, see `Sampler.sample`.
            top_logprobs: also return the token's log-probability and those of this many most likely ones.
        """
        with self._use() as pointer:
            return self._sample(pointer, sampler, history, int32("item", item), mask, top_logprobs)

    def _sample(
        self,
        pointer: Any,
        sampler: Sampler,
        history: Tokens,
        item: int,
        mask: npt.NDArray[np.uint32] | None,
        top_logprobs: int | None,
    ) -> tuple[int, Logprobs | None]:
        buffer = token_buffer(history)
        row = ffi.NULL
        if 0 <= item < len(self._items) and self._items[item] > 0:
            row = lib.commandr_session_logits(pointer, item, self._items[item] - 1)
        try:
            if not row:
                raise ArgumentError(f"the last evaluation computed no logits for item {item}")
            return self._pick(row, sampler, buffer, len(buffer), mask, top_logprobs)
        finally:
            ffi.release(buffer)

    def _pick(
        self,
        logits: Any,
        sampler: Sampler,
        history: Any,
        n_history: int,
        mask: npt.NDArray[np.uint32] | None,
        top_logprobs: int | None,
    ) -> tuple[int, Logprobs | None]:
        token = sampler.sample(logits, history, n_history, mask)
        return token, None if top_logprobs is None else logprobs(logits, self._n_vocab, token, top_logprobs)

    def n_reused(self, item: int = 0) -> int:
        """Tokens of an item that the last evaluation did not need to compute."""
        with self._use() as pointer:
            return int(lib.commandr_session_n_reused(pointer, int32("item", item)))

    def _outputs(self, function: Any, item: int, width: int) -> npt.NDArray[np.float32]:
        item = int32("item", item)
        with self._use() as pointer:
            n_rows = self._items[item] if 0 <= item < len(self._items) else 0
            rows = function(pointer, item, 0) if n_rows else ffi.NULL
            if not rows:
                raise ArgumentError(f"the last evaluation computed no such outputs for item {item}")
            result = np.empty((n_rows, width), dtype=np.float32)
            ffi.memmove(result, rows, result.nbytes)
            return result
