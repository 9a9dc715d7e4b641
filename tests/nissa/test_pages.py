"""The pages for people: no script, nothing of a log that would be one, and every link leads somewhere."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from esper.oona.directory import Directory
from esper.oona.emitter import Emitter
from tests.beginnings import run_started
from tests.nissa.server import Client, serving
from tests.synthetic import RUN, ticking, write_run


class Page(HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(body.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keeps the element."""
        self.elements.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        """Keeps the text."""
        self.words += data


PATHS = ["/", "/docs"]


@pytest.mark.parametrize("path", PATHS)
def test_a_page_has_no_script_and_no_style_of_its_own_and_its_headers_forbid_both(finished: Client, path: str) -> None:
    answer = finished.get(path)
    page = Page(answer.body)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'self';")
    assert not {"script", "style", "iframe", "form", "img"} & set(page.elements)
    assert [name for name, _ in page.attributes if name.startswith("on") or name == "style"] == []


@pytest.mark.parametrize("path", PATHS)
def test_every_link_leads_to_something_of_this_service(finished: Client, path: str) -> None:
    links = {value for name, value in Page(finished.get(path).body).attributes if name == "href"}
    assert len(links) >= 3
    assert {link: finished.get(str(link)).status for link in links} == dict.fromkeys(links, 200)


def test_the_page_says_what_there_is(finished: Client) -> None:
    words = Page(finished.get("/").body).words
    assert "Trainings of networks that grow" in words
    assert str(finished.service.directory.path) in words
    for value in ("7c21ab", "finished", "14 / 14", "1,030", "digits"):
        assert value in words


def test_the_page_links_the_api_the_metrics_and_the_alerts(finished: Client) -> None:
    attributes = Page(finished.get("/").body).attributes
    for path in ("/docs", "/metrics", "/api/v1/alerts", f"/api/v1/runs/{RUN}"):
        assert ("href", path) in attributes


def test_the_description_names_every_route(finished: Client) -> None:
    described = finished.get("/api/v1/openapi.json").json["paths"]
    words = Page(finished.get("/docs").body).words
    assert [path for path in described if path not in words] == []
    assert not set(described) & {"/", "/docs", "/style.css"}


def test_a_log_without_a_run_says_how_to_make_one(tmp_path: Path) -> None:
    with serving(tmp_path) as client:
        words = Page(client.get("/").body).words
    assert "0 runs" in words
    assert "esper train digits" in words
    assert "none fires" in words


def test_what_stands_in_a_log_is_text(tmp_path: Path) -> None:
    write_run(Directory(tmp_path), task="<script>alert(1)</script>")
    with serving(tmp_path) as client:
        body = client.get("/").body
    assert b"<script" not in body
    assert "<script>alert(1)</script>" in Page(body).words


def test_a_name_stands_beside_its_run_s_id(tmp_path: Path) -> None:
    directory = Directory(tmp_path, create=True)
    with directory.create(RUN) as log, Emitter(log, RUN, clock=ticking()) as emitter:
        emitter.emit(run_started(name="baseline"), epoch=0, step=0)
    with serving(tmp_path) as client:
        assert "baseline" in Page(client.get("/").body).words


def test_the_token_is_asked_for_here_too(tmp_path: Path) -> None:
    with serving(tmp_path, token="t" * 32) as client:
        assert [client.get(path).status for path in (*PATHS, "/style.css")] == [401, 401, 401]
