"""Scores of one run, several, and ensembles, on one view or more."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mil.data import bag_tensor
from mil.ensemble import main as ensemble
from mil.errors import RunError, SettingsError
from mil.losses import probabilities
from mil.predict import load_run, outputs_of, predict_bag
from mil.scorer import load_scorer
from mil.views import Views
from tests.conftest import Trained
from tiling.bag import Bag, read_bag

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bag(trained: Trained) -> Bag:
    return read_bag(trained.bags / "s05.h5")


def test_of_a_run_is_that_run(trained: Trained, bag: Bag) -> None:
    scorer, wanted = load_scorer([trained.run], CPU), predict_bag(load_run(trained.run, CPU), bag)
    found = scorer.predict(bag)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    assert found.members_EK is not None
    np.testing.assert_array_equal(found.members_EK.mean(0), found.probabilities)
    assert (scorer.sides, scorer.takes_features, scorer.takes_overviews) == ((32,), False, False)
    assert scorer.prior_K.tolist() == [0.5, 0.5]
    assert scorer.task.classes == ("normal", "tumour")


def test_of_runs_is_the_mean_of_each(trained: Trained, trained_again: Trained, bag: Bag) -> None:
    scorer = load_scorer([trained.run, trained_again.run], CPU)
    alone = [load_scorer([run], CPU).predict(bag) for run in (trained.run, trained_again.run)]
    found = scorer.predict(bag)
    np.testing.assert_allclose(found.probabilities, np.mean([each.probabilities for each in alone], axis=0), rtol=1e-15)
    np.testing.assert_array_equal(found.members_EK, np.concatenate([each.members_EK for each in alone]))
    np.testing.assert_array_equal(found.attention, alone[0].attention)  # the other run has none
    assert scorer.sides == (16, 32)


def test_mean_of_logits(trained: Trained, trained_again: Trained, bag: Bag) -> None:
    runs = [trained.run, trained_again.run]
    found = load_scorer(runs, CPU, average="logits").predict(bag)
    assert found.members_EK is not None
    odds = np.log(found.members_EK[:, 1] / found.members_EK[:, 0])
    assert found.probabilities[1] == pytest.approx(1 / (1 + np.exp(-odds.mean())), rel=1e-9)


def test_symmetries(trained: Trained, bag: Bag) -> None:
    scorer = load_scorer([trained.run], CPU, rounds="symmetries")
    found, plain = scorer.predict(bag), load_scorer([trained.run], CPU).predict(bag)
    (run,) = scorer.runs
    with torch.inference_mode():
        by_hand = [
            probabilities(run.card.task, output.logits_BK)[0].numpy()
            for view in Views("symmetries")(bag_tensor(bag, 32), "s05")
            for output in outputs_of(run, view, None)
        ]
    np.testing.assert_array_equal(found.members_EK, by_hand)
    np.testing.assert_allclose(found.probabilities, np.mean(by_hand, axis=0), rtol=1e-15)
    np.testing.assert_array_equal(found.attention, plain.attention)
    assert found.members_EK is not None
    np.testing.assert_array_equal(found.members_EK[:2], plain.members_EK)


def test_symmetric_scores_do_not_depend_on_how_a_slide_lies(trained: Trained, bag: Bag) -> None:
    (run,) = load_scorer([trained.run], CPU).runs
    tiles = bag_tensor(bag, 32)
    means = []
    for lies in (tiles, tiles.rot90(1, (2, 3)), tiles.flip(2)):
        with torch.inference_mode():
            outputs = [outputs_of(run, view, None)[0] for view in Views("symmetries")(lies, "s05")]
        means.append(torch.stack([output.logits_BK.double() for output in outputs]).mean(0))
    torch.testing.assert_close(means[0], means[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(means[0], means[2], rtol=0, atol=1e-6)


def test_rounds_are_the_same_every_time(trained: Trained, bag: Bag) -> None:
    first = load_scorer([trained.run], CPU, rounds=3).predict(bag)
    torch.manual_seed(5)
    second = load_scorer([trained.run], CPU, rounds=3).predict(bag)
    assert first.members_EK is not None
    assert first.members_EK.shape == (6, 2)
    np.testing.assert_array_equal(first.members_EK, second.members_EK)


def test_overviews(trained_chipnet: Trained, bag: Bag) -> None:
    scorer = load_scorer([trained_chipnet.run], CPU, rounds="symmetries")
    found, plain = scorer.predict(bag), predict_bag(load_run(trained_chipnet.run, CPU), bag)
    assert scorer.takes_overviews
    assert found.map_GG is not None
    np.testing.assert_array_equal(found.map_GG, plain.map_GG)
    assert found.members_EK is not None
    assert found.members_EK.shape == (16, 2)


def test_digest_names_all_that_changes_a_score(trained: Trained, trained_again: Trained, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(trained.run, tmp_path / "moved"))
    one = load_scorer([trained.run], CPU).digest
    assert len(one) == 16
    assert int(one, 16) >= 0
    assert load_scorer([copied], CPU).digest == one
    both = [trained.run, trained_again.run]
    others = [
        load_scorer([trained_again.run], CPU), load_scorer(both, CPU), load_scorer(both, CPU, average="logits"),
        load_scorer([trained.run], CPU, rounds=2), load_scorer([trained.run], CPU, rounds="symmetries"),
    ]  # fmt: skip
    assert len({one, *(scorer.digest for scorer in others)}) == 6


class TestEnsemble:
    def test_scores_as_its_mixture_says(
        self, trained: Trained, trained_again: Trained, bag: Bag, tmp_path: Path
    ) -> None:
        out, runs = tmp_path / "out", [trained.run, trained_again.run]
        flags = ["--weights", "1", "3", "--calibrate", "platt", "--prior", "normal=0.8", "tumour=0.2"]
        assert ensemble([*map(str, runs), "--out", str(out), *flags]) == 0
        moved = out.rename(tmp_path / "moved")
        scorer = load_scorer([moved], CPU)
        assert scorer.mixture.weights == (0.25, 0.75)
        assert scorer.prior_K.tolist() == [0.8, 0.2]
        alone = np.stack([load_scorer([run], CPU).predict(bag).probabilities for run in runs])
        wanted = scorer.mixture(scorer.task, alone[:, None])[0]
        np.testing.assert_allclose(scorer.predict(bag).probabilities, wanted, rtol=1e-12)
        assert scorer.digest != load_scorer(runs, CPU).digest

    def test_of_one_run_scores_as_it(self, trained: Trained, bag: Bag, tmp_path: Path) -> None:
        assert ensemble([str(trained.run), "--out", str(tmp_path / "out")]) == 0
        scorer = load_scorer([tmp_path / "out"], CPU)
        plain = load_scorer([trained.run], CPU)
        np.testing.assert_array_equal(scorer.predict(bag).probabilities, plain.predict(bag).probabilities)
        assert scorer.digest == plain.digest

    def test_of_weight_0_is_left_out(self, trained: Trained, trained_again: Trained, tmp_path: Path) -> None:
        runs = [str(trained.run), str(trained_again.run)]
        assert ensemble([*runs, "--out", str(tmp_path / "out"), "--weights", "0", "2"]) == 0
        assert load_scorer([tmp_path / "out"], CPU).digest == load_scorer([trained_again.run], CPU).digest


class TestRefused:
    def test_ensemble_beside_a_run(self, trained: Trained, tmp_path: Path) -> None:
        out = tmp_path / "out"
        assert ensemble([str(trained.run), "--out", str(out)]) == 0
        with pytest.raises(RunError, match="is an ensemble, which is scored alone"):
            load_scorer([trained.run, out], CPU)
        with pytest.raises(SettingsError, match="--average is for several runs"):
            load_scorer([out], CPU, average="logits")

    def test_runs_that_do_not_fit(self, trained: Trained, trained_chipnet: Trained, tmp_path: Path) -> None:
        with pytest.raises(
            RunError, match="the runs .* differ in .* of their bags, so that they cannot score the same"
        ):
            load_scorer([trained.run, trained_chipnet.run], CPU)
        other = Path(shutil.copytree(trained.run, tmp_path / "other"))
        for card in other.glob("fold_*/model.json"):
            card.write_text(card.read_text().replace("tumour", "lesion"))
        with pytest.raises(RunError, match=r"differ in classes \(normal, tumour; normal, lesion\)"):
            load_scorer([trained.run, other], CPU)

    def test_changed_models(self, trained: Trained, tmp_path: Path) -> None:
        out = tmp_path / "out"
        assert ensemble([str(trained.run), "--out", str(out)]) == 0
        weights = out / "run_0" / "fold_1" / "model.safetensors"
        content = bytearray(weights.read_bytes())
        weights.unlink()  # it may be the run's own
        content[-1] ^= 1
        weights.write_bytes(content)
        with pytest.raises(RunError, match="the models of 'run' in .*run_0' are not those the ensemble was made of"):
            load_scorer([out], CPU)

    @pytest.mark.parametrize("content", ["", "null", "{}", "[]", '{"format": "gigabag-ensemble", "format_version": 9}'])
    def test_damaged_ensemble(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "ensemble.json").write_text(content)
        with pytest.raises(RunError, match=r"is no ensemble|version 9, this program reads"):
            load_scorer([tmp_path], CPU)

    def test_tables_have_no_models(self, trained: Trained, tmp_path: Path) -> None:
        assert ensemble([str(trained.run / "oof.csv"), "--out", str(tmp_path / "out")]) == 0
        with pytest.raises(RunError, match="was made of tables of predictions and has no models to score with"):
            load_scorer([tmp_path / "out"], CPU)
        assert pd.read_csv(tmp_path / "out" / "oof.csv")["status"].tolist() == ["ok"] * 12


def test_instances_that_are_there_are_taken(trained: Trained, trained_again: Trained, bag: Bag) -> None:
    scorer = load_scorer([trained.run, trained_again.run], CPU)
    instances = {px: bag_tensor(bag, px) for px in scorer.sides}
    found, wanted = scorer.predict(replace(bag, tiles=None), None, instances), scorer.predict(bag)
    np.testing.assert_array_equal(found.members_EK, wanted.members_EK)


def test_digest_names_the_views_too(trained: Trained, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained.run, tmp_path / "run"))
    config = run / "config.yaml"
    config.write_text(config.read_text() + "\n")
    digests = [load_scorer([run], CPU, rounds=rounds).digest for rounds in (1, 2, 3, "symmetries")]  # type: ignore[arg-type]
    assert len({*digests}) == 4
    config.write_text(re.sub("^seed: .*", "seed: 99", config.read_text(), flags=re.M))
    assert [load_scorer([run], CPU, rounds=rounds).digest for rounds in (1, 2)] == [
        digests[0],
        load_scorer([run], CPU, rounds=2).digest,
    ]
    assert load_scorer([run], CPU, rounds=2).digest not in digests
