"""The report of a run: which errors are the worst, and that they have the tiles and the attention of their fold."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from mil.markup import file_name
from mil.portrait import read_record
from mil.predict import load_run, pick_device, predict_bag
from mil.run_report import worst_errors, write_report
from mil.task import ANY_OF, Task
from tests.conftest import Trained
from tests.mil.markup import read_pages
from tests.mil.test_listing import row
from tests.mil.test_pages import digests
from tiling.bag import read_bag

TWO = Task(("normal", "tumour"))


def test_worst_are_those_whose_truth_was_given_least() -> None:
    rows = [
        row("right", 0.2, 0.8, label="tumour", truth=[False, True]),
        row("bad", 0.7, 0.3, label="tumour", truth=[False, True]),
        row("worst", 0.05, 0.95, label="normal", truth=[True, False]),
        row("failed", None, None, label="normal", truth=[None, None]),
        row("tie", 0.7, 0.3, label="tumour", truth=[False, True]),
    ]
    assert [(error.row["slide_id"], round(error.given, 3)) for error in worst_errors(TWO, rows)] == [
        ("worst", 0.05), ("bad", 0.3), ("tie", 0.3),
    ]  # fmt: skip
    many = [row(f"{at:02d}", 0.9, 0.1, label="tumour", truth=[False, True]) for at in range(20)]
    assert [error.row["slide_id"] for error in worst_errors(TWO, many)] == [f"{at:02d}" for at in range(12)]


def test_of_labels_only_known_ones_count() -> None:
    task = Task(("a", "b"), ANY_OF)
    rows = [
        row("right", 0.9, 0.2, task=task, label="a", truth=[True, None]),
        row("wrong", 0.9, 0.2, task=task, label="a;b", truth=[True, True]),
        row("too much", 0.9, 0.2, task=task, label="", truth=[False, False]),
    ]
    assert [(error.row["slide_id"], round(error.given, 3)) for error in worst_errors(task, rows)] == [
        ("too much", 0.1), ("wrong", 0.2),
    ]  # fmt: skip


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    """A copy of a run that decided on the same class everywhere."""
    run = Path(shutil.copytree(trained.run, tmp_path / "run"))
    for path in (run / "oof.csv", *run.glob("fold_*/oof.csv")):
        table = pd.read_csv(path)
        table[["prob_normal", "prob_tumour", "predicted"]] = [0.25, 0.75, "tumour"]
        table.to_csv(path, index=False)
    return run


def test_errors_have_their_tiles_and_attention_of_the_fold_that_tested_them(run: Path, trained: Trained) -> None:
    shutil.rmtree(run / "report")
    assert write_report(run) == run / "report" / "index.html"
    found = read_pages(run / "report")
    wrong = [f"s{at:02d}" for at in range(0, 12, 2)]
    names = [f"slides/{file_name(slide_id)}.html" for slide_id in wrong]
    assert sorted(found) == sorted(["index.html", "slides.html", *names])
    page = found["index.html"]
    assert [link["href"] for link in page.all("a") if link["href"].startswith("slides/")] == names
    assert len([image for image in page.all("img") if "tile" in image["src"]]) == 6 * 4
    assert "labelled normal , predicted tumour ; the truth was given 0.250" in page.text
    assert "12 slides 6 decided right 6 decided wrong" in found["slides.html"].text
    fold = int(pd.read_csv(trained.run / "folds.csv").set_index("slide_id").loc["s02", "fold"])
    whole = load_run(run, pick_device("cpu"))
    tested = whole._replace(models=whole.models[fold : fold + 1], cards=whole.cards[fold : fold + 1])
    attention = predict_bag(tested, read_bag(trained.bags / "s02.h5")).attention
    assert attention is not None
    record = read_record(run / "report" / "slides" / file_name("s02"))
    assert record is not None
    assert [box["attention"] for box in record["shown"]["boxes"]] == pytest.approx(sorted(attention, reverse=True))


def test_same_bytes_twice(run: Path) -> None:
    write_report(run)
    before = digests(run / "report")
    write_report(run)
    assert digests(run / "report") == before


def test_bags_that_are_gone_leave_the_figures(run: Path) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("bags: ", "bags: /nowhere"))
    shutil.rmtree(run / "report")
    write_report(run)
    found = read_pages(run / "report")
    assert sorted(found) == ["index.html", "slides.html"]
    assert "labelled normal , predicted tumour" in found["index.html"].text


def test_a_model_that_is_gone_leaves_the_tiles(run: Path) -> None:
    for path in run.glob("fold_*/model.safetensors"):
        path.unlink()
    write_report(run)
    record = read_record(run / "report" / "slides" / file_name("s02"))
    assert record is not None
    assert (record["shown"]["attention"], len(record["shown"]["tiles"])) == (None, 6)
