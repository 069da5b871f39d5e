"""Two thousand mutants of a run's files and of tables: each is accepted or refused in a sentence, without much memory.

What is accepted is used as a command would use it. Mutants of one file that led to anything else have a test of their
own beside the reader they led through.
"""

import resource
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from mil.about_ensemble import about_all
from mil.backbone import Backbone
from mil.calibration import Calibration, PriorShift
from mil.checkpoint import load_model
from mil.collect import collect
from mil.ensemble_folder import save_ensemble
from mil.errors import MilError
from mil.folds import make_folds, make_splits
from mil.labels import read_labels
from mil.log import read_log
from mil.merge import merged
from mil.metadata import MetadataCoder, fit_metadata
from mil.mixture import Mixture
from mil.oof import read_sources
from mil.origin import Origin, read_origin, slides_named, write_origin
from mil.patients import write_patients
from mil.predict import load_run, predict_bag
from mil.predictions import failed_row, read_rows, score_columns, score_row, write_rows
from mil.run_folder import read_config
from mil.scorer import load_scorer
from mil.settings import TableSpec
from mil.slide_tables import read_metadata, read_patients
from mil.snapshot import load_state, save_state
from mil.stacking import Stack
from mil.task import Task
from mil.weights import load_weights
from tests.conftest import Trained
from tests.mutants import Mutator, bytes_changed, csv_changed, json_changed, mutants, safetensors_changed
from tiling.bag import read_bag
from tiling.bags import open_bags
from tiling.errors import TilingError
from train import main as train

CPU = torch.device("cpu")
JSON: Sequence[Mutator] = (json_changed, json_changed, bytes_changed)
CSV: Sequence[Mutator] = (csv_changed, csv_changed, bytes_changed)
TENSORS: Sequence[Mutator] = (safetensors_changed, safetensors_changed, bytes_changed)
YAML: Sequence[Mutator] = (bytes_changed,)
ONE, SEVERAL = TableSpec(categorical=("site",), numeric=("age",)), TableSpec(label_columns=("a", "b"))
CODER = MetadataCoder({"site": ("a", "b")}, {"age": (40.0, 10.0)})
FLAGS = 60
MOST_KIB = 2**19  # that memory may grow while hundreds of mutants are read


@dataclass(frozen=True)
class Case:
    """A kind of file: its name below the folder, how it is changed, how many mutants, and what is done with one."""

    file: str
    ways: Sequence[Mutator]
    count: int
    use: "Callable[[Files], object]"


@dataclass(frozen=True)
class Files:
    """A folder with one file of each kind, and a bag to be scored."""

    folder: Path
    trained: Trained
    task: Task
    origin: Origin

    @property
    def run(self) -> Path:
        return self.folder / "run"


@pytest.fixture(scope="module")
def files(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("mutants")
    shutil.copytree(trained.run, folder / "run")
    task = load_run(trained.run, CPU).card.task
    stack = Stack(((0.0,), (1.0,)), (0.0, 0.1))
    mixture = Mixture(
        stack=stack, calibration=Calibration((1.0, 1.0), (0.0, 0.1)), prior=PriorShift((0.5, 0.5), (0.4, 0.6))
    )
    save_ensemble(folder / "ensemble", task, ["a"], [trained.run], mixture, [0.4, 0.6])
    slides = [f"s{number:02}" for number in range(12)]
    labels = "".join(
        f"{name},{n // 2 % 2},p{n // 2},{n // 2 % 3},{30 + n},{'ab'[n % 2]}\n" for n, name in enumerate(slides)
    )
    (folder / "labels.csv").write_text(f"slide_id,label,patient_id,fold,age,site\n{labels}")
    several = "".join(f"{name},{n % 2},{n // 2 % 2},p{n}\n" for n, name in enumerate(slides))
    (folder / "several.csv").write_text(f"slide_id,a,b,patient_id\n{several}")
    (folder / "metadata.csv").write_text("slide_id,site,age\ns00,a,3\ns01,b,\ns02,,50\n")
    (folder / "patients.csv").write_text("slide_id,patient_id\ns00,a\ns01,=b\n")
    origin = Origin("abc", task, {"default_mpp": 0.25}, slides_named(slides))
    rows = [score_row(name, name, task, "abc", 4, np.array([0.25, 0.75]), 0.1) for name in slides[1:]]
    rows += [failed_row(slides[0], slides[0], task, "abc", np.array([0.5, 0.5]), "lost")]
    write_rows(folder / "scores.csv", score_columns(task), rows)
    write_origin(folder / "scores.csv", origin)
    (folder / "flags.yaml").write_text("epochs: 3\nlr: 0.1\nembed: [8, 16]\nbackbone: resnet18\npretrained: false\n")
    tree = {"epoch": 3, "parts": [torch.zeros(3), (1, 2.5, None, True)], "by number": {0: {"step": torch.ones(2, 2)}}}
    save_state(folder / "checkpoint", tree)
    state = Backbone("test_resnet", 32).net.state_dict()
    (folder / "w.safetensors").write_bytes(save({f"module.{name}": value for name, value in state.items()}))
    return Files(folder, trained, task, origin)


def _score(files: Files) -> None:
    predict_bag(load_run(files.run, CPU), read_bag(open_bags(files.trained.bags).refs["s00"]))


def _load(files: Files) -> None:
    model, card = load_model(files.run / "fold_1")
    tile_1CHW = torch.zeros(1, 3, card.model.train_px, card.model.train_px, dtype=torch.uint8)
    with torch.inference_mode():
        model(tile_1CHW, torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, card.metadata.width))


def _score_together(files: Files) -> None:
    scorer = load_scorer([files.folder / "ensemble"], CPU)
    assert np.isfinite(scorer.predict(read_bag(open_bags(files.trained.bags).refs["s00"])).probabilities).all()
    about_all(files.folder / "ensemble")


def _say_all(files: Files) -> None:
    load_scorer([files.run], CPU)
    about_all(files.run)


def _plan(path: Path, spec: TableSpec) -> None:
    labels = read_labels(path, spec)
    make_splits(labels, make_folds(labels, 2, 0), 0.2, 0)
    fit_metadata(labels.table, spec.categorical, spec.numeric).encode(labels.table)


def _merge(files: Files) -> None:
    rows = read_rows(files.folder / "scores.csv")
    merged({files.folder / "scores.csv": rows}, files.origin)
    write_patients(files.folder / "by_patient.csv", rows, files.task)
    again = files.folder / "again.csv"
    write_rows(again, score_columns(files.task), rows)
    assert read_rows(again) == rows


def _code(files: Files) -> None:
    table = read_metadata(str(files.folder / "metadata.csv"), CODER)
    assert table is not None
    CODER.encode(table)


def _load_weights(files: Files) -> None:
    load_weights(Backbone("test_resnet", 32), files.folder / "w.safetensors")


CASES = {
    "model card": Case("run/fold_0/model.json", JSON, 100, _score),
    "weights of a model": Case("run/fold_1/model.safetensors", TENSORS, 50, _load),
    "metrics": Case("run/metrics.json", JSON, 120, lambda files: about_all(files.run)),
    "folds": Case("run/folds.csv", CSV, 40, lambda files: (read_sources(files.run), _say_all(files))),
    "out-of-fold predictions": Case("run/oof.csv", CSV, 130, lambda files: read_sources(files.run)),
    "those of a fold": Case("run/fold_1/oof.csv", CSV, 8, lambda files: collect(files.run)),
    "skipped slides": Case("run/skipped.csv", CSV, 50, lambda files: about_all(files.run)),
    "log": Case("run/log.csv", CSV, 170, lambda files: read_log(files.run / "log.csv")),
    "settings of a run": Case("run/config.yaml", YAML, 330, lambda files: read_config(files.run)),
    "ensemble": Case("ensemble/ensemble.json", JSON, 100, _score_together),
    "labels": Case("labels.csv", CSV, 250, lambda files: _plan(files.folder / "labels.csv", ONE)),
    "several labels": Case("several.csv", CSV, 130, lambda files: _plan(files.folder / "several.csv", SEVERAL)),
    "metadata": Case("metadata.csv", CSV, 130, _code),
    "patients": Case("patients.csv", CSV, 80, lambda files: read_patients(str(files.folder / "patients.csv"))),
    "scores": Case("scores.csv", CSV, 150, _merge),
    "origin of scores": Case("scores.csv.json", JSON, 100, lambda files: read_origin(files.folder / "scores.csv")),
    "checkpoint": Case("checkpoint", TENSORS, 110, lambda files: load_state(files.folder / "checkpoint")),
    "weights": Case("w.safetensors", TENSORS, 42, _load_weights),
}


def test_two_thousand() -> None:
    assert sum(case.count for case in CASES.values()) + FLAGS >= 2000


@pytest.mark.parametrize("name", CASES)
def test_accepted_or_refused_in_a_sentence(files: Files, name: str) -> None:
    case = CASES[name]
    path, peak_kib = files.folder / case.file, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    whole = path.read_bytes()
    case.use(files)  # as it is it is accepted
    try:
        for _, changed in mutants(whole, case.ways, case.count, seed=1):
            path.unlink()  # it may be linked elsewhere
            path.write_bytes(changed)
            try:
                case.use(files)
            except (MilError, TilingError) as error:
                assert len(str(error)) > 20, error
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(whole)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kib < MOST_KIB


def test_settings_of_a_command_line(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    path, nowhere = files.folder / "flags.yaml", str(files.folder / "nowhere")
    for _, changed in mutants(path.read_bytes(), YAML, FLAGS, seed=1):
        (files.folder / "changed.yaml").write_bytes(changed)
        paths = ["--bags", nowhere, "--labels", nowhere, "--out", nowhere]
        assert train([*paths, "--config", str(files.folder / "changed.yaml")]) == 2
        said = capsys.readouterr().err
        assert said.startswith("train.py: error: ")
        assert said[:-1].isprintable()
