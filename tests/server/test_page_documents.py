"""The page: folders of documents, and documents that are longer than the context."""

from __future__ import annotations

import collections
import json
import math
from pathlib import Path
from typing import Any

from commandr_gguf import CommandR
from commandr_gguf.demo import showcase
from server.browser import Page
from server.serving import running

BRIDGE = showcase.DOCUMENTS[1]["text"]
FILLER = "Rain fell on the hills, and the rivers rose slowly through all of the long autumn. "


def drop(page: Page, *paths: Path) -> None:
    """Files and folders of this machine, as a file manager drops them."""
    devtools = page.context.new_cdp_session(page.tab)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        devtools.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})


def wait_for_documents(page: Page, n: int) -> list[str]:
    """The names in the row, when there are so many and none is read."""
    page.tab.wait_for_function(
        "n => document.querySelectorAll('#documents .name').length === n && !document.querySelector('.reading')", arg=n
    )
    return page.texts("#documents .name span")


def test_a_folder_that_is_dropped_is_read_with_all_below_it(page: Page, tmp_path: Path) -> None:
    names = ["b/10.md", "b/9.txt", "a.txt", ".hidden.txt", ".git/x.txt", "b/c/d.html", "program.exe"]
    for name in names:
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"Of {name}")
    (tmp_path / "alone.log").write_text("A text.")
    drop(page, tmp_path / "folder", tmp_path / "alone.log")
    assert wait_for_documents(page, 5) == ["a.txt", "9.txt", "10.md", "d.html", "alone.log"]
    assert page.tab.locator("#drop-hint").is_hidden()
    (tmp_path / "empty").mkdir()
    drop(page, tmp_path / "empty")
    page.tab.wait_for_selector("#toast:has-text('no file in it')")


def test_files_are_read_one_after_the_other_and_stand_in_the_order_given(page: Page) -> None:
    events: list[str] = []
    for kind in ("request", "requestfinished"):
        page.tab.on(kind, lambda one, kind=kind: events.append(kind) if "/page/documents" in one.url else None)
    long = (BRIDGE * 500).encode()
    given = [("long.md", long), ("b.txt", b"One."), ("a.txt", b"Two."), ("b.txt", b"One.")]
    files = [{"name": name, "mimeType": "text/plain", "buffer": data} for name, data in given]
    page.tab.set_input_files("#file-input", files)
    assert wait_for_documents(page, 3) == ["long.md", "b.txt", "a.txt"]
    page.tab.wait_for_selector("#toast:has-text('b.txt is here already')")
    assert events == ["request", "requestfinished"] * 4


def test_a_question_waits_for_the_documents_that_are_read(page: Page) -> None:
    held = page.hold("**/page/documents*")
    file = {"name": "bridge.txt", "mimeType": "text/plain", "buffer": BRIDGE.encode()}
    with page.tab.expect_request("**/page/documents*"):
        page.tab.set_input_files("#file-input", [file])
    page.ask(showcase.QUESTION, wait=False)
    page.tab.wait_for_selector("#toast:has-text('still being read')")
    assert page.texts("article") == []
    page.tab.wait_for_function("() => document.querySelector('#documents .reading')")
    held[0].continue_()
    wait_for_documents(page, 1)
    assert page.tab.input_value("#question") == showcase.QUESTION
    page.tab.press("#question", "Enter")
    page.wait_for_reply()
    assert page.texts(".sources button") == ["1bridge.txt"]


def test_what_cannot_be_opened_is_told(page: Page) -> None:
    page.evaluate("() => { File.prototype.arrayBuffer = () => Promise.reject(new DOMException('', 'NotFoundError')) }")
    page.tab.set_input_files("#file-input", [{"name": "a.txt", "mimeType": "text/plain", "buffer": b"a"}])
    page.tab.wait_for_selector("#toast:has-text('a.txt cannot be read.')")
    assert page.texts("#documents li") == []


def test_text_is_dropped_and_pasted_where_it_is_meant_to_go(page: Page) -> None:
    taken = page.tab.evaluate(
        """() => {
            const field = document.querySelector("#question");
            const data = new DataTransfer();
            data.setData("text/plain", "some words");
            const dropped = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
            field.dispatchEvent(dropped);
            data.items.add(new File(["x"], "image.png", { type: "image/png" })); // as office programs do
            const pasted = new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
            field.dispatchEvent(pasted);
            return [dropped.defaultPrevented, pasted.defaultPrevented];
        }"""
    )
    assert taken == [False, False]
    assert page.texts("#documents li") == []


def long_report() -> bytes:
    """Sections of which each has a subject of its own; together they are longer than the context."""
    sections = [f"# Part {i}\n\n{FILLER * 8} The number of part {i} is {i * 37}.\n" for i in range(60)]
    sections[41] = f"# Bridges\n\n{BRIDGE} {FILLER * 7}\n"
    return "\n".join(sections).encode()


def test_of_documents_longer_than_the_context_the_passages_that_fit_are_sent_and_told(page: Page) -> None:
    page.set(temperature="0", maxTokens="60")
    page.add_files(("report.md", long_report()), ("library.txt", showcase.DOCUMENTS[0]["text"].encode()))
    assert "More than fits" in page.texts("#documents-note")[0]
    assert page.tab.locator("#documents-note").is_visible()
    with page.tab.expect_request("**/v2/chat") as asked:
        page.ask(showcase.QUESTION)
    assert page.texts(".note.problem") == []
    sent = asked.value.post_data_json["documents"]
    assert 1 < len(sent) < 20
    assert any(BRIDGE in one["data"]["text"] for one in sent)
    [told] = page.texts(".sent summary")
    assert told.startswith(f"Asked with {len(sent)} of ")
    page.tab.click(".sent summary")
    [place] = [i for i, one in enumerate(sent) if BRIDGE in one["data"]["text"]]
    page.tab.click(f".sent button >> nth={place}")
    assert page.texts("#source-name") == ["report.md"]
    assert BRIDGE in page.texts("#source-text section.passage")[0]
    assert page.tab.locator("#source-text mark").is_visible()
    page.reload()
    assert page.texts(".sent summary") == [told]
    page.tab.click("#documents [aria-label='Remove report.md']")
    page.tab.wait_for_selector("#documents-note", state="hidden")
    with page.tab.expect_request("**/v2/chat") as asked:
        page.ask("Who heads the Harrow Library?")
    assert [one["id"] for one in asked.value.post_data_json["documents"]] == ["document-2#1"]
    assert len(page.texts(".sent summary")) == 1


def test_a_short_context_is_enough_for_a_long_document(chromium: Any, demo: CommandR) -> None:
    with CommandR(demo.model.path, n_ctx=1024, n_seq_max=4, n_threads=1) as model, running(model) as server:
        page = Page(chromium, server.url).ready()
        page.set(temperature="0", maxTokens="40")
        page.add_files(("report.md", long_report()))
        page.ask(showcase.QUESTION)
        page.ask("And who headed the library?")
        assert page.texts(".note.problem") == []
        assert len(page.texts(".sent summary")) == 2
        page.close()


def choose(page: Page, limits: dict[str, int], settings: dict[str, Any], questions: list[str], texts: list[str]) -> Any:
    """The passages that are sent, of one document with these texts of 10 tokens each."""
    return page.tab.evaluate(
        """async ([limits, settings, questions, texts]) => {
            const { choosePassages } = await import("/static/js/choosing.js");
            const { newConversation, addDocument } = await import("/static/js/conversation.js");
            const conversation = newConversation();
            const passages = texts.map((text) => ({ title: "a", text, n_tokens: 10 }));
            addDocument(conversation, { name: "a", passages, n_tokens: 10 * texts.length });
            for (const text of questions) conversation.messages.push({ role: "user", text });
            const all = { preamble: "", tools: null, maxTokens: null, documentTokens: null, ...settings };
            const { passages: chosen, total } = choosePassages(conversation, limits, all);
            return [chosen.map(({ id }) => Number(id.split("#")[1]) - 1), total];
        }""",
        [limits, settings, questions, texts],
    )


def test_passages_are_chosen_only_when_they_do_not_fit_and_keep_their_order(page: Page) -> None:
    texts = ["the red fox", "a blue whale in the sea", "the green frog", "the blue and the red parrot", "a grey mouse"]
    large = {"n_ctx": 2048, "max_documents": 1000}
    ask = ["Which is red or blue?"]
    assert choose(page, large, {}, ask, texts) == [[0, 1, 2, 3, 4], 5]
    assert choose(page, large, {"documentTokens": 102}, ask, texts) == [[0, 1, 3], 5]
    assert choose(page, large, {"documentTokens": 101}, ask, texts) == [[0, 3], 5]
    assert choose(page, large, {"documentTokens": 1}, ask, texts) == [[3], 5]
    assert choose(page, large | {"max_documents": 2}, {}, ask, texts) == [[0, 3], 5]
    assert choose(page, {"n_ctx": 200, "max_documents": 9}, {}, ask, texts)[0] == [0, 3]
    assert choose(page, large, {"documentTokens": 40}, ["Summarize all!"], texts) == [[0], 5]
    assert choose(page, large, {"documentTokens": 40}, ["What is grey?", "How large?"], texts) == [[4], 5]
    assert choose(page, large, {"documentTokens": 40}, ["What is grey?", "And what is green?"], texts) == [[2], 5]
    chinese = ["红色的狐狸", "蓝色的鲸鱼", "绿色的青蛙"]
    assert choose(page, large, {"documentTokens": 40}, ["鲸鱼是什么颜色"], chinese) == [[1], 3]


def test_scores_are_those_of_bm25(page: Page) -> None:
    texts = ["a b b c", "b c d", "e", "", "B b b b b b b b a"]
    wanted = {"b": 1.0, "d": 0.5, "absent": 1.0}
    scores = page.tab.evaluate(
        """async ([wanted, texts]) => {
            const { countWords, scoresOf } = await import("/static/js/ranking.js");
            return scoresOf(new Map(Object.entries(wanted)), texts.map(countWords));
        }""",
        [wanted, texts],
    )
    words = [collections.Counter(text.lower().split()) for text in texts]
    mean = sum(one.total() for one in words) / len(words)
    for score, counts in zip(scores, words, strict=True):
        expected = 0.0
        for word, weight in wanted.items():
            n = sum(word in one for one in words)
            idf = math.log(1 + (len(words) - n + 0.5) / (n + 0.5))
            expected += weight * idf * counts[word] * 2.2 / (counts[word] + 1.2 * (0.25 + 0.75 * counts.total() / mean))
        assert math.isclose(score, expected, abs_tol=1e-12), json.dumps(counts)
