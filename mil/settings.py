"""What can be set of a labels table and of a model. Free of torch, so that a command line can be read in no time."""

from dataclasses import dataclass, fields
from typing import Literal

from mil.errors import SettingsError
from tiling.settings import at_least, between, check, setting

DEFAULT_BACKBONE = "resnet18"
MOST_PX = 4096  # of a side of the pictures that a network is given; its first maps of one such are gigabytes
_MOST_LAYERS = 100


@dataclass(frozen=True)
class TableSpec:
    """What is read of the labels table."""

    label_columns: tuple[str, ...] = setting(
        ("label",), "columns with the label; several, each of 1, 0 or nothing, make a multi-label task"
    )
    normal: str | None = setting(None, "label from which each other is told on its own (one vs normal)")
    site: str | None = setting(
        None, "column each of whose values is a fold of its own (leave one site out); goes before a column fold"
    )
    categorical: tuple[str, ...] = setting((), "columns of metadata with names in them that the model is given")
    numeric: tuple[str, ...] = setting((), "columns of metadata with numbers in them that the model is given")

    def __post_init__(self) -> None:
        check(self, SettingsError)
        if not self.label_columns:
            raise SettingsError("--label-columns needs a column of the labels table")
        if self.normal is not None and len(self.label_columns) > 1:
            raise SettingsError("--normal goes with one label column, not with several")
        if self.site in self.label_columns:
            raise SettingsError(
                f"--site {self.site!r} is a label column; give the column that says where a slide is from"
            )
        if wrong := [name for name in self.label_columns if name in ("slide_id", "patient_id", "fold")]:
            raise SettingsError(f"the column {wrong[0]!r} is no label; name others with --label-columns")
        if len(self.label_columns) > 1 and "label" in self.label_columns:
            raise SettingsError("one of several label columns cannot be called 'label'; rename it")
        taken = {"slide_id", "patient_id", "fold", "label", "target", *self.label_columns}
        for names in (self.label_columns, self.metadata):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise SettingsError(f"the column {twice[0]!r} is named twice; name it once")
        if given := sorted(taken & set(self.metadata)):
            raise SettingsError(f"the column {given[0]!r} is no metadata: it says what the slide is; leave it out")
        if self.site in self.metadata:
            raise SettingsError(
                f"the column {self.site!r} is no metadata beside --site: no site that is tested was seen in training"
            )

    @property
    def metadata(self) -> tuple[str, ...]:
        """All columns of metadata."""
        return self.categorical + self.numeric


@dataclass(frozen=True)
class ModelSpec:
    """What the network is; saved with its weights."""

    arch: Literal["milnet", "chipnet"] = setting(
        "milnet", "the network: on the tiles of bags, or ChipNet on the overviews of their slides"
    )
    backbone: str | None = setting(None, f"a timm model; {DEFAULT_BACKBONE} unless the bags hold features")
    pretrained: bool = setting(False, "start from the weights timm's hub has for it")
    weights: str | None = setting(None, "start from the weights in this file of safetensors")
    channels: Literal["rgb", "r", "g", "b"] = setting("rgb", "colour planes that the backbone sees")
    reduction: int | None = setting(
        None, "cut the backbone off behind the last block in which so many pixels a side are one position, such as 16"
    )
    train_px: int = setting(256, "side to which tiles are reduced for the backbone, in pixels")
    luminosity: bool = setting(False, "scale the brightness of each tile so that its brightest twentieth is white")
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
    attention_hidden: int = setting(128, "hidden units of the attention, of ChipNet its channels")
    positions: Literal["avg", "max", "both"] = setting("avg", "how the positions of a feature map become one")
    head_hidden: int | None = setting(None, "width of a hidden layer of the classifier")
    head_activation: Literal["relu", "gelu", "silu", "tanh"] = setting("relu", "behind that layer")
    head_norm: bool = setting(False, "batch norm in that layer")
    head_init: Literal["default", "xavier", "kaiming", "zero"] = setting(
        "default", "how the classifier starts; zero sets its last layer so that all classes are equal"
    )
    dropout: float = setting(0.0, "dropout before each layer of the classifier")
    metadata_hidden: int = setting(32, "width of the two layers through which metadata goes")
    overview_px: int = setting(
        224, "ChipNet: side of the square that it sees of a slide, a multiple of 32; larger, its map is finer"
    )
    map_dropout: float = setting(0.0, "ChipNet: dropout of channels of the chips' embeddings")
    mask_background: bool = setting(False, "ChipNet: skip chips of nothing but background, which get no attention")

    def __post_init__(self) -> None:
        check(
            self, SettingsError, train_px=between(1, MOST_PX), attention_hidden=at_least(1), dropout=between(0, 0.99),
            embed_dropout=between(0, 0.99), temperature=between(1e-6, 100), head_hidden=at_least(1),
            metadata_hidden=at_least(1), overview_px=between(64, MOST_PX), map_dropout=between(0, 0.99),
        )  # fmt: skip
        if self.overview_px % 32:
            raise SettingsError(f"--overview-px is a multiple of 32, the side of a chip, not {self.overview_px}")
        if len(self.embed) > _MOST_LAYERS:
            raise SettingsError(f"--embed takes {_MOST_LAYERS} widths at most, not {len(self.embed)}")
        if any(width < 1 for width in self.embed):
            raise SettingsError(f"--embed takes widths of at least 1, not {min(self.embed)}")
        if self.pretrained and self.weights is not None:
            raise SettingsError("give --pretrained or --weights, not both")
        if self.guided is not None and self.reduction is not None:
            raise SettingsError("--guided looks at the last three stages of a backbone; leave --reduction out")
        default = {field.name: field.default for field in fields(self)}
        other = _OF_CHIPNET if self.arch == "milnet" else _OF_MILNET
        if changed := [name for name in other if getattr(self, name) != default[name]]:
            flag = changed[0].replace("_", "-")
            raise SettingsError(f"--{flag} is not for --arch {self.arch}; leave it out, or give the other --arch")
        for name, needs, there in (
            ("head_norm", "--head-hidden", self.head_hidden is not None),
            ("head_activation", "--head-hidden", self.head_hidden is not None),
            ("embed_dropout", "--embed", bool(self.embed)),
            ("temperature", "--pooling logsumexp", self.pooling == "logsumexp"),
        ):
            if getattr(self, name) != default[name] and not there:
                raise SettingsError(f"--{name.replace('_', '-')} says something only beside {needs}; give both or none")

    @property
    def takes_overviews(self) -> bool:
        """Whether it looks at a slide's overview, and not at tiles or features."""
        return self.arch == "chipnet"

    @property
    def input_px(self) -> int:
        """Side at which pictures are given to it, in pixels."""
        return self.overview_px if self.takes_overviews else self.train_px

    @property
    def least_bags(self) -> int:
        """How many bags a batch must have, of each process, to learn from."""
        return 2 if self.takes_overviews or self.head_norm else 1


_OF_CHIPNET = ("overview_px", "map_dropout", "mask_background")
_OF_MILNET = (
    "train_px", "guided", "standardize", "embed", "embed_dropout", "pooling", "temperature", "positions", "head_hidden",
    "head_activation", "head_norm",
)  # fmt: skip
