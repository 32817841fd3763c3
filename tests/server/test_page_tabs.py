"""The page: several tabs of one browser, the way back, and what reloads find."""

from __future__ import annotations

import pytest

from commandr_gguf.demo import showcase
from server.browser import Page

HELLO = "Hello, who are you?"
OTHER = "What are you?"
DOCUMENT = ("Velmora Bridge.txt", showcase.DOCUMENTS[1]["text"].encode())


def asked(*questions: str) -> str:
    """A condition: these questions are shown, each with a reply that has ended."""
    return (
        f"() => JSON.stringify([...document.querySelectorAll('article.user div')].map((one) => one.textContent)) "
        f"=== JSON.stringify({list(questions)!r}) && document.querySelectorAll('.assistant:not(.writing)').length "
        f"=== {len(questions)}"
    )


@pytest.fixture
def tabs(page: Page) -> tuple[Page, Page]:
    """Two, with the same conversation."""
    page.set(temperature="0")
    page.ask(HELLO)
    second = page.second_tab()
    second.tab.wait_for_function(asked(HELLO))
    return page, second


def test_what_is_asked_in_one_tab_is_seen_in_the_other(tabs: tuple[Page, Page]) -> None:
    first, second = tabs
    first.ask(OTHER)
    second.tab.wait_for_function(asked(HELLO, OTHER))
    second.ask("Goodbye")
    first.tab.wait_for_function(asked(HELLO, OTHER, "Goodbye"))
    second.tab.click("#new-conversation")
    second.ask("Another one")
    first.tab.wait_for_selector("#conversations .open:has-text('Another one')")
    assert first.texts("#title") == [HELLO]


def test_two_tabs_that_ask_at_once_lose_neither_question(tabs: tuple[Page, Page]) -> None:
    first, second = tabs
    waiting = first.hold("**/v2/chat")
    first.ask("First", wait=False)
    second.tab.wait_for_function("() => document.querySelector('.writing')")  # by the first, it knows no more
    second.ask("Second")
    assert second.texts("article.user div") == [HELLO, "First", "Second"]
    first.tab.wait_for_function("() => !document.querySelector('#stop').hidden")
    waiting[0].continue_()
    first.wait_for_reply()
    first.tab.wait_for_selector("#toast:has-text('kept as a second one')")
    assert first.texts("article.user div") == [HELLO, "First"]
    for tab in tabs:
        tab.tab.wait_for_selector("#conversations li:nth-child(2)")
        assert tab.texts("#conversations .open") == [f"{HELLO} (2)", HELLO]
        tab.reload()
    first.tab.wait_for_function(asked(HELLO, "First"))
    second.tab.wait_for_function(asked(HELLO, "First", "Second"))


def test_what_is_deleted_in_one_tab_is_gone_in_the_other(tabs: tuple[Page, Page]) -> None:
    first, second = tabs
    second.tab.click(f"[aria-label='Delete “{HELLO}”']")
    first.tab.wait_for_selector("#toast:has-text('deleted in another tab')")
    assert first.tab.locator("#welcome").is_visible()
    first.ask(OTHER)
    second.tab.wait_for_selector("#conversations .open:has-text('What are you?')")
    second.tab.click("#toast >> text=Undo")
    first.tab.wait_for_selector("#conversations li:nth-child(2)")


def test_a_reply_that_ends_after_its_conversation_was_deleted_does_not_bring_it_back(tabs: tuple[Page, Page]) -> None:
    first, second = tabs
    first.hold("**/v2/chat")
    first.ask(OTHER, wait=False)
    second.tab.wait_for_function("() => document.querySelector('.writing')")
    second.tab.click("#delete-all")
    second.tab.click("#delete-dialog [type=submit]")
    first.tab.wait_for_selector("#toast:has-text('deleted in another tab')")
    first.reload()
    assert first.texts("#conversations li") == []


def test_each_tab_comes_back_to_its_own_conversation(tabs: tuple[Page, Page]) -> None:
    first, second = tabs
    second.tab.click("#new-conversation")
    second.ask(OTHER)
    first.reload()
    first.tab.wait_for_function(asked(HELLO))
    second.reload()
    second.tab.wait_for_function(asked(OTHER))


def test_the_back_button_leads_to_the_conversation_before(page: Page) -> None:
    page.set(temperature="0")
    page.ask(HELLO)
    page.tab.click("#new-conversation")
    page.ask(OTHER)
    page.tab.go_back()
    page.tab.wait_for_function(asked(HELLO))
    page.tab.go_forward()
    page.tab.wait_for_function(asked(OTHER))
    page.tab.focus(".skip")
    page.tab.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "question"
    page.reload()
    page.tab.wait_for_function(asked(OTHER))


def test_the_conversation_that_is_written_is_not_stopped_by_opening_it(endless: Page) -> None:
    page = endless
    page.tab.click("#conversations .open")
    page.tab.wait_for_function(
        "n => document.querySelector('.assistant .prose').textContent.length > n",
        arg=len(page.texts(".assistant .prose")[0]),
    )
    assert page.tab.locator("#stop").is_visible()
    page.tab.click("#stop")
    page.wait_for_reply()


def test_documents_survive_reloads_before_anything_is_asked(page: Page) -> None:
    page.add_files(DOCUMENT)
    page.reload()
    page.tab.wait_for_selector("#documents .name:has-text('Velmora Bridge.txt')")
    assert page.texts("#conversations .open") == ["Velmora Bridge.txt"]
    page.set(temperature="0")
    page.ask(showcase.QUESTION)
    assert page.texts("#conversations .open") == [showcase.QUESTION]
    page.tab.click("#new-conversation")
    page.add_files(DOCUMENT)
    page.tab.wait_for_selector("#conversations li:nth-child(2)")
    page.tab.click("#documents [aria-label='Remove Velmora Bridge.txt']")
    page.tab.wait_for_selector("#conversations li:nth-child(2)", state="detached")
    page.reload()
    assert page.texts("#documents .name") == []


def test_back_closes_what_covers_the_page_of_a_phone(phone: Page) -> None:
    phone.add_files(DOCUMENT)
    # Escape stands for the phone's way back: to the browser both ask to close, and the page's own keys are taken away.
    phone.evaluate("() => addEventListener('keydown', (event) => event.stopImmediatePropagation(), true)")
    phone.tab.click("#documents .name")
    assert phone.tab.locator("#source").is_visible()
    phone.tab.keyboard.press("Escape")
    phone.tab.wait_for_selector("#source", state="hidden")
    assert not phone.evaluate("() => document.querySelector('#center').inert")
    phone.tab.click("#open-sidebar")
    phone.tab.wait_for_selector("#sidebar.open")
    phone.tab.keyboard.press("Escape")
    phone.tab.wait_for_selector("#sidebar", state="hidden")
