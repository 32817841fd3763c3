"""One model and one server for the tests that change neither."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

import embedded
from commandr_gguf import CommandR
from commandr_gguf.generation import Piece
from commandr_gguf.server.jobs import Job, Output
from server.browser import PHONE, Page, browser
from server.serving import ENDLESS, Running, running


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


@pytest.fixture
def endless(page: Page, monkeypatch: pytest.MonkeyPatch) -> Page:
    """A page to which the server writes until it is stopped, and not too fast for that."""
    read = Job.read

    def read_slowly(job: Job, piece: Piece) -> Output:
        time.sleep(0.02)
        return read(job, piece)

    def lengthen(route: Any) -> None:
        body = json.loads(route.request.post_data)
        route.continue_(post_data=json.dumps({**body, "response_format": ENDLESS["response_format"], "seed": 1}))

    monkeypatch.setattr(Job, "read", read_slowly)
    page.tab.route("**/v2/chat", lengthen)
    page.ask("Count", wait=False)
    page.tab.wait_for_function("() => document.querySelector('.assistant .prose')?.textContent.length > 10")
    return page


@pytest.fixture
def phone(chromium: Any, server: Running) -> Iterator[Page]:
    opened = Page(chromium, server.url, **PHONE).ready()
    yield opened
    opened.close()
