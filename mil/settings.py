"""What can be set of a model and of its training. Free of torch, so that a command line can be read in no time."""

from dataclasses import dataclass, fields
from typing import Literal

from mil.errors import SettingsError
from tiling.settings import at_least, between, check, setting

DEFAULT_BACKBONE = "resnet18"


@dataclass(frozen=True)
class TableSpec:
    """What is read of the labels table."""

    label_columns: tuple[str, ...] = setting(
        ("label",), "columns with the label; several, each of 1, 0 or nothing, make a multi-label task"
    )
    normal: str | None = setting(None, "label from which each other is told on its own (one vs normal)")
    categorical: tuple[str, ...] = setting((), "columns of metadata with names in them that the model is given")
    numeric: tuple[str, ...] = setting((), "columns of metadata with numbers in them that the model is given")

    def __post_init__(self) -> None:
        check(self, SettingsError)
        if not self.label_columns:
            raise SettingsError("--label-columns needs a column of the labels table")
        if self.normal is not None and len(self.label_columns) > 1:
            raise SettingsError("--normal goes with one label column, not with several")
        taken = {"slide_id", "patient_id", "fold", "label", "target", *self.label_columns}
        for names in (self.label_columns, self.metadata):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise SettingsError(f"the column {twice[0]!r} is named twice; name it once")
        if given := sorted(taken & set(self.metadata)):
            raise SettingsError(f"the column {given[0]!r} is no metadata: it says what the slide is; leave it out")

    @property
    def metadata(self) -> tuple[str, ...]:
        """All columns of metadata."""
        return self.categorical + self.numeric


@dataclass(frozen=True)
class ModelSpec:
    """What the network is; saved with its weights."""

    backbone: str | None = setting(None, f"a timm model; {DEFAULT_BACKBONE} unless the bags hold features")
    pretrained: bool = setting(False, "start from the weights timm's hub has for it")
    weights: str | None = setting(None, "start from the weights in this file (safetensors or a state dict)")
    channels: Literal["rgb", "r", "g", "b"] = setting("rgb", "colour planes that the backbone sees")
    train_px: int = setting(256, "side to which tiles are reduced for the backbone, in pixels")
    guided: Literal["softmax", "sigmoid"] | None = setting(
        None, "add what two earlier stages show, weighted by attention that the last one guides"
    )
    standardize: bool = setting(False, "scale features to mean 0 and deviation 1, as found on the training slides")
    embed: tuple[int, ...] = setting((), "widths of layers with ReLU between an instance's features and the pooling")
    embed_dropout: float = setting(0.0, "dropout behind each of these layers")
    pooling: Literal["avg", "max", "logsumexp", "concat", "attention", "gated"] = setting(
        "attention", "how the instances of a bag become one"
    )
    temperature: float = setting(1.0, "t of logsumexp pooling: towards 0 a maximum; large, a mean plus t log N")
    attention_hidden: int = setting(128, "hidden units of the attention")
    positions: Literal["avg", "max", "both"] = setting("avg", "how the positions of a feature map become one")
    head_hidden: int | None = setting(None, "width of a hidden layer of the classifier")
    head_activation: Literal["relu", "gelu", "silu", "tanh"] = setting("relu", "behind that layer")
    head_norm: bool = setting(False, "batch norm in that layer")
    head_init: Literal["default", "xavier", "kaiming", "zero"] = setting(
        "default", "how the classifier starts; zero sets its last layer so that all classes are equal"
    )
    dropout: float = setting(0.0, "dropout before each layer of the classifier")
    metadata_hidden: int = setting(32, "width of the two layers through which metadata goes")

    def __post_init__(self) -> None:
        check(
            self, SettingsError, train_px=at_least(1), attention_hidden=at_least(1), dropout=between(0, 0.99),
            embed_dropout=between(0, 0.99), temperature=between(1e-6, 100), head_hidden=at_least(1),
            metadata_hidden=at_least(1),
        )  # fmt: skip
        if any(width < 1 for width in self.embed):
            raise SettingsError(f"--embed takes widths of at least 1, not {min(self.embed)}")
        if self.pretrained and self.weights is not None:
            raise SettingsError("give --pretrained or --weights, not both")
        default = {field.name: field.default for field in fields(self)}
        for name, needs, there in (
            ("head_norm", "--head-hidden", self.head_hidden is not None),
            ("head_activation", "--head-hidden", self.head_hidden is not None),
            ("embed_dropout", "--embed", bool(self.embed)),
            ("temperature", "--pooling logsumexp", self.pooling == "logsumexp"),
        ):
            if getattr(self, name) != default[name] and not there:
                raise SettingsError(f"--{name.replace('_', '-')} says something only beside {needs}; give both or none")


@dataclass(frozen=True)
class TrainSpec:
    """How a run is trained."""

    folds: int = setting(5, "cross-validation folds")
    epochs: int = setting(30, "passes over the training slides, at most")
    patience: int = setting(5, "epochs without a better validation loss before a fold stops")
    valid_share: float = setting(
        0.2, "share of the training folds on which the epoch is chosen; 0 trains on all of them and keeps the last"
    )
    batch_size: int = setting(4, "bags a step")
    optimizer: Literal["adamw", "adam"] = setting("adamw", "adam adds weight decay to the gradient, adamw to the step")
    lr: float = setting(1e-4, "learning rate at the start")
    lr_attention: float | None = setting(None, "that of the attention, if it is another")
    lr_head: float | None = setting(None, "that of everything else behind the backbone, if it is another")
    layer_decay: float = setting(1.0, "factor of the learning rate from each layer of the backbone to the one before")
    lr_end: float = setting(1e-6, "learning rate at the end of the cosine schedule; the others end in proportion")
    weight_decay: float = setting(0.01, "weight decay")
    freeze: int | Literal["all"] | None = setting(None, "leave as they are: all of the backbone, or its first stages")
    batch_norm: Literal["train", "frozen"] = setting(
        "train", "frozen keeps the backbone's batch norms at the statistics they start with"
    )
    instance_chunk: int | None = setting(
        None, "instances that go through the backbone at a time; needs less memory and a third more time"
    )
    precision: Literal["fp32", "bf16"] = setting("fp32", "of the backbone's arithmetic")
    channels_last: bool = setting(False, "keep pictures channels last in memory")
    compile: bool = setting(False, "compile the backbone")
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
            loader_workers=at_least(0), valid_share=between(0, 0.5), lr=between(1e-12, 1e30), lr_end=at_least(0),
            lr_attention=at_least(0), lr_head=at_least(0), layer_decay=between(0.01, 1), weight_decay=at_least(0),
            instance_chunk=at_least(1), seed=between(0, 2**32 - 1),
        )  # fmt: skip
        if isinstance(self.freeze, int) and self.freeze < 1:
            raise SettingsError(
                f"--freeze is all, or a number of stages from 1, not {self.freeze}; leave it out for none"
            )
        if 0 < self.valid_share < 0.01:
            raise SettingsError(f"--valid-share must be 0, or from 0.01 to 0.5, not {self.valid_share}")
