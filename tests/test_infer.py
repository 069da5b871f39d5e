"""Scoring that is killed, shared out, or follows a folder that fills gives the table of an undisturbed run."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import infer
from mil import merge
from mil.ensemble import main as make_ensemble
from tests.conftest import Trained
from tests.mil.test_pages import digests
from tiling.arriving import STILL_WRITTEN

ROOT = Path(__file__).parents[1]


def flags(trained: Trained, out: Path, *more: object) -> list[str]:
    return ["--run", str(trained.run), "--out", str(out), "--device", "cpu", *map(str, more)]


def until(true: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    while not true():
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.01)


def start(*arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "infer.py", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def rows_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") - 1 if path.exists() else 0


@pytest.fixture(scope="module")
def many(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The twelve bags under four hundred names, and one that is no bag."""
    bags = tmp_path_factory.mktemp("many")
    for number in range(400):
        os.link(trained.bags / f"s{number % 12:02d}.h5", bags / f"n{number:03d}.h5")
    (bags / "n123.h5").unlink()
    (bags / "n123.h5").write_bytes(b"half")
    return bags


@pytest.fixture(scope="module")
def undisturbed(trained: Trained, many: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("undisturbed") / "scores.csv"
    with_one_thread = start(*flags(trained, out, "--bags", many))
    with_one_thread.communicate()
    assert with_one_thread.returncode == 1
    assert rows_in(out) == 400
    return out.read_bytes()


@pytest.mark.slow
def test_killed_and_resumed_the_bytes_are_the_same(
    trained: Trained, many: Path, undisturbed: bytes, tmp_path: Path
) -> None:
    out = tmp_path / "scores.csv"
    process = start(*flags(trained, out, "--bags", many))
    until(lambda: rows_in(out) > 0, process)
    time.sleep(random.uniform(0, 1.5))  # any moment
    process.send_signal(signal.SIGKILL)
    process.communicate()
    found = pd.read_csv(out)
    assert 0 < len(found) <= 400
    assert set(found["slide_id"]) <= {f"n{number:03d}" for number in range(400)}
    again = start(*flags(trained, out, "--bags", many, "--resume"))
    _, said = again.communicate()
    assert again.returncode == 1
    assert "failed: n123: " in said
    assert out.read_bytes() == undisturbed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.csv", "scores.csv.json"]


@pytest.mark.slow
def test_sigterm_leaves_a_row_for_every_slide(trained: Trained, many: Path, undisturbed: bytes, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    process = start(*flags(trained, out, "--bags", many))
    until(lambda: rows_in(out) > 0, process)
    process.terminate()
    _, said = process.communicate()
    assert process.returncode == 130
    assert said.endswith("infer.py: interrupted\n")
    found = pd.read_csv(out)
    assert len(found) == 400
    waiting = found[found["error"].fillna("").str.startswith("the scoring was interrupted before this slide")]
    assert len(waiting) > 100
    assert set(waiting["status"]) == {"failed"}
    assert set(waiting["prob_tumour"]) == {0.5}


def test_shards_together_are_one_run(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = tmp_path / "ids.csv"
    ids.write_text("slide_id,patient_id\n" + "".join(f"s{number:02d},p{number // 3}\n" for number in range(12)))
    whole, out = tmp_path / "whole.csv", tmp_path / "scores.csv"
    same = ["--bags", trained.bags, "--patient-ids", ids]
    rule = ["--patient-rule", "noisy-or", "--tile-weights"]
    all_at_once = [*same, "--patients", tmp_path / "p.csv", *rule, "--report", tmp_path / "report"]
    assert infer.main(flags(trained, whole, *all_at_once)) == 0
    same += ["--report", tmp_path / "shared"]
    for number in (1, 2):
        assert infer.main(flags(trained, out, *same, "--shard", f"{number}/3")) == 0
    for name, value in {"ID": 7, "COUNT": 3, "MIN": 5, "MAX": 7}.items():  # the last element of a Slurm array
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    assert infer.main(flags(trained, out, *same)) == 0
    parts = sorted(map(str, tmp_path.glob("scores-*-of-3.csv")))
    assert [rows_in(Path(part)) for part in parts] == [4, 4, 4]
    assert not (tmp_path / "shared" / "index.html").exists()
    merging = [*parts, "--out", str(out), "--patients", str(tmp_path / "merged.csv"), *rule]
    assert merge.main([*merging, "--report", str(tmp_path / "shared")]) == 0
    assert digests(tmp_path / "shared") == digests(tmp_path / "report")
    assert out.read_bytes() == whole.read_bytes()
    assert (tmp_path / "scores.csv.json").read_bytes() == (tmp_path / "whole.csv.json").read_bytes()
    assert (tmp_path / "merged.csv").read_bytes() == (tmp_path / "p.csv").read_bytes()
    assert pd.read_csv(tmp_path / "p.csv")[["slides", "tiles"]].to_numpy().tolist() == [[3, 18]] * 4


def test_resumed_nothing_is_scored_twice(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mil.scorer import Scorer

    real, seen = Scorer.predict, []

    def counted(run: object, bag: object, *more: object) -> object:
        seen.append(bag.header.slide_id)  # type: ignore[attr-defined]
        return real(run, bag, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Scorer, "predict", counted)
    bags = Path(shutil.copytree(trained.bags, tmp_path / "bags"))
    good = (bags / "s03.h5").read_bytes()
    (bags / "s03.h5").write_bytes(b"half")
    (bags / "s07.h5").rename(tmp_path / "s07.h5")
    out = tmp_path / "scores.csv"
    manifest = (bags / "manifest.csv").read_text()
    (bags / "manifest.csv").unlink()
    assert infer.main(flags(trained, out, "--bags", bags)) == 1
    assert len(seen) == 10
    (bags / "s03.h5").write_bytes(good)
    (tmp_path / "s07.h5").rename(bags / "s07.h5")
    (bags / "manifest.csv").write_text(manifest)
    assert infer.main(flags(trained, out, "--bags", bags, "--resume")) == 0
    assert seen[10:] == ["s03", "s07"]
    assert infer.main(flags(trained, tmp_path / "whole.csv", "--bags", bags)) == 0
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    capsys.readouterr()
    assert infer.main(flags(trained, out, "--bags", bags, "--resume", "--default-mpp", "0.5")) == 2
    assert "scores.csv' was made with another default_mpp; give" in capsys.readouterr().err
    assert len(seen) == 24


def test_of_an_ensemble_with_all_there_is_a_resumed_one_is_the_same(
    trained: Trained, trained_again: Trained, tmp_path: Path
) -> None:
    """Two networks that see tiles at other sizes, calibrated, eight looks at each slide, by patient, with a report."""
    ensemble, out, report = tmp_path / "ensemble", tmp_path / "scores.csv", tmp_path / "report"
    making = ["--method", "mean", "--calibrate", "platt", "--prior", "normal=0.9", "tumour=0.1"]
    assert make_ensemble([str(trained.run), str(trained_again.run), "--out", str(ensemble), *making]) == 0
    bags = Path(shutil.copytree(trained.bags, tmp_path / "bags"))
    (bags / "s04.h5").write_bytes(b"half")
    given = flags(
        trained._replace(run=ensemble), out, "--bags", bags, "--tta", "symmetries", "--patients", tmp_path / "p.csv",
        "--patient-rule", "max", "--report", report,
    )  # fmt: skip
    assert infer.main(given) == 1
    files = [out, tmp_path / "p.csv"]
    before = [path.read_bytes() for path in files], digests(report)
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join([*lines[:4], *lines[5:9]]))
    (report / "index.html").unlink()
    assert infer.main([*given, "--resume"]) == 1
    assert ([path.read_bytes() for path in files], digests(report)) == before
    scores = pd.read_csv(out)
    assert scores.loc[4, ["status", "prob_normal", "prob_tumour"]].tolist() == ["failed", 0.9, 0.1]
    assert (scores["uncertainty"].drop(4) > 0).all()
    assert "Slides scored by ensemble" in (report / "index.html").read_text()
    page = next((report / "slides").glob("s05-*.html")).read_text()
    assert "A dot for each of the 32 members" in page  # two runs of two folds, eight looks


def test_a_rule_for_patients_wants_their_table(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more, sentence in (
        (["--patient-rule", "max"], "are for the table of --patients; give that too"),
        (["--patient-rule", "max", "--shard", "1/2"], "leave --patients out, and give it to `python -m mil.merge`"),
    ):
        assert infer.main(flags(trained, tmp_path / "scores.csv", "--bags", trained.bags, *more)) == 2
        assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


class TestWatch:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "in"
        folder.mkdir()
        return folder

    def fill(self, trained: Trained, folder: Path, out: Path) -> None:
        """Slides that come: one whole, one in halves with a pause, one last with the marker."""
        shutil.copy(trained.slides / "s01.tiff", folder)
        until(lambda: rows_in(out) == 1)
        content = (trained.slides / "s00.tiff").read_bytes()
        (folder / "s00.tiff").write_bytes(content[: len(content) // 2])
        until(lambda: rows_in(out) == 2)  # longer than --settle: it was taken for complete, and failed
        (folder / "s00.tiff").write_bytes(content)
        (folder / "broken.svs").write_text("no slide")
        shutil.copy(trained.slides / "s02.tiff", folder)
        (folder / "DONE").touch()

    def test_the_table_is_that_of_the_full_folder(self, trained: Trained, folder: Path, tmp_path: Path) -> None:
        out, whole = tmp_path / "scores.csv", tmp_path / "whole.csv"
        filling = threading.Thread(target=self.fill, args=(trained, folder, out), daemon=True)
        filling.start()
        watching = ["--slides", folder, "--watch", "--settle", "0.5", "--workers", "2"]
        assert infer.main(flags(trained, out, *watching)) == 1
        filling.join()
        assert infer.main(flags(trained, whole, "--slides", folder)) == 1
        assert out.read_bytes() == whole.read_bytes()
        assert pd.read_csv(out)["status"].tolist() == ["failed", "ok", "ok", "ok"]
        before = out.read_bytes()
        assert infer.main(flags(trained, out, *watching, "--resume")) == 1
        assert out.read_bytes() == before

    def test_it_ends_on_its_own(self, trained: Trained, folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "scores.csv"
        watching = ["--slides", folder, "--watch", "--settle", "0", "--idle", "0.5"]
        assert infer.main(flags(trained, out, *watching)) == 0
        assert rows_in(out) == 0

    @pytest.mark.slow
    def test_it_ends_on_sigterm(self, trained: Trained, folder: Path, tmp_path: Path) -> None:
        out = tmp_path / "scores.csv"
        shutil.copy(trained.slides / "s01.tiff", folder)
        process = start(*flags(trained, out, "--slides", folder, "--watch", "--settle", "1"))
        until(lambda: rows_in(out) == 1, process)
        shutil.copy(trained.slides / "s02.tiff", folder)
        time.sleep(0.6)
        process.terminate()
        said, _ = process.communicate()
        assert process.returncode in (0, 1)
        found = pd.read_csv(out).set_index("slide_id")
        assert found.loc["s01", "status"] == "ok"
        assert said.startswith(f"{(found['status'] == 'ok').sum()} slides scored, ")
        assert set(found["error"].dropna()) <= {STILL_WRITTEN}

    def test_what_it_goes_not_with(
        self, trained: Trained, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for more, sentence in (
            (["--bags", trained.bags], "--watch takes slides as they come, and goes not with --bags"),
            (["--slides", folder, "--shard", "1/2"], "and goes not with --shard 1/2"),
            (["--slides", trained.slides / "s01.tiff"], "--watch looks at folders, and .*s01.tiff' is none"),
            (["--slides", folder, "--idle", "1"], "--idle must be more than --settle, 30 s"),
        ):
            assert infer.main(flags(trained, tmp_path / "scores.csv", "--watch", *more)) == 2
            assert re.search(sentence, capsys.readouterr().err)
        given = ["--bags", trained.bags, "--shard", "1/2", "--patients", tmp_path / "p.csv"]
        assert infer.main(flags(trained, tmp_path / "s.csv", *given)) == 2
        assert "leave --patients out, and give it to `python -m mil.merge`" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == [folder]


def test_parquet_by_its_name(trained: Trained, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from mil.predictions import read_rows

    given = ["--bags", trained.bags]
    assert infer.main(flags(trained, tmp_path / "s.csv", *given, "--patients", tmp_path / "p.csv")) == 0
    assert infer.main(flags(trained, tmp_path / "s.parquet", *given, "--patients", tmp_path / "p.parquet")) == 0
    for name in "sp":
        assert read_rows(tmp_path / f"{name}.parquet") == read_rows(tmp_path / f"{name}.csv")
    before = (tmp_path / "s.parquet").read_bytes()
    assert infer.main(flags(trained, tmp_path / "s.parquet", *given, "--resume")) == 0
    assert (tmp_path / "s.parquet").read_bytes() == before
