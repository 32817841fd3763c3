"""The page's files: what they may do, and that the server gives out nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from commandr_gguf import CommandR
from commandr_gguf.server.page import STATIC
from server.serving import Running, running

FILES = sorted(path for path in STATIC.rglob("*") if path.is_file())
NAMES = [path.relative_to(STATIC).as_posix() for path in FILES]


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


@pytest.mark.parametrize("path", ["/", *(f"/static/{name}" for name in NAMES)])
def test_every_file_forbids_the_browser_all_but_the_page_itself(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    policy = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert {"frame-ancestors", "base-uri", "object-src", "form-action", "trusted-types"} <= set(policy)
    assert not {"script-src", "style-src", "connect-src", "img-src"} & set(policy)
    assert answer.headers["x-content-type-options"] == "nosniff"
    kinds = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    kind = kinds[path.rpartition(".")[2] if path != "/" else "html"]
    assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
    again = client.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_file_makes_markup_or_programs_of_strings_or_asks_others(path: object) -> None:
    text = STATIC.joinpath(str(path)).read_text(encoding="utf-8")
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|setHTML"
    programs = r"\beval\b|new Function|srcdoc|javascript:|import\(|<script>|<style|\son\w+=|\sstyle="
    assert re.findall(f"{forbidden}|{programs}", text) == []
    assert set(re.findall(r"\w+://[\w.]*", text)) <= {"http://www.w3.org", "https://", "http://"}


def test_files_lead_only_to_files_that_are_there() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for found in re.findall(r'"/static/([\w./-]+)', text) + re.findall(r"`/static/([\w./-]+)", text):
            assert found in NAMES, f"{path.name}: {found}"
        for found in re.findall(r'from "\./([\w./-]+)"', text):
            assert f"js/{found}" in NAMES, f"{path.name}: {found}"
        for found in re.findall(r'icons\.svg#(\w+)"', text) + re.findall(r'(?:icon|button)\("(\w+)"', text):
            assert f'id="{found}"' in (STATIC / "icons.svg").read_text(encoding="utf-8"), f"{path.name}: {found}"


def test_the_elements_that_scripts_look_for_are_in_the_page() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    wanted = {name for path in FILES for name in re.findall(r'byId\("([\w-]+)"\)', path.read_text(encoding="utf-8"))}
    assert len(wanted) > 30
    assert {name for name in wanted if f'id="{name}"' not in page} == set()


@pytest.mark.parametrize(
    "path", ["/static/", "/static/no.js", "/static/../app.py", "/static/%2e%2e/app.py", "/static/js"]
)
def test_what_is_no_file_of_the_page_is_not_found(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


def test_the_page_comes_without_a_key_and_documents_do_not(demo: CommandR) -> None:
    with running(demo, settings={"api_key": "k"}) as server, server.client() as client:
        assert client.get("/").status_code == 200
        assert client.get("/static/js/main.js").status_code == 200
        assert client.get("/static/../props").status_code in {401, 404}
        assert client.get("/static/%2e%2e/props").status_code == 404
        for method, path in (("POST", "/page/documents?name=a.txt"), ("GET", "/props"), ("GET", "/static")):
            assert client.request(method, path, content=b"a").status_code == 401
