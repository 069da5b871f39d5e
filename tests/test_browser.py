"""A report of 200 slides in a real browser, opened from disk: sorting, filters, keyboard, narrow screens, no script."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mil.pages import Pages
from mil.predict import Prediction
from mil.predictions import prediction_row
from mil.task import Task
from tests.mil.drawn import a_bag
from tests.mil.test_pages import NASTY
from tiling.errors import SlideError

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
CHROMIUM = os.environ.get("GIGABAG_TEST_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium: apt-get install chromium, or set GIGABAG_TEST_CHROMIUM to its program"
    ),
]
TASK = Task(("normal", "tumour"))
SLIDES, FAILED = 200, 20
LAPTOP, PHONE = {"width": 1366, "height": 768}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every tenth slide failed; some have names that are no good ones; the positive ones' numbers are odd."""
    folder = tmp_path_factory.mktemp("a report #1 & more")
    pages = Pages(folder, TASK, [])
    for at in range(SLIDES):
        name = f"slide {at}" + (NASTY[at] if at < len(NASTY) else "")
        if at % 10 == 0:
            row = prediction_row(name, "p", TASK, error=f"cannot read {name}")
            assert pages.add(name, row, SlideError("cannot read")) is None
            continue
        tumour = (at % 2 + at / SLIDES) / 2
        chances = np.array([1 - tumour, tumour])
        row = prediction_row(name, f"p{at // 2}", TASK, at, chances)
        prediction = Prediction(chances, np.array([0.3, 0.7]))
        assert pages.add(name, row, a_bag([(100, 40), (150, 40)], slide_id=name), prediction) is None
    pages.close()
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page on a screen of some size, and all it said or asked for that it should not."""

    def __init__(self, chromium: Any, folder: Path, name: str, **how: Any) -> None:
        self.folder = folder
        self.context = chromium.new_context(**{"viewport": LAPTOP, **how})
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: self.wrong.append(dialog.message))
        self.page.on("request", self.asked)
        self.page.on("requestfailed", self.failed)
        self.page.goto((folder / name).as_uri())

    def asked(self, request: Any) -> None:
        if not request.url.startswith(self.folder.as_uri()):
            self.wrong.append(request.url)

    def failed(self, request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # the page was left before
            self.wrong.append(f"{request.url}: {request.failure}")

    def numbers(self) -> list[int]:
        """The numbers of the slides that are shown, in their order."""
        shown = "[...document.querySelectorAll('#slides tbody tr:not([hidden])')]"
        rows = self.page.evaluate(f"{shown}.map(row => row.cells[0].dataset.sort)")
        return [int("".join(filter(str.isdigit, row[6:9]))) for row in rows]

    def ways(self) -> list[str | None]:
        return self.page.evaluate("[...document.querySelectorAll('#slides thead th')].map(h => h.ariaSort)")

    def is_wide(self) -> bool:
        return self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")

    def shown(self) -> str:
        return self.page.locator("#shown").inner_text()


@pytest.fixture
def visit(chromium: Any, report: Path) -> Iterator[Any]:
    """Opens a page; what it says on the console, or asks for elsewhere, fails the test."""
    visits: list[Visit] = []

    def go(name: str = "index.html", **how: Any) -> Visit:
        visits.append(Visit(chromium, report, name, **how))
        return visits[-1]

    yield go
    for each in visits:
        each.context.close()
        assert each.wrong == []


SCORED = [at for at in range(SLIDES) if at % 10]
BY_SCORE = sorted(SCORED, key=lambda at: -(at % 2 + at / SLIDES))


def test_columns_sort_both_ways_and_failed_slides_stay_last(visit: Any) -> None:
    seen = visit()
    assert seen.numbers()[: len(SCORED)] == BY_SCORE
    tiles = seen.page.get_by_role("button", name="Tiles")
    tiles.click()
    assert seen.numbers()[:3] == [199, 198, 197]
    assert seen.ways() == [None, None, None, None, "descending", None]
    tiles.click()
    assert seen.numbers()[FAILED : FAILED + 3] == [1, 2, 3]  # a failed slide has no tiles, which is a number
    assert seen.ways() == [None, None, None, None, "ascending", None]
    seen.page.get_by_role("button", name="Probability of tumour").click()
    assert seen.numbers()[: len(SCORED)] == BY_SCORE
    seen.page.get_by_role("button", name="Probability of tumour").click()
    assert seen.numbers()[: len(SCORED)] == BY_SCORE[::-1]
    seen.page.get_by_role("button", name="Slide").click()
    assert seen.numbers()[len(NASTY) : 30] == [*range(len(NASTY), 30)]  # numbers in names are numbers


def test_filters_narrow_and_clear(visit: Any) -> None:
    seen = visit()
    assert seen.shown() == "200 of 200 shown"
    seen.page.get_by_label("Status").select_option("failed")
    assert seen.shown() == "20 of 200 shown"
    assert sorted(seen.numbers()) == [*range(0, SLIDES, 10)]
    seen.page.get_by_label("Text").fill("cannot 150")
    assert seen.numbers() == [150]
    seen.page.get_by_role("button", name="Clear").click()
    seen.page.wait_for_function("document.getElementById('shown').textContent.startsWith('200 ')")
    seen.page.get_by_label("Predicted").select_option(label="tumour (100)")
    assert sorted(seen.numbers()) == [at for at in SCORED if at % 2]
    seen.page.get_by_label("Text").fill("<script>")
    assert seen.shown() == "0 of 200 shown"


def test_keyboard_alone_sorts_and_opens(visit: Any) -> None:
    seen = visit()
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.textContent") == "Skip to the content"
    seen.page.get_by_label("Predicted").focus()
    names = []
    for _ in range(7):
        seen.page.keyboard.press("Tab")
        names.append(seen.page.evaluate("document.activeElement.textContent"))
    assert names == ["Clear", "Slide", "Probability of tumour", "Predicted", "Status", "Tiles", "Patient"]
    seen.page.keyboard.press("Shift+Tab")
    seen.page.keyboard.press("Enter")
    assert seen.numbers()[0] == 199
    seen.page.keyboard.press("Space")
    assert seen.ways()[4] == "ascending"


def test_the_way_back_leads_to_the_same_table(visit: Any) -> None:
    seen = visit()
    seen.page.get_by_label("Text").fill("Slide 19")  # of names and patients, not of figures
    seen.page.get_by_role("button", name="Tiles").click()
    numbers = seen.numbers()
    assert numbers == [199, 198, 197, 196, 195, 194, 193, 192, 191, 119, 39, 38, 19, 190]
    seen.page.get_by_role("link", name="slide 199").click()
    assert seen.page.locator("h1").inner_text() == "slide 199"
    seen.page.go_back()
    seen.page.wait_for_selector("#slides thead button")
    assert seen.numbers() == numbers
    assert seen.ways()[4] == "descending"


def test_tiles_are_enlarged_and_the_keys_lead_on(visit: Any) -> None:
    seen = visit()
    seen.page.get_by_role("link", name="slide 199").click()
    seen.page.locator("a.enlarge").first.click()
    window = seen.page.get_by_role("dialog")
    assert window.locator("img").get_attribute("alt") == "Tile 1 of slide slide 199, attention 0.700"
    seen.page.keyboard.press("ArrowRight")
    assert window.locator("img").get_attribute("alt") == "Tile 2 of slide slide 199, attention 0.300"
    seen.page.keyboard.press("ArrowRight")
    assert window.locator("img").get_attribute("alt") == "Tile 1 of slide slide 199, attention 0.700"
    assert window.locator("img").evaluate("each => each.decode().then(() => each.naturalWidth)") == 16
    seen.page.keyboard.press("Escape")
    assert not window.is_visible()
    assert seen.page.evaluate("document.activeElement.className") == "enlarge"
    tiles = seen.page.locator(".view .tiles")
    assert tiles.is_visible()
    seen.page.get_by_label("Tiles", exact=True).uncheck()
    assert not tiles.is_visible()


@pytest.mark.parametrize("at", range(len(NASTY)))
def test_names_that_are_markup_are_words(visit: Any, report: Path, at: int) -> None:
    seen = visit()
    link = seen.page.locator("tbody th[scope=row] :is(a)").filter(has_text=f"slide {at}").first
    words = link.inner_text()
    link.click()
    assert seen.page.locator("h1").inner_text() == words
    assert seen.page.url.startswith(report.as_uri())


@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_no_wider_than_the_screen(visit: Any, size: dict[str, int], scheme: str) -> None:
    seen = visit(viewport=size, color_scheme=scheme)
    assert not seen.is_wide()
    seen.page.get_by_role("link", name="slide 199").click()
    assert not seen.is_wide()
    seen.page.goto((seen.folder / "model.html").as_uri())
    assert not seen.is_wide()


@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_many_classes_leave_room_for_names(chromium: Any, tmp_path: Path, size: dict[str, int]) -> None:
    task = Task(tuple(f"a class with a name {at}" for at in range(8)))
    pages = Pages(tmp_path, task, [])
    pages.add("TCGA-00-0000", prediction_row("TCGA-00-0000", "p", task, 1, np.full(8, 1 / 8)), None)
    pages.close()
    seen = Visit(chromium, tmp_path, "index.html", viewport=size)
    assert not seen.is_wide()
    assert seen.page.get_by_role("link", name="TCGA-00-0000").bounding_box()["height"] < 50
    seen.context.close()


def test_only_pictures_near_the_screen_are_loaded(visit: Any) -> None:
    asked: list[str] = []
    seen = visit("model.html")
    seen.page.on("request", lambda request: asked.append(request.url))
    seen.page.goto((seen.folder / "index.html").as_uri(), wait_until="networkidle")
    assert 5 < len([url for url in asked if url.endswith("thumb.jpg")]) < 120


def test_without_scripts_all_is_there(visit: Any) -> None:
    seen = visit(java_script_enabled=False)
    assert seen.page.locator("tbody tr").count() == SLIDES
    assert not seen.page.locator("#filters").is_visible()
    assert seen.page.locator("#slides thead button").count() == 0
    seen.page.get_by_role("link", name="slide 199").click()
    seen.page.get_by_label("Tiles", exact=True).uncheck()
    assert not seen.page.locator(".view .tiles").is_visible()
    seen.page.locator("a.enlarge").first.click()
    assert seen.page.url.endswith("tile-01.jpg")
