"""Label spreading: what labelled slides say of others that lie near them in the space of a model's embeddings."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mil.errors import SettingsError
from mil.task import ANY_OF, Task
from tiling.settings import at_least, between, check, setting

_ROUNDS = 1000  # of which some twenty are done


@dataclass(frozen=True)
class SpreadSpec:
    """How labels are spread, and which of them are kept."""

    confidence: float = setting(
        0.9, "least probability of a class, or of a label or its lack, with which a pseudo label is kept"
    )
    neighbors: int = setting(5, "nearest slides to each slide, from and to which labels go")
    alpha: float = setting(0.2, "how much of what a slide is told passes on with each step, from 0 to 1, both excluded")
    targets: Literal["soft", "hard"] = setting(
        "soft", "what is learned of a slide: its probabilities, or the most probable as if it were certain"
    )

    def __post_init__(self) -> None:
        check(
            self, SettingsError, confidence=between(0, 1), neighbors=at_least(1), alpha=between(1e-6, 1 - 1e-6)
        )  # fmt: skip


def spread(task: Task, vectors_NC: np.ndarray, targets: np.ndarray, spec: SpreadSpec) -> np.ndarray:
    """Probabilities float64 (N, K) of slides by their vectors (N, C), of which the first have `targets`.

    `targets` are int (n,) or, of several labels, float (n, K) with nan for the unknown, as of `mil.labels`; each class,
    or each label and its lack, is there. Label spreading (Zhou et al. 2003, "Learning with local and global
    consistency") on the graph in which slides are joined of which one is among the nearest neighbours of the other,
    by the cosine of centred vectors. A slide that nothing reaches has probabilities of 0.
    """
    units_NC = _units(vectors_NC)
    if task.kind != ANY_OF:
        return _spread(units_NC, targets, spec)
    known = [np.where(np.isnan(column), -1, column).astype(int) for column in targets.T]
    return np.stack([_spread(units_NC, column, spec)[:, 1] for column in known], axis=1)


def kept(task: Task, chances_NK: np.ndarray, spec: SpreadSpec) -> np.ndarray:
    """What is learned, float64 (N, K): probabilities that are certain enough, as the settings want them, else nan."""
    if task.kind == ANY_OF:
        reached_NK = (chances_NK >= spec.confidence) | (1 - chances_NK >= spec.confidence)
        certain_NK = (chances_NK >= 0.5).astype(np.float64)
    else:
        reached_NK = np.broadcast_to(chances_NK.max(axis=1, keepdims=True) >= spec.confidence, chances_NK.shape)
        certain_NK = np.eye(chances_NK.shape[1])[chances_NK.argmax(axis=1)]
    return np.where(reached_NK, chances_NK if spec.targets == "soft" else certain_NK, np.nan)


def _spread(units_NC: np.ndarray, targets: np.ndarray, spec: SpreadSpec) -> np.ndarray:
    from sklearn.neighbors import kneighbors_graph  # takes a second, which a command line has not
    from sklearn.semi_supervised import LabelSpreading

    neighbors = min(spec.neighbors, len(units_NC) - 1)

    def graph(vectors_NC: np.ndarray, _: np.ndarray) -> Any:
        # scikit-learn's own goes one way only: what is nobody's nearest would tell nobody anything.
        near_NN = kneighbors_graph(vectors_NC, neighbors, include_self=False)
        return near_NN.maximum(near_NN.T)

    known = np.full(len(units_NC), -1)
    known[: len(targets)] = targets
    model = LabelSpreading(kernel=graph, alpha=spec.alpha, max_iter=_ROUNDS, tol=1e-6)
    return model.fit(units_NC, known).label_distributions_


def _units(vectors_NC: np.ndarray) -> np.ndarray:
    """Vectors of length 1, float64, from the mean of all."""
    centred_NC = vectors_NC - vectors_NC.mean(axis=0, dtype=np.float64)
    return centred_NC / np.maximum(np.linalg.norm(centred_NC, axis=1, keepdims=True), np.finfo(np.float64).tiny)
