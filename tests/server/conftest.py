"""One model and one server for the tests that change neither."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import embedded
from commandr_gguf import CommandR
from server.browser import Page, browser
from server.serving import Running, running


@pytest.fixture(scope="module")
def demo() -> Iterator[CommandR]:
    with CommandR(embedded.path("Q8_0"), n_ctx=4096, n_seq_max=8, n_threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def server(demo: CommandR) -> Iterator[Running]:
    with running(demo, settings={"model_alias": "demo"}) as found:
        yield found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as opened:
        yield opened


@pytest.fixture
def page(chromium: Any, server: Running) -> Iterator[Page]:
    opened = Page(chromium, server.url).ready()
    yield opened
    opened.close()
