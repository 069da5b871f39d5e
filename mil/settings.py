"""What can be set of a model and of its training. Free of torch, so that a command line can be read in no time."""

from dataclasses import dataclass
from typing import Literal

from mil.errors import SettingsError
from tiling.settings import at_least, between, check, setting


@dataclass(frozen=True)
class ModelSpec:
    """What the network is; saved with its weights."""

    backbone: str = setting("resnet18", "a timm model")
    pretrained: bool = setting(False, "start from the weights timm's hub has for it")
    train_px: int = setting(256, "side to which tiles are reduced for the backbone, in pixels")
    pooling: Literal["avg", "max", "logsumexp", "concat", "attention", "gated"] = setting(
        "attention", "how the instances of a bag become one"
    )
    attention_hidden: int = setting(128, "hidden units of the attention")
    dropout: float = setting(0.0, "dropout before the classifier")

    def __post_init__(self) -> None:
        check(self, SettingsError, train_px=at_least(1), attention_hidden=at_least(1), dropout=between(0, 0.99))


@dataclass(frozen=True)
class TrainSpec:
    """How a run is trained."""

    folds: int = setting(5, "cross-validation folds")
    epochs: int = setting(30, "passes over the training slides, at most")
    patience: int = setting(5, "epochs without a better validation loss before a fold stops")
    valid_share: float = setting(0.2, "share of the training folds on which the epoch is chosen")
    batch_size: int = setting(4, "bags a step")
    lr: float = setting(1e-4, "learning rate of AdamW at the start")
    lr_end: float = setting(1e-6, "learning rate at the end of the cosine schedule")
    weight_decay: float = setting(0.01, "weight decay of AdamW")
    augment: bool = setting(True, "turn and mirror tiles while training")
    skip_missing: bool = setting(
        False, "go on without the labelled slides that have no bag; oof.csv lists them as failed"
    )
    seed: int = setting(0, "of folds, weights, order and augmentation")
    loader_workers: int = setting(0, "processes that decode bags beside the training")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "where to train")

    def __post_init__(self) -> None:
        check(
            self, SettingsError, folds=at_least(2), epochs=at_least(1), patience=at_least(1), batch_size=at_least(1),
            loader_workers=at_least(0), valid_share=between(0.01, 0.5), lr=at_least(0), lr_end=at_least(0),
            weight_decay=at_least(0), seed=at_least(0),
        )  # fmt: skip
