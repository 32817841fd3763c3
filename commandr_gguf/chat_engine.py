"""From a checked request to the events of its reply: prompt, constraint, drafts and parser of one model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from commandr_gguf.chat.documents import CheckedDocument
from commandr_gguf.chat.filter import ReplyFormat, reply_parser
from commandr_gguf.chat.grammars import grounded_grammar, multi_step_grammar, tools_grammar
from commandr_gguf.chat.rendering import PromptRenderer
from commandr_gguf.chat.request import Request, make_request
from commandr_gguf.chat.tokens import Prompt
from commandr_gguf.chat.visible import Source
from commandr_gguf.constraint import Constraint, ConstraintEngine
from commandr_gguf.drafting.chain import Chain
from commandr_gguf.drafting.draft_model import DraftModel
from commandr_gguf.drafting.drafter import Drafter
from commandr_gguf.drafting.lookup import PromptLookup
from commandr_gguf.drafting.replay import AnswerReplay
from commandr_gguf.errors import ArgumentError, ContextFullError
from commandr_gguf.generate import generate
from commandr_gguf.prefix_cache import PrefixCache
from commandr_gguf.prefix_slots import common_prefix
from commandr_gguf.reply_stream import ReplyStream, Stage
from commandr_gguf.sampling import SamplingParams
from commandr_gguf.session import Progress, Session
from commandr_gguf.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How a reply is decoded: the arguments of `CommandR.chat` that are not about what is asked."""

    sampling: SamplingParams
    max_tokens: int | None = None
    stop: str | Sequence[str] = ()
    top_logprobs: int | None = None
    constrained: bool = True
    speculate: bool = True
    progress: Progress | None = None


class ChatEngine:
    """Answers requests with one session."""

    def __init__(
        self,
        session: Session,
        tokenizer: Tokenizer,
        *,
        cache: PrefixCache,
        keeps_heads: bool = False,
        draft_session: Session | None = None,
    ) -> None:
        """`keeps_heads`: heads of prompts are worth finding, since the cache writes them to disk or needs copies.

        Raises:
            ArgumentError: the model of `draft_session` has another vocabulary.
        """
        self._session = session
        self._tokenizer = tokenizer
        self._cache = cache
        self._keeps_heads = keeps_heads
        self._draft_model = None if draft_session is None else DraftModel(draft_session, session.model)
        self.prompts = PromptRenderer(session.model.gguf, tokenizer)

    @cached_property
    def constraints(self) -> ConstraintEngine:
        """Constraints of this vocabulary. Raises UnsupportedError where no token ends a generation."""
        return ConstraintEngine(self._tokenizer, self._session.model.hparams.n_vocab)

    def start(self, request: Request, decoding: Decoding) -> ReplyStream:
        """The reply to a request.

        Raises:
            ArgumentError: the template refuses the messages, or a tool's schema cannot be enforced.
            ContextFullError: documents make the prompt too long for the context; the text names the longest.
        """
        prompt = self.prompts.render(request)
        self._check_length(request, prompt)

        def answer_directly(n_written: int) -> Stage:
            limit = decoding.max_tokens
            rest = dataclasses.replace(decoding, max_tokens=None if limit is None else limit - n_written)
            if request.messages[-1]["role"] == "tool":  # what tools gave is there, and the answer is to rest on it
                rest = dataclasses.replace(rest, constrained=True)
                return self._stage(request, prompt, rest, "grounded")
            plain = make_request(_without_tools(request), family=self.prompts.family)
            return self._stage(plain, self.prompts.render(plain), rest, plain.reply_format)

        may_want_no_tool = request.reply_format in {"tools", "multi_step"} and bool(_without_tools(request))
        return ReplyStream(
            self._stage(request, prompt, decoding, request.reply_format),
            [Source(document.id, document.texts) for document in request.citable],
            answer_directly if may_want_no_tool else None,
        )

    def drafter(self, n_prompt: int) -> Drafter:
        """A new one for one generation after a prompt of this many tokens."""
        drafters: list[Drafter] = [AnswerReplay(self._tokenizer, n_prompt), PromptLookup()]
        if self._draft_model is not None:
            drafters.append(self._draft_model)
        return Chain(drafters)

    def _stage(self, request: Request, prompt: Prompt, decoding: Decoding, reply_format: ReplyFormat) -> Stage:
        by_sections = reply_format in {"cmd3", "cmd4"}
        pieces = generate(
            self._session,
            self._tokenizer,
            prompt.tokens,
            max_tokens=decoding.max_tokens,
            sampling=decoding.sampling,
            stop=decoding.stop,
            top_logprobs=decoding.top_logprobs,
            constraint=self._constraint(request, reply_format) if decoding.constrained else None,
            drafter=self.drafter(len(prompt.tokens)) if decoding.speculate else None,
            cache=self._cache,
            stable=self._head(request, prompt),
            skip_special=not by_sections,  # the marks of these formats are control tokens
            progress=decoding.progress,
            stream=True,
        )
        n_results = [len(group) for group in request.citable_groups] if by_sections else None
        return Stage(pieces, reply_parser(reply_format, n_results))

    def _constraint(self, request: Request, reply_format: ReplyFormat) -> Constraint | None:
        """What the format allows; None where nothing is known to be forbidden."""
        tools, n_documents = request.tools or [], len(request.citable)
        try:
            if reply_format == "grounded":
                return self.constraints.constraint(grounded_grammar(n_documents, request.citation_mode))
            if reply_format == "tools":
                return self.constraints.constraint(tools_grammar(tools))
            if reply_format == "multi_step":
                return self.constraints.constraint(multi_step_grammar(tools, n_documents))
        except ArgumentError as error:
            raise ArgumentError(f"{error}; constrained=False leaves the reply free") from error
        return None

    def _head(self, request: Request, prompt: Prompt) -> int | None:
        """How many tokens the prompt shares with that of another last message."""
        if not self._keeps_heads:
            return None
        last: dict[str, Any] = {**request.messages[-1]}
        last.pop("documents", None)
        last["content"] = "?" if last["content"].startswith(".") else "."
        other = make_request(
            [*request.messages[:-1], last],
            None if request.documents is None else [{"id": d.id, "data": d.data} for d in request.documents],
            request.tools,
            request.citation_mode,
            multi_step=request.template == "multi_step",
            family=self.prompts.family,
        )
        return common_prefix(prompt.tokens, self.prompts.render(other).tokens)

    def _check_length(self, request: Request, prompt: Prompt) -> None:
        over = len(prompt.tokens) + 1 - self._session.n_ctx  # a reply has one token at least
        if over <= 0 or not request.citable:
            return
        lengths = [len(self._tokenizer.encode(_text(document))) for document in request.citable]
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        document = request.citable[longest]
        raise ContextFullError(
            f"the prompt with {_count(len(lengths), 'document')} is {_count(over, 'token')} too long for "
            f"n_ctx = {self._session.n_ctx}; the longest is document {longest} (id {document.id!r}) "
            f"with {_count(lengths[longest], 'token')}"
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _text(document: CheckedDocument) -> str:
    return "\n".join(f"{key}: {value}" for key, value in document.texts.items())


def _without_tools(request: Request) -> list[dict[str, Any]]:
    """The conversation in words only, for a prompt in which users and assistants alternate; empty without a user."""
    turns: list[dict[str, Any]] = []
    for message in request.messages:
        role, content = message["role"], message["content"]
        if role == "tool" or "tool_calls" in message:
            continue
        if turns and turns[-1]["role"] == role == "user":  # what came of the first one were calls only
            turns[-1]["content"] += f"\n\n{content}"
        else:
            turns.append({"role": role, "content": content})
    return turns if any(turn["role"] == "user" for turn in turns) else []
