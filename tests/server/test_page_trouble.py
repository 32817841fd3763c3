"""The page when things go wrong, and when more comes than was thought of."""

from __future__ import annotations

import json
from typing import Any

import pytest

from commandr_gguf import CommandR
from commandr_gguf.demo import showcase
from commandr_gguf.server import reading
from server.browser import Page
from server.openai_asking import TABLE, function
from server.serving import running

HELLO = "Hello, who are you?"
KEY = """([key, options]) => document.querySelector("#question").dispatchEvent(
    new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...options }))"""


def forgive(page: Page, *words: str) -> None:
    """The browser's own complaints of requests that were to fail."""
    page.complaints = [said for said in page.complaints if not any(word in said for word in words)]


def test_a_server_that_goes_away_is_told_and_asked_again_when_it_is_back(chromium: Any, demo: CommandR) -> None:
    with running(demo) as server:
        page = Page(chromium, server.url).ready()
        page.set(temperature="0")
        page.ask(HELLO)
        port = int(server.url.rpartition(":")[2])
    page.ask("What are you?")
    assert page.texts(".note.problem") == ["The server does not answer. Is it still running?"]
    with running(demo, settings={"port": port}):
        page.tab.click("text=Try again")
        page.tab.wait_for_selector("article:nth-child(4) .stats")
        assert page.texts(".note.problem") == []
    forgive(page, "ERR_")
    page.close()


def test_requests_that_the_browser_drops_once_are_made_again(page: Page) -> None:
    def drop(route: Any) -> None:
        route.abort("failed")  # as when the computer joins a network

    page.set(temperature="0")
    page.tab.route("**/props", drop, times=1)
    page.reload()
    page.tab.route("**/v2/chat", drop, times=1)
    page.ask(HELLO)
    page.tab.route("**/page/documents*", drop, times=1)
    page.add_files(("Velmora Bridge.txt", showcase.DOCUMENTS[1]["text"].encode()))
    assert (len(page.texts(".stats")), page.texts(".note.problem"), page.texts("#toast *")) == (1, [], [])
    forgive(page, "ERR_FAILED")


def test_a_reply_that_is_cut_off_is_told_and_what_came_is_kept(endless: Page) -> None:
    page = endless
    page.tab.unroute("**/v2/chat")
    page.tab.evaluate(
        """() => {
            const read = ReadableStreamDefaultReader.prototype.read;
            ReadableStreamDefaultReader.prototype.read = () => Promise.reject(new TypeError("network error"));
            window.readAgain = () => (ReadableStreamDefaultReader.prototype.read = read);
        }"""
    )
    page.wait_for_reply()
    assert page.texts(".note.problem") == ["The connection ended before the reply did."]
    [text] = page.texts(".assistant .prose")
    page.evaluate("() => window.readAgain()")
    page.reload()
    assert page.texts(".assistant .prose") == [text]
    assert page.texts(".actions button") == ["Copy", "Try again"]


def test_a_question_after_one_that_got_no_answer_is_answered(page: Page) -> None:
    page.set(temperature="0")
    page.tab.route("**/v2/chat", lambda route: route.abort())
    page.ask("Never answered")
    page.tab.unroute("**/v2/chat")
    with page.tab.expect_request("**/v2/chat") as asked:
        page.ask(HELLO)
    assert asked.value.post_data_json["messages"] == [{"role": "user", "content": HELLO}]
    assert len(page.texts(".stats")) == 1
    forgive(page, "ERR_FAILED")


def test_a_question_instead_of_tool_results_is_answered(page: Page) -> None:
    page.set(temperature="0", tools=json.dumps([function(TABLE)]))
    page.ask(showcase.TOOL_QUESTION)
    assert page.texts(".call-head") == ["book_table"]
    page.set(tools="")
    page.ask(HELLO)
    assert page.texts(".note.problem") == []
    assert page.texts(".assistant .prose")[-1].startswith("I am the demo model")


def test_a_conversation_that_is_longer_than_the_context_is_told_what_helps(page: Page) -> None:
    page.tab.fill("#question", "word " * 6000)
    page.tab.press("#question", "Enter")
    page.wait_for_reply()
    [note] = page.texts(".note.problem")
    assert "tokens, and the context 4096." in note
    assert "Begin a new conversation" in note
    forgive(page, "400")


def test_storage_that_is_full_is_told_once_and_nothing_is_lost_on_the_page(page: Page) -> None:
    page.evaluate(
        """() => {
            window.told = [];
            new MutationObserver(() => window.told.push(document.querySelector("#toast").textContent)).observe(
                document.querySelector("#toast"), { childList: true });
        }"""
    )
    devtools = page.context.new_cdp_session(page.tab)
    devtools.send("Storage.overrideQuotaForOrigin", {"origin": page.url, "quotaSize": 1})
    page.ask(HELLO)
    page.tab.wait_for_function("() => window.told.length > 0")
    page.ask(HELLO)
    assert len(page.texts(".stats")) == 2
    told = [text for text in page.evaluate("() => window.told") if text]
    assert len(told) == 1
    assert "storage is full" in told[0]


def test_a_browser_that_keeps_nothing_can_be_used(page: Page) -> None:
    page.tab.add_init_script("IDBFactory.prototype.open = () => { throw new DOMException('no', 'SecurityError'); }")
    page.reload()
    page.ask(HELLO)
    page.tab.click("#new-conversation")
    page.ask(HELLO)
    assert len(page.texts(".stats")) == 1


@pytest.mark.parametrize("options", [{"isComposing": True}, {"keyCode": 229}])
def test_enter_and_escape_belong_to_the_input_method_while_it_composes(endless: Page, options: dict[str, Any]) -> None:
    page = endless
    page.tab.evaluate(KEY, ["Escape", {"isComposing": True}])
    assert page.tab.locator("#stop").is_visible()
    page.tab.click("#stop")
    page.wait_for_reply()
    page.tab.fill("#question", "にほん")
    page.tab.evaluate(KEY, ["Enter", options])
    assert page.tab.input_value("#question") == "にほん"
    assert page.texts("article.user div") == ["Count"]


def test_a_second_click_asks_nothing_twice(page: Page) -> None:
    page.set(temperature="0")
    page.tab.fill("#question", HELLO)
    page.tab.dblclick("#send", force=True)
    page.wait_for_reply()
    assert page.texts("article.user div") == [HELLO]
    with page.tab.expect_request("**/v2/chat"):
        page.tab.evaluate("() => { const b = document.querySelectorAll('.actions button')[1]; b.click(); b.click(); }")
    page.wait_for_reply()
    assert len(page.texts("article.assistant")) == 1


def test_a_pasted_text_that_is_too_long_is_told(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_CHARACTERS", 5000)
    page.tab.evaluate(
        """() => {
            const data = new DataTransfer();
            data.setData("text/plain", "many words ".repeat(500));
            const options = { clipboardData: data, bubbles: true, cancelable: true };
            document.querySelector("#question").dispatchEvent(new ClipboardEvent("paste", options));
        }"""
    )
    page.tab.wait_for_selector("#toast:has-text('more than the 5000')")
    assert page.texts("#documents li") == []
    forgive(page, "413")
