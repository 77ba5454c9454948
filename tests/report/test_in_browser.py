"""The pages as a reader sees them: in headless Chromium, on a phone and on a desk."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from tests.report.conftest import SCRIPT_ID

_LOCAL = ("file:", "data:", "about:", "blob:")


class Visit:
    """A page that was opened, with all that it said and asked for."""

    def __init__(self, context, path: Path, width: int) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.tab = context.new_page()
        self.tab.set_viewport_size({"width": width, "height": 900})
        self.tab.emulate_media(reduced_motion="reduce")  # no smooth scrolling to wait for
        self.tab.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("request", lambda asked: self.requests.append(asked.url))
        self.tab.goto(path.as_uri())
        for frame in self.tab.locator("iframe").all():  # loaded when they come into view
            frame.scroll_into_view_if_needed()
        self.tab.wait_for_timeout(200)

    def ask(self, script: str):
        return self.tab.evaluate(script)


@pytest.fixture(scope="module", params=[("run", 390), ("run", 1280), ("model", 390), ("model", 1280)], ids=str)
def visit(request, browser, run_page, model_page):
    kind, width = request.param
    opened = Visit(browser, {"run": run_page, "model": model_page}[kind], width)
    yield opened
    opened.tab.close()


def test_no_error_and_no_outside_request(visit) -> None:
    assert visit.errors == []
    assert [url for url in visit.requests if not url.startswith(_LOCAL)] == []
    files = {url.split("#")[0] for url in visit.requests if url.startswith("file:")}
    assert len(files) == 1  # the page, and nothing beside it


def test_a_request_would_be_refused(visit) -> None:
    sent = visit.ask("fetch('https://example.org/').then(() => 'sent', () => 'refused')")
    assert sent == "refused"
    assert any("Content Security Policy" in text for text in visit.errors)
    visit.errors.clear()


def test_pictures_are_there_and_described(visit) -> None:
    visit.ask("Promise.all([...document.images].map(image => image.decode()))")
    assert visit.ask("document.images.length") > 3
    assert visit.ask("[...document.images].filter(image => image.naturalWidth === 0 || !image.alt).length") == 0


def test_nothing_is_wider_than_the_screen(visit) -> None:
    assert visit.ask("document.documentElement.scrollWidth - window.innerWidth") <= 0


def test_ids_are_text(visit) -> None:
    assert visit.ask("document.title").endswith("· vbmstat")
    assert SCRIPT_ID in visit.ask("document.body.textContent")
    assert visit.ask("document.querySelectorAll('td b, td img, td i, th script').length") == 0
    assert visit.ask("document.scripts.length") == 1


def test_headings_and_tables_are_marked_up(visit) -> None:
    assert visit.ask("document.querySelectorAll('h1').length") == 1
    levels = visit.ask("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => Number(h.tagName[1]))")
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert visit.ask("[...document.querySelectorAll('table')].filter(t => !t.caption?.textContent).length") == 0
    assert visit.ask("document.querySelectorAll('thead th:not([scope=col]), tbody th:not([scope=row])').length") == 0
    targets = visit.ask("[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.getAttribute('href').slice(1))")
    assert targets
    assert visit.ask(f"{targets!r}.filter(id => !document.getElementById(id))") == []


def test_a_click_sorts_a_table_and_a_second_one_turns_it(browser, run_page) -> None:
    visit = Visit(browser, run_page, 1280)
    table = visit.tab.locator("#quality table")

    def column(heading: str) -> list[str]:
        at = table.locator("thead th").all_inner_texts().index(heading)
        return [row.locator("th, td").nth(at).inner_text() for row in table.locator("tbody tr").all()]

    table.get_by_role("button", name="noise percent").click()
    rising = [float(text) for text in column("noise percent")]
    assert rising == sorted(rising)
    assert rising[0] < rising[-1]
    table.get_by_role("button", name="noise percent").click()
    assert [float(text) for text in column("noise percent")] == rising[::-1]
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "descending"
    for _ in range(2):  # what is missing is last in both directions
        table.get_by_role("button", name="contrast percent").click()
        assert column("contrast percent")[-1] == "–"
    table.get_by_role("button", name="scan").click()
    assert column("scan")[-1] == "sub-13"
    visit.tab.close()


def test_an_outlier_leads_to_its_picture(browser, run_page) -> None:
    visit = Visit(browser, run_page, 390)
    visit.tab.locator("#quality tr.mark a").first.click()
    seen = "document.querySelector('figure:target img').getBoundingClientRect().top < window.innerHeight"
    visit.tab.wait_for_function(seen, timeout=5000)
    visit.tab.close()


def test_the_viewer_shows_slices(browser, model_page) -> None:
    visit = Visit(browser, model_page, 1280)
    visit.tab.wait_for_timeout(800)
    frame = visit.tab.frames[1]
    assert frame.evaluate("document.querySelector('canvas').width") > 300
    assert "x = -" in frame.evaluate("document.body.innerText") or frame.evaluate(
        "document.querySelector('canvas').getContext('2d').getImageData(0, 0, 600, 200).data.some(v => v > 0)"
    )
    assert visit.errors == []
    visit.tab.close()
