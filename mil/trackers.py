"""TensorBoard, Weights & Biases, MLflow: extras, each loaded when it is asked for.

What they keep locally lies in the run's folder. Where else they are (server, project, experiment) is said by their own
environment variables and files.
"""

import json
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from mil.errors import SettingsError
from mil.log import EpochLog
from tiling.documents import read_json
from tiling.output import replacing

PROJECT = "gigabag"
ID_FILE = "tracker.json"  # in the folder of a fold


class TrackedFold(NamedTuple):
    """What a tracker is told of a fold: the run's folder and settings, the epoch with which it begins or goes on."""

    run: Path
    number: int
    config: Mapping[str, Any]
    first_epoch: int

    @property
    def name(self) -> str:
        """The fold's name among all runs."""
        return f"{self.run.name}-fold{self.number}"


class Tracker(ABC):
    """One tracker's run for one fold."""

    @abstractmethod
    def __init__(self, fold: TrackedFold) -> None: ...

    @staticmethod
    @abstractmethod
    def check() -> None:
        """Raise ImportError without the package, SettingsError where it cannot be used."""

    @abstractmethod
    def epoch(self, row: EpochLog) -> None:
        """Note an epoch."""

    @abstractmethod
    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Note the final figures, and end."""

    @abstractmethod
    def stop(self) -> None:
        """End without them, maybe to go on later."""


class _TensorBoard(Tracker):
    """Event files in RUN/tensorboard/fold_I."""

    def __init__(self, fold: TrackedFold) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = fold.run / "tensorboard" / f"fold_{fold.number}"
        self._last = max(fold.first_epoch - 1, 0)
        # Epochs from the purged one on were noted by a training that was cut off, and are noted again.
        self._writer: Any = SummaryWriter(folder, purge_step=fold.first_epoch or None)
        if not fold.first_epoch:
            lines = [f"    {name}: {value}" for name, value in fold.config.items()]
            self._writer.add_text("config", "\n".join(lines))

    @staticmethod
    def check() -> None:
        import tensorboard  # noqa: F401

    def epoch(self, row: EpochLog) -> None:
        for name, value in _figures(row).items():
            self._writer.add_scalar(name, value, row.epoch)
        self._writer.flush()
        self._last = row.epoch

    def finish(self, metrics: Mapping[str, Any]) -> None:
        for name, value in flat_figures(metrics).items():
            self._writer.add_scalar(f"final/{name}", value, self._last)
        self.stop()

    def stop(self) -> None:
        self._writer.close()


class _Identified(Tracker):
    """A tracker that names its runs itself; name and last noted epoch of a fold stand in its `tracker.json`."""

    name: str

    def __init__(self, fold: TrackedFold) -> None:
        self._path = fold.run / f"fold_{fold.number}" / ID_FILE
        self._id: str | None = None
        self._last = -1
        if fold.first_epoch:
            with suppress(OSError, ValueError, KeyError, TypeError):
                content = read_json(self._path, finite=True)
                if content["tracker"] == self.name:
                    self._id, self._last = str(content["id"]), int(content["epoch"])

    def epoch(self, row: EpochLog) -> None:
        if row.epoch > self._last:  # else it was noted by a training that was cut off
            self._log(_figures(row), row.epoch)
            self._remember(row.epoch)

    @abstractmethod
    def _log(self, figures: dict[str, float], epoch: int) -> None:
        """Note figures of an epoch."""

    def _remember(self, epoch: int) -> None:
        self._last = epoch
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._path) as temporary:
            content = {"tracker": self.name, "id": self._id, "epoch": epoch}
            temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")


class _WandB(_Identified):
    """A run for each fold, in a group for all; WANDB_MODE=offline keeps it in RUN/wandb."""

    name = "wandb"

    def __init__(self, fold: TrackedFold) -> None:
        import wandb

        super().__init__(fold)
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=fold.name, group=fold.run.name, id=self._id,
            dir=fold.run, config=dict(fold.config), resume="allow" if self._id else None, reinit="create_new",
            settings=wandb.Settings(console="off", quiet=True),
        )  # fmt: skip
        self._id = self._run.id
        self._remember(self._last)

    @staticmethod
    def check() -> None:
        import wandb

        if os.environ.get("WANDB_MODE", "online") == "online" and wandb.api.api_key is None:
            raise SettingsError(
                "--tracker wandb finds no key of yours; run `wandb login`, or set WANDB_MODE=offline to keep what it "
                "notes in the run's folder"
            )

    def finish(self, metrics: Mapping[str, Any]) -> None:
        self._run.summary.update({f"final/{name}": value for name, value in flat_figures(metrics).items()})
        self._run.finish()

    def stop(self) -> None:
        self._run.finish(exit_code=1)

    def _log(self, figures: dict[str, float], epoch: int) -> None:
        self._run.log(figures, step=epoch)


class _MLflow(_Identified):
    """A run for each fold, in the database RUN/mlflow.db unless MLFLOW_TRACKING_URI says another place."""

    name = "mlflow"

    def __init__(self, fold: TrackedFold) -> None:
        from mlflow import MlflowClient

        super().__init__(fold)
        # Its own 7 make a training wait four minutes for a server that is not there.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        here, server = fold.run.resolve(), os.environ.get("MLFLOW_TRACKING_URI")
        self._client: Any = MlflowClient(server or f"sqlite:///{here / 'mlflow.db'}")
        if self._id is None:
            self._begin(fold, None if server else (here / "mlartifacts").as_uri())
        else:
            self._client.update_run(self._id, "RUNNING")

    @staticmethod
    def check() -> None:
        import mlflow  # noqa: F401

    def finish(self, metrics: Mapping[str, Any]) -> None:
        self._log({f"final/{name}": value for name, value in flat_figures(metrics).items()}, max(self._last, 0))
        self._client.set_terminated(self._id, "FINISHED")

    def stop(self) -> None:
        self._client.set_terminated(self._id, "KILLED")

    def _begin(self, fold: TrackedFold, artifacts: str | None) -> None:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = self._client.create_experiment(name, artifacts) if experiment is None else experiment.experiment_id
        self._id = self._client.create_run(number, run_name=fold.name).info.run_id
        self._remember(self._last)
        settings = [Param(name, str(value)[:500]) for name, value in fold.config.items()]
        for start in range(0, len(settings), 100):  # it takes no more at a time
            self._client.log_batch(self._id, params=settings[start : start + 100])

    def _log(self, figures: dict[str, float], epoch: int) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._client.log_batch(self._id, [Metric(name, value, now_ms, epoch) for name, value in figures.items()])


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": _TensorBoard, "wandb": _WandB, "mlflow": _MLflow}


def flat_figures(metrics: Mapping[str, Any], above: str = "") -> dict[str, float]:
    """The finite numbers of a nested mapping, by their path: `{"auc": {"low": .5}}` has `auc/low`."""
    figures: dict[str, float] = {}
    for name, value in metrics.items():
        path = f"{above}{name}"
        if isinstance(value, Mapping):
            figures |= flat_figures(value, f"{path}/")
        elif isinstance(value, (int, float)) and math.isfinite(value):
            figures[path] = float(value)
    return figures


def _figures(row: EpochLog) -> dict[str, float]:
    """What an epoch came to; what it does not have (nan) is left out."""
    return {name: value for name, value in flat_figures(row._asdict()).items() if name not in ("fold", "epoch")}
