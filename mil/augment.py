"""Augmentation: what the instances of a batch are put through while a model learns, all at once, on their device.

All that is random comes from torch's generator of the CPU: with its state saved, training goes on as it would have,
and the same seed draws the same on every device. Nothing here waits for a GPU.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from mil.overlay import draw_hairs, drop_pixels, drop_rectangles
from mil.recipe import AugmentSpec
from mil.tint import adjust, restain, stain_change, turn_hue
from mil.warp import blur, rotate, symmetry

ON_PIXELS = (
    "flip", "quarter_turns", "rotate", "color_jitter", "hue_jitter", "hed_jitter", "blur", "pixel_dropout",
    "coarse_dropout", "hair", "per",
)  # fmt: skip
"""Settings of AugmentSpec that bags of features have no use for."""
OF_INSTANCES = ("per", "shuffle_instances", "drop_instances")
"""Settings of AugmentSpec that bags of one instance have no use for."""

BLUR = 0.5, 2.0  # deviation in pixels, in proportion more where the side has more than BLUR_PX
BLUR_PX = 256
HAIRS = 12  # at most; from two
RECTANGLES = 8  # at most; from one
# Tiles are changed some at a time, so many pixels: few enough for a CPU's cache, and for the memory of a GPU.
_PIXELS_AT_A_TIME = {"cpu": 2**20, "cuda": 2**22}


class Draws:
    """Random numbers for stacked instances, float32 on the CPU: new ones for each, or one for all of a bag.

    `source_M` int64 says which of `count` draws an instance takes.
    """

    def __init__(self, source_M: Tensor, count: int) -> None:
        self.source_M, self.count = source_M, count

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Numbers (M, *shape) from low to high."""
        return torch.empty(self.count, *shape, device="cpu").uniform_(low, high)[self.source_M]

    def around(self, middle: float, reach: float, *shape: int) -> Tensor:
        """Numbers (M, *shape) up to `reach` from the middle."""
        return self.uniform(middle - reach, middle + reach, *shape)

    def integers(self, low: int, high: int) -> Tensor:
        """Whole numbers int64 (M,) from low to high, which is left out."""
        return torch.randint(low, high, (self.count,), device="cpu")[self.source_M]

    def happens(self, chance: float) -> Tensor:
        """Bool (M,), True with this chance."""
        return torch.rand(self.count, device="cpu")[self.source_M] < chance


class Step(NamedTuple):
    """One change of tiles: what it draws for them, what it does with tiles and draws, and its chance, None: always.

    Draws go to the device of the tiles unless they are not `sent`.
    """

    draw: Callable[[Draws], tuple[Tensor, ...]]
    change: Callable[..., Tensor]
    chance: float | None = None
    sent: bool = True


class Augment:
    """Changes the instances of a batch as an AugmentSpec says; what is off in it costs nothing.

    Tiles go through symmetries of the square, rotation, staining, hairs, colours, hue, blur, rectangles and pixels, in
    this order: first what is on the glass, then light and lens, then what hides it. From rotation to blur they are
    float, may leave the range of colours, and are rounded once. Features are only put in another order and left out.
    """

    def __init__(self, spec: AugmentSpec) -> None:
        self.spec = spec
        self.shuffle = spec.augment and spec.shuffle_instances
        self.drop = spec.drop_instances if spec.augment else 0.0
        self.per_bag = spec.per == "bag"
        self.steps = _steps(spec) if spec.augment else []

    @property
    def only_moves(self) -> bool:
        """Whether nothing but the symmetries of the square is done to tiles, which maps can be put through as well."""
        return all(step.change is symmetry for step in self.steps)

    @torch.no_grad()
    def __call__(self, instances_M: Tensor, mask_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Instances of the kind they were, and their mask, which is of fewer where some were left out.

        Takes uint8 tiles (M, 3, px, px), float maps (M, C, G, G) where it `only_moves`, or features (M, C), stacked in
        the order of the True of `mask_BN`, bool on the CPU. What is given is not changed. Where instances are shuffled
        or left out, the True of each row come first.
        """
        bag_M = mask_BN.nonzero()[:, 0]
        if self.shuffle or self.drop:
            kept_M = _pick(bag_M, self.shuffle, self.drop)
            instances_M, bag_M = instances_M[_sent(kept_M, instances_M.device)], bag_M[kept_M]
            lengths_B = bag_M.bincount(minlength=len(mask_BN))
            mask_BN = torch.arange(int(lengths_B.max()), device="cpu") < lengths_B[:, None]
        if instances_M.ndim > 2 and self.steps:
            each_M = torch.arange(len(bag_M), device="cpu")
            draws = Draws(bag_M, len(mask_BN)) if self.per_bag else Draws(each_M, len(each_M))
            with torch.autocast(instances_M.device.type, enabled=False):  # half precision makes other colours
                instances_M = _changed(instances_M, self.steps, draws)
        return instances_M, mask_BN


def _pick(bag_M: Tensor, shuffle: bool, drop: float) -> Tensor:
    """Places of the instances that stay, by bag; `drop` is the chance of one to go, and one of each bag stays."""
    order_M = torch.arange(len(bag_M), device="cpu")
    if shuffle:  # sums of a bag's number and a float32 below 1 are exact in double precision
        order_M = (bag_M.double() + torch.rand(len(bag_M), device="cpu")).argsort()
    if drop:
        luck_M = torch.rand(len(bag_M), device="cpu")
        best_M = torch.zeros(int(bag_M.max()) + 1, device="cpu").scatter_reduce(0, bag_M, luck_M, "amax")[bag_M]
        order_M = order_M[((luck_M >= drop) | (luck_M == best_M))[order_M]]
    return order_M


def _changed(tiles_MCHW: Tensor, steps: Sequence[Step], draws: Draws) -> Tensor:
    """Tiles put through all steps, some tiles at a time; all draws are made before."""
    changes = [_bound(step, draws) for step in steps]
    device = tiles_MCHW.device
    size = max(1, _PIXELS_AT_A_TIME.get(device.type, 2**22) // tiles_MCHW[0, 0].numel())
    out = torch.empty_like(tiles_MCHW)
    for start in range(0, len(tiles_MCHW), size):
        part = slice(start, start + size)
        tiles = tiles_MCHW[part]
        for change in changes:
            tiles = change(tiles, part)
        out[part] = tiles
    return out


def _bound(step: Step, draws: Draws) -> Callable[[Tensor, slice], Tensor]:
    """A step with its draws: a function of a part of the tiles, and of where they are in the stack."""
    happens_M = None if step.chance is None else draws.happens(step.chance)
    drawn = step.draw(draws)

    def change(tiles_MCHW: Tensor, part: slice) -> Tensor:
        values = [values_M[part] for values_M in drawn]
        if happens_M is None:
            device = tiles_MCHW.device if step.sent else torch.device("cpu")
            return step.change(tiles_MCHW, *(_sent(each, device) for each in values))
        places = happens_M[part].nonzero().squeeze(1)
        if not len(places):
            return tiles_MCHW
        there = _sent(places, tiles_MCHW.device)
        changed = step.change(tiles_MCHW[there], *(_sent(each[places], tiles_MCHW.device) for each in values))
        return tiles_MCHW.index_copy(0, there, changed)

    return change


def _sent(values: Tensor, device: torch.device) -> Tensor:
    return values.to(device, non_blocking=True)


def _steps(spec: AugmentSpec) -> list[Step]:
    """The steps that are on, in their order."""
    exact = [Step(partial(_draw_symmetry, spec.flip, spec.quarter_turns), symmetry, sent=False)]
    colours = [
        (spec.rotate, Step(lambda draws: (draws.around(0, spec.rotate),), rotate)),
        (spec.hed_jitter, Step(partial(_draw_stains, spec.hed_jitter), restain)),
        (spec.hair, Step(_draw_hairs, draw_hairs, spec.hair)),
        (spec.color_jitter, Step(lambda draws: draws.around(1, spec.color_jitter, 3).unbind(1), adjust)),
        (spec.hue_jitter, Step(lambda draws: (draws.around(0, spec.hue_jitter),), turn_hue)),
        (spec.blur, Step(lambda draws: (draws.uniform(*BLUR),), _blur, spec.blur)),
    ]
    overlays = [
        (spec.coarse_dropout, Step(_draw_rectangles, drop_rectangles, spec.coarse_dropout)),
        (spec.pixel_dropout, Step(_draw_seeds, partial(drop_pixels, share=spec.pixel_dropout))),
    ]
    steps = exact if spec.flip or spec.quarter_turns else []
    if between := [step for strength, step in colours if strength]:
        steps = [*steps, Step(_nothing, Tensor.float), *between, Step(_nothing, _rounded)]
    return steps + [step for strength, step in overlays if strength]


def _nothing(_: Draws) -> tuple[Tensor, ...]:
    return ()


def _rounded(tiles_MCHW: Tensor) -> Tensor:
    return tiles_MCHW.round_().clamp_(0, 255).to(torch.uint8)


def _draw_symmetry(flip: bool, quarter_turns: bool, draws: Draws) -> tuple[Tensor, ...]:
    """Whether transposed, mirrored, upended; each symmetry that is asked for has the same chance."""
    first, second, third = (draws.happens(0.5) for _ in range(3))
    if not quarter_turns:
        return torch.zeros_like(first), second, third
    # Turns alone are those of the eight that mirror nothing.
    return first, second, third if flip else first ^ second


def _draw_stains(strength: float, draws: Draws) -> tuple[Tensor, ...]:
    return stain_change(draws.around(1, strength, 3), draws.around(0, strength, 3))


def _blur(tiles_MCHW: Tensor, sigma_M: Tensor) -> Tensor:
    scale = max(1.0, tiles_MCHW.shape[-1] / BLUR_PX)
    return blur(tiles_MCHW, scale * sigma_M, scale * BLUR[1])


def _draw_rectangles(draws: Draws) -> tuple[Tensor, ...]:
    """Up to eight rectangles, the others empty."""
    middle_MR2, half_MR2 = draws.uniform(0, 1, RECTANGLES, 2), draws.uniform(0.025, 0.1, RECTANGLES, 2)
    half_MR2 = half_MR2 * _first(draws.integers(1, RECTANGLES + 1), RECTANGLES)[:, :, None]
    return (torch.cat((middle_MR2 - half_MR2, middle_MR2 + half_MR2), dim=2),)


def _draw_seeds(draws: Draws) -> tuple[Tensor, ...]:
    return (draws.integers(-(2**31), 2**31).int(),)


def _draw_hairs(draws: Draws) -> tuple[Tensor, ...]:
    """Hairs that lie about in one direction, as on skin, of one colour from black to brown."""
    middle_MH2 = draws.uniform(-0.1, 1.1, HAIRS, 2)
    length_MH1, width_MH1 = draws.uniform(0.4, 1.4, HAIRS, 1), draws.uniform(0.006, 0.014, HAIRS, 1)
    angle_MH1 = draws.uniform(0, 2 * math.pi, 1, 1) + draws.around(0, 0.7, HAIRS, 1)
    bow_MH1, twist_MH1 = draws.around(0, 0.3, HAIRS, 1), draws.around(0, 0.15, HAIRS, 1)
    dark_MH1 = draws.uniform(0.55, 0.95, HAIRS, 1) * _first(draws.integers(2, HAIRS + 1), HAIRS)[:, :, None]
    hairs = (middle_MH2, length_MH1, width_MH1, angle_MH1, bow_MH1, twist_MH1, dark_MH1)
    return torch.cat(hairs, dim=2), draws.uniform(10, 60, 1) * torch.tensor([1.0, 0.75, 0.6], device="cpu")


def _first(count_M: Tensor, most: int) -> Tensor:
    """Bool (M, most), True for as many as counted."""
    return torch.arange(most, device="cpu") < count_M[:, None]
