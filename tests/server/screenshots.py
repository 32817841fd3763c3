"""`python tests/server/screenshots.py` takes the pictures of the page that the README shows."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest does

import embedded
from commandr_gguf import CommandR
from server.browser import Page, browser
from server.serving import running

FOLDER = Path(__file__).with_name("screenshots")
DESKTOP = {"width": 1280, "height": 720}


def main() -> None:
    """A light and a dark one."""
    with (
        CommandR(embedded.path("Q8_0"), n_ctx=4096, n_seq_max=8) as model,
        running(model, settings={"model_alias": "demo"}) as server,
        browser() as opened,
    ):
        for theme in ("light", "dark"):
            page = Page(opened, server.url, viewport=DESKTOP, color_scheme=theme).ready()
            page.tab.click("#try-example")
            page.wait_for_reply()
            page.tab.click(f".cited >> nth={0 if theme == 'light' else 1}")
            page.tab.wait_for_timeout(400)
            FOLDER.mkdir(exist_ok=True)
            page.tab.screenshot(path=FOLDER / f"{theme}.png")
            page.close()


if __name__ == "__main__":
    main()
