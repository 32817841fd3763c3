"""CommandR: one model, one session, its tokenizer and its chat template behind a few methods."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import numpy as np
import numpy.typing as npt

from commandr_gguf.call_options import ChatOptions, GenerateOptions
from commandr_gguf.cancelling import RunningCalls, Stop
from commandr_gguf.chat.command_a import SafetyMode
from commandr_gguf.chat.prompt import DEFAULT, ChatTemplate
from commandr_gguf.chat.reply import Reply
from commandr_gguf.chat.request import CitationMode, Documents, Messages, Tools, make_request
from commandr_gguf.chat.tokens import Prompt
from commandr_gguf.chat_engine import ChatEngine, Decoding
from commandr_gguf.context_shift import ContextShift
from commandr_gguf.demo.embedded import gguf_path
from commandr_gguf.embedding import Pooling, embed_text
from commandr_gguf.errors import ArgumentError, ClosedError, flag, integer
from commandr_gguf.generate import Generation, GenerationStream, generate
from commandr_gguf.model import Model
from commandr_gguf.plan.settling import settle
from commandr_gguf.prefix_cache import PrefixCache
from commandr_gguf.reply_stream import ReplyStream
from commandr_gguf.sampling import SamplingParams
from commandr_gguf.session import Progress, Session, Tokens
from commandr_gguf.token_buffer import token_ids
from commandr_gguf.tokenizer import Tokenizer

if TYPE_CHECKING:  # of Python 3.11
    from typing_extensions import Unpack

CHAT_TEMPERATURE = 0.3
"""The temperature at which Cohere's model cards run Command-R."""

_SAMPLING_NAMES = frozenset(field.name for field in fields(SamplingParams))


class CommandR:
    """A model ready to talk.

    It keeps the last prompts: one that begins like one of them, such as the next turn of a chat, is computed only from
    where they differ. Close it, or use it in a `with` statement. Calls from several threads must take turns.

    Args:
        path: a GGUF file.
        n_ctx: tokens that prompt and reply together may have; memory for them is taken as they come, but what is asked
            for must fit in what is free now. None takes the model's context length, or less where that would not fit,
            see `Session`; 0 takes it, or is refused.
        n_gpu_layers: see `Model`; None is "auto" with rpc, else 0. "auto" places as many layers on the GPUs as fit
            beside the KV cache, and where even that is too much without n_ctx, takes a shorter one. On workers it
            places what does not fit here.
        rpc: workers, see `Model`.
        main_device, tensor_split, use_mmap, repack, cache_packed: see `Model`.
        n_batch, n_ubatch, n_threads, type_k, type_v, flash_attn: see `Session`.
        n_seq_max: how many prompts are kept, 1 to 64. None takes 4, or 2 of a model with a sliding window, where each
            takes memory of its own.
        context_shift: when prompt and reply fill the context, forget the older half of what stands behind the first
            n_keep tokens and go on; without it the reply ends there as "length", and a longer prompt is an error. What
            is kept is computed anew. Without max_tokens a reply may then go on for ever.
        n_keep: tokens that are never forgotten. None takes the preamble of a chat with its tools, and the first token
            of other prompts.
        prompt_cache: a folder in which the beginnings of prompts are kept, so that another process can go on from them.
            It holds what prompts say.
        draft: a GGUF file of a smaller model with the same vocabulary, which guesses what this one writes next. It is
            loaded with the same n_gpu_layers, repack and cache_packed.
        progress: called with the fraction of the load that is done; returning False cancels it.

    Raises:
        OutOfMemoryError: it does not fit in what is free; found out before anything is loaded, with the numbers, and in
            the error's `fitting` arguments that fit.
        CommandRError: the errors of `Model` and `Session`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        n_ctx: int | None = None,
        n_gpu_layers: int | Literal["auto"] | None = None,
        main_device: int = -1,
        tensor_split: Sequence[float] | None = None,
        rpc: str | Sequence[str] | None = None,
        use_mmap: bool = True,
        repack: bool = True,
        cache_packed: bool = False,
        n_batch: int = 2048,
        n_ubatch: int = 512,
        n_threads: int = 0,
        type_k: str = "f16",
        type_v: str = "f16",
        flash_attn: bool | None = None,
        n_seq_max: int | None = None,
        context_shift: bool = False,
        n_keep: int | None = None,
        prompt_cache: str | os.PathLike[str] | None = None,
        draft: str | os.PathLike[str] | None = None,
        progress: Callable[[float], object] | None = None,
    ) -> None:
        if n_gpu_layers is None:
            n_gpu_layers = "auto" if rpc else 0
        placing: dict[str, Any] = {"n_gpu_layers": n_gpu_layers, "repack": repack, "cache_packed": cache_packed}
        placing["n_threads"] = n_threads
        sizes: dict[str, Any] = {"n_batch": n_batch, "n_ubatch": n_ubatch, "n_threads": n_threads}
        sizes |= {"type_k": type_k, "type_v": type_v, "flash_attn": flash_attn}
        loading = placing | {"main_device": main_device, "tensor_split": tensor_split, "use_mmap": use_mmap}
        loading |= {"rpc": rpc}
        loading, session = settle(path, loading, {"n_ctx": n_ctx, "n_seq_max": n_seq_max, **sizes})
        with ExitStack() as opened:
            if n_keep is not None and not flag("context_shift", context_shift):
                raise ArgumentError("n_keep is for context_shift=True")
            self._n_keep = None if n_keep is None else integer("n_keep", n_keep, 0)
            self._shifts = flag("context_shift", context_shift)
            self.model = opened.enter_context(Model(path, **loading, progress=progress))
            self.tokenizer = Tokenizer.from_gguf(self.model.gguf)
            has_window = self.model.hparams.n_swa > 0
            self.session = opened.enter_context(Session(self.model, **session))
            self._draft: Session | None = None
            if draft is not None:
                of_draft, session = settle(draft, placing, {"n_ctx": self.session.n_ctx, "n_seq_max": 1, **sizes})
                smaller = opened.enter_context(Model(draft, **of_draft))
                self._draft = opened.enter_context(Session(smaller, **session))
            self.cache = PrefixCache(self.session, prompt_cache)
            """Chooses which sequence of the session a prompt is evaluated in."""
            self._chat = ChatEngine(
                self.session,
                self.tokenizer,
                cache=self.cache,
                keeps_heads=prompt_cache is not None or has_window,
                draft_session=self._draft,
                shifts=self._shifts,
                n_keep=self._n_keep,
            )
            opened.pop_all()  # from here on close() closes them
        self.n_ctx = self.session.n_ctx
        self._n_batch = n_batch
        self._running = RunningCalls()

    @classmethod
    def demo(cls, recipe: str = "Q4_K_M", **options: Any) -> CommandR:
        """The small model that this package carries: it chats, calls tools and cites, and knows next to nothing.

        Args:
            recipe: the file type to convert it to; that is done on the first use and kept in the user's cache folder.
            options: those of the class.

        Raises:
            ArgumentError: there is no such recipe.
            FileError: the converted file cannot be written.
        """
        return cls(gguf_path(recipe), **options)

    def template(self, name: str = DEFAULT) -> ChatTemplate:
        """A chat template by its name, "default", "tool_use" or "rag": the file's, or ours where it has none.

        Raises:
            UnsupportedError: there is no template of another name.
        """
        return self._chat.prompts.template(name)

    # ---- text

    @overload
    def generate(
        self, prompt: str | Tokens, *, stream: Literal[False] = ..., **options: Unpack[GenerateOptions]
    ) -> Generation: ...
    @overload
    def generate(
        self, prompt: str | Tokens, *, stream: Literal[True], **options: Unpack[GenerateOptions]
    ) -> GenerationStream: ...
    def generate(
        self,
        prompt: str | Tokens,
        *,
        max_tokens: int | None = None,
        temperature: float = 1.0,
        stop: str | Sequence[str] = (),
        top_logprobs: int | None = None,
        grammar: str | None = None,
        speculate: bool = True,
        progress: Progress | None = None,
        stream: bool = False,
        **sampling: Any,
    ) -> Generation | GenerationStream:
        """Continue a text or tokens.

        Args:
            prompt: token ids, or plain text, which gets the begin token and whose control tokens stay plain text.
            max_tokens: None has no limit but the context.
            temperature: 0 takes the most likely token each time.
            stop: strings that end the reply and are not part of it.
            top_logprobs: log-probabilities of each token and of this many most likely ones; None = none.
            grammar: what the reply must keep to, see `json_schema_grammar`, `regex_grammar` and `lark_grammar`.
            speculate: guess what follows from what stood before, and verify several tokens at once: faster, and the
                same reply but for rounding, see `Session.next_tokens`.
            progress: called during each evaluation, see `Session.eval`.
            stream: return a `GenerationStream` to iterate over.
            sampling: further fields of `SamplingParams`, such as top_p, seed or repeat_penalty.
        """
        tokens = self.tokenizer.encode(prompt, add_special=True) if isinstance(prompt, str) else token_ids(prompt)
        pieces = generate(
            self.session,
            self.tokenizer,
            tokens,
            max_tokens=max_tokens,
            sampling=_sampling_params(temperature, sampling),
            stop=stop,
            top_logprobs=top_logprobs,
            constraint=None if grammar is None else self._chat.constraints.constraint(grammar),
            drafter=self._chat.drafter(len(tokens)) if flag("speculate", speculate) else None,
            cache=self.cache,
            shift=ContextShift(1 if self._n_keep is None else self._n_keep) if self._shifts else None,
            progress=progress,
            stream=True,
        )
        self._running.add(pieces)
        return pieces if stream else pieces.finish()

    @overload
    def chat(self, messages: Messages, *, stream: Literal[False] = ..., **options: Unpack[ChatOptions]) -> Reply: ...
    @overload
    def chat(self, messages: Messages, *, stream: Literal[True], **options: Unpack[ChatOptions]) -> ReplyStream: ...
    def chat(
        self,
        messages: Messages,
        *,
        documents: Documents | None = None,
        tools: Tools | None = None,
        citation_mode: CitationMode = "accurate",
        multi_step: bool | None = None,
        safety_mode: SafetyMode | None = None,
        reasoning: bool | None = None,
        constrained: bool = True,
        grammar: str | None = None,
        require_tool: bool = False,
        parallel_calls: bool = True,
        speculate: bool = True,
        max_tokens: int | None = None,
        temperature: float = CHAT_TEMPERATURE,
        stop: str | Sequence[str] = (),
        top_logprobs: int | None = None,
        progress: Progress | None = None,
        stream: bool = False,
        **sampling: Any,
    ) -> Reply | ReplyStream:
        """Reply to a conversation of `{"role": "system" | "user" | "assistant" | "tool", "content": ...}`.

        What messages, documents and tools spell never becomes a control token.

        Args:
            messages: see `make_request` for calls of tools and their results.
            documents: strings, mappings such as `{"title": ..., "text": ...}`, or `{"id": ..., "data": ...}`, on which
                the answer is to rest; its citations name them.
            tools: Python functions, OpenAI's form with a JSON schema, or Cohere's `{"name", "description",
                "parameter_definitions": {name: {"description", "type", "required"}}}`. A model that wants none of them
                is asked again without them. With Command-R they cannot be given together with documents.
            citation_mode: "accurate" lets the model answer twice, the second time with citations; "fast" once. Command
                R7B and Command A answer once, and with "off" without citations.
            multi_step: True shows tools in the multi-step prompt from the first step on; False takes one step, after
                which results of tools are the documents of the answer; see `make_request` and `run_tools`.
            safety_mode: "contextual", "strict" or "none": what Command R7B is told to refuse.
            reasoning: whether Command R7B and Command A are to think before they answer; None leaves that to them.
            constrained: let the model write nothing but what its format, the tools' schemas and the documents allow.
            grammar: what an answer must keep to, see `generate`: a plain one of Command-R, or any of Command R7B and
                Command A, which then cites nothing. Beside tools it is for the answer of a model that wants none.
            require_tool: whether the model must call a tool now.
            parallel_calls: whether a reply may call several tools.
            speculate: see `generate`.
            stream: return a `ReplyStream` of events to iterate over.
            max_tokens: this and the others are those of `generate`.
            temperature: 0 takes the most likely token each time.
            stop: strings that end the reply and are not part of it.
            top_logprobs: log-probabilities of each token and of this many most likely ones; None = none.
            progress: called during each evaluation.
            sampling: further fields of `SamplingParams`.

        Raises:
            ArgumentError: an argument is not of its form, or the template refuses the messages.
            ContextFullError: the prompt does not fit in the context.
        """
        request = make_request(
            messages,
            documents,
            tools,
            citation_mode,
            multi_step=multi_step,
            safety_mode=safety_mode,
            reasoning=reasoning,
            family=self._chat.prompts.family,
        )
        decoding = Decoding(
            sampling=_sampling_params(temperature, sampling),
            max_tokens=max_tokens,
            stop=stop,
            top_logprobs=top_logprobs,
            constrained=flag("constrained", constrained),
            grammar=grammar,
            require_tool=flag("require_tool", require_tool),
            parallel_calls=flag("parallel_calls", parallel_calls),
            speculate=flag("speculate", speculate),
            progress=progress,
        )
        events = self._running.add(self._chat.start(request, decoding))
        return events if stream else events.finish()

    def prompt(
        self,
        messages: Messages,
        documents: Documents | None = None,
        tools: Tools | None = None,
        citation_mode: CitationMode = "accurate",
        add_generation_prompt: bool = True,
        *,
        multi_step: bool | None = None,
        safety_mode: SafetyMode | None = None,
        reasoning: bool | None = None,
    ) -> Prompt:
        """The prompt of a request as text and as the token ids that `chat` evaluates, see `make_request`.

        A file without the template that a request needs is given one of the published structure.

        Raises:
            ArgumentError: an argument is not of its form, or the template refuses the messages.
            UnsupportedError: the model reads a kind of prompt that cannot be written.
        """
        request = make_request(
            messages,
            documents,
            tools,
            citation_mode,
            multi_step=multi_step,
            safety_mode=safety_mode,
            reasoning=reasoning,
            family=self._chat.prompts.family,
        )
        return self._chat.prompts.render(request, add_generation_prompt=add_generation_prompt)

    @property
    def takes_steps_when_asked(self) -> bool:
        """Whether tools can be shown in a prompt of one step or of many; Command R7B and Command A have only one."""
        return self._chat.prompts.family == "command-r"

    def render(
        self,
        messages: Messages,
        documents: Documents | None = None,
        tools: Tools | None = None,
        citation_mode: CitationMode = "accurate",
        add_generation_prompt: bool = True,
        *,
        multi_step: bool | None = None,
        safety_mode: SafetyMode | None = None,
        reasoning: bool | None = None,
    ) -> str:
        """The prompt text of a request, see `prompt`."""
        switches: dict[str, Any] = {"multi_step": multi_step, "safety_mode": safety_mode, "reasoning": reasoning}
        return self.prompt(messages, documents, tools, citation_mode, add_generation_prompt, **switches).text

    # ---- tokens and numbers

    def tokenize(self, text: str, add_special: bool = False, parse_special: bool = False) -> list[int]:
        """Token ids of a text, see `Tokenizer.encode`."""
        return self.tokenizer.encode(text, add_special, parse_special)

    def detokenize(self, tokens: Iterable[int], skip_special: bool = False) -> str:
        """Text of token ids, see `Tokenizer.decode`."""
        return self.tokenizer.decode(tokens, skip_special)

    def logits(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        """Logits at every position, [n_tokens, n_vocab]; row i is for the token that follows tokens[i]."""
        tokens = token_ids(tokens)
        self.cache.make_room(len(tokens))
        stop = self._running.add(Stop())
        result = np.empty((len(tokens), self.model.hparams.n_vocab), dtype=np.float32)
        for start in range(0, len(tokens), self._n_batch):
            end = min(start + self._n_batch, len(tokens))
            evaluate = partial(self.session.eval, tokens[:end], n_outputs=end - start, progress=stop.go_on)
            self.cache.within_memory(evaluate)
            result[start:end] = self.session.logits()
        return result

    def embed(self, texts: str | Sequence[str], pooling: Pooling = "mean") -> npt.NDArray[np.float32]:
        """Embeddings of length 1 from the final hidden states: [n_embd] of one text, [n_texts, n_embd] of several.

        Args:
            texts: plain text; each gets the begin token.
            pooling: the mean over all tokens, or the last token's state.
        """
        if pooling not in get_args(Pooling):
            raise ArgumentError(f"pooling must be 'mean' or 'last', not {pooling!r}")
        stop = self._running.add(Stop())
        if isinstance(texts, str):
            return self._embed(texts, pooling, stop)
        if not isinstance(texts, Iterable):
            raise ArgumentError(f"texts must be a text or a sequence of texts, not {texts!r}")
        rows = [self._embed(text, pooling, stop) for text in texts]
        return np.stack(rows) if rows else np.empty((0, self.model.hparams.n_embd), dtype=np.float32)

    def _embed(self, text: str, pooling: Pooling, stop: Stop) -> npt.NDArray[np.float32]:
        self.cache.make_room(len(self.tokenizer.encode(text, add_special=True)))
        options: dict[str, Any] = {"n_batch": self._n_batch, "progress": stop.go_on}
        return self.cache.within_memory(lambda: embed_text(self.session, self.tokenizer, text, pooling, **options))

    # ---- life

    def cancel(self) -> None:
        """Stop what runs now, from any thread and without waiting; calls that begin later are not touched.

        A generation, unfinished streams included, ends with the finish reason "cancelled"; `logits` and `embed` raise
        CancelledError.
        """
        if self.session.closed:
            raise ClosedError("the session was closed")
        self._running.cancel()

    def close(self) -> None:
        """Free the session and the model. Calling it again does nothing."""
        self.session.close()
        self.model.close()
        if self._draft is not None:
            self._draft.close()
            self._draft.model.close()

    def __enter__(self) -> CommandR:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"CommandR({self.model.path!r}, n_ctx={self.n_ctx})"


def _sampling_params(temperature: float, others: Mapping[str, Any]) -> SamplingParams:
    unknown = sorted(others.keys() - _SAMPLING_NAMES)
    if unknown:
        raise ArgumentError(f"unknown argument {unknown[0]!r}; sampling takes {', '.join(sorted(_SAMPLING_NAMES))}")
    return SamplingParams(temperature=temperature, **others)
