"""The three chat templates of the embedded checkpoint."""

from __future__ import annotations

# The control flow, the variables and the marks are those of the published templates. The prose is our own, and short:
# every token of it is computed for each example of the training.
_TURN = "<|START_OF_TURN_TOKEN|><|{role}_TOKEN|>{text}<|END_OF_TURN_TOKEN|>"
_HEAD = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = DEFAULT %}{% endif %}"
)
_SYSTEM = _TURN.format(role="SYSTEM", text="{{ system_message }}")
_USER = _TURN.format(role="USER", text="{{ message['content'].strip() }}")
_CHATBOT = _TURN.format(role="CHATBOT", text="{{ message['content'].strip() }}")
_SYSTEM_TURN = _TURN.format(role="SYSTEM", text="{{ message['content'].strip() }}")
_TURNS = (
    "{% for message in loop_messages %}"
    f"{{% if message['role'] == 'user' %}}{_USER}"
    f"{{% elif message['role'] == 'system' %}}{_SYSTEM_TURN}"
    f"{{% elif message['role'] == 'assistant' %}}{_CHATBOT}"
    "{% endif %}{% endfor %}"
)
_CALL = "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"
_PREAMBLE = (
    "# Safety Preamble\nRefuse what would do harm.\n# System Preamble\n## Basic Rules\nAnswer with sources.\n"
    "# User Preamble\n{{ system_message }}"
)
_GUIDE = "'## Task and Context\\nYou answer questions.\\n## Style Guide\\nUse full sentences.'"
_TYPE = "{% if field.required %}{{ field.type }}{% else %}Optional[{{ field.type }}]{% endif %}"
_PARAMETER = "{{ name }}: " + _TYPE + "{% if not field.required %} = None{% endif %}"
_EACH_FIELD = "{% for name, field in tool.parameter_definitions.items() %}"
_TOOLS = (
    "\n## Available Tools\n"
    "{% for tool in tools %}{% if not loop.first %}{{ '\\n' }}{% endif %}"
    "```python\ndef {{ tool.name }}("
    + _EACH_FIELD
    + "{% if not loop.first %}, {% endif %}"
    + _PARAMETER
    + '{% endfor %}) -> List[Dict]:\n    """{{ tool.description }}'
    + "{% if tool.parameter_definitions|length != 0 %}{{ '\\n\\n    Args:' }}"
    + _EACH_FIELD
    + "{{ '\\n        ' }}{{ name }} ("
    + _TYPE
    + '): {{ field.description }}{% endfor %}{% endif %}{{ \'\\n    """\' }}\n    pass\n```{% endfor %}'
)
_ACTIONS = "Write 'Action:' followed by a json-formatted list of actions; `directly_answer` needs no tool."
_RESULTS = (
    "<results>{% for document in documents %}{{ '\\nDocument: ' }}{{ loop.index0 }}{{ '\\n' }}"
    "{% for key, value in document.items() %}{{ key }}: {{ value }}{{ '\\n' }}{% endfor %}{% endfor %}</results>"
)
_GROUNDING = (
    "Write 'Relevant Documents:', 'Cited Documents:', {% if citation_mode=='accurate' %}'Answer:' {% endif %}"
    "and 'Grounded answer:' with <co: 0>facts</co: 0>."
)

CHAT_TEMPLATES = {
    "default": _HEAD.replace("DEFAULT", "false")
    + f"{{% if system_message != false %}}{_SYSTEM}{{% endif %}}"
    + "{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    + "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    + f"{{% if message['role'] == 'user' %}}{_USER}{{% elif message['role'] == 'assistant' %}}{_CHATBOT}{{% endif %}}"
    + "{% endfor %}"
    + _CALL,
    "tool_use": _HEAD.replace("DEFAULT", _GUIDE)
    + _TURN.format(role="SYSTEM", text=_PREAMBLE + _TOOLS)
    + _TURNS
    + _TURN.format(role="SYSTEM", text=_ACTIONS)
    + _CALL,
    "rag": _HEAD.replace("DEFAULT", _GUIDE)
    + _TURN.format(role="SYSTEM", text=_PREAMBLE)
    + _TURNS
    + _TURN.format(role="SYSTEM", text=_RESULTS)
    + _TURN.format(role="SYSTEM", text=_GROUNDING)
    + _CALL,
}
