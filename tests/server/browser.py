"""The page in a headless Chromium, for tests."""

from __future__ import annotations

import contextlib
import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True}


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Playwright's browser; the test is skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on the PATH")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Page:
    """A page of its own, with nothing kept, at a server; what it asked for and complained of."""

    def __init__(self, opened: Any, url: str, **options: Any) -> None:
        self.context = opened.new_context(accept_downloads=True, locale="en-US", **options)
        self.context.set_default_timeout(60_000)  # each file is read by a new process: slow where much else runs
        self.url = url
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._open_tab(url)

    def _open_tab(self, url: str) -> None:
        self.tab = self.context.new_page()
        self.tab.on("console", lambda said: self.complaints.append(f"{said.type}: {said.text}"))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto(url)

    def second_tab(self) -> Page:
        """Another one of the same browser, which has what this one has kept."""
        other = copy.copy(self)
        other._open_tab(self.url)
        return other.ready()

    def ready(self) -> Page:
        """When it knows the server."""
        self.tab.wait_for_selector("#model-name:not(:empty)", state="attached")
        return self

    def add_files(self, *files: tuple[str, bytes]) -> None:
        """As the dialog for files does it; returns when the server has read them."""
        n_before = self.tab.locator("#documents .name").count()
        given = [{"name": name, "mimeType": "application/octet-stream", "buffer": data} for name, data in files]
        self.tab.set_input_files("#file-input", given)
        self.tab.wait_for_function(
            "n => document.querySelectorAll('#documents .name').length === n && !document.querySelector('.reading')",
            arg=n_before + len(files),
        )

    def ask(self, question: str, *, wait: bool = True) -> None:
        """Type and send a question; returns when the reply has ended."""
        self.tab.fill("#question", question)
        self.tab.press("#question", "Enter")
        if wait:
            self.wait_for_reply()

    def wait_for_reply(self) -> None:
        """Until the last reply has ended."""
        self.tab.wait_for_function(
            "() => document.querySelector('#stop').hidden && "
            "document.querySelector('article:last-child.assistant:not(.writing)')"
        )

    def set(self, **values: str) -> None:
        """Choose settings by their names."""
        self.tab.click("#open-settings")
        for name, value in values.items():
            field = self.tab.locator(f"#settings [name={name}]")
            if field.evaluate("field => field.tagName") == "SELECT":
                field.select_option(value)
            else:
                field.fill(value)
        self.tab.click("#settings [type=submit]")

    def hold(self, pattern: str) -> list[Any]:
        """The requests to an address of this tab from now on: they wait until `continue_` is called of them."""
        held: list[Any] = []

        def wait(route: Any) -> None:
            held.append(route)

        self.tab.route(pattern, wait)
        return held

    def reload(self) -> None:
        """As the user would."""
        self.tab.reload()
        self.ready()

    def download(self, button: str) -> tuple[str, str]:
        """The name and text of what an entry of the export menu gives."""
        self.tab.click("#export summary")
        with self.tab.expect_download() as found:
            self.tab.click(button)
        return found.value.suggested_filename, Path(found.value.path()).read_text(encoding="utf-8")

    def texts(self, selector: str) -> list[str]:
        """What all elements show, as they are made."""
        return [str(text) for text in self.tab.locator(selector).all_text_contents()]

    def evaluate(self, script: str) -> Any:
        """A value of the page."""
        return self.tab.evaluate(script)

    def close(self) -> None:
        """It has not complained, nor asked anyone but its server for anything."""
        self.context.close()
        complaints = [complaint for complaint in self.complaints if "debug" not in complaint]
        assert complaints == [], complaints
        away = [url for url in self.requests if not url.startswith((f"{self.url}/", f"blob:{self.url}/"))]
        assert away == [], away
