"""What a model looked at on a slide: its picture, and the same as GeoJSON."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mil.data import bag_tensor
from mil.geojson import ranked, write_geojson
from mil.gradcam import grad_cam
from mil.guided import GuidedBackbone
from mil.picture import Content, Overlay, draw_slide, strip_length
from mil.predict import Prediction, Run
from tiling.bag import Bag


def explain(
    folder: Path, run: Run, bag: Bag, prediction: Prediction, metadata: pd.DataFrame | None = None,
    with_grad_cam: bool = False,
) -> None:  # fmt: skip
    """Write `<slide_id>.png` (see `mil.picture`) and `<slide_id>.geojson` (see `mil.geojson`) of a scored bag.

    The strip's tiles get the attention maps of a guided backbone, where the run has one, and the Grad-CAM for the most
    probable class, where it is asked for. Raises ModelError where there can be none.
    """
    name, task = bag.header.slide_id, run.card.task
    guided = _guided_maps(run, bag, prediction.attention)
    shown = strip_length(len(bag), len(guided) + with_grad_cam)
    order = ranked(bag, prediction.attention)[:shown]
    overlays = [Overlay(overlay.name, overlay.meaning, overlay.heat_THW[:shown]) for overlay in guided]
    if with_grad_cam:
        index = int(np.argmax(prediction.probabilities))
        heat_NHW = grad_cam(run, bag, index, metadata)
        meaning = f"evidence for {task.classes[index]}, on the scale of its logit"
        overlays.insert(0, Overlay("Grad-CAM", meaning, heat_NHW[order]))
    content = Content(prediction.attention, prediction.map_GG, tuple(overlays))
    draw_slide(folder / f"{name}.png", bag, content, (name, task.in_words(prediction.probabilities), facts(bag)))
    write_geojson(folder / f"{name}.geojson", bag, prediction.attention)


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
    share = "share of a tile's attention" if run.card.model.guided == "softmax" else "attention from 0 to 1"
    return [
        Overlay(name, f"{share}, {where}", torch.stack(maps).double().mean(0).cpu().numpy())
        for name, where, maps in zip(
            ("guided 1", "guided 2"), ("last stage but one", "last but two"), zip(*folds, strict=True), strict=True
        )
    ]
