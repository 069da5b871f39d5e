"""The three commands as a user calls them: what they say, what they leave, how they end."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from jsonargparse import Namespace

import infer
import train
from tests.chipnet import make_chipnet
from tests.conftest import TILING_FLAGS, TRAIN_FLAGS, CohortFiles, Trained, paint
from tests.mil.markup import read_pages
from tests.mil.pairs import environment
from tests.mil.test_pages import digests
from tiling import __main__ as tile
from tiling import cli, merge, reselect, status
from tiling.features import write_features
from tiling.manifest import NOT_TILED
from tiling.slide import write_pyramid

ROOT = Path(__file__).parents[1]
Main = Callable[[list[str]], int]


class Refusal:
    """Call a command that must refuse its input, and give the sentence it does so with."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, main: Main, *arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        lines = self.capsys.readouterr().err.strip().splitlines()
        assert [": error: " in line for line in lines] == [False] * (len(lines) - 1) + [True], lines
        assert len(lines) == 1 or "are left out" in lines[0], lines
        return lines[-1]


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Refusal:
    return Refusal(capsys)


class TestTile:
    def test_failure_is_status_1_and_the_rest_is_done(
        self, cohort: CohortFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "broken one.svs").write_text("no slide")
        write_pyramid(tmp_path / "bare.tiff", paint(256, 192), mpp=1.0)
        out = tmp_path / "bags"
        assert tile.main([str(cohort.slides), str(tmp_path), "--out", str(out), *TILING_FLAGS]) == 1
        captured = capsys.readouterr()
        assert "12 bags in" in captured.out
        assert "1 slides without tissue, 1 failed" in captured.out
        assert "failed: broken one: " in captured.err
        assert len(list(out.glob("*.h5"))) == 12
        # The same again does nothing twice and says the same.
        assert tile.main([str(cohort.slides), str(tmp_path), "--out", str(out), *TILING_FLAGS]) == 1

    def test_shards(
        self, cohort: CohortFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "bags"
        command = [str(cohort.slides), "--out", str(out), *TILING_FLAGS]
        assert tile.main([*command, "--shard", "1/3"]) == 0
        for name, value in {"ID": 6, "COUNT": 3, "MIN": 5, "MAX": 7}.items():
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        assert tile.main(command) == 0
        assert len(list(out.glob("*.h5"))) == 8
        assert {path.name for path in out.glob("*.csv")} == {"manifest-1-of-3.csv", "manifest-2-of-3.csv"}
        captured = capsys.readouterr()
        assert "shard 1/3 (--shard)" in captured.err
        assert "shard 2/3 (element 6 of a Slurm array)" in captured.err
        assert "4 bags in" in captured.out
        assert f"a row for each in {out / 'manifest-2-of-3.csv'}" in captured.out
        assert status.main([str(out)]) == 1
        assert "shard 3/3: not started" in capsys.readouterr().out
        assert tile.main([*command, "--shard", "1/1"]) == 0
        assert status.main([str(out)]) == 0
        monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
        assert tile.main(command) == 2
        assert "2 elements from 5 to 7, which does not say what part of the slides element 6 has" in (
            capsys.readouterr().err
        )

    @pytest.mark.parametrize("before", [["--instances", "2"], []])
    @pytest.mark.parametrize("config", [["--config", "{}"], ["--config={}"]])
    def test_config_gives_defaults_and_flags_win(
        self, cohort: CohortFiles, tmp_path: Path, config: list[str], before: list[str]
    ) -> None:
        """In front of it as behind it."""
        (tmp_path / "tiles.yaml").write_text("size: 64\ndownsample: 1\ninstances: 3\ncodec: png\n")
        config = [word.format(tmp_path / "tiles.yaml") for word in config]
        flags = [*before, *config, *([] if before else ["--instances", "2"])]
        assert tile.main([str(cohort.slides / "s00.tiff"), "--out", str(tmp_path / "bags"), *flags]) == 0
        from tiling.bag import read_header

        spec = read_header(tmp_path / "bags" / "s00.h5").spec
        assert (spec["size"], spec["downsample"], spec["instances"], spec["codec"]) == (64, 1, 2, "png")

    @pytest.mark.parametrize(
        ("flags", "sentence"),
        [
            (["--rank", "best"], "--rank 'best' is not one of tissue, darkness, texture, uniform"),
            (["--size", "2.5"], "--size '2.5' is not a whole number"),
            (["--longest-edge", "long"], "--longest-edge 'long' is not a whole number or null"),
            (["--mpp", "0.5", "--downsample", "2"], "give one scale, not 2 (mpp, downsample)"),
            (["--instances", "0"], "--instances must be at least 1, not 0"),
            (["--workers", "0"], "--workers must be at least 1, not 0"),
            (["--time-limit", "0"], "--time-limit must be more than 0 seconds, not 0"),
            (["--time-limit", "long"], "--time-limit 'long' is not a number"),
            (["--shard", "5/4"], "--shard is I/N with I from 1 to N, such as 1/4, not '5/4'"),
            (["--dask", "nowhere", "--jobs", "0"], "--jobs must be at least 1, not 0"),
            (["--colour", "blue"], "unrecognized arguments: --colour blue"),
        ],
    )
    def test_wrong_flags(
        self, refusal: Refusal, cohort: CohortFiles, tmp_path: Path, flags: list[str], sentence: str
    ) -> None:
        assert sentence in refusal(tile.main, cohort.slides, "--out", tmp_path / "bags", *flags)
        assert not (tmp_path / "bags").exists()

    @pytest.mark.parametrize(
        ("yaml", "sentence"),
        [
            ("sizes: 3\n", "option 'sizes' is not accepted in '{path}'"),
            ("size: large\n", "--size 'large' is not a whole number"),
            ("size: null\n", "--size needs a value, not null"),
            ("size: [1\n", "'{path}' is no YAML file of settings"),
        ],
    )
    def test_wrong_config(
        self, refusal: Refusal, cohort: CohortFiles, tmp_path: Path, yaml: str, sentence: str
    ) -> None:
        path = tmp_path / "wrong.yaml"
        path.write_text(yaml)
        found = refusal(tile.main, cohort.slides, "--out", tmp_path / "bags", "--config", path)
        assert sentence.format(path=path) in found

    def test_missing_config(self, refusal: Refusal, cohort: CohortFiles, tmp_path: Path) -> None:
        found = refusal(tile.main, cohort.slides, "--out", tmp_path / "bags", "--config", tmp_path / "none.yaml")
        assert "none.yaml" in found

    def test_missing_folder(self, refusal: Refusal, tmp_path: Path) -> None:
        assert "no such file or folder" in refusal(tile.main, tmp_path / "nowhere", "--out", tmp_path / "bags")

    def test_empty_folder(self, refusal: Refusal, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        assert "holds no slide" in refusal(tile.main, tmp_path / "empty", "--out", tmp_path / "bags")

    def test_duplicate_slide(self, refusal: Refusal, cohort: CohortFiles, tmp_path: Path) -> None:
        shutil.copy(cohort.slides / "s00.tiff", tmp_path / "s00.svs")
        assert "two slides have the name 's00'" in refusal(
            tile.main, cohort.slides, tmp_path, "--out", tmp_path / "bags"
        )
        assert not (tmp_path / "bags").exists()

    def test_nowhere_to_write(self, refusal: Refusal, cohort: CohortFiles) -> None:
        assert "cannot write to the folder '/proc/bags'" in refusal(tile.main, cohort.slides, "--out", "/proc/bags")

    def test_no_slides_given(self, refusal: Refusal, tmp_path: Path) -> None:
        assert "slides" in refusal(tile.main, "--out", tmp_path)

    @pytest.mark.parametrize("name", ["demo", "slide16"])
    def test_presets_are_accepted(self, name: str, tmp_path: Path, refusal: Refusal) -> None:
        """Up to the slides, which do not exist."""
        preset = ROOT / "configs" / f"{name}.tiling.yaml"
        found = refusal(tile.main, tmp_path / "none", "--out", tmp_path / "bags", "--config", preset)
        assert "no such file or folder" in found


class TestTrain:
    def arguments(self, trained: Trained, out: Path, **replaced: object) -> list[object]:
        given = {"bags": trained.bags, "labels": trained.labels, "out": out, **replaced}
        return [word for name, value in given.items() for word in (f"--{name}", value)] + TRAIN_FLAGS

    def labels(self, tmp_path: Path, text: str) -> Path:
        (tmp_path / "labels.csv").write_text(text)
        return tmp_path / "labels.csv"

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            (lambda text: text.replace("label,", "diagnosis,"), "lacks the column label"),
            (lambda text: text + "s00,normal,p00\n", "row 14 of the labels table"),
            (lambda text: text.replace("s03,tumour", "s03,"), "row 5 of the labels table"),
            (lambda text: text + "s99,tumour,p99\n", "1 of the labelled slides have no bag"),
            (lambda text: text.replace("tumour", "normal"), "has one class only (normal)"),
            (lambda text: "\n".join(text.splitlines()[:3]), "has 1 patients, fewer than the 2 folds"),
        ],
    )
    def test_wrong_labels(
        self, refusal: Refusal, trained: Trained, tmp_path: Path, change: Callable[[str], str], sentence: str
    ) -> None:
        labels = self.labels(tmp_path, change(trained.labels.read_text()))
        assert sentence in refusal(train.main, *self.arguments(trained, tmp_path / "run", labels=labels))
        assert not (tmp_path / "run").exists()

    def test_bag_without_a_label_is_left_out_and_named(
        self, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        kept = [line for line in trained.labels.read_text().splitlines() if not line.startswith(("s02", "s07"))]
        labels = self.labels(tmp_path, "\n".join(kept) + "\n")
        arguments = self.arguments(trained, tmp_path / "run", labels=labels)
        assert train.main([*map(str, arguments), "--epochs", "1"]) == 0
        assert "2 bags have no label and are left out: s02, s07" in capsys.readouterr().err
        assert len(pd.read_csv(tmp_path / "run" / "oof.csv")) == 10

    def test_slide_without_a_bag_can_be_skipped(self, trained: Trained, tmp_path: Path) -> None:
        labels = self.labels(tmp_path, trained.labels.read_text() + "s99,tumour,p99\n")
        arguments = self.arguments(trained, tmp_path / "run", labels=labels)
        assert train.main([*map(str, arguments), "--epochs", "1", "--skip-missing"]) == 0
        last = pd.read_csv(tmp_path / "run" / "oof.csv").iloc[-1]
        assert (last["slide_id"], last["status"], last["error"]) == ("s99", "failed", NOT_TILED)

    def test_saved_config_trains_the_same_again(self, trained: Trained, tmp_path: Path) -> None:
        config = trained.run / "config.yaml"
        assert train.main(["--config", str(config), "--out", str(tmp_path / "again")]) == 0
        assert (tmp_path / "again" / "oof.csv").read_bytes() == (trained.run / "oof.csv").read_bytes()
        assert (tmp_path / "again" / "config.yaml").read_text() == config.read_text()

    def test_merged_file_trains_the_same(self, trained: Trained, tmp_path: Path) -> None:
        assert merge.main([str(trained.bags), "--out", str(tmp_path / "all.h5")]) == 0
        assert train.main([*map(str, self.arguments(trained, tmp_path / "run", bags=tmp_path / "all.h5"))]) == 0
        for name in ("oof.csv", "log.csv", "metrics.json", "fold_1/model.safetensors"):
            assert (tmp_path / "run" / name).read_bytes() == (trained.run / name).read_bytes()

    def test_bags_of_no_use(self, refusal: Refusal, trained: Trained, tmp_path: Path) -> None:
        one, none = trained.bags / "s00.h5", tmp_path / "none"
        assert "is one bag; give its folder" in refusal(train.main, *self.arguments(trained, tmp_path / "r", bags=one))
        assert "no such folder of bags" in refusal(train.main, *self.arguments(trained, tmp_path / "r", bags=none))

    def test_run_folder_that_exists(self, refusal: Refusal, trained: Trained, tmp_path: Path) -> None:
        before = sorted(trained.run.iterdir())
        assert "exists; give --resume to go on with a run, or choose another --out" in refusal(
            train.main, *self.arguments(trained, trained.run)
        )
        assert sorted(trained.run.iterdir()) == before

    def test_nowhere_to_write(self, refusal: Refusal, trained: Trained) -> None:
        assert "cannot make the run folder '/proc/run'" in refusal(
            train.main, *self.arguments(trained, Path("/proc/run"))
        )

    @pytest.mark.parametrize(
        ("flags", "sentence"),
        [
            (["--pooling", "sum"], "--pooling 'sum' is not one of avg, max, logsumexp, concat, attention, gated"),
            (["--backbone", "resnet_18"], "timm has no model 'resnet_18'; did you mean"),
            (["--folds", "9"], "has 6 patients, fewer than the 9 folds; lower --folds to 6"),
            (["--lr", "fast"], "--lr 'fast' is not a number"),
            (["--valid-share", "2"], "--valid-share must be from 0 to 0.5, not 2"),
        ],
    )
    def test_wrong_flags(
        self, refusal: Refusal, trained: Trained, tmp_path: Path, flags: list[str], sentence: str
    ) -> None:
        assert sentence in refusal(train.main, *self.arguments(trained, tmp_path / "run"), *flags)
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("yaml", "sentence"),
        [
            ("categorical: site\n", "gives one value to a setting that is a list; put it in brackets, such as [a, b]"),
            ("embed: 4\n", "gives one value to a setting that is a list"),
            ("label_columns: [0, 1]\n", "--label-columns '0' is not text (put it in quotes)"),
            ("normal: 0\n", "--normal '0' is not text (put it in quotes) or null"),
        ],
    )
    def test_lists_and_text_in_yaml(
        self, refusal: Refusal, trained: Trained, tmp_path: Path, yaml: str, sentence: str
    ) -> None:
        (tmp_path / "a.yaml").write_text(yaml)
        found = refusal(train.main, *self.arguments(trained, tmp_path / "run"), "--config", tmp_path / "a.yaml")
        assert sentence in found

    def test_unknown_key_in_yaml(self, refusal: Refusal, trained: Trained, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("learning_rate: 1\n")
        found = refusal(train.main, *self.arguments(trained, tmp_path / "run"), "--config", tmp_path / "a.yaml")
        assert "option 'learning_rate' is not accepted" in found

    @pytest.mark.parametrize("name", ["demo", "slide16"])
    def test_presets_are_accepted(self, name: str, tmp_path: Path, refusal: Refusal) -> None:
        """Up to the folder of bags, which does not exist."""
        preset = ROOT / "configs" / f"{name}.train.yaml"
        labels = self.labels(tmp_path, "slide_id,label\na,0\nb,1\n")
        arguments = ("--bags", tmp_path / "none", "--labels", labels, "--out", tmp_path / "run", "--config", preset)
        assert "no such folder of bags" in refusal(train.main, *arguments)


class TestSeveralLabels:
    def test_from_table_to_scores(self, trained: Trained, tmp_path: Path) -> None:
        rows = [f"s{i:02d},{i % 2},{'' if i == 5 else int(i % 4 < 2)}" for i in range(12)]
        (tmp_path / "labels.csv").write_text("\n".join(["slide_id,tumour,necrosis", *rows]) + "\n")
        run, out = tmp_path / "run", tmp_path / "scores.csv"
        flags = ["--bags", str(trained.bags), "--labels", str(tmp_path / "labels.csv"), "--out", str(run), *TRAIN_FLAGS]
        assert train.main([*flags, "--label-columns", "tumour", "necrosis", "--valid-share", "0"]) == 0
        assert infer.main(["--run", str(run), "--bags", str(trained.bags), "--out", str(out)]) == 0
        assert {"prob_tumour", "prob_necrosis"} <= set(pd.read_csv(out))
        oof = pd.read_csv(run / "oof.csv", keep_default_na=False)
        assert oof["label"].tolist()[:6] == ["necrosis", "tumour;necrosis", "", "tumour", "necrosis", "tumour"]
        # The saved settings hold the columns, so that they train the same again.
        assert train.main(["--config", str(run / "config.yaml"), "--out", str(tmp_path / "again")]) == 0
        assert (tmp_path / "again" / "oof.csv").read_bytes() == (run / "oof.csv").read_bytes()


class TestMetadata:
    @pytest.fixture
    def run(self, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
        rows = [
            f"s{i:02d},{'tumour' if i % 2 else 'normal'},{'skin' if i < 6 else 'colon'},{50 + i}" for i in range(12)
        ]
        (tmp_path / "labels.csv").write_text("\n".join(["slide_id,label,site,age", *rows]) + "\n")
        out = tmp_path / "run"
        flags = ["--bags", str(trained.bags), "--labels", str(tmp_path / "labels.csv"), "--out", str(out), *TRAIN_FLAGS]
        assert (
            train.main([*flags, "--categorical", "site", "--numeric", "age", "--head-hidden", "8", "--head-norm"]) == 0
        )
        capsys.readouterr()
        return out

    def test_unseen_and_missing_are_unknown(
        self, run: Path, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        table, out = tmp_path / "metadata.csv", tmp_path / "scores.csv"
        table.write_text("slide_id,age,site,else\ns01,51,skin,x\ns02,,brain,x\n")
        flags = ["--run", str(run), "--bags", str(trained.bags), "--metadata", str(table), "--out", str(out)]
        assert infer.main(flags) == 0
        assert "10 slides have no metadata: s00, s03, s04" in capsys.readouterr().err
        assert (pd.read_csv(out)["status"] == "ok").all()

    def test_refused(self, refusal: Refusal, run: Path, trained: Trained, tmp_path: Path) -> None:
        table = tmp_path / "metadata.csv"
        given = ("--bags", trained.bags, "--out", tmp_path / "scores.csv")
        assert "the run was trained with the metadata site, age: give --metadata TABLE" in refusal(
            infer.main, "--run", run, *given
        )
        assert "trained without metadata; leave --metadata out" in refusal(
            infer.main, "--run", trained.run, *given, "--metadata", table
        )
        for text, sentence in (
            ("slide_id,age\ns01,5\n", "lacks the column site"),
            (
                "slide_id,site,age\ns01.svs,skin,5\n",
                "no slide has a row in the metadata table '{}'; its slide_ids must",
            ),
            ("slide_id,site,age\ns01,skin,5\ns02,skin,old\n", "row 3 of the metadata table '{}' has 'old' in the"),
        ):
            table.write_text(text)
            assert sentence.format(table) in refusal(infer.main, "--run", run, *given, "--metadata", table)


class TestFeatures:
    @pytest.fixture
    def features(self, tmp_path: Path) -> Path:
        """Files as CLAM writes them, for the slides of the cohort; those of the tumours lie elsewhere."""
        random = np.random.default_rng(0)
        (tmp_path / "h5_files").mkdir()
        for index in range(12):
            vectors = random.normal(0, 1, (5 + index, 8)).astype(np.float32)
            vectors[:, 0] += 5 * (index % 2)
            coords = random.integers(0, 50_000, (5 + index, 2))
            write_features(tmp_path / "h5_files" / f"s{index:02d}.h5", vectors, coords, patch_level=0, patch_size=256)
        return tmp_path / "h5_files"

    def test_train_and_score(self, trained: Trained, features: Path, tmp_path: Path) -> None:
        run, out = tmp_path / "run", tmp_path / "scores.csv"
        flags = ["--bags", str(features), "--labels", str(trained.labels), "--out", str(run), "--folds", "2"]
        settings = ["--embed", "16", "--epochs", "30", "--valid-share", "0", "--lr", "1e-2", "--device", "cpu"]
        assert train.main([*flags, *settings]) == 0
        assert infer.main(["--run", str(run), "--bags", str(features), "--out", str(out)]) == 0
        scores = pd.read_csv(out)
        assert scores["tiles"].tolist() == list(range(5, 17))
        assert scores["predicted"].tolist() == ["normal", "tumour"] * 6

    def test_what_does_not_go_together(
        self, refusal: Refusal, trained: Trained, features: Path, tmp_path: Path
    ) -> None:
        given = ("--bags", features, "--labels", trained.labels, "--out", tmp_path / "run")
        assert "--backbone is for bags of tiles, and these hold features" in refusal(train.main, *given, *TRAIN_FLAGS)
        assert "concat pooling needs bags of a size known beforehand" in refusal(
            train.main, *given, "--folds", 2, "--pooling", "concat"
        )
        shutil.copy(trained.bags / "s03.h5", features / "s03.h5")
        assert "'s03.h5' is " in refusal(train.main, *given, "--folds", 2).replace(f"{features}/", "")
        assert not (tmp_path / "run").exists()

    def test_run_on_bags_of_another_kind(
        self, refusal: Refusal, trained: Trained, features: Path, tmp_path: Path
    ) -> None:
        given = ("--run", trained.run, "--bags", features, "--out", tmp_path / "scores.csv")
        assert f"was trained on bags of tiles, and '{features}' holds feature files" in refusal(infer.main, *given)


@pytest.mark.usefixtures("chipnets")
class TestTilesThatAChipnetPicks:
    def test_tile_train_and_score(self, refusal: Refusal, cohort: CohortFiles, tmp_path: Path) -> None:
        """New slides are tiled as the run's own were: by the same ChipNet."""
        bags, run = tmp_path / "bags", tmp_path / "run"
        chipnet, other = make_chipnet(tmp_path / "chipnet"), make_chipnet(tmp_path / "other", np.eye(7))
        picking = ["--rank", "attention", "--chipnet", str(chipnet), "--instances", "3"]
        assert tile.main([str(cohort.slides), "--out", str(bags), *TILING_FLAGS, *picking]) == 0
        assert train.main(["--bags", str(bags), "--labels", str(cohort.labels), "--out", str(run), *TRAIN_FLAGS]) == 0
        given = ["--run", str(run), "--device", "cpu", "--out"]
        tables = [tmp_path / "of slides.csv", tmp_path / "of bags.csv"]
        of_slides = [*given, str(tables[0]), "--slides", str(cohort.slides)]
        assert infer.main([*of_slides, "--chipnet", str(chipnet)]) == 0
        assert infer.main([*given, str(tables[1]), "--bags", str(bags)]) == 0
        assert tables[0].read_text() == tables[1].read_text()
        refusal.capsys.readouterr()
        assert "trained on tiles that a ChipNet picked: give --chipnet RUN" in refusal(infer.main, *of_slides)
        said = refusal(infer.main, *of_slides, "--chipnet", other)
        assert re.search("has the digest [0-9a-f]{16}, and the tiles that the run was trained on were picked by", said)
        assert "and bags have their tiles; leave it out" in refusal(
            infer.main, *given, tables[1], "--bags", bags, "--chipnet", chipnet
        )
        elsewhere = ["--slides", str(cohort.slides)]
        assert reselect.main([str(bags), "--out", str(tmp_path / "others"), "--chipnet", str(other), *elsewhere]) == 0
        assert infer.main([*given, str(tables[1]), "--bags", str(tmp_path / "others")]) == 1
        assert pd.read_csv(tables[1])["error"].str.contains("made with another chipnet than the run").all()

    def test_chipnet_where_it_says_nothing(
        self, refusal: Refusal, cohort: CohortFiles, trained: Trained, tmp_path: Path
    ) -> None:
        chipnet = make_chipnet(tmp_path / "chipnet")
        given = (cohort.slides, "--out", tmp_path / "bags")
        assert "--chipnet says nothing with --rank tissue" in refusal(tile.main, *given, "--chipnet", chipnet)
        assert "--rank box needs a ChipNet that looks" in refusal(tile.main, *given, "--rank", "box")
        scoring = ("--run", trained.run, "--slides", cohort.slides, "--out", tmp_path / "scores.csv")
        assert "the run's tiles were picked without one; leave it out" in refusal(
            infer.main, *scoring, "--chipnet", chipnet
        )


class TestInfer:
    def test_slides_and_bags_score_alike(self, trained: Trained, tmp_path: Path) -> None:
        for source, name in ((trained.slides, "slides"), (trained.bags, "bags")):
            out = tmp_path / f"{name}.csv"
            flags = ["--run", str(trained.run), f"--{name}", str(source), "--out", str(out), "--device", "cpu"]
            assert infer.main([*flags, "--heatmaps", str(tmp_path / name)]) == 0
        assert (tmp_path / "slides.csv").read_bytes() == (tmp_path / "bags.csv").read_bytes()
        scores = pd.read_csv(tmp_path / "slides.csv")
        assert list(scores) == [
            "slide_id", "patient_id", "status", "tiles", "prob_normal", "prob_tumour", "predicted", "uncertainty",
            "model", "error",
        ]  # fmt: skip
        assert scores["slide_id"].tolist() == [f"s{i:02d}" for i in range(12)]
        np.testing.assert_allclose(scores["prob_normal"] + scores["prob_tumour"], 1)
        assert len(list((tmp_path / "slides").glob("s*.png"))) == 12

    def test_overviews_of_slides_and_bags_score_alike(self, trained_chipnet: Trained, tmp_path: Path) -> None:
        """Bags of another tiling too: ChipNet sees the whole slide."""
        bags = tmp_path / "others"
        tiling = ["--size", "64", "--downsample", "1", "--instances", "2", "--workers", "2"]
        assert tile.main([str(trained_chipnet.slides), "--out", str(bags), *tiling]) == 0
        tables = []
        for flag, source in (("slides", trained_chipnet.slides), ("bags", trained_chipnet.bags), ("bags", bags)):
            out = tmp_path / "scores.csv"
            flags = ["--run", str(trained_chipnet.run), f"--{flag}", str(source), "--out", str(out), "--device", "cpu"]
            assert infer.main(flags) == 0
            tables.append(pd.read_csv(out))
        assert tables[0].equals(tables[1])
        assert (tables[0]["tiles"] == 1).all()
        np.testing.assert_allclose(tables[2]["prob_tumour"], tables[0]["prob_tumour"], atol=0.1)

    def test_merged_file_scores_alike(self, trained: Trained, tmp_path: Path) -> None:
        bags = Path(shutil.copytree(trained.bags, tmp_path / "bags"))
        (bags / "s01.h5").unlink()
        (tmp_path / "bad.svs").write_text("no slide")
        tile.main([str(tmp_path / "bad.svs"), "--out", str(bags), *TILING_FLAGS])
        assert merge.main([str(bags), "--out", str(tmp_path / "all.h5")]) == 0
        scores = []
        for source in (bags, tmp_path / "all.h5"):
            out = tmp_path / f"{source.name}.csv"
            flags = ["--run", str(trained.run), "--bags", str(source), "--out", str(out), "--device", "cpu"]
            assert infer.main(flags) == 1
            scores.append(out.read_text().replace(str(source), "SOURCE"))
        assert scores[0] == scores[1]
        assert "the bag 's01' of 'SOURCE' is gone; tile its slide again" in scores[0]

    def test_small_copies_serve(self, trained: Trained, tmp_path: Path) -> None:
        """Trained on bags with small copies, slides and bags still score alike, with pictures or without."""
        flags = [*TILING_FLAGS, "--train-px", "16"]
        bags, run = tmp_path / "bags", tmp_path / "run"
        assert tile.main([str(trained.slides), "--out", str(bags), *flags]) == 0
        given = ["--labels", str(trained.labels), "--out", str(run), *TRAIN_FLAGS, "--train-px", "16", "--epochs", "1"]
        assert train.main(["--bags", str(bags), *given]) == 0
        for name, source in (("slides", trained.slides), ("bags", bags), ("bags --heatmaps pictures", bags)):
            flag, *more = name.split()
            more = [str(tmp_path / word) if word == "pictures" else word for word in more]
            out = ["--out", str(tmp_path / f"{name.replace(' ', '')}.csv"), "--device", "cpu"]
            assert infer.main(["--run", str(run), f"--{flag}", str(source), *out, *more]) == 0
        tables = [path.read_bytes() for path in tmp_path.glob("*.csv")]
        assert tables == [tables[0]] * 3
        assert len(list((tmp_path / "pictures").glob("*.png"))) == 12

    def test_every_slide_has_a_row(self, trained: Trained, tmp_path: Path) -> None:
        folder = tmp_path / "new slides"
        folder.mkdir()
        shutil.copy(trained.slides / "s01.tiff", folder / "good.tiff")
        write_pyramid(folder / "bare.tiff", paint(256, 192), mpp=1.0)
        (folder / "broken.svs").write_bytes((trained.slides / "s01.tiff").read_bytes()[:3000])
        table = tmp_path / "slides.csv"
        table.write_text(
            "slide_id,path,patient_id\n"
            "good,new slides/good.tiff,pat\nbare,new slides/bare.tiff,\nbroken,new slides/broken.svs,\ngone,no.svs,\n"
        )
        out = tmp_path / "scores.csv"
        assert infer.main(["--run", str(trained.run), "--slides", str(table), "--out", str(out)]) == 1
        scores = pd.read_csv(out).set_index("slide_id")
        assert scores["status"].to_dict() == {"good": "ok", "bare": "failed", "broken": "failed", "gone": "failed"}
        assert scores.loc["good", "patient_id"] == "pat"
        assert (scores["prob_tumour"] == 0.5).to_dict() == {"bare": True, "broken": True, "gone": True, "good": False}
        assert scores["predicted"].isna().to_dict() == {"bare": True, "broken": True, "gone": True, "good": False}
        assert "no tissue was found" in scores.loc["bare", "error"]
        assert "is no slide that can be read" in scores.loc["broken", "error"]
        assert "no such file" in scores.loc["gone", "error"]

    def test_bags_that_cannot_be_scored_have_a_row(self, trained: Trained, tmp_path: Path) -> None:
        bags = Path(shutil.copytree(trained.bags, tmp_path / "bags"))
        (bags / "s01.h5").write_bytes(b"half")
        (tmp_path / "bad.svs").write_text("no slide")
        tile.main([str(tmp_path / "bad.svs"), "--out", str(bags), *TILING_FLAGS])
        flags = [*TILING_FLAGS, "--overwrite", "--quality", "40"]
        assert tile.main([str(trained.slides / "s02.tiff"), "--out", str(bags), *flags]) == 0
        out = tmp_path / "scores.csv"
        assert infer.main(["--run", str(trained.run), "--bags", str(bags), "--out", str(out)]) == 1
        errors = pd.read_csv(out).set_index("slide_id")["error"].dropna()
        assert sorted(errors.index) == ["bad", "s01", "s02"]
        assert "is no slide that can be read" in errors["bad"]
        assert "is not a complete bag" in errors["s01"]
        assert "was made with another quality than the run was trained on" in errors["s02"]

    def test_one_slide_gone_wrong_costs_no_other(
        self, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bags = Path(shutil.copytree(trained.bags, tmp_path / "bags"))
        (bags / "s03.h5").rename(bags / "cost $_^$ 肾.h5")
        from mil.scorer import Scorer

        real = Scorer.predict

        def sometimes(run: object, bag: object, *more: object) -> object:
            if bag.header.slide_id == "s05":  # type: ignore[attr-defined]
                raise RuntimeError("out of memory")
            return real(run, bag, *more)  # type: ignore[arg-type]

        monkeypatch.setattr(Scorer, "predict", sometimes)
        out = tmp_path / "scores.csv"
        flags = ["--run", str(trained.run), "--bags", str(bags), "--out", str(out), "--heatmaps", str(tmp_path / "h")]
        assert infer.main(flags) == 1
        errors = pd.read_csv(out).set_index("slide_id")["error"].dropna()
        assert sorted(errors.index) == ["s03", "s05"]
        assert errors["s03"].endswith("is gone; tile its slide again")
        assert "unexpected RuntimeError (out of memory)" in errors["s05"]
        assert (tmp_path / "h" / "cost $_^$ 肾.png").exists()

    def test_pictures_come_with_geojson_and_change_no_score(self, trained: Trained, tmp_path: Path) -> None:
        drawn = ["--heatmaps", str(tmp_path / "h"), "--grad-cam"]
        # Of a tile of 32 px the network of the other tests makes one position; of one of 64 px there are four.
        bags, run = tmp_path / "bags", tmp_path / "run"
        tiling = [*TILING_FLAGS, "--size", "64", "--instances", "3"]
        assert tile.main([str(trained.slides), "--out", str(bags), *tiling]) == 0
        training = [*TRAIN_FLAGS, "--train-px", "64", "--epochs", "1"]
        assert train.main(["--bags", str(bags), "--labels", str(trained.labels), "--out", str(run), *training]) == 0
        flags = ["--run", str(run), "--bags", str(bags), "--device", "cpu"]
        assert infer.main([*flags, "--out", str(tmp_path / "b.csv")]) == 0
        assert infer.main([*flags, "--out", str(tmp_path / "c.csv"), *drawn]) == 0
        assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "c.csv").read_bytes()
        names = {f"s{index:02d}.{end}" for index in range(12) for end in ("png", "geojson")}
        assert {path.name for path in (tmp_path / "h").iterdir()} == names

    def test_a_picture_that_fails_costs_no_score(
        self, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from mil import explain

        real = explain.draw_slide

        def sometimes(path: Path, *drawn: object) -> None:
            if path.name == "s05.png":
                raise OSError(28, "No space left on device")
            real(path, *drawn)  # type: ignore[arg-type]

        monkeypatch.setattr(explain, "draw_slide", sometimes)
        flags = ["--run", str(trained.run), "--bags", str(trained.bags), "--out", str(tmp_path / "scores.csv")]
        assert infer.main([*flags, "--heatmaps", str(tmp_path / "h"), "--device", "cpu"]) == 0
        assert set(pd.read_csv(tmp_path / "scores.csv")["status"]) == {"ok"}
        said = capsys.readouterr()
        assert "no picture: s05: " in said.err
        assert "No space left on device" in said.err
        assert said.out.strip().endswith("; 1 of the scored have no picture")
        assert len(list((tmp_path / "h").glob("*.png"))) == 11

    def test_grad_cam_that_cannot_be_drawn_is_refused(self, refusal: Refusal, trained: Trained, tmp_path: Path) -> None:
        given = ("--run", trained.run, "--bags", trained.bags, "--out", tmp_path / "scores.csv", "--grad-cam")
        assert "--grad-cam draws on the pictures of --heatmaps" in refusal(infer.main, *given)
        said = refusal(infer.main, *given, "--heatmaps", tmp_path / "h")
        assert "the backbone 'test_resnet' sees a tile of 32 px as one position" in said
        assert not (tmp_path / "scores.csv").exists()

    def test_interrupted_scoring_keeps_what_it_has(
        self, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from mil.scorer import Scorer

        real, seen = Scorer.predict, []

        def interrupted(run: object, bag: object, *more: object) -> object:
            seen.append(bag)
            if len(seen) == 4:
                raise KeyboardInterrupt
            return real(run, bag, *more)  # type: ignore[arg-type]

        monkeypatch.setattr(Scorer, "predict", interrupted)
        out = tmp_path / "scores.csv"
        assert infer.main(["--run", str(trained.run), "--bags", str(trained.bags), "--out", str(out)]) == 130
        scores = pd.read_csv(out)
        assert scores["status"].tolist() == ["ok"] * 3 + ["failed"] * 9
        assert scores["error"].iloc[-1].startswith("the scoring was interrupted before this slide")

    def test_wrong_input(self, refusal: Refusal, trained: Trained, tmp_path: Path) -> None:
        run, out = ("--run", trained.run), ("--out", tmp_path / "scores.csv")
        bags = ("--bags", trained.bags)
        assert "give either --slides or --bags" in refusal(infer.main, *run, *out)
        assert "give either --slides or --bags" in refusal(infer.main, *run, *out, *bags, "--slides", trained.slides)
        assert "no such run" in refusal(infer.main, "--run", tmp_path / "none", *bags, *out)
        assert "no such folder of bags" in refusal(infer.main, *run, "--bags", tmp_path / "none", *out)
        assert "holds no bags" in refusal(infer.main, *run, "--bags", tmp_path, *out)
        assert "no such file or folder" in refusal(infer.main, *run, "--slides", tmp_path / "none", *out)
        assert "cannot write to the folder '/proc/x'" in refusal(infer.main, *run, *bags, "--out", "/proc/x/scores.csv")
        assert "is a folder; give the name of a CSV or Parquet file" in refusal(
            infer.main, *run, *bags, "--out", trained.bags
        )
        assert "--workers must be at least 1, not 0" in refusal(
            infer.main, *run, *out, "--slides", trained.slides, "--workers", 0
        )
        assert "--device 'tpu' is not one of auto, cpu, cuda" in refusal(
            infer.main, *run, *bags, *out, "--device", "tpu"
        )
        assert list(tmp_path.iterdir()) == []

    def test_run_of_another_version(self, refusal: Refusal, trained: Trained, tmp_path: Path) -> None:
        run = Path(shutil.copytree(trained.run, tmp_path / "run"))
        card = run / "fold_1" / "model.json"
        card.write_text(card.read_text().replace('"format_version": 2', '"format_version": 1'))
        found = refusal(infer.main, "--run", run, "--bags", trained.bags, "--out", tmp_path / "scores.csv")
        assert "is gigabag-model version 1, this program reads gigabag-model version 2" in found


@pytest.mark.parametrize(
    "command", [["-m", "tiling"], ["-m", "tiling.merge"], ["-m", "tiling.status"], ["train.py"], ["infer.py"]]
)
def test_help(command: list[str]) -> None:
    done = subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: {'python ' if command[0] == '-m' else ''}{' '.join(command)} ")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("name", "main"),
    [
        ("tile", tile.main),
        ("status", status.main),
        ("merge", merge.main),
        ("train", train.main),
        ("infer", infer.main),
    ],
)
def test_console_script_calls_itself_by_its_name(
    name: str, main: Callable[[list[str]], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [f"/bin/gigabag-{name}"])
    assert main([]) == 2
    assert capsys.readouterr().err.startswith(f"gigabag-{name}: error: ")


class TestOnWarning:
    @pytest.fixture(autouse=True)
    def handlers(self) -> Iterator[None]:
        before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1)}
        yield
        for each, handler in before.items():
            signal.signal(each, handler)

    def test_nothing_came(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        with cli.on_warning(lambda: None):
            pass
        assert signal.getsignal(signal.SIGTERM) == before

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
    def test_a_warning_is_told_and_a_later_one_does_no_harm(self, number: signal.Signals) -> None:
        told: list[int] = []
        with cli.on_warning(lambda: told.append(1)):
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert told == [1, 1]


class TestFoldFrom:
    @pytest.mark.parametrize(
        ("given", "index", "fold"),
        [
            (None, None, None),
            (None, "", None),
            (3, None, 3),
            (None, "2", 2),
            (0, "2", 0),
            ("all", "2", None),
            ("all", None, None),
        ],
    )
    def test_the_flag_goes_before_the_array(self, given: object, index: str | None, fold: int | None) -> None:
        assert train.fold_from(Namespace(fold=given), index) == fold

    def test_an_index_that_is_none(
        self, refusal: Refusal, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "x")
        given = ["--bags", trained.bags, "--labels", trained.labels, "--out", tmp_path / "run"]
        assert "SLURM_ARRAY_TASK_ID is 'x', which is no fold" in refusal(train.main, *given)


class TestTrainWithoutTraining:
    def test_what_is_missing_is_named(self, refusal: Refusal, tmp_path: Path) -> None:
        assert "--bags is missing; --help says what it is" in refusal(train.main)
        assert "--out is missing" in refusal(train.main, "--bags", tmp_path, "--labels", tmp_path)

    def test_doctor(self, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        given = ["--doctor", "--bags", str(trained.bags), "--labels", str(trained.labels), *TRAIN_FLAGS]
        before = sorted(trained.bags.iterdir())
        assert train.main(given) == 0
        said = capsys.readouterr().out
        assert "labels   12 slides of 12 patients" in said
        assert said.rstrip().endswith("nothing stands in the way of this training")
        assert train.main([*given, "--folds", "9", "--backbone", "nonsense"]) == 2
        said = capsys.readouterr().out
        assert "2 problems:" in said
        assert "fewer than the 9 folds" in said
        assert "timm has no model 'nonsense'" in said
        assert sorted(trained.bags.iterdir()) == before

    def test_doctor_of_several_processes_speaks_once(
        self, trained: Trained, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given = ["--doctor", "--bags", str(trained.bags), "--labels", str(trained.labels), *TRAIN_FLAGS]
        said = []
        for rank in (0, 1):
            for name, value in environment(rank, 2, 29500).items():
                if name not in ("PYTHONPATH", "OMP_NUM_THREADS"):
                    monkeypatch.setenv(name, value)
            assert train.main([*given, "--batch-size", "1"]) == (2 if rank == 0 else 0)
            said.append(capsys.readouterr().out)
        assert "each process takes a bag of a batch: give a --batch-size of 2 or more" in said[0]
        assert said[1] == ""

    def test_collect(self, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shutil.copytree(trained.run, tmp_path / "run")
        for name in ("oof.csv", "metrics.json", "roc.png"):
            (tmp_path / "run" / name).unlink()
        assert train.main(["--collect", str(tmp_path / "run")]) == 0
        assert "out of fold, 12 slides of 12 patients" in capsys.readouterr().out
        for name in ("oof.csv", "metrics.json", "roc.png"):
            assert (tmp_path / "run" / name).read_bytes() == (trained.run / name).read_bytes()

    @pytest.mark.parametrize(
        ("name", "text", "sentence"),
        [
            ("folds.csv", "a,b\n1,2\n", "folds.csv' is no table of a run: it lacks the column 'slide_id'"),
            ("folds.csv", "slide_id,patient_id,label,fold\n", "lacks the column|has no rows|do not fit"),
            ("folds.csv", "slide_id,patient_id,label,fold\ns00,p,odd,0\ns02,q,normal,1\n", "do not fit its folds.csv"),
            ("skipped.csv", "a\n1\n", "skipped.csv' is no table of a run"),
            ("fold_0/log.csv", "fold,epoch,train_loss,valid_loss,valid_auc,lr,best\n", "log.csv' cannot be read"),
        ],
    )
    def test_damaged_runs_are_refused(
        self, refusal: Refusal, trained: Trained, tmp_path: Path, name: str, text: str, sentence: str
    ) -> None:
        shutil.copytree(trained.run, tmp_path / "run")
        (tmp_path / "run" / name).write_text(text)
        assert re.search(sentence, refusal(train.main, "--collect", tmp_path / "run"))

    def test_collect_takes_nothing_beside_it(self, refusal: Refusal, tmp_path: Path) -> None:
        assert "takes no --fold beside it" in refusal(train.main, "--collect", tmp_path, "--fold", 1)
        assert "goes with neither --doctor nor --resume" in refusal(train.main, "--collect", tmp_path, "--doctor")

    def test_no_run_to_collect(self, refusal: Refusal, trained: Trained, tmp_path: Path) -> None:
        assert "is no run of train.py: it has no folds.csv" in refusal(train.main, "--collect", tmp_path)
        shutil.copytree(trained.run, tmp_path / "run")
        oof = tmp_path / "run" / "fold_1" / "oof.csv"
        oof.write_text(re.sub("s0([0-9])", r"t0\1", oof.read_text()))
        assert "do not fit its folds.csv" in refusal(train.main, "--collect", tmp_path / "run")


class TestReport:
    def test_of_scores(self, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The same scores as without, the same bytes twice, a page for the failed slide too."""
        slides = tmp_path / "slides"
        slides.mkdir()
        shutil.copy(trained.slides / "s00.tiff", slides)
        (slides / "<broken>.svs").write_text("no slide")
        command = ["--run", str(trained.run), "--slides", str(slides), "--device", "cpu", "--workers", "1"]
        assert infer.main([*command, "--out", str(tmp_path / "plain.csv")]) == 1
        found = []
        for _ in range(2):
            out = ["--out", str(tmp_path / "scores.csv"), "--report", str(tmp_path / "report")]
            assert infer.main([*command, *out]) == 1
            found.append(digests(tmp_path / "report"))
        assert found[0] == found[1]
        assert (tmp_path / "scores.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()
        pages = read_pages(tmp_path / "report")
        assert len(pages) == 4
        assert "2 slides 1 scored 1 failed" in pages["index.html"].text
        assert "no pictures" not in capsys.readouterr().err

    def test_of_a_run(self, trained: Trained) -> None:
        pages = read_pages(trained.run / "report")
        assert {"index.html", "slides.html"} <= pages.keys()
        assert "How good it is" in pages["index.html"].text

    def test_a_folder_of_other_pages_is_refused_before_anything_is_scored(
        self, refusal: Refusal, trained: Trained, tmp_path: Path
    ) -> None:
        (tmp_path / "index.html").write_text("mine")
        found = refusal(
            infer.main, "--run", trained.run, "--bags", trained.bags, "--out", tmp_path / "s.csv", "--report", tmp_path
        )
        assert "is a page that gigabag did not write" in found
        assert not (tmp_path / "s.csv").exists()

    def test_a_run_is_finished_without_its_report(
        self, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = Path(shutil.copytree(trained.run, tmp_path / "run"))
        (run / "report" / "index.html").write_text("mine")
        assert train.main(["--collect", str(run)]) == 0
        assert "train.py: no report: " in capsys.readouterr().err
