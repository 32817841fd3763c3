"""The chat templates of a checkpoint, by name: ``default``, ``tool_use`` and ``rag`` in published ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convert.errors import CheckpointError

DEFAULT = "default"


def read_chat_templates(folder: Path, tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """Templates by name, in the order of the files.

    tokenizer_config.json carries them as one text or as a list of {"name", "template"}; transformers 5 writes
    chat_template.jinja and additional_chat_templates/NAME.jinja instead, which win over the former as they do there.
    Raises CheckpointError when a template is malformed.
    """
    templates: dict[str, str] = {}
    value = tokenizer_config.get("chat_template")
    if isinstance(value, str):
        templates[DEFAULT] = value
    elif isinstance(value, list):
        for entry in value:
            name = entry.get("name") if isinstance(entry, dict) else None
            text = entry.get("template") if isinstance(entry, dict) else None
            if not isinstance(name, str) or not name or not isinstance(text, str):
                raise CheckpointError(
                    f"{folder / 'tokenizer_config.json'}: an entry of chat_template lacks its name or its template"
                )
            templates[_key_name(name)] = text
    elif value is not None:
        raise CheckpointError(f"{folder / 'tokenizer_config.json'}: chat_template is neither a text nor a list")

    if (folder / "chat_template.jinja").exists():
        templates[DEFAULT] = _read(folder / "chat_template.jinja")
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        templates[_key_name(path.stem)] = _read(path)
    for name, text in templates.items():
        try:
            text.encode()
        except UnicodeEncodeError as error:  # JSON can spell half a character
            raise CheckpointError(f"{folder}: chat template {name} is not text: {error}") from error
    return templates


def _key_name(name: str) -> str:
    """The name as it stands in a GGUF key: letters, digits and underscores."""
    return re.sub(r"[^A-Za-z0-9]", "_", name)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
