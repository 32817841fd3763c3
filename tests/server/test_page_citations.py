"""The page: documents in, an answer with citations out, and from a citation to its passage."""

from __future__ import annotations

import pdf_files
from server.browser import Page

BRIDGE = "The Velmora Bridge was opened in 1987. It was designed by Pell Orsin."
LIBRARY = "The Harrow Library is headed by Nora Quill. It owns 48,000 objects."
WHEN = "When was the Velmora Bridge opened?"
HOSTILE = "<script>window.hacked = 1</script> <img src=x onerror='window.hacked = 1'>"


def ask_two(page: Page) -> None:
    page.set(temperature="0")
    page.add_files(("Velmora Bridge.txt", BRIDGE.encode()), ("Harrow Library.md", LIBRARY.encode()))
    page.ask(WHEN)


def test_a_citation_opens_its_document_with_the_passage_marked(page: Page) -> None:
    ask_two(page)
    assert "1987" in page.texts("article.assistant .prose")[0]
    assert page.texts("article.assistant .sources button") == ["1Velmora Bridge.txt"]
    cited = page.tab.locator(".cited").first
    assert cited.get_attribute("aria-label") == "1987, source: Velmora Bridge.txt"
    cited.click()
    assert page.texts("#source-name") == ["Velmora Bridge.txt"]
    assert page.texts("#source-text mark") == ["The Velmora Bridge was opened in 1987."]
    assert page.texts("#source-text section.passage") == [BRIDGE]
    assert page.tab.locator("#source-text mark").is_visible()


def test_all_can_be_done_by_keyboard(page: Page) -> None:
    page.tab.focus("#question")
    page.tab.keyboard.type("Hello")
    page.tab.keyboard.press("Shift+Enter")
    page.tab.keyboard.type("there")
    assert page.tab.input_value("#question") == "Hello\nthere"
    page.tab.fill("#question", "")
    ask_two(page)
    page.tab.evaluate("() => document.activeElement.blur()")
    page.tab.focus("#open-settings")
    press_tab_until(page, ".cited")
    page.tab.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.tagName") == "MARK"
    page.tab.keyboard.press("Escape")
    assert page.tab.locator("#source").is_hidden()
    assert page.evaluate("() => document.activeElement.className").startswith("cited")
    press_tab_until(page, ".actions button")
    press_tab_until(page, "#question")


def press_tab_until(page: Page, selector: str) -> None:
    for _ in range(30):
        page.tab.keyboard.press("Tab")
        if page.evaluate(f"() => document.activeElement.matches({selector!r})"):
            return
    raise AssertionError(f"the keyboard does not reach {selector}")


def test_what_documents_and_questions_hold_stays_text(page: Page) -> None:
    text = f"{HOSTILE} {BRIDGE}"
    page.set(temperature="0")
    page.add_files(("Velmora Bridge <img src=x onerror=alert(1)>.txt", text.encode()))
    page.ask(f"{HOSTILE} {WHEN}")
    page.tab.click("#documents .name")
    assert page.texts("#source-text section") == [text]
    assert page.evaluate("() => document.querySelectorAll('body script, body img').length") == 0
    assert page.evaluate("() => window.hacked === undefined")
    assert HOSTILE in page.texts("article.user")[0]


def test_replies_are_marked_up_without_markup_of_their_own(page: Page) -> None:
    reply = (
        "# Head\n\nSome **bold *both*** and `<b>code</b>` <img src=x onerror=1> [link](https://a.example/b) "
        "[bad](javascript:alert(1))\n\n- one\n  - two\n\n3. three\n\n| a | b |\n|---|---|\n| 1 | **2** |\n\n"
        "> said\n\n```py\nx = '**'\n```\n"
    )
    shown = page.tab.evaluate(
        """async reply => {
            const { showMarkdown } = await import("/static/js/markdown-view.js");
            const place = document.createElement("div");
            showMarkdown(place, reply, (start, end) => [new Text(reply.slice(start, end))], () => "");
            const tags = [...place.querySelectorAll("*")].map((element) => element.localName);
            const links = [...place.querySelectorAll("a")].map((a) => a.href + a.rel);
            return { tags, text: place.textContent, links };
        }""",
        reply,
    )
    expected = "h3 p strong em code a ul li ul li ol li div table thead tr th th tbody tr td td strong blockquote p"
    assert shown["tags"] == [*expected.split(), "pre", "code"]
    assert "<img src=x onerror=1>" in shown["text"]
    assert "[bad](javascript:alert(1))" in shown["text"]
    assert "x = '**'" in shown["text"]
    assert shown["links"] == ["https://a.example/bnoopener noreferrer"]


def test_replies_made_to_take_long_are_shown_soon(page: Page) -> None:
    made = ["*a **b", "`a ``b", "- \n", "> ", "[a](", "|a", "# ", "**a _b ", "1. \n\n", "http://", "~~~\n", "\\"]
    seconds = page.tab.evaluate(
        """async made => {
            const { parseMarkdown } = await import("/static/js/markdown.js");
            const { parseInline } = await import("/static/js/inline.js");
            return made.map((piece) => {
                const text = piece.repeat(20000);
                const begun = performance.now();
                parseMarkdown(text);
                parseInline(text, 0, text.length);
                return (performance.now() - begun) / 1000;
            });
        }""",
        made,
    )
    assert {piece: taken for piece, taken in zip(made, seconds, strict=True) if taken > 1} == {}


def test_citations_lie_where_code_points_say_also_behind_emoji_and_inside_bold(page: Page) -> None:
    shown = page.tab.evaluate(
        """async () => {
            const { newReply, take } = await import("/static/js/reply.js");
            const { ReplyView } = await import("/static/js/message-view.js");
            const { newConversation, addDocument } = await import("/static/js/conversation.js");
            const conversation = newConversation();
            addDocument(conversation, { name: "a.txt", passages: [{ title: "a", text: "b" }], n_tokens: 1 });
            const reply = newReply();
            const content = (text) => ({ type: "content-delta", delta: { message: { content: { text } } } });
            take(reply, content("🌉🌉 opened **in 1987** by Pell"));
            const sources = [{ type: "document", id: "document-1#1" }];
            const citations = { start: 3, end: 19, text: "", sources };
            take(reply, { type: "citation-start", index: 0, delta: { message: { citations } } });
            take(reply, { type: "message-end", delta: { finish_reason: "COMPLETE" } });
            const view = new ReplyView(conversation, reply, {});
            return [...view.element.querySelectorAll(".cited")].map((one) => [one.textContent, one.tabIndex]);
        }"""
    )
    assert shown == [["opened ", 0], ["in 19871", -1]]  # behind the last piece stands the document's number


def test_files_of_all_kinds_are_read(page: Page) -> None:
    page.set(temperature="0")
    page.add_files(
        ("Velmora Bridge.pdf", pdf_files.pdf([BRIDGE, LIBRARY])),
        ("Harrow Library.html", f"<html><body><p>{LIBRARY}</p><script>1</script></body></html>".encode()),
    )
    page.ask(WHEN)
    page.tab.click(".cited >> nth=0")
    assert page.texts("#source-name") == ["Velmora Bridge.pdf"]
    assert page.texts("#source-text mark") == ["The Velmora Bridge was opened in 1987."]


def test_what_cannot_be_read_is_told(page: Page) -> None:
    page.tab.set_input_files("#file-input", [{"name": "a.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1"}])
    page.tab.wait_for_selector("#toast:has-text('A.pdf: is not a PDF file')".replace("A.pdf", "pdf"))
    assert page.texts("#documents li") == []
    page.complaints = [complaint for complaint in page.complaints if "422" not in complaint]


def test_texts_are_pasted_and_dropped(page: Page) -> None:
    page.tab.click("#add-text")
    page.tab.fill("#text-dialog [name=title]", "Bridge")
    page.tab.fill("#text-dialog [name=text]", BRIDGE)
    page.tab.click("#text-dialog [type=submit]")
    page.tab.wait_for_selector("#documents .name")
    page.tab.evaluate(
        """text => {
            const data = new DataTransfer();
            data.items.add(new File([text], "dropped.txt", { type: "text/plain" }));
            const options = { dataTransfer: data, bubbles: true, cancelable: true };
            for (const type of ["dragenter", "dragover", "drop"])
                document.body.dispatchEvent(new DragEvent(type, options));
        }""",
        LIBRARY,
    )
    page.tab.wait_for_selector("#documents .name:has-text('dropped.txt')")
    page.tab.evaluate(
        """text => {
            const data = new DataTransfer();
            data.setData("text/plain", text);
            const options = { clipboardData: data, bubbles: true, cancelable: true };
            document.querySelector("#question").dispatchEvent(new ClipboardEvent("paste", options));
        }""",
        LIBRARY * 30,
    )
    page.tab.wait_for_selector("#documents .name:has-text('Pasted text')")
    assert page.tab.input_value("#question") == ""
    assert page.tab.locator("#drop-hint").is_hidden()
    page.tab.click("#documents [aria-label='Remove dropped.txt']")
    assert [name.partition(".")[0] for name in page.texts("#documents .name")] == ["Bridge", "Pasted text"]
