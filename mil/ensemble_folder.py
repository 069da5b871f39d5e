"""An ensemble on disk: a folder with its runs in it, and how they are put together; it can be moved, as a run can.

- ensemble.json: what it is, see `Ensemble`; written last
- run_0, run_1, …: its runs, each with the folds' models and what was trained with which settings on which slides
- oof.csv, metrics.json, *.png: how good it is, as in a run; report.json compares it with its runs
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mil.calibration import as_floats
from mil.errors import RunError, cause
from mil.mixture import Mixture
from mil.predict import METRICS_FILE, fold_folders
from mil.run_folder import BAGS, CONFIG, FOLDS, OOF, SOURCES
from mil.task import Task
from tiling.bag import software
from tiling.documents import read_json, regular
from tiling.output import make_writable, replacing

FORMAT = "gigabag-ensemble"
FORMAT_VERSION = 1
ENSEMBLE_FILE = "ensemble.json"
_MOST_RUNS = 1000
WEIGHTS, CARD = "model.safetensors", "model.json"
_OF_RUN = (CONFIG, BAGS, FOLDS, OOF, METRICS_FILE)


@dataclass(frozen=True)
class Ensemble:
    """What is saved of an ensemble: what it predicts, the names of its runs, and what makes one score of theirs.

    `prior` (K,) are the class shares for which its probabilities are meant. `digests` has for each run the SHA-256 of
    its models, by `fold_0/model.safetensors` and so on; None for models of another program, which are not there.
    """

    task: Task
    names: tuple[str, ...]
    digests: tuple[dict[str, str] | None, ...]
    mixture: Mixture
    prior: tuple[float, ...]


def is_ensemble(folder: Path) -> bool:
    """Whether a folder is that of an ensemble."""
    return (folder / ENSEMBLE_FILE).is_file()


def run_folder(folder: Path, place: int) -> Path:
    """Where the run at a place of an ensemble is."""
    return folder / f"run_{place}"


def begin_ensemble(folder: Path) -> None:
    """Make the folder; raises RunError where it is there already, InputError where nothing can be written."""
    if folder.exists():
        raise RunError(f"the folder {str(folder)!r} exists; choose another --out, or delete it")
    make_writable(folder)


def save_ensemble(
    folder: Path, task: Task, names: Sequence[str], runs: Sequence[Path | None], mixture: Mixture,
    prior: Sequence[float],
) -> None:  # fmt: skip
    """Put the runs into the folder of an ensemble, and say what makes one score of theirs.

    Files are linked where the disk can do that, and take no room; no run's files are ever changed. None stands for the
    models of another program.
    """
    digests: list[dict[str, str] | None] = []
    for place, run in enumerate(runs):
        if run is not None:
            _take(run, run_folder(folder, place))
        digests.append(None if run is None else digests_of(run))
    content = {
        "format": FORMAT, "format_version": FORMAT_VERSION, "software": software(), "task": asdict(task),
        "runs": [{"name": name, "models": files} for name, files in zip(names, digests, strict=True)],
        "mixture": mixture.as_json(), "prior": list(prior),
    }  # fmt: skip
    with replacing(folder / ENSEMBLE_FILE) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_ensemble(folder: Path) -> Ensemble:
    """The ensemble in a folder; raises RunError where it is damaged, of another version, or its runs were changed."""
    path = folder / ENSEMBLE_FILE
    try:
        content = read_json(path, finite=True)
        found = content["format"], content["format_version"]
        if found != (FORMAT, FORMAT_VERSION):
            raise RunError(
                f"{str(path)!r} is {found[0]} version {found[1]}, this program reads {FORMAT} version "
                f"{FORMAT_VERSION}; make it again or use the version that wrote it"
            )
        task = Task.from_json(content["task"])
        runs = content["runs"]
        if not isinstance(runs, list) or not 0 < len(runs) <= _MOST_RUNS:
            raise ValueError(f"its runs are no list of 1 to {_MOST_RUNS}")
        mixture = Mixture.from_json(content["mixture"], task, len(runs))
        prior = as_floats(content["prior"], len(task.classes))
        names, digests = tuple(str(run["name"]) for run in runs), tuple(_digests(run["models"]) for run in runs)
    except (OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{str(path)!r} is no ensemble ({cause(error)}); make it again") from error
    for place, (name, wanted) in enumerate(zip(names, digests, strict=True)):
        if wanted is not None and wanted != digests_of(run_folder(folder, place)):
            raise RunError(
                f"the models of {name!r} in {str(run_folder(folder, place))!r} are not those the ensemble was made "
                "of; make it again"
            )
    return Ensemble(task, names, digests, mixture, prior)


def digests_of(run: Path) -> dict[str, str]:
    """The SHA-256 of each file of a run's models, by its name in the run; raises RunError where one is not there."""
    return {
        f"{fold.name}/{file}": _sha256(fold / file) for fold in fold_folders(run) for file in (WEIGHTS, CARD)
    }  # fmt: skip


def _digests(value: Any) -> dict[str, str] | None:
    return None if value is None else {str(name): str(digest) for name, digest in value.items()}


def _sha256(path: Path) -> str:
    try:
        with regular(path).open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(2**20):
                digest.update(block)
            return digest.hexdigest()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise RunError(f"{str(path)!r} cannot be read ({why}); is the training finished?") from error


def _take(run: Path, into: Path) -> None:
    """Link or copy what is needed of a run; what says that it is finished comes last."""
    files = [fold.relative_to(run) / name for fold in fold_folders(run) for name in (WEIGHTS, CARD)]
    files += [Path(SOURCES)] if (run / SOURCES).exists() else []
    files += [Path(name) for name in _OF_RUN]
    for file in files:
        (into / file).parent.mkdir(parents=True, exist_ok=True)
        source = (run / file).resolve()
        try:
            os.link(source, into / file)
        except OSError:  # another disk, or one without links
            shutil.copyfile(source, into / file)
