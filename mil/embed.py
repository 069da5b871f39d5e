"""Embeddings of slides: what the models of runs hand to their classifiers."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mil.predict import Run
from tiling.bags import Bags
from tiling.errors import SlideError
from tiling.ready import Ready, Wanted, reader
from tiling.sources import SlideRef
from tiling.tile import NO_TISSUE
from tiling.todo import Todo

Embedding = list[np.ndarray]
"""Of one slide: for each run float32 (folds, C)."""


def embed(
    runs: Sequence[Run], bags: Bags, names: Sequence[str], threads: int
) -> Iterator[tuple[str, Embedding | Exception]]:
    """The embeddings of the slides with these names, in their order, or what is wrong with the bag of one.

    The runs' bags are alike. Bags are read ahead by threads; metadata have no part in an embedding.
    """
    wanted = Wanted(runs[0].card.bag_spec, tuple(sorted({run.px for run in runs})))
    slides = Todo(SlideRef(name, bags.refs[name].path) for name in names)
    for slide, ready in reader(bags, wanted, threads)(slides):
        yield slide.slide_id, ready if isinstance(ready, Exception) else _embedded(runs, ready)


def _embedded(runs: Sequence[Run], ready: Ready) -> Embedding | Exception:
    if not len(next(iter(ready.instances.values()))):
        return SlideError(NO_TISSUE)
    return [_of_run(run, torch.from_numpy(ready.instances[run.px])) for run in runs]


@torch.inference_mode()
def _of_run(run: Run, instances_N: Tensor) -> np.ndarray:
    """Float32 (folds, C), in the order of the run's models."""
    instances_N, mask_BN = instances_N.to(run.device), torch.ones(1, len(instances_N), dtype=torch.bool)
    vectors = []
    for model in run.models:
        unknown_BF = torch.zeros(1, model.head.metadata_width, device=run.device)
        vectors_BC = model(instances_N, mask_BN, unknown_BF).vectors_BC
        assert vectors_BC is not None, "every network has a vector for its head"
        vectors.append(vectors_BC[0].float().cpu().numpy())
    return np.stack(vectors)
