"""What can be set of a training, beside its labels table and its model. Free of torch, like `mil.settings`."""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_type_hints

from mil.errors import SettingsError
from mil.settings import ModelSpec, TableSpec
from tiling.settings import at_least, between, check, setting


@dataclass(frozen=True)
class LossSpec:
    """What is made small."""

    loss: Literal["cross-entropy", "focal"] = setting(
        "cross-entropy", "focal counts a slide less the better it is known already"
    )
    label_smoothing: float = setting(0.0, "share of a label that is spread over all classes")
    focal_gamma: float = setting(2.0, "how much less: a slide counts (1 - its probability) to this power")
    focal_alpha: tuple[float, ...] = setting(
        (),
        "weights of the classes in the focal loss, in their order; or one number, that of the second of two classes or "
        "of a label that is there, the other's being 1 less it",
    )
    balance: Literal["weights", "sampling"] | None = setting(
        None, "let each class count alike: by weights in the loss, or by how often its slides are drawn"
    )
    map_entropy: float = setting(
        0.0, "ChipNet: how much the entropy of its map, 1 where it is even, adds to the loss; below 0, takes from it"
    )

    def __post_init__(self) -> None:
        check(
            self, SettingsError, label_smoothing=between(0, 0.99), focal_gamma=at_least(0), map_entropy=between(-10, 10)
        )
        most = 1 if len(self.focal_alpha) == 1 else math.inf
        if wrong := [weight for weight in self.focal_alpha if not (0 <= weight <= most and math.isfinite(weight))]:
            raise SettingsError(
                f"--focal-alpha takes one number from 0 to 1, or a weight of at least 0 for each class, not {wrong[0]}"
            )
        if self.loss != "focal" and (self.focal_alpha or self.focal_gamma != 2.0):
            raise SettingsError("--focal-gamma and --focal-alpha say something only beside --loss focal")
        if self.loss == "focal" and self.label_smoothing:
            raise SettingsError("--label-smoothing goes with --loss cross-entropy, not with focal; leave one out")
        if len(self.focal_alpha) > 1 and not any(self.focal_alpha):
            raise SettingsError("--focal-alpha weighs every class 0, so that nothing is learnt; give one a weight")
        if self.focal_alpha and self.balance == "weights":
            raise SettingsError("give --focal-alpha or --balance weights, not both: each weighs the classes")


@dataclass(frozen=True)
class OptimSpec:
    """Who makes it small, and how fast."""

    optimizer: str = setting("adamw", "any optimiser of timm, such as adamw, adam, sgd, lamb")
    lr: float = setting(1e-4, "learning rate at the start")
    lr_attention: float | None = setting(None, "that of the attention, if it is another")
    lr_head: float | None = setting(None, "that of everything else behind the backbone, if it is another")
    layer_decay: float = setting(1.0, "factor of the learning rate from each layer of the backbone to the one before")
    weight_decay: float = setting(0.01, "weight decay")
    momentum: float = setting(0.9, "of the optimisers that have one")
    schedule: Literal["cosine", "poly", "tanh", "step", "plateau", "constant"] = setting(
        "cosine", "how the learning rate falls, once it is warm"
    )
    lr_end: float = setting(1e-6, "learning rate at the end, or the least of plateau; the others end in proportion")
    poly_power: float = setting(0.9, "exponent of --schedule poly")
    decay_rate: float = setting(0.1, "factor of the learning rate at each step of --schedule step or plateau")
    decay_epochs: int = setting(10, "epochs from one such step to the next, or without a better figure before it")
    warmup_epochs: float = setting(0.0, "epochs, or a fraction of one, in which the learning rate rises to --lr")
    lr_warmup: float = setting(0.0, "learning rate with which they begin")
    clip_grad: float | None = setting(None, "largest norm of the gradient of all weights together")
    accumulate: int = setting(1, "batches whose gradients make one step")
    ema: float | None = setting(None, "decay, such as 0.999, of an average over all steps in place of the weights")
    average_last: int | None = setting(None, "take the mean of the weights of this many last epochs in their place")

    def __post_init__(self) -> None:
        check(
            self, SettingsError, lr=between(1e-12, 1e30), lr_end=at_least(0), lr_attention=at_least(0),
            lr_head=at_least(0), layer_decay=between(0.01, 1), weight_decay=at_least(0), momentum=between(0, 1),
            poly_power=at_least(0), decay_rate=between(0, 1), decay_epochs=at_least(1), warmup_epochs=at_least(0),
            lr_warmup=at_least(0), clip_grad=between(1e-12, 1e30), accumulate=at_least(1), ema=between(0, 0.999999),
            average_last=at_least(2),
        )  # fmt: skip
        if self.ema is not None and self.average_last is not None:
            raise SettingsError("give --ema or --average-last, not both: each takes the place of the weights")
        for name, schedules in _SAYS_SOMETHING_BESIDE.items():
            if getattr(self, name) != getattr(type(self), name) and self.schedule not in schedules:
                beside = " or ".join(schedules)
                raise SettingsError(f"--{name.replace('_', '-')} says something only beside --schedule {beside}")
        if self.lr_warmup and not self.warmup_epochs:
            raise SettingsError("--lr-warmup says something only beside --warmup-epochs; give both or none")
        least = self.lr_end if self.schedule in _SAYS_SOMETHING_BESIDE["lr_end"] else 0.0
        for flag, lr in (("--lr-end", least), ("--lr-warmup", self.lr_warmup)):
            if lr > self.lr:
                raise SettingsError(f"{flag} {lr} is above --lr {self.lr}; give one that is not")


# Which schedules know a setting.
_SAYS_SOMETHING_BESIDE = {
    "lr_end": ("cosine", "poly", "tanh", "plateau"),
    "poly_power": ("poly",),
    "decay_rate": ("step", "plateau"),
    "decay_epochs": ("step", "plateau"),
}


@dataclass(frozen=True)
class AugmentSpec:
    """What tiles are put through while a model learns from them; never in validation or scoring."""

    augment: bool = setting(True, "change tiles while training, as the flags below say")
    flip: bool = setting(True, "mirror them: left to right, top to bottom, or both")
    quarter_turns: bool = setting(True, "turn them by 90, 180 or 270 degrees")
    rotate: float = setting(0.0, "turn them by up to this many degrees either way; corners show their reflection")
    color_jitter: float = setting(
        0.0, "multiply brightness, contrast and saturation, each by a factor of up to 1 plus or minus this, such as 0.2"
    )
    hue_jitter: float = setting(
        0.0,
        "turn the hue by up to this share of the colour circle either way, such as 0.04; 0.5 is the opposite colour",
    )
    hed_jitter: float = setting(
        0.0,
        "multiply the amounts of haematoxylin, eosin and DAB, each by a factor of up to 1 plus or minus this, and "
        "shift them by up to this, as optical density; 0.05 is usual, with 0.2 colours become like no stain's",
    )
    blur: float = setting(0.0, "chance of a Gaussian blur of 0.5 to 2 pixels, in proportion more above 256 px")
    pixel_dropout: float = setting(0.0, "share of the pixels that are blackened, such as 0.01")
    coarse_dropout: float = setting(
        0.0, "chance of 1 to 8 black rectangles, the sides of each a twentieth to a fifth of the tile's"
    )
    hair: float = setting(0.0, "chance of 2 to 12 drawn hairs, for skin")
    per: Literal["instance", "bag"] = setting("instance", "draw all this for each tile, or once for all tiles of a bag")
    shuffle_instances: bool = setting(False, "change the order of a bag's instances")
    drop_instances: float = setting(0.0, "chance of each instance to be left out; one of a bag always stays")

    def __post_init__(self) -> None:
        check(
            self, SettingsError, rotate=between(0, 180), color_jitter=between(0, 1), hue_jitter=between(0, 0.5),
            hed_jitter=between(0, 1), blur=between(0, 1), pixel_dropout=between(0, 0.9), coarse_dropout=between(0, 1),
            hair=between(0, 1), drop_instances=between(0, 0.95),
        )  # fmt: skip
        if self.augment:
            return
        for each in fields(self):
            if each.name != "augment" and getattr(self, each.name) != each.default:
                flag = each.name.replace("_", "-")
                flag = f"--no-{flag}" if each.default is True else f"--{flag}"
                raise SettingsError(f"{flag} says nothing beside --no-augment; leave out one of the two")


@dataclass(frozen=True)
class TrainSpec:
    """How a run is trained."""

    folds: int = setting(5, "cross-validation folds, unless the labels table or --site gives them")
    epochs: int = setting(30, "passes over the training slides, at most")
    patience: int = setting(5, "epochs without a better validation figure before a fold stops")
    choose_by: Literal["log_loss", "auc"] = setting("log_loss", "the validation figure by which the epoch is chosen")
    valid_share: float = setting(
        0.2, "share of the training folds on which the epoch is chosen; 0 trains on all of them and keeps the last"
    )
    batch_size: int = setting(4, "bags at a time, over all processes")
    freeze: int | Literal["all"] | None = setting(None, "leave as they are: all of the backbone, or its first stages")
    batch_norm: Literal["train", "frozen", "sync"] = setting(
        "train",
        "frozen keeps the backbone's batch norms at the statistics they start with; sync (GPU) takes those of "
        "all processes",
    )
    instance_chunk: int | None = setting(
        None, "instances that go through the backbone at a time; needs less memory and a third more time"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto", "of the backbone's arithmetic; auto is bf16 on a GPU that has it, else fp32"
    )
    channels_last: bool = setting(False, "keep pictures channels last in memory")
    compile: bool = setting(False, "compile the backbone")
    skip_missing: bool = setting(
        False, "go on without the labelled slides that have no bag; oof.csv lists them as failed"
    )
    seed: int = setting(0, "of folds, weights, order and augmentation")
    cache: str | None = setting(
        "auto", "folder for the tiles at training size, made on first use; auto: beside the bags, up to 512 px and "
        "half of the free disk; null: none"
    )  # fmt: skip
    decode: Literal["auto", "cpu", "gpu"] = setting(
        "auto", "who decodes JPEG where there is no cache; auto: the GPU where it gives the same but for rounding "
        "(4:4:4, tiles of --train-px); gpu: the GPU, and no cache"
    )  # fmt: skip
    loader_workers: int | None = setting(
        None, "threads that read bags beside the training; one for each core, but 8 at most, if not given; 0: none"
    )
    checkpoint_minutes: float = setting(10.0, "minutes between checkpoints within an epoch")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "where to train")
    tracker: Literal["tensorboard", "wandb", "mlflow"] | None = setting(
        None, "who is told of each epoch, beside log.csv; an extra: pip install 'gigabag[wandb]'"
    )

    def __post_init__(self) -> None:
        check(
            self, SettingsError, folds=at_least(2), epochs=at_least(1), patience=at_least(1), batch_size=at_least(1),
            loader_workers=at_least(0), valid_share=between(0, 0.5), instance_chunk=at_least(1),
            seed=between(0, 2**32 - 1), checkpoint_minutes=at_least(0),
        )  # fmt: skip
        if self.cache == "":
            raise SettingsError("--cache '' names no folder; give one, or auto, or null for no cache")
        if isinstance(self.freeze, int) and self.freeze < 1:
            raise SettingsError(
                f"--freeze is all, or a number of stages from 1, not {self.freeze}; leave it out for none"
            )
        if self.decode == "gpu" and self.cache not in (None, "auto"):
            raise SettingsError("--decode gpu reads no cache: give it or --cache FOLDER, not both")
        if not self.valid_share and (self.choose_by, self.patience) != (TrainSpec.choose_by, TrainSpec.patience):
            raise SettingsError(
                "--choose-by and --patience say something only with a --valid-share above 0: without one all epochs "
                "are trained, and the last is kept"
            )
        if 0 < self.valid_share < 0.01:
            raise SettingsError(f"--valid-share must be 0, or from 0.01 to 0.5, not {self.valid_share}")


@dataclass(frozen=True)
class Recipe:
    """All that is set of a training. No two of its parts have a setting of the same name."""

    table: TableSpec = field(default_factory=TableSpec)
    model: ModelSpec = field(default_factory=ModelSpec)
    loss: LossSpec = field(default_factory=LossSpec)
    optim: OptimSpec = field(default_factory=OptimSpec)
    augment: AugmentSpec = field(default_factory=AugmentSpec)
    train: TrainSpec = field(default_factory=TrainSpec)

    def __post_init__(self) -> None:
        optim, train = self.optim, self.train
        if self.loss.map_entropy and not self.model.takes_overviews:
            raise SettingsError("--map-entropy is for the map of --arch chipnet; leave it out, or give that --arch")
        if optim.warmup_epochs >= train.epochs:
            raise SettingsError(
                f"--warmup-epochs {optim.warmup_epochs} leaves none of --epochs {train.epochs} for what comes after it"
            )
        if optim.schedule == "plateau" and not train.valid_share:
            raise SettingsError("--schedule plateau needs a validation figure; give a --valid-share above 0")
        if optim.schedule == "plateau" and optim.decay_epochs >= train.patience:
            raise SettingsError(
                f"--schedule plateau waits --decay-epochs {optim.decay_epochs} without a better figure, but a fold "
                f"stops after --patience {train.patience} of them; give it fewer"
            )

    @classmethod
    def of(cls, **settings: Any) -> "Recipe":
        """The recipe with these settings, each in the part it belongs to; raises TypeError for an unknown one."""
        parts = get_type_hints(cls)
        owner = {each.name: name for name, part in parts.items() for each in fields(part)}
        if unknown := sorted(settings.keys() - owner.keys()):
            raise TypeError(f"{unknown[0]!r} is no setting of a training")
        return cls(
            **{
                name: part(**{key: value for key, value in settings.items() if owner[key] == name})
                for name, part in parts.items()
            }
        )

    def flat(self) -> dict[str, Any]:
        """Every setting by its name, as the command line and config.yaml have them."""
        return {name: value for part in asdict(self).values() for name, value in part.items()}

    def but(self, **settings: Any) -> "Recipe":
        """The same with some settings changed."""
        return self.of(**{**self.flat(), **settings})
