"""From a checked request to the events of its reply: prompt, constraint, drafts and parser of one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from commandr_gguf.chat.documents import CheckedDocument
from commandr_gguf.chat.filter import reply_parser
from commandr_gguf.chat.grammars import grounded_grammar, multi_step_grammar, tools_grammar
from commandr_gguf.chat.rendering import PromptRenderer
from commandr_gguf.chat.request import Request, make_request
from commandr_gguf.chat.tokens import Prompt
from commandr_gguf.chat.visible import Source
from commandr_gguf.constraint import ConstraintEngine
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
        """`keeps_heads`: heads of prompts are worth finding, since the cache writes them to disk or needs copies."""
        self._session = session
        self._tokenizer = tokenizer
        self._cache = cache
        self._keeps_heads = keeps_heads
        self._draft_session = draft_session
        self.prompts = PromptRenderer(session.model.gguf, tokenizer)
        self.constraints = ConstraintEngine(tokenizer, session.model.hparams.n_vocab)

    def start(self, request: Request, decoding: Decoding) -> ReplyStream:
        """The reply to a request.

        Raises:
            ArgumentError: the template refuses the messages, or a tool's schema cannot be enforced.
            ContextFullError: documents make the prompt too long for the context; the text names the longest.
        """
        prompt = self.prompts.render(request)
        self._check_length(request, prompt)
        citable = [Source(document.id, document.texts) for document in request.citable]
        follow_up = None
        if request.tools is not None and not any(message["role"] == "tool" for message in request.messages):
            plain = make_request(request.messages, family=self.prompts.family)

            def follow_up() -> Stage:
                return self._stage(plain, self.prompts.render(plain), decoding)

        return ReplyStream(self._stage(request, prompt, decoding), citable, follow_up)

    def drafter(self, n_prompt: int) -> Drafter:
        """A new one for one generation after a prompt of this many tokens."""
        drafters: list[Drafter] = [AnswerReplay(self._tokenizer, n_prompt), PromptLookup()]
        if self._draft_session is not None:
            drafters.append(DraftModel(self._draft_session, self._session.model))
        return Chain(drafters)

    def _stage(self, request: Request, prompt: Prompt, decoding: Decoding) -> Stage:
        by_sections = request.reply_format in {"cmd3", "cmd4"}
        grammar = _grammar(request) if decoding.constrained else None
        pieces = generate(
            self._session,
            self._tokenizer,
            prompt.tokens,
            max_tokens=decoding.max_tokens,
            sampling=decoding.sampling,
            stop=decoding.stop,
            top_logprobs=decoding.top_logprobs,
            constraint=None if grammar is None else self.constraints.constraint(grammar),
            drafter=self.drafter(len(prompt.tokens)) if decoding.speculate else None,
            cache=self._cache,
            stable=self._head(request, prompt),
            skip_special=not by_sections,  # the marks of these formats are control tokens
            progress=decoding.progress,
            stream=True,
        )
        n_results = [len(group) for group in request.citable_groups] if by_sections else None
        return Stage(pieces, reply_parser(request.reply_format, n_results))

    def _head(self, request: Request, prompt: Prompt) -> int | None:
        """How many tokens the prompt shares with that of another last message."""
        if not self._keeps_heads:
            return None
        last = {**request.messages[-1], "content": "." if request.messages[-1]["content"] != "." else "?"}
        other = make_request(
            [*request.messages[:-1], last],
            None if request.documents is None else [{"id": d.id, "data": d.data} for d in request.documents],
            request.tools,
            request.citation_mode,
            multi_step=True if request.template == "multi_step" else None,
            family=self.prompts.family,
        )
        return common_prefix(prompt.tokens, self.prompts.render(other).tokens)

    def _check_length(self, request: Request, prompt: Prompt) -> None:
        over = len(prompt.tokens) + 1 - self._session.n_ctx
        if over <= 0 or not request.citable:
            return
        lengths = [len(self._tokenizer.encode(_text(document))) for document in request.citable]
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        document = request.citable[longest]
        raise ContextFullError(
            f"the prompt with {len(lengths)} documents is {over} tokens too long for n_ctx = {self._session.n_ctx}; "
            f"the longest is document {longest} (id {document.id!r}) with {lengths[longest]} tokens"
        )


def _text(document: CheckedDocument) -> str:
    return "\n".join(f"{key}: {value}" for key, value in document.texts.items())


def _grammar(request: Request) -> str | None:
    """What the reply's format allows; None where nothing is known to be forbidden."""
    try:
        if request.reply_format == "grounded":
            return grounded_grammar(len(request.citable), request.citation_mode)
        if request.reply_format == "tools":
            return tools_grammar(request.tools or [])
        if request.reply_format == "multi_step":
            return multi_step_grammar(request.tools or [], len(request.citable))
    except ArgumentError as error:
        raise ArgumentError(f"{error}; constrained=False leaves the reply free") from error
    return None
