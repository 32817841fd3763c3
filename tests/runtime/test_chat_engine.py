"""Replies from prompt, constraint, drafts and parser together, with tiny models and the embedded one."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import embedded
import models
from commandr_gguf import (
    ArgumentError,
    CommandR,
    ContextFullError,
    Conversation,
    Finish,
    Reply,
    Text,
    run_tools,
)
from commandr_gguf.chat.request import CitationMode
from commandr_gguf.demo import showcase
from commandr_gguf.demo.evaluate import held_out, request
from scripted import Pieces, words

HELLO = [{"role": "user", "content": "Hello"}]
WHO = [{"role": "user", "content": showcase.CHAT}]
PICK = {
    "name": "pick",
    "description": "Picks a color.",
    "parameters": {"type": "object", "properties": {"color": {"enum": ["red", "green"]}}, "required": ["color"]},
}
DIRECTLY = 'Action: ```json\n[\n    {\n        "tool_name": "directly_answer",\n        "parameters": {}\n    }\n]\n```'
CALL = {"role": "assistant", "tool_calls": [{"name": "pick", "parameters": {"color": "red"}}]}
RESULT = {"role": "tool", "content": [{"color": "red"}, {"color": "a very red one"}]}
ANSWER = {"role": "assistant", "content": "It is red."}


@pytest.fixture(scope="module")
def tiny() -> Iterator[CommandR]:
    """Random weights in float32: drafts change no bit."""
    with CommandR(models.gguf("gqa"), n_ctx=4096, n_threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def demo() -> Iterator[CommandR]:
    """The embedded model, in whose layout here drafts change no bit."""
    with CommandR(embedded.path(), repack=False, n_threads=1) as opened:
        yield opened


def leases(model: CommandR) -> int:
    """How many sequences are in use."""
    gc.collect()
    return sum(len(slot.leases) for slot in model.cache._slots)


def tools_reply(model: CommandR, **options: Any) -> Reply:
    reply: Reply = model.chat(HELLO, tools=[PICK], max_tokens=200, temperature=1, **options)
    return reply


# ---- constraints


@pytest.mark.parametrize("seed", range(4))
def test_a_constrained_model_calls_only_what_is_offered(tiny: CommandR, seed: int) -> None:
    reply = tools_reply(tiny, seed=seed)
    assert reply.raw_text.startswith("Action:")
    assert reply.tool_calls or reply.text
    for call in reply.tool_calls:
        assert call.name == "pick"
        assert call.parameters in ({"color": "red"}, {"color": "green"})


@pytest.mark.parametrize("mode", ["accurate", "fast"])
def test_a_constrained_model_keeps_to_the_grounded_form(tiny: CommandR, mode: CitationMode) -> None:
    reply = tiny.chat(HELLO, documents=["a", "b"], citation_mode=mode, temperature=1, seed=3, max_tokens=300)
    assert reply.raw_text.startswith("Relevant Documents: ")
    assert set(reply.documents_relevant) <= {0, 1}
    assert all(set(citation.documents) <= {0, 1} for citation in reply.citations)
    assert all(len(citation.sources) == len(citation.documents) for citation in reply.citations)


def test_an_unconstrained_model_writes_what_it_likes(tiny: CommandR) -> None:
    reply = tools_reply(tiny, seed=0, constrained=False)
    assert not reply.raw_text.startswith("Action:")
    assert reply.tool_calls == []
    with pytest.raises(ArgumentError, match="constrained must be True or False"):
        tools_reply(tiny, constrained=None)


def test_a_schema_that_cannot_be_enforced_names_itself_and_the_way_out(tiny: CommandR) -> None:
    schema = {"type": "object", "properties": {"list": {"type": "array", "contains": {"type": "integer"}}}}
    tool = {"name": "sum", "description": "", "parameters": schema}
    with pytest.raises(ArgumentError, match=r"'list' of tool 'sum'.*contains.*; constrained=False leaves the reply"):
        tiny.chat(HELLO, tools=[tool], max_tokens=5)
    assert tiny.chat(HELLO, tools=[tool], max_tokens=5, constrained=False).finish_reason in {"length", "stop"}
    assert leases(tiny) == 0


# ---- a model that wants no tool


def test_a_model_that_wants_no_tool_answers_without(demo: CommandR) -> None:
    plain = demo.chat(WHO, temperature=0, max_tokens=100)
    for multi_step in (None, True):
        events = list(
            demo.chat(WHO, tools=showcase.TOOLS, temperature=0, max_tokens=200, multi_step=multi_step, stream=True)
        )
        assert isinstance(events[-1], Finish)
        reply = events[-1].reply
        if multi_step is None:  # the one-step prompt is what it was trained with
            assert reply.raw_text == DIRECTLY + plain.text
            assert (reply.text, reply.tool_calls, reply.finish_reason) == (plain.text, [], "stop")
            assert reply.usage.prompt_tokens > plain.usage.prompt_tokens
            assert reply.usage.completion_tokens == len(reply.tokens)
            assert "".join(event.text for event in events if isinstance(event, Text)) == plain.text
        assert all(call.name in {tool["name"] for tool in showcase.TOOLS} for call in reply.tool_calls)


class Script:
    """Takes the place of `generate` in the engine: replies that were written before, and what was asked for them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *replies: str) -> None:
        self.prompts: list[str] = []
        self.options: list[dict[str, Any]] = []
        self._replies = list(replies)
        monkeypatch.setattr("commandr_gguf.chat_engine.generate", self._generate)

    def _generate(self, _session: Any, tokenizer: Any, prompt: Any, **options: Any) -> Pieces:
        self.prompts.append(tokenizer.decode(prompt))
        self.options.append(options)
        return Pieces(*words(self._replies.pop(0)))


def test_max_tokens_counts_both_generations(tiny: CommandR, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, DIRECTLY, "Hi.", DIRECTLY, "Hi.")
    tiny.chat(HELLO, tools=[PICK], max_tokens=100)
    tiny.chat(HELLO, tools=[PICK])
    left = 100 - len(words(DIRECTLY))
    assert [options["max_tokens"] for options in script.options] == [100, left, None, None]


def test_the_second_prompt_is_the_conversation_without_tools(tiny: CommandR, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, DIRECTLY, "Hi.", DIRECTLY, "Hi.", DIRECTLY, "Hi.")
    thanks = {"role": "user", "content": "Thanks."}
    system = {"role": "system", "content": "Be brief."}
    assert tiny.chat([system, *HELLO], tools=[PICK]).text == "Hi."
    assert script.prompts[1] == tiny.render([system, *HELLO])
    assert script.options[0]["constraint"] is not None
    assert script.options[1]["constraint"] is None
    # Tools that were called before are left out, and with them a question that only they answered.
    assert tiny.chat([*HELLO, CALL, RESULT, ANSWER, thanks], tools=[PICK]).text == "Hi."
    assert script.prompts[3] == tiny.render([*HELLO, ANSWER, thanks])
    assert tiny.chat([*HELLO, CALL, RESULT, thanks], tools=[PICK]).text == "Hi."
    assert script.prompts[5] == tiny.render([{"role": "user", "content": "Hello\n\nThanks."}])


@pytest.mark.parametrize("constrained", [True, False])
def test_a_model_that_wants_no_tool_after_results_answers_from_them(
    tiny: CommandR, monkeypatch: pytest.MonkeyPatch, constrained: bool
) -> None:
    grounded = (
        "Relevant Documents: 1\nCited Documents: 1\nAnswer: It is red.\nGrounded answer: It is <co: 1>red</co: 1>."
    )
    # Without constraints it would want no tool once more: its prompt ends with the beginning of the answer.
    beginning = "" if constrained else "Relevant Documents:"
    script = Script(monkeypatch, DIRECTLY, grounded.removeprefix(beginning))
    reply = tiny.chat([*HELLO, CALL, RESULT], tools=[PICK], constrained=constrained)
    assert script.prompts[1] == script.prompts[0] + beginning
    assert [options["constraint"] is not None for options in script.options] == [constrained, constrained]
    assert (reply.text, reply.tool_calls, reply.documents_relevant) == ("It is red.", [], [1])
    assert reply.raw_text == DIRECTLY + grounded
    (citation,) = reply.citations
    assert [source.document for source in citation.sources] == [{"color": "a very red one"}]


def test_stop_strings_are_those_of_the_visible_text(tiny: CommandR, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, "Hello", DIRECTLY, "Hello", "")
    assert tiny.chat(HELLO, stop="l").text == "He"
    assert tiny.chat(HELLO, tools=[PICK], stop=["\n", "Action", "lo"]).text == "Hel"
    assert all(not options.get("stop") for options in script.options)
    with pytest.raises(ArgumentError, match="stop must be strings"):
        tiny.chat(HELLO, stop="")


def test_only_tools_can_be_declined(tiny: CommandR, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, "", "", DIRECTLY)
    assert tiny.chat(HELLO).text == ""
    assert tiny.chat(HELLO, documents=["a"]).text == ""
    # Without a user there is nothing to ask again.
    assert tiny.chat([CALL, RESULT], tools=[PICK]).text == ""
    assert len(script.prompts) == 3


# ---- drafts


def test_drafts_change_no_reply_of_random_weights(tiny: CommandR) -> None:
    for options in ({}, {"documents": ["a b c", "d"]}, {"tools": [PICK]}):
        replies = [
            tiny.chat(HELLO, temperature=0, max_tokens=120, speculate=speculate, **options)
            for speculate in (True, False)
        ]
        assert replies[0].tokens == replies[1].tokens
        assert replies[1].usage.drafted_tokens == 0
    with pytest.raises(ArgumentError, match="speculate must be True or False"):
        tiny.chat(HELLO, speculate=1)  # type: ignore[call-overload]


@pytest.mark.parametrize("task", ["chat", "tools", "accurate", "fast"])
def test_drafts_change_no_reply_of_the_embedded_model(demo: CommandR, task: Any) -> None:
    n_accepted = 0
    for example in held_out(task, 6, seed=7):
        drafted, plain = (
            demo.chat(**request(example), temperature=0, max_tokens=256, speculate=speculate)
            for speculate in (True, False)
        )
        assert (drafted.raw_text, drafted.text, drafted.tool_calls) == (plain.raw_text, plain.text, plain.tool_calls)
        assert (drafted.citations, drafted.finish_reason) == (plain.citations, plain.finish_reason)
        n_accepted += drafted.usage.accepted_tokens
    assert n_accepted > 0 or task != "accurate"


def test_a_draft_model_changes_how_and_not_what() -> None:
    path = models.gguf("gqa")
    with CommandR(path, n_ctx=512, n_threads=1) as alone:
        expected = alone.chat(HELLO, temperature=0, max_tokens=40).tokens
    with CommandR(path, n_ctx=512, n_threads=1, draft=path) as itself:
        reply = itself.chat(HELLO, temperature=0, max_tokens=40)
        assert reply.tokens == expected
        assert 0 < reply.usage.accepted_tokens <= reply.usage.drafted_tokens
    with CommandR(path, n_ctx=512, n_threads=1, draft=models.gguf("r_plus")) as other:
        assert other.chat(HELLO, temperature=0, max_tokens=40).tokens == expected
        assert other.generate("a", temperature=0, max_tokens=5).finish_reason == "length"


def test_a_draft_model_of_another_vocabulary_is_refused_when_the_model_is_opened() -> None:
    with pytest.raises(ArgumentError, match=r"cannot draft for .*: its vocabulary has \d+ tokens, not 768"):
        CommandR(models.gguf("gqa"), n_ctx=256, draft=embedded.path())


# ---- sequences and caches


@pytest.mark.parametrize("end", ["finish", "close", "drop", "cancel", "error"])
def test_a_reply_gives_its_sequence_back(end: str) -> None:
    def progress(_done: int, _total: int) -> None:
        if end == "error" and len(seen) > 1:
            raise RuntimeError("stop")

    seen: list[object] = []
    with CommandR(models.gguf("gqa"), n_ctx=1024, n_threads=1, n_seq_max=2) as model:
        for _ in range(4):  # twice as often as there are sequences
            seen.clear()
            stream = model.chat(
                HELLO, tools=[PICK], max_tokens=60, constrained=False, seed=1, stream=True, progress=progress
            )
            seen += [next(stream), next(stream)]
            assert leases(model) == 1
            if end == "finish":
                assert stream.finish().finish_reason in {"stop", "length"}
            elif end == "close":
                stream.close()
                assert stream.reply.finish_reason == "cancelled"
            elif end == "cancel":
                model.cancel()
                assert stream.finish().finish_reason == "cancelled"
            elif end == "error":
                with pytest.raises(RuntimeError, match="stop"):
                    stream.finish()
            del stream
            assert leases(model) == 0
        assert model.chat(HELLO, max_tokens=3).usage.cached_tokens > 0


def test_both_generations_give_their_sequences_back(demo: CommandR) -> None:
    stream = demo.chat(WHO, tools=showcase.TOOLS, temperature=0, max_tokens=200, stream=True)
    for event in stream:
        if isinstance(event, Text):
            break
    assert leases(demo) == 1
    stream.close()
    assert leases(demo) == 0
    assert stream.reply.finish_reason == "cancelled"
    assert demo.chat(WHO, temperature=0, max_tokens=100).finish_reason == "stop"


@pytest.mark.parametrize("options", [{}, {"tools": [PICK]}])
def test_a_second_turn_computes_only_what_is_new(tiny: CommandR, options: dict[str, Any]) -> None:
    first = tiny.chat(HELLO, max_tokens=4, **options)
    n_first = len(tiny.prompt(HELLO, **options).tokens)
    assert first.usage.prompt_tokens == n_first
    turns = [*HELLO, {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "And?"}]
    second = tiny.chat(turns, max_tokens=4, **options)
    common = [a == b for a, b in zip(*(tiny.prompt(m, **options).tokens for m in (HELLO, turns)), strict=False)]
    assert second.usage.cached_tokens >= common.index(False) if False in common else n_first


def test_a_conversation_reports_what_it_reuses(tiny: CommandR) -> None:
    conversation = Conversation(tiny, "Be brief.", max_tokens=5, logit_bias={0: -100})
    for text in ("Hello", "And?", "Well?"):
        list(conversation.ask(text))
    assert conversation.last is not None
    assert conversation.last.usage.cached_tokens > 0.5 * conversation.last.usage.prompt_tokens


def test_a_folder_keeps_the_beginnings_of_prompts(tmp_path: Path) -> None:
    system = {"role": "system", "content": "The harbor's lighthouse is the oldest one here. " * 20}
    asked: list[list[dict[str, str]]] = [
        [system, {"role": "user", "content": text}] for text in ("How old is it?", "Why?")
    ]
    used: list[int] = []
    for messages in asked:
        with CommandR(models.gguf("gqa"), n_ctx=2048, n_threads=1, prompt_cache=tmp_path / "cache") as model:
            reply = model.chat(messages, temperature=0, max_tokens=5)
            used.append(reply.usage.cached_tokens)
            n_system = len(model.prompt([system, *HELLO]).tokens) - 10
    assert used[0] == 0
    assert used[1] > n_system > 64
    with CommandR(models.gguf("gqa"), n_ctx=2048, n_threads=1) as model:
        plain = model.chat(asked[1], temperature=0, max_tokens=5)
    assert (plain.tokens, plain.usage.cached_tokens) == (reply.tokens, 0)


def test_a_folder_keeps_questions_with_their_documents(tmp_path: Path) -> None:
    documents = ["The harbor's lighthouse is the oldest one here. " * 20]
    used = []
    for text in ("How old is it?", "How old is it?", "Why?"):
        with CommandR(models.gguf("gqa"), n_ctx=2048, n_threads=1, prompt_cache=tmp_path) as model:
            usage = model.chat([{"role": "user", "content": text}], documents=documents, max_tokens=1).usage
        used.append(usage.prompt_tokens - usage.cached_tokens)
    assert used[1] == 1
    assert min(used[0], used[2]) > 200  # the documents stand behind the question


def test_steps_of_tools_are_no_beginnings_to_keep(tmp_path: Path) -> None:
    """What is kept ends before the last message, be it a question or the result of a tool."""
    with CommandR(models.gguf("gqa"), n_ctx=4096, n_threads=1, prompt_cache=tmp_path) as model:
        long = {"role": "tool", "content": [{"text": "red and green " * 100}]}
        model.chat([*HELLO, CALL, long], tools=[PICK], max_tokens=1)
        n_prompt = len(model.prompt([*HELLO, CALL, long], tools=[PICK]).tokens)
        n_rest = len(model.prompt([*HELLO, CALL, {"role": "tool", "content": "x"}], tools=[PICK]).tokens)
    with CommandR(models.gguf("gqa"), n_ctx=4096, n_threads=1, prompt_cache=tmp_path) as model:
        usage = model.chat([*HELLO, CALL, long], tools=[PICK], max_tokens=1).usage
    assert n_prompt - n_rest > 200
    assert 64 < usage.cached_tokens <= n_rest


def test_the_number_of_kept_prompts() -> None:
    with CommandR(models.gguf("gqa"), n_ctx=1024, n_threads=1, n_seq_max=1) as model:
        streams = [model.chat(HELLO, max_tokens=6, temperature=0, stream=True) for _ in range(2)]
        events = [next(stream) for stream in streams]
        assert [stream.finish().finish_reason for stream in streams] == ["length"] * 2
        assert streams[0].reply.tokens == streams[1].reply.tokens  # they shared the only sequence
        assert len(events) == len(streams)
        assert leases(model) == 0
    with pytest.raises(ArgumentError, match="n_seq_max"):
        CommandR(models.gguf("gqa"), n_ctx=1024, n_seq_max=65)


def test_interleaved_replies_do_not_disturb_each_other(tiny: CommandR) -> None:
    asked = [HELLO, WHO, [{"role": "user", "content": "harbor"}]]
    alone = [tiny.chat(messages, temperature=0, max_tokens=20).tokens for messages in asked]
    streams = [tiny.chat(messages, temperature=0, max_tokens=20, stream=True) for messages in asked]
    for _ in range(5):
        for stream in streams:
            next(stream)
    assert [stream.finish().tokens for stream in streams] == alone


# ---- errors


def test_too_many_documents_are_told_by_number_and_the_longest_by_name() -> None:
    documents: list[Any] = ["short", {"id": "report", "data": {"text": "long " * 300}}, "also short"]
    with CommandR(models.gguf("gqa"), n_ctx=512, n_threads=1) as model:
        over = len(model.prompt(HELLO, documents).tokens) + 1 - 512  # a token of the reply, too
        n_longest = len(model.tokenize("text: " + "long " * 300))
        expected = (
            f"the prompt with 3 documents is {over} tokens too long for n_ctx = 512; "
            f"the longest is document 1 (id 'report') with {n_longest} tokens"
        )
        assert over > 0
        for stream in (True, False):
            with pytest.raises(ContextFullError) as caught:
                model.chat(HELLO, documents=documents, stream=stream)
            assert str(caught.value) == expected
        assert leases(model) == 0
        result = {"role": "tool", "content": [{"text": "long " * 300}]}
        with pytest.raises(ContextFullError, match=r"with 1 document and 1 tool is \d+ tokens too long .* the longest"):
            model.chat([*HELLO, CALL, result], tools=[PICK])
        assert model.chat(HELLO, documents=["short"], max_tokens=2).finish_reason in {"length", "stop"}


@pytest.mark.parametrize("multi_step", [False, True])
def test_too_many_tools_are_told_by_number_and_the_longest_by_name(tiny: CommandR, multi_step: bool) -> None:
    long = PICK | {"name": "long", "description": "long " * 5000}
    tools = [PICK, long, PICK | {"name": "choose"}]
    options: dict[str, Any] = {"multi_step": multi_step}
    n_prompt = len(tiny.prompt(HELLO, tools=tools, **options).tokens)
    n_longest = n_prompt - len(tiny.prompt(HELLO, tools=[tools[0], tools[2]], **options).tokens)
    with pytest.raises(ContextFullError) as caught:
        tiny.chat(HELLO, tools=tools, **options)
    assert str(caught.value) == (
        f"the prompt with 3 tools is {n_prompt + 1 - tiny.n_ctx} tokens too long for n_ctx = {tiny.n_ctx}; "
        f"the longest is tool 'long' with {n_longest} tokens"
    )


def test_a_prompt_that_leaves_room_for_a_reply_is_taken() -> None:
    with CommandR(models.gguf("gqa"), n_ctx=512, n_threads=1) as model:
        room = 512 - len(model.prompt(HELLO, ["1"]).tokens)  # each digit is a token
        reply = model.chat(HELLO, documents=["1" * (room + 1 - 20)])
        assert (reply.usage.prompt_tokens, reply.finish_reason) == (492, "length")
        assert reply.usage.completion_tokens >= 20
        with pytest.raises(ContextFullError, match="with 1 document is 1 token too long"):
            model.chat(HELLO, documents=["1" * (room + 1)])


# ---- runs of tools


def test_the_embedded_model_calls_python_functions() -> None:
    """It was not trained for several steps: that the run ends and makes only possible calls is what can be shown."""
    booked: list[tuple[str, int]] = []

    def get_weather(city: str) -> str:
        """Gets the weather.

        Args:
            city: The city.
        """
        return f"It is sunny in {city}."

    def book_table(name: str, people: int) -> dict[str, Any]:
        """Books a table.

        Args:
            name: The name of a person.
            people: How many people come.
        """
        booked.append((name, people))
        return {"booked": True}

    question = [{"role": "user", "content": showcase.TOOL_QUESTION}]
    with CommandR.demo(n_threads=1) as model:
        run = run_tools(
            model,
            question,
            [get_weather, book_table],
            max_steps=2,
            max_seconds=60,
            multi_step=False,
            temperature=0,
            max_tokens=150,
        )
        again = model.chat(WHO, temperature=0, max_tokens=50)
    assert run.steps
    for step in run.steps:
        for result in step.results:
            assert result.error is None, result
    assert run.stopped in {"answer", "steps"}
    assert [message["role"] for message in run.messages][:3] == ["user", "assistant", "tool"]
    assert again.text
