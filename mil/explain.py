"""What a model looked at on a slide: its picture, and the same as GeoJSON."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mil.data import bag_tensor
from mil.geojson import write_geojson
from mil.gradcam import grad_cam
from mil.guided import GuidedBackbone
from mil.picture import Content, Overlay, draw_slide, strip_length
from mil.predict import Prediction, Run
from mil.shapes import ranked, tissue_polygons
from tiling.bag import Bag


def explain(
    folder: Path, slide_id: str, run: Run, bag: Bag, prediction: Prediction, metadata: pd.DataFrame | None = None,
    with_grad_cam: bool = False,
) -> None:  # fmt: skip
    """Write `<slide_id>.png` (see `mil.picture`) and `<slide_id>.geojson` (see `mil.geojson`) of a scored bag.

    The strip's tiles get the attention maps of a guided backbone, where the run has one, and the Grad-CAM for the most
    probable class, where it is asked for. Raises ModelError where there can be none.
    """
    overlays = _guided_maps(run, bag, prediction.attention)
    if with_grad_cam:
        overlays.insert(0, _grad_cam(run, bag, prediction, metadata))
    tissue = tissue_polygons(bag)
    content = Content(tissue, prediction.attention, prediction.map_GG, tuple(overlays))
    lines = slide_id, run.card.task.in_words(prediction.probabilities), facts(bag)
    draw_slide(folder / f"{slide_id}.png", bag, content, lines)
    write_geojson(folder / f"{slide_id}.geojson", bag, tissue, prediction.attention, prediction.map_GG)


def facts(bag: Bag) -> str:
    """How many tiles a bag has, and how large they and the slide are, in a line."""
    header = bag.header
    tiles = f"{len(bag)} tile{'s' if len(bag) > 1 else ''}"
    size = f"slide {header.width_px} × {header.height_px} px"
    if header.mpp is None:
        return f"{tiles} of {header.side0_px} px · {size}, of unknown scale"
    side_um, mpp = header.side0_px * header.mpp, header.mpp
    extent = f"{header.width_px * mpp / 1000:.1f} × {header.height_px * mpp / 1000:.1f} mm"
    return f"{tiles} of {header.side0_px} px ({side_um:.0f} µm) · {size} ({extent}) at {mpp:.3g} µm/px"


def _grad_cam(run: Run, bag: Bag, prediction: Prediction, metadata: pd.DataFrame | None) -> Overlay:
    index = int(np.argmax(prediction.probabilities))
    heat_NHW = grad_cam(run, bag, index, metadata)
    strongest = heat_NHW.max()
    unit = "1 is the strongest on any of the slide's tiles" if strongest > 0 else "there is none on this slide"
    heat_THW = heat_NHW[ranked(bag, prediction.attention)] / max(strongest, np.finfo(float).tiny)
    return Overlay("Grad-CAM", f"evidence for {run.card.task.classes[index]}", unit, heat_THW, 1.0)


@torch.inference_mode()
def _guided_maps(run: Run, bag: Bag, attention: np.ndarray | None) -> list[Overlay]:
    """The mean over the folds of both guided-attention maps on the tiles that count most; none for other backbones."""
    backbones = [model.encoder.backbone for model in run.models]
    guided = [backbone for backbone in backbones if isinstance(backbone, GuidedBackbone)]
    if not guided:
        return []
    order = ranked(bag, attention)[: strip_length(len(bag), 2)]
    tiles_MCHW = bag_tensor(bag, run.px)[order].to(run.device)
    folds = [backbone.attend(tiles_MCHW)[1] for backbone in guided]
    maps = [torch.stack(of_folds).double().mean(0).cpu().numpy() for of_folds in zip(*folds, strict=True)]
    return [
        _guided_overlay(f"guided {place}", what, heat_THW, run.card.model.guided)
        for place, what, heat_THW in zip((1, 2), ("last stage but one", "last stage but two"), maps, strict=True)
    ]


def _guided_overlay(name: str, what: str, heat_THW: np.ndarray, normalise: str | None) -> Overlay:
    """A softmax in multiples of what each position has where all are alike, a sigmoid as it is."""
    if normalise != "softmax":
        return Overlay(name, what, "attention from 0 to 1", heat_THW, 1.0)
    heat_THW = heat_THW * heat_THW[0].size
    return Overlay(name, what, "the mark, 1: all positions alike", heat_THW, max(2.0, heat_THW.max()), 1.0)
