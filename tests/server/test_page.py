"""The page: conversations that are kept, stopped, continued and exported, and on which screens."""

from __future__ import annotations

import json
from typing import Any

import pytest

from commandr_gguf import CommandR
from commandr_gguf.demo import showcase
from server.browser import Page
from server.openai_asking import TABLE, function
from server.serving import Running, running, wait_until

HELLO = "Hello, who are you?"
LONG_WORD = "unbrokenword" * 40


def test_a_reply_streams_in_and_is_told_with_its_speed(page: Page) -> None:
    page.set(temperature="0")
    page.ask(HELLO)
    assert page.texts("article.user div") == [HELLO]
    assert page.texts("article.assistant .prose")[0].startswith("I am the demo model")
    assert "tokens/s" in page.texts(".stats")[0]
    meter = page.tab.locator("#context")
    assert meter.get_attribute("aria-valuemax") == "4096"
    assert 10 < int(meter.get_attribute("aria-valuenow")) < 400
    assert page.texts("#spoken p")[0].startswith("I am the demo model")
    assert page.evaluate("() => document.activeElement.id") == "question"


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_a_long_answer_is_stopped_and_kept(endless: Page, server: Running, how: str) -> None:
    page = endless
    assert page.tab.locator("#send").is_hidden()
    if how == "button":
        page.tab.click("#stop")
    else:
        page.tab.keyboard.press("Escape")
    page.wait_for_reply()
    wait_until(lambda: server.engine.counts.active == 0)
    [text] = page.texts(".assistant .prose")
    assert page.texts(".note") == ["Stopped."]
    page.reload()
    assert page.texts(".assistant .prose") == [text]
    page.tab.unroute("**/v2/chat")
    page.ask(HELLO)
    assert len(page.texts("article.assistant")) == 2


def test_a_page_that_is_left_while_a_reply_is_written_keeps_it_as_stopped(endless: Page) -> None:
    page = endless
    page.reload()
    page.tab.wait_for_selector(".note:has-text('Stopped.')")
    assert page.texts("article.user div") == ["Count"]


def test_conversations_survive_reloads_and_are_deleted(page: Page) -> None:
    page.set(temperature="0")
    page.add_files(("Velmora Bridge.txt", showcase.DOCUMENTS[1]["text"].encode()))
    page.ask(showcase.QUESTION)
    page.tab.click("#new-conversation")
    assert page.tab.locator("#welcome").is_visible()
    page.ask(HELLO)
    page.reload()
    assert page.texts("#conversations .open") == [HELLO, showcase.QUESTION]
    assert page.texts("article.user div") == [HELLO]
    page.tab.click("#conversations .open >> nth=1")
    page.tab.wait_for_selector("#documents .name:has-text('Velmora Bridge.txt')")
    page.tab.click(".cited >> nth=0")
    assert "1987" in page.texts("#source-text mark")[0]
    page.tab.click(f"[aria-label='Delete “{showcase.QUESTION}”']")
    page.tab.wait_for_selector("#toast >> text=Undo")
    assert page.texts("#conversations .open") == [HELLO]
    assert page.tab.locator("#source").is_hidden()
    page.tab.click("#toast >> text=Undo")
    page.tab.wait_for_selector("#conversations li:nth-child(2)")
    page.tab.click("#delete-all")
    page.tab.click("#delete-dialog [type=submit]")
    page.tab.wait_for_function("() => !document.querySelector('#conversations li')")
    page.reload()
    assert page.texts("#conversations li") == []
    assert page.evaluate("() => indexedDB.databases().then((all) => all.length)") == 1


def test_a_reply_is_written_again(page: Page) -> None:
    page.set(temperature="0", seed="7")
    bodies: list[Any] = []
    page.tab.on("request", lambda request: bodies.append(request.post_data_json) if "/v2/chat" in request.url else None)
    page.ask(HELLO)
    before = page.texts("article.assistant .prose")
    page.set(preamble="Be brief.", topP="0.5", maxTokens="3", citations="FAST")
    page.tab.click(".actions >> text=Regenerate")
    page.wait_for_reply()
    page.tab.wait_for_selector(".note >> text=the most tokens")
    assert len(page.texts("article.assistant")) == 1
    assert before[0].startswith(page.texts("article.assistant .prose")[0])
    first, second = bodies
    assert first["messages"] == [{"role": "user", "content": HELLO}]
    assert (first["temperature"], first["seed"], "p" in first) == (0, 7, False)
    assert second["messages"] == [{"role": "system", "content": "Be brief."}, *first["messages"]]
    assert (second["p"], second["max_tokens"], second["citation_options"]) == (0.5, 3, {"mode": "FAST"})


def test_tool_calls_are_shown_and_their_results_sent(page: Page) -> None:
    page.set(temperature="0", tools=json.dumps([function(TABLE)]))
    page.ask(showcase.TOOL_QUESTION)
    assert page.texts(".call-head") == ["book_table"]
    assert list(zip(page.texts(".call dt"), page.texts(".call dd"), strict=True)) == [
        ("people", "14"),
        ("name", "Ilse Tarn"),
    ]
    page.tab.fill(".call textarea", '{"booked": true}')
    with page.tab.expect_request("**/v2/chat") as asked:
        page.tab.click("text=Send results")
    page.wait_for_reply()
    call, result = asked.value.post_data_json["messages"][1:]
    assert call["tool_calls"][0]["function"]["name"] == "book_table"
    assert result == {"role": "tool", "tool_call_id": call["tool_calls"][0]["id"], "content": '{"booked": true}'}
    assert page.texts(".call .result") == ['{"booked": true}']


def test_tools_that_are_no_json_are_not_taken(page: Page) -> None:
    page.tab.click("#open-settings")
    page.tab.fill("#settings [name=tools]", "[{")
    page.tab.click("#settings [type=submit]")
    assert "not valid JSON" in page.texts("#tools-error")[0]
    page.tab.keyboard.press("Escape")
    page.ask(HELLO)
    assert page.texts(".note.problem") == []


def test_exports_hold_questions_replies_and_sources(page: Page) -> None:
    page.set(temperature="0")
    page.add_files(("Velmora Bridge.txt", showcase.DOCUMENTS[1]["text"].encode()))
    page.ask(showcase.QUESTION)
    name, text = page.download("#export-markdown")
    assert name == "When-was-the-Velmora-Bridge-opened-and-who-designed-it.md"
    assert f"## You\n\n{showcase.QUESTION}\n" in text
    assert "1987[^1] and" in text
    assert text.endswith("[^1]: Velmora Bridge.txt\n")
    name, text = page.download("#export-json")
    kept = json.loads(text)
    assert kept["format"] == "commandr-conversation"
    assert [message["role"] for message in kept["messages"]] == ["user", "assistant"]
    assert kept["documents"][0]["passages"][0]["text"] == showcase.DOCUMENTS[1]["text"]
    cited = kept["messages"][1]["citations"][0]
    assert kept["messages"][1]["text"][cited["start"] : cited["end"]] == "1987"


def test_an_error_is_told_and_the_question_can_be_sent_again(page: Page) -> None:
    page.set(maxTokens="9999999999999999999999")
    page.ask(HELLO)
    assert page.texts(".note.problem") != []
    page.set(maxTokens="")
    page.tab.click("text=Try again")
    page.tab.wait_for_selector(".stats")
    assert page.texts(".note.problem") == []
    page.complaints = [complaint for complaint in page.complaints if "400" not in complaint]


def test_light_and_dark_follow_the_system_until_they_are_switched(page: Page) -> None:
    def background() -> str:
        return str(page.evaluate("() => getComputedStyle(document.body).backgroundColor"))

    light = background()
    page.tab.emulate_media(color_scheme="dark")
    page.tab.wait_for_selector("[data-theme=dark]")
    dark = background()
    assert sum(map(int, light[4:-1].split(","))) > 600
    assert sum(map(int, dark[4:-1].split(","))) < 150
    page.tab.click("#switch-theme")
    assert background() == light
    page.reload()
    assert background() == light


def test_arabic_is_set_from_right_to_left(page: Page) -> None:
    page.ask("مرحبا، من أنت؟")
    direction = "(selector) => getComputedStyle(document.querySelector(selector)).direction"
    assert page.tab.evaluate(direction, "article.user div") == "rtl"
    page.tab.fill("#question", "سؤال")
    assert page.tab.evaluate(direction, "#question") == "rtl"
    shown = page.evaluate(
        """async () => {
            const { showMarkdown } = await import("/static/js/markdown-view.js");
            const place = document.querySelector(".prose");
            const text = "الجسر افتتح عام 1987.\\n\\nOpened in 1987.\\n\\n- واحد";
            showMarkdown(place, text, (start, end) => [new Text(text.slice(start, end))], () => "");
            return [...place.children].map((block) => getComputedStyle(block).direction);
        }"""
    )
    assert shown == ["rtl", "ltr", "rtl"]


def test_a_phone_scrolls_in_one_direction_only(phone: Page) -> None:
    def fits() -> bool:
        return bool(
            phone.evaluate(
                "() => [...document.querySelectorAll('body, #scroller, #source-text, dialog[open], #sidebar')].every("
                "(one) => one.scrollWidth <= one.clientWidth) && document.documentElement.scrollWidth <= innerWidth"
            )
        )

    assert fits()
    text = f"The Velmora Bridge was opened in 1987. {LONG_WORD}"
    phone.add_files((f"Velmora Bridge {LONG_WORD[:100]}.txt", text.encode()))
    phone.ask(f"When was the Velmora Bridge opened? {LONG_WORD}")
    assert fits()
    phone.tab.click("#documents .name")
    assert fits()
    assert phone.evaluate("() => document.querySelector('#center').inert")  # it is covered
    phone.tab.click("#close-source")
    assert not phone.evaluate("() => document.querySelector('#center').inert")
    phone.tab.click("#open-settings")
    assert fits()
    phone.tab.keyboard.press("Escape")
    phone.tab.click("#open-sidebar")
    phone.tab.wait_for_function("() => document.activeElement.id === 'new-conversation'")
    assert fits()
    phone.tab.keyboard.press("Escape")
    assert phone.evaluate("() => document.activeElement.id") == "open-sidebar"
    phone.tab.wait_for_selector("#sidebar", state="hidden")


def test_a_server_with_a_key_is_used_with_the_key(chromium: Any, demo: CommandR) -> None:
    with running(demo, settings={"api_key": "the-key"}) as server:
        page = Page(chromium, server.url)
        page.tab.wait_for_selector("#key-dialog[open]")
        page.tab.fill("#key-dialog [name=key]", "wrong")
        page.tab.keyboard.press("Enter")
        page.tab.wait_for_selector("#key-error:has-text('not the server')")
        page.tab.fill("#key-dialog [name=key]", "the-key")
        page.tab.keyboard.press("Enter")
        page.ready()
        page.add_files(("a.txt", b"Words."))
        page.ask(HELLO)
        assert page.texts(".note.problem") == []
        page.reload()
        assert page.tab.locator("#key-dialog").is_hidden()
        page.complaints = [complaint for complaint in page.complaints if "401" not in complaint]
        page.close()
