"""README's example on the embedded model, as it stands there."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def test_the_example_of_documents_and_tools_prints_the_right_answers(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"(?:^    .*\n|^\n)+", README.read_text(encoding="utf-8"), re.MULTILINE)
    (block,) = [textwrap.dedent(block) for block in blocks if "run_tools(m" in block]
    exec(compile(block, str(README), "exec"), {})
    assert capsys.readouterr().out.splitlines() == [
        "1987 (1,)",
        'get_population(city="Harrow") Harrow has 12,000 people.',
    ]
