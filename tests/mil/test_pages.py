"""The report of scores: what its pages say and lead to, that nothing in them is taken for markup, the same twice."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mil import pages as module
from mil.markup import file_name
from mil.pages import Pages
from mil.predict import Prediction
from mil.predictions import prediction_row
from mil.task import Task
from tests.conftest import Trained
from tests.mil.drawn import a_bag
from tests.mil.markup import Page, read_pages
from tiling.errors import InputError, SlideError

TASK = Task(("normal", "tumour"))
NASTY = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "javascript:alert(1)", "a&amp;b", "../../up",
    "{{ 7 * 7 }}", "\udcff\x00", "' onmouseover='alert(1)",
)  # fmt: skip


def add(pages: Pages, slide_id: str, chance: float, members: Sequence[Sequence[float]] = (), **more: object) -> None:
    chances = np.array([1 - chance, chance])
    prediction = Prediction(chances, np.array([0.3, 0.7]))
    row = prediction_row(slide_id, f"patient of {slide_id}", TASK, 2, chances)
    assert pages.add(slide_id, {**row, **more}, a_bag([(100, 40), (150, 40)], slide_id=slide_id), prediction) is None


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def page_of(slide_id: str) -> str:
    return f"slides/{file_name(slide_id)}.html"


def test_table_leads_to_slides_and_slides_to_each_other_by_score(tmp_path: Path) -> None:
    pages = Pages(tmp_path, TASK, [])
    for name, chance in (("a", 0.2), ("b", 0.9), ("c", 0.5001)):
        add(pages, name, chance)
    failed = prediction_row("d", "p", TASK, error="'d.svs' is no slide")
    assert pages.add("d", failed, SlideError("'d.svs' is no slide")) is None
    pages.close()
    found = read_pages(tmp_path)
    index = found["index.html"]
    order = ["b", "c", "a", "d"]
    assert [link["href"] for link in index.all("a") if link["href"].startswith("slides/")] == [*map(page_of, order)]
    assert [(row["data-status"], row["data-classes"]) for row in index.all("tr")[1:]] == [
        ("ok", "1"), ("ok", "1"), ("ok", "0"), ("failed", ""),
    ]  # fmt: skip
    assert [head.get("aria-sort") for head in index.all("th") if head["scope"] == "col"] == [
        None, "descending", None, None, None, None,
    ]  # fmt: skip
    assert "4 slides 3 scored 1 failed 1 predicted normal 2 predicted tumour" in index.text
    assert [image["loading"] for image in index.all("img")] == ["lazy"] * 3
    ways = [[link["href"] for link in found[page_of(name)].all("a") if "rel" in link] for name in order]
    links = [f"../{page_of(name)}" for name in order]
    assert ways == [[links[1]], [links[0], links[2]], [links[1], links[3]], [links[2]]]
    assert "Why it failed 'd.svs' is no slide" in found[page_of("d")].text
    shown = found[page_of("b")]
    assert "Predicted tumour" in shown.text
    assert "1 attention 0.700 x 150, y 40" in shown.text
    assert [image["alt"] for image in shown.all("img")] == [
        "Tile 1 of slide b, attention 0.700", "Tile 2 of slide b, attention 0.300",
    ]  # fmt: skip


def test_nothing_is_taken_for_markup_or_leads_out_of_the_folder(tmp_path: Path) -> None:
    task = Task((NASTY[0], NASTY[1]))
    pages = Pages(tmp_path / "report", task, [])
    for name in NASTY:
        row = prediction_row(name, name, task, 2, np.array([0.4, 0.6]), model=name)
        bag = a_bag([(100, 40)], slide_id=name)
        as_read = name.encode("utf-8", "replace").decode()  # tables are UTF-8
        metadata = pd.DataFrame([{as_read: as_read}])
        assert pages.add(name, row, bag, Prediction(np.array([0.4, 0.6]), None), metadata) is None
    pages.add("failed", prediction_row("failed", "p", task, error=NASTY[0]))
    pages.close()
    found = read_pages(tmp_path / "report")
    assert len(found) == len(NASTY) + 3
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    for page in found.values():
        assert len(page.all("script")) == 1
        assert not [element for element in page.all("img") if "onerror" in element or element["src"] == "x"]
    shown = NASTY[:6]
    assert all(name in found["index.html"].words for name in shown)
    assert all(name in found[page_of(name)].words for name in shown)
    assert "\\udcff\ufffd" in found["index.html"].words


def test_policy_lets_nothing_in(tmp_path: Path) -> None:
    Pages(tmp_path, TASK, []).close()
    for page in read_pages(tmp_path).values():
        policy = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
        assert policy == [
            "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; base-uri 'none'; "
            "form-action 'none'"
        ]
        for _, attributes in page.elements:
            assert not any("//" in value for value in attributes.values()), attributes


def test_same_bytes_whatever_the_order_and_what_was_there(tmp_path: Path) -> None:
    for folder, names in (("one", "abc"), ("two", "cab"), ("one", "abc")):
        pages = Pages(tmp_path / folder, TASK, [])
        for name in names:
            add(pages, name, {"a": 0.1, "b": 0.6, "c": 0.6}[name])
        pages.close()
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_goes_on_from_rows_of_a_table(tmp_path: Path) -> None:
    """The slides that an earlier process scored keep their pictures, unless they were scored otherwise since."""
    first = Pages(tmp_path / "one", TASK, [])
    rows = []
    for name in "ab":
        add(first, name, 0.25)
        rows.append(first.rows[name])
    first.close()
    table = tmp_path / "scores.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    again = pd.read_csv(table, dtype=str, keep_default_na=False).to_dict("records")
    second = Pages(tmp_path / "one", TASK, [])
    before = digests(tmp_path / "one")
    second.close(again)
    assert digests(tmp_path / "one") == before
    again[1]["prob_tumour"] = "0.5"
    second.close(again)
    found = read_pages(tmp_path / "one")
    assert [len(found[page_of(name)].all("img")) for name in "ab"] == [2, 0]


def test_a_slide_that_cannot_be_drawn_has_a_page_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = Pages(tmp_path, TASK, [])
    add(pages, "a", 0.2)
    monkeypatch.setattr(module, "portray", lambda *given: 1 / 0)
    row = prediction_row("b", "p", TASK, 1, np.array([0.5, 0.5]))
    assert pages.add("b", row, a_bag([(0, 0)]), Prediction(np.array([0.5, 0.5]), None)) == "division by zero"
    pages.close()
    page = read_pages(tmp_path)[page_of("b")]
    assert "None could be made: division by zero" in page.text
    assert "0.500" in page.text


def test_attention_that_is_no_number_is_no_picture(tmp_path: Path) -> None:
    pages = Pages(tmp_path, TASK, [])
    row = prediction_row("b", "p", TASK, 1, np.array([0.5, 0.5]))
    prediction = Prediction(np.array([0.5, 0.5]), np.array([np.nan, 1.0]))
    assert pages.add("b", row, a_bag([(0, 0), (50, 0)]), prediction) is not None
    pages.close()
    assert len(read_pages(tmp_path)[page_of("b")].all("img")) == 0


def test_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = Pages(tmp_path, TASK, [])
    monkeypatch.setattr(
        module, "write_page", lambda *given, **more: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    with pytest.raises(InputError, match=r"cannot write the report in .* \(No space left\); make room"):
        pages.close()


def test_index_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    write_page = module.write_page
    monkeypatch.setattr(
        module, "write_page", lambda path, *given, **more: (written.append(path.name), write_page(path, *given, **more))
    )
    pages = Pages(tmp_path, TASK, [])
    add(pages, "a", 0.2)
    assert not (tmp_path / "index.html").exists()
    pages.close()
    assert written == ["model.html", Path(page_of("a")).name, "index.html"]


def test_members_and_uncertainty_are_shown(tmp_path: Path) -> None:
    members = np.array([[0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    pages = Pages(tmp_path, TASK, [])
    chances = np.array([0.3, 0.7])
    row = {**prediction_row("a", "a", TASK, 1, chances), "uncertainty": 0.0816}
    pages.add("a", row, a_bag([(0, 0)]), Prediction(chances, None, members_EK=members))
    pages.close()
    page = read_pages(tmp_path)[page_of("a")]
    assert [dot["cx"] for dot in page.all("circle")] == ["80.6", "41.8", "61.2", "119.4", "158.2", "138.8"]
    assert "A dot for each of the 3 members" in page.text
    assert "Uncertainty 0.082" in page.text


def test_model_card_is_that_of_the_run(trained: Trained, tmp_path: Path) -> None:
    Pages(tmp_path, TASK, [trained.run]).close()
    found = read_pages(tmp_path)
    card = found["model.html"]
    assert "Slides scored by run" in found["index.html"].text
    assert "It is not a medical device." in card.text
    assert "It learned from 12 slides of 12 patients, which are few" in card.text
    assert [image["src"] for image in card.all("img")] == [
        f"model/0/{name}.png" for name in ("reliability", "roc", "precision_recall", "confusion", "learning_curves")
    ]
    auc = json.loads((trained.run / "metrics.json").read_text())["slides"]["auc"]
    assert f"AUC {auc['value']:.3f} ({auc['low']:.3f} to {auc['high']:.3f}) 0.500" in card.text


def test_pages_close_what_they_open() -> None:
    with pytest.raises(AssertionError):
        Page("<p><b></p></b>")
