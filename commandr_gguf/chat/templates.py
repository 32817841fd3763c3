"""Chat templates for files that have none of a name: the published structure, in sentences of our own or free ones.

Marks, variables, line breaks and the order of the parts are those of the published templates, so that a model finds
what it was trained on where it was trained to find it. The sentences of the published ones may not be copied for every
purpose; here stand those of `instructions`, which may, and where that has none, shorter ones of the same sense.
"""

from __future__ import annotations

from commandr_gguf.chat.instructions import (
    ANSWER,
    CITED_DOCUMENTS,
    GROUNDED_ANSWER,
    ORDER,
    RELEVANT_DOCUMENTS,
    SAFETY_RULES,
    STYLE_GUIDE,
    TASK_AND_CONTEXT,
)


def _turn(role: str, text: str) -> str:
    return f"<|START_OF_TURN_TOKEN|><|{role}_TOKEN|>{text}<|END_OF_TURN_TOKEN|>"


_GUIDE = f"## Task and Context\\n{TASK_AND_CONTEXT}\\n\\n## Style Guide\\n{STYLE_GUIDE}.".replace("'", "\\'")
_HEAD = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = DEFAULT %}{% endif %}"
)
_CONTENT = "{{ message['content'].strip() }}"
_USER, _CHATBOT, _SYSTEM = (_turn(role, _CONTENT) for role in ("USER", "CHATBOT", "SYSTEM"))
_REPLY = "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"
_TURNS = (
    "{% for message in loop_messages %}"
    f"{{% if message['role'] == 'user' %}}{_USER}"
    f"{{% elif message['role'] == 'system' %}}{_SYSTEM}"
    f"{{% elif message['role'] == 'assistant' %}}{_CHATBOT}"
    "{% endif %}{% endfor %}"
)
_ALTERNATING_TURNS = (
    "{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    f"{{% if message['role'] == 'user' %}}{_USER}{{% elif message['role'] == 'assistant' %}}{_CHATBOT}"
    "{% endif %}{% endfor %}"
)
_PREAMBLE = (
    f"# Safety Preamble\n{SAFETY_RULES}.\n\n# System Preamble\n## Basic Rules\n"
    "You are a conversational AI that helps people. A number of tools are at your service; use them, and what they "
    "return, to help the user as well as you can. You will see a conversation with a user, which the user's last words "
    "end, and then an instruction about the kind of response to write. When you answer, you cite your sources as the "
    "instruction says.\n\n# User Preamble\n{{ system_message }}"
)
_TYPE = "{% if field.required %}{{ field.type }}{% else %}Optional[{{ field.type }}]{% endif %}"
_FIELDS = "{% for name, field in tool.parameter_definitions.items() %}"
# A line break or spaces beside a block would be trimmed: they stand in expressions.
_TOOLS = (
    "\n\n## Available Tools\nHere is a list of tools that you have available to you:{{ '\\n\\n' }}"
    "{% for tool in tools %}{% if not loop.first %}{{ '\\n\\n' }}{% endif %}"
    f"```python\ndef {{{{ tool.name }}}}({_FIELDS}"
    f"{{% if not loop.first %}}, {{% endif %}}{{{{ name }}}}: {_TYPE}"
    "{% if not field.required %} = None{% endif %}{% endfor %}) -> List[Dict]:\n"
    '    """{{ tool.description }}{% if tool.parameter_definitions %}{{ \'\\n\\n    Args:\' }}'
    f"{_FIELDS}{{{{ '\\n        ' }}}}{{{{ name }}}} ({_TYPE}): {{{{ field.description }}}}{{% endfor %}}{{% endif %}}"
    '{{ \'\\n    """\' }}\n    pass\n```{% endfor %}'
)
_ACTIONS = (
    "Write 'Action:' followed by a json-formatted list of the actions that lead to a good response to the user's last "
    "input. Use any of the tools, but no more actions than the input needs. Use the `directly_answer` tool when none "
    "of the others is needed. The list is to be formatted as in this example:\n"
    "```json\n[\n    {\n"
    '        "tool_name": title of the tool in the specification,\n'
    '        "parameters": a dict of the parameters of the tool, or {} if it takes none\n'
    "    }\n]```"
)
_RESULTS = (
    "<results>{% for document in documents %}{{ '\\nDocument: ' }}{{ loop.index0 }}{{ '\\n' }}"
    "{% for key, value in document.items() %}{{ key }}: {{ value }}{{ '\\n' }}{% endfor %}{% endfor %}</results>"
)
_GROUNDING = (
    f"{ORDER}Firstly, {RELEVANT_DOCUMENTS}Secondly, {CITED_DOCUMENTS}"
    f"{{% if citation_mode == 'accurate' %}}Thirdly, {ANSWER.rstrip()}{{{{ '\\n' }}}}{{% endif %}}"
    f"Finally, {GROUNDED_ANSWER.format(number=0)}"
)

FALLBACK_TEMPLATES = {
    "default": _HEAD.replace("DEFAULT", "false")
    + f"{{% if system_message != false %}}{_turn('SYSTEM', '{{ system_message }}')}{{% endif %}}"
    + _ALTERNATING_TURNS
    + _REPLY,
    "tool_use": _HEAD.replace("DEFAULT", f"'{_GUIDE}'")
    + _turn("SYSTEM", _PREAMBLE + _TOOLS)
    + _TURNS
    + _turn("SYSTEM", _ACTIONS)
    + _REPLY,
    "rag": _HEAD.replace("DEFAULT", f"'{_GUIDE}'")
    + _turn("SYSTEM", _PREAMBLE)
    + _TURNS
    + _turn("SYSTEM", _RESULTS)
    + _turn("SYSTEM", _GROUNDING)
    + _REPLY,
}
"""Jinja sources by their names."""
