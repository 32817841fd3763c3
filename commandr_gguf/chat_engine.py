"""From a checked request to the events of its reply: prompt, constraint, drafts and parser of one model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from commandr_gguf.chat.documents import CheckedDocument
from commandr_gguf.chat.filter import ReplyFormat, reply_parser
from commandr_gguf.chat.grammars import MAX_CALLS, RELEVANT_MARK, grounded_grammar, multi_step_grammar, tools_grammar
from commandr_gguf.chat.rendering import PromptRenderer
from commandr_gguf.chat.request import Request, make_request
from commandr_gguf.chat.section_grammar import section_grammar
from commandr_gguf.chat.tokens import Prompt
from commandr_gguf.chat.visible import Source
from commandr_gguf.constraint import Constraint, ConstraintEngine
from commandr_gguf.context_shift import ContextShift
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

_OPENED = re.compile(r"<\|START_(?:THINKING|RESPONSE|TEXT|ACTION)\|>\Z")


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How a reply is decoded: the arguments of `CommandR.chat` that are not about what is asked."""

    sampling: SamplingParams
    max_tokens: int | None = None
    stop: str | Sequence[str] = ()
    top_logprobs: int | None = None
    constrained: bool = True
    grammar: str | None = None
    """What the answer must keep to; calls of tools keep to their own form."""
    require_tool: bool = False
    """Whether tools must be called."""
    parallel_calls: bool = True
    """Whether a reply may call several tools."""
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
        shifts: bool = False,
        n_keep: int | None = None,
    ) -> None:
        """`keeps_heads`: heads of prompts are worth finding, since the cache writes them to disk or needs copies.

        `shifts`, `n_keep`: see `context_shift` of `CommandR`.

        Raises:
            ArgumentError: the model of `draft_session` has another vocabulary.
        """
        self._session = session
        self._tokenizer = tokenizer
        self._cache = cache
        self._keeps_heads = keeps_heads
        self._shifts = shifts
        self._n_keep = n_keep
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
            ContextFullError: documents or tools make the prompt too long for the context; the text names the longest.
        """
        prompt = self.prompts.render(request)
        self._check_length(request, prompt)
        _check_switches(request, decoding)
        may_want_no_tool = request.reply_format in {"tools", "multi_step"}
        words = _without_tools(request) if may_want_no_tool else []

        def answer_directly(n_written: int) -> Stage:
            limit = decoding.max_tokens
            rest = dataclasses.replace(decoding, max_tokens=None if limit is None else limit - n_written)
            if request.messages[-1]["role"] == "tool":  # what tools gave is there, and the answer is to rest on it
                # Left free, it would want no tool once more. So the answer begins with its first mark in any case.
                beginning = "" if decoding.constrained else RELEVANT_MARK
                return self._stage(request, prompt, rest, "grounded", beginning)
            plain = make_request(words, family=self.prompts.family)
            return self._stage(plain, self.prompts.render(plain), rest, plain.reply_format)

        return ReplyStream(
            self._stage(request, prompt, decoding, request.reply_format),
            [Source(document.id, document.texts) for document in request.citable],
            answer_directly if words else None,
            stop=decoding.stop,
        )

    def drafter(self, n_prompt: int, *, replay: bool = True) -> Drafter:
        """A new one for one generation after a prompt of this many tokens; `replay`: it may write an answer twice."""
        drafters: list[Drafter] = [AnswerReplay(self._tokenizer, n_prompt)] if replay else []
        drafters.append(PromptLookup())
        if self._draft_model is not None:
            drafters.append(self._draft_model)
        return Chain(drafters)

    def _stage(
        self, request: Request, prompt: Prompt, decoding: Decoding, reply_format: ReplyFormat, beginning: str = ""
    ) -> Stage:
        """One generation; `beginning`: of the reply, for the prompt to end with."""
        if beginning:
            prompt = Prompt(
                prompt.text + beginning,
                prompt.tokens
                + self._tokenizer.encode(beginning, inside=not self._tokenizer.is_special(prompt.tokens[-1])),
            )
        by_sections = reply_format in {"cmd3", "cmd4"}
        answers_twice = reply_format in {"grounded", "multi_step"}
        opened = _OPENED.search(prompt.text) if by_sections else None  # a template may begin the reply's thoughts
        mark = opened[0] if opened else ""
        pieces = generate(
            self._session,
            self._tokenizer,
            prompt.tokens,
            max_tokens=decoding.max_tokens,
            sampling=decoding.sampling,
            top_logprobs=decoding.top_logprobs,
            constraint=self._constraint(request, reply_format, decoding, mark),
            drafter=self.drafter(len(prompt.tokens), replay=answers_twice) if decoding.speculate else None,
            cache=self._cache,
            stable=self._head(request, prompt),
            # The documents stand behind the question: no other question's prompt has them where this one has.
            keep_prompt=bool(request.citable) and request.template == "rag",
            skip_special=not by_sections,  # the marks of these formats are control tokens
            shift=self._shift(request, prompt),
            progress=decoding.progress,
            stream=True,
        )
        n_results = [len(group) for group in request.citable_groups] if by_sections else None
        return Stage(pieces, reply_parser(reply_format, n_results), mark or beginning)

    def _constraint(
        self, request: Request, reply_format: ReplyFormat, decoding: Decoding, opened: str
    ) -> Constraint | None:
        """What the format allows; None where nothing is known to be forbidden. `opened`: see `section_grammar`."""
        by_sections = reply_format in {"cmd3", "cmd4"}
        asked = decoding.grammar if reply_format == "chat" or by_sections else None
        grammar = None if by_sections else asked
        try:
            if grammar is None and (decoding.constrained or asked is not None):
                grammar = self._grammar(request, reply_format, decoding, opened)
            return None if grammar is None else self.constraints.constraint(grammar)
        except ArgumentError as error:
            if asked is not None:
                raise
            raise ArgumentError(f"{error}; constrained=False leaves the reply free") from error

    def _grammar(self, request: Request, reply_format: ReplyFormat, decoding: Decoding, opened: str) -> str | None:
        """The grammar of a format."""
        tools, n_documents, require_tool = request.tools or [], len(request.citable), decoding.require_tool
        max_calls = MAX_CALLS if decoding.parallel_calls else 1
        if reply_format == "grounded":
            return grounded_grammar(n_documents, "accurate" if request.citation_mode != "fast" else "fast")
        if reply_format == "tools" or (reply_format == "multi_step" and require_tool):
            return tools_grammar(tools, allow_direct_answer=not require_tool, max_calls=max_calls)
        if reply_format == "multi_step":
            return multi_step_grammar(tools, n_documents, max_calls=max_calls)
        if reply_format in {"cmd3", "cmd4"}:
            return section_grammar(
                "cmd3" if reply_format == "cmd3" else "cmd4",
                tools,
                [len(group) for group in request.citable_groups],
                self._tokenizer.special_ids,
                cite=request.citation_mode != "off",
                think=request.reasoning is not False,
                must_call=require_tool,
                max_calls=max_calls,
                answer=decoding.grammar,
                opened=opened,
            )
        return None

    def _head(self, request: Request, prompt: Prompt) -> int | None:
        """How many tokens the prompt shares with that of another last message."""
        return self._shared(request, prompt, request.messages[:-1], request.messages[-1]) if self._keeps_heads else None

    def _shift(self, request: Request, prompt: Prompt) -> ContextShift | None:
        """What may be dropped: all behind the preamble, unless the caller says how much is to be kept."""
        if not self._shifts:
            return None
        n_keep = self._n_keep
        if n_keep is None:
            first = next((i for i, one in enumerate(request.messages) if one["role"] != "system"), 0)
            message = {"role": "user", "content": str(request.messages[first]["content"])}
            n_keep = self._shared(request, prompt, request.messages[:first], message)
        return ContextShift(n_keep)

    def _shared(
        self, request: Request, prompt: Prompt, before: Sequence[Mapping[str, Any]], message: Mapping[str, Any]
    ) -> int:
        """How many tokens the prompt shares with that of the messages before one and another one in its place."""
        last: dict[str, Any] = {**message}
        last.pop("documents", None)
        last["content"] = "?" if last["content"].startswith(".") else "."
        other = make_request(
            [*before, last],
            None if request.documents is None else [{"id": d.id, "data": d.data} for d in request.documents],
            request.tools,
            request.citation_mode,
            multi_step=request.template == "multi_step",
            safety_mode=request.safety_mode,
            reasoning=request.reasoning,
            family=self.prompts.family,
        )
        return common_prefix(prompt.tokens, self.prompts.render(other).tokens)

    def _check_length(self, request: Request, prompt: Prompt) -> None:
        over = len(prompt.tokens) + 1 - self._session.n_ctx  # a reply has one token at least
        tools = request.tools or []
        if over <= 0 or not (request.citable or tools):
            return
        counts, longest = [], []
        if request.citable:
            counts.append(_count(len(request.citable), "document"))
            n, number = max((len(self._tokenizer.encode(_text(d))), -i) for i, d in enumerate(request.citable))
            name = request.citable[-number].id
            longest.append(f"document {-number} (id {name!r}) with {_count(n, 'token')}")
        if tools:
            counts.append(_count(len(tools), "tool"))
            n, number = max((n, -i) for i, n in enumerate(self._tool_lengths(request, prompt)))
            longest.append(f"tool {tools[-number]['name']!r} with {_count(n, 'token')}")
        raise ContextFullError(
            f"the prompt with {' and '.join(counts)} is {_count(over, 'token')} too long for "
            f"n_ctx = {self._session.n_ctx}; the longest {'is' if len(longest) == 1 else 'are'} {' and '.join(longest)}"
        )

    def _tool_lengths(self, request: Request, prompt: Prompt) -> list[int]:
        """How many tokens of the prompt each tool takes: how much shorter it is without that one."""
        key = "available_tools" if "available_tools" in request.data else "tools"
        shown = list(request.data[key])
        n_tools = len(request.tools or [])
        lengths = []
        for i in range(len(shown) - n_tools, len(shown)):  # a prompt may show tools of its own in front of them
            without = dataclasses.replace(request, data={**request.data, key: shown[:i] + shown[i + 1 :]})
            lengths.append(len(prompt.tokens) - len(self.prompts.render(without).tokens))
        return lengths


def _check_switches(request: Request, decoding: Decoding) -> None:
    if decoding.grammar is not None and request.reply_format in {"grounded", "multi_step"}:
        raise ArgumentError(
            "a grammar is for plain answers of Command-R: with documents or results of tools its replies have a form "
            "of their own"
        )
    if decoding.require_tool and not (request.tools and decoding.constrained):
        raise ArgumentError("require_tool needs tools, and not constrained=False")
    if not (decoding.parallel_calls or decoding.constrained):
        raise ArgumentError("parallel_calls=False cannot be held to with constrained=False")


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
