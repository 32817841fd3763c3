"""The multi-step prompt, step by step."""

from __future__ import annotations

from typing import Any

import pytest

from commandr_gguf.chat.messages import normalize
from commandr_gguf.chat.multi_step import multi_step_data, render_multi_step
from commandr_gguf.chat.tools import normalize_tools

TOOLS = normalize_tools([{"name": "find", "description": "Finds.", "parameter_definitions": {"q": {"type": "str"}}}])
START, END = "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"


def render(messages: list[dict[str, Any]], tools: Any = TOOLS, **options: Any) -> str:
    return render_multi_step(multi_step_data(normalize(messages), tools), **options)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def call(plan: str | None, *queries: str) -> dict[str, Any]:
    calls = [{"name": "find", "parameters": {"q": query}} for query in queries]
    return {"role": "assistant", "tool_plan": plan, "tool_calls": calls}


def result(*documents: Any) -> dict[str, Any]:
    return {"role": "tool", "content": list(documents)}


def turns(text: str) -> list[str]:
    """The turns behind the first, without their marks; of the instruction only its beginning."""
    return [INSTRUCTION if turn.startswith(INSTRUCTION) else turn for turn in text.split(START)[2:]]


INSTRUCTION = "<|SYSTEM_TOKEN|>Carefully perform the following instructions, in order, starting each with a new line."


def test_rounds_follow_the_instruction_and_documents_are_numbered_on() -> None:
    messages = [
        user("Who?"),
        call("Look it up.", "who"),
        result({"title": "A", "url": "u"}, {"text": "B"}),
        call("Look again.", "é"),
        result("C"),
    ]
    action = '\nAction: ```json\n[\n    {\n        "tool_name": "find",\n        "parameters": {\n            "q": '
    assert turns(render(messages)) == [
        f"<|USER_TOKEN|>Who?{END}",
        INSTRUCTION,
        f'<|CHATBOT_TOKEN|>\nPlan: Look it up.{action}"who"\n        }}\n    }}\n]\n```{END}\n',
        f"<|SYSTEM_TOKEN|><results>\nDocument: 0\nTitle: A\nURL: u\n\nDocument: 1\nText: B\n</results>{END}",
        f'<|CHATBOT_TOKEN|>\nReflection: Look again.{action}"é"\n        }}\n    }}\n]\n```{END}\n',
        f"<|SYSTEM_TOKEN|><results>\nDocument: 2\nOutput: C\n</results>{END}",
        "<|CHATBOT_TOKEN|>",
    ]


def test_results_of_several_calls_are_one_turn() -> None:
    text = render([user("Who?"), call(None, "a", "b"), result({"x": 1}), result({"y": [2]}, {"z": None})])
    assert "<results>\nDocument: 0\nX: 1\n\nDocument: 1\nY: [2]\n\nDocument: 2\nZ: None\n</results>" in text
    assert text.count("<results>") == 1
    assert "<|CHATBOT_TOKEN|>\nAction: ```json\n[\n    {\n" in text  # no plan, no label


def test_numbers_go_on_across_turns_and_plans_begin_anew() -> None:
    first = [user("Who?"), call("One.", "a"), result({"x": "1"}), call("Two.", "b"), result({"x": "2"})]
    answer = {"role": "assistant", "content": "Grounded answer: <co: 1>He</co: 1>."}
    text = render([*first, answer, user("When?"), call("Three.", "c"), result({"x": "3"})])
    assert [line for line in text.split("\n") if line.startswith(("Plan:", "Reflection:", "Document:"))] == [
        "Plan: One.",
        "Document: 0",
        "Reflection: Two.",
        "Document: 1",
        "Plan: Three.",
        "Document: 2",
    ]
    assert turns(text).index(INSTRUCTION) == turns(text).index(f"<|USER_TOKEN|>When?{END}") + 1
    assert text.count("Carefully perform") == 1


@pytest.mark.parametrize("plan", ["Plan: As I said.", "Reflection: As I said."])
def test_a_label_that_is_there_is_not_doubled(plan: str) -> None:
    assert f"<|CHATBOT_TOKEN|>\n{plan}\nAction:" in render([user("Who?"), call(plan, "a"), result("x")])


def test_the_system_message_takes_the_place_of_the_default_preamble() -> None:
    default = render([user("Who?")])
    own = render([{"role": "system", "content": "## Rules\nBe brief."}, user("Who?")])
    assert "## Task And Context" in default
    assert "# User Preamble\n## Rules\nBe brief.\n\n## Available Tools" in own
    assert "## Task And Context" not in own
    assert "current date" not in default


def test_the_current_date() -> None:
    values = multi_step_data(normalize([user("Who?")]), TOOLS, date="Monday")
    assert "which will be wide-ranging. The current date is Monday\n\n## Style Guide" in render_multi_step(values)


@pytest.mark.parametrize("name", ["directly_answer", "directly-answer"])
def test_directly_answer_is_offered_once(name: str) -> None:
    assert render([user("Who?")]).count("def directly_answer() -> List[Dict]:") == 1
    assert "def directly_answer()" in render([user("Who?")], [])
    own = normalize_tools([{"name": name, "description": "Own."}])
    assert render([user("Who?")], own).count("def directly") == 1


def test_ends() -> None:
    text = render([user("Who?")], bos_token="<BOS_TOKEN>")
    assert text.startswith(f"<BOS_TOKEN>{START}<|SYSTEM_TOKEN|># Safety Preamble\n")
    assert text.endswith(f"{START}<|CHATBOT_TOKEN|>")
    assert render([user("Who?")], add_generation_prompt=False).endswith(END)
