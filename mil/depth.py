"""How deep in a timm model things lie: stages to freeze or look at, groups for layer-wise learning rates."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import Any

from torch import Tensor, nn

from mil.errors import ModelError

Depth = tuple[float, ...]
STEM, LEFT_OVER = (-math.inf,), (math.inf,)
WITH_THE_ONE_BEFORE = 99999.0  # timm's mark for what belongs to the layer before it


def parameter_stages(net: nn.Module) -> list[list[nn.Parameter]]:
    """Parameters of a timm model by stage, as its `group_matcher(coarse=True)` says; the first includes the stem.

    What the matcher does not name (a last norm) belongs to the last stage. For VGG, whose matcher gives every layer
    alone, a stage is what lies between two pools.
    """
    groups = _grouped(net, coarse=True)
    if len(groups) > 1 and groups[0][0] == STEM:
        groups = [(groups[1][0], groups[0][1] + groups[1][1]), *groups[2:]]
    if len(groups) > 1 and groups[-1][0] == LEFT_OVER:
        groups = [*groups[:-2], (groups[-2][0], groups[-2][1] + groups[-1][1])]
    return [parameters for _, parameters in groups]


def parameter_depths(net: nn.Module) -> list[list[nn.Parameter]]:
    """Parameters of a timm model by layer, from the stem to the last, as its `group_matcher(coarse=False)` says."""
    return [parameters for _, parameters in _grouped(net, coarse=False)]


def stage_ends(net: Any) -> list[int]:
    """Which of a model's intermediate maps end its last three stages."""
    if not hasattr(net, "forward_intermediates"):
        raise ModelError(f"the backbone {type(net).__name__} gives no intermediate maps; choose another")
    shrunk = [info["reduction"] for info in net.feature_info]
    ends = [index for index, pair in enumerate(zip(shrunk, [*shrunk[1:], 0], strict=True)) if pair[0] != pair[1]]
    if len(ends) < 3:
        ends = sorted({math.ceil(len(shrunk) * quarters / 4) - 1 for quarters in (2, 3, 4)})
    if len(ends) < 3:
        raise ModelError(f"the backbone {type(net).__name__} has fewer than three stages; choose another")
    return ends[-3:]


def block_of(net: Any, reduction: int) -> int:
    """The last of a model's intermediate maps in which `reduction` pixels a side are one position."""
    name = net.default_cfg["architecture"]
    if not hasattr(net, "forward_intermediates"):
        raise ModelError(f"the backbone {name!r} gives no intermediate maps; leave --reduction out")
    found = [info["reduction"] for info in net.feature_info]
    if reduction not in found:
        there = ", ".join(map(str, sorted(set(found))))
        raise ModelError(f"--reduction {reduction} is none of the backbone {name!r}, whose maps have {there}")
    return max(index for index, each in enumerate(found) if each == reduction)


def maps_behind_pools(layers: nn.Sequential, maps_MCHW: Tensor) -> list[Tensor]:
    """Maps behind every max pool of a list of layers."""
    pooled = []
    for layer in layers:
        maps_MCHW = layer(maps_MCHW)
        if isinstance(layer, nn.MaxPool2d):
            pooled.append(maps_MCHW)
    return pooled


def _grouped(net: nn.Module, coarse: bool) -> list[tuple[Depth, list[nn.Parameter]]]:
    depth_of = _depths(net, coarse)
    ordered = sorted(net.named_parameters(), key=lambda item: depth_of(item[0]))  # stable: as defined within a group
    groups: list[tuple[Depth, list[nn.Parameter]]] = []
    for depth, items in groupby(ordered, lambda item: depth_of(item[0])):
        parameters = [parameter for _, parameter in items]
        if groups and depth[-1] == WITH_THE_ONE_BEFORE:
            groups[-1][1].extend(parameters)
        else:
            groups.append((depth, parameters))
    return groups


def _depths(net: nn.Module, coarse: bool) -> Callable[[str], Depth]:
    """From the name of a parameter to its depth."""
    if type(net).__name__ == "VGG":
        return _by_pool(net, coarse)
    try:
        matcher: Any = net.group_matcher(coarse=coarse)  # type: ignore[operator]
    except (AttributeError, AssertionError):  # some have none, or none for stages
        return _by_number(net, coarse)
    return _by_call(matcher) if callable(matcher) else _by_pattern(matcher)


def _by_pattern(matcher: Mapping[str, Any]) -> Callable[[str], Depth]:
    """Depths by timm's patterns: `{name: pattern}` or `{name: [(pattern, suffix)]}`, the first match wins."""
    patterns: list[tuple[re.Pattern[str], Depth, Depth]] = []
    for ordinal, (name, specification) in enumerate(matcher.items()):
        start = STEM if ordinal == 0 and name.startswith("stem") else (float(ordinal),)
        pairs: Iterable[Any] = [(specification, None)] if isinstance(specification, str) else specification or ()
        patterns += [(re.compile(pattern), start, suffix or ()) for pattern, suffix in pairs]

    def depth_of(name: str) -> Depth:
        for pattern, start, suffix in patterns:
            if found := pattern.match(name):
                return (*start, *(float(number) for number in found.groups() if number is not None), *suffix)
        return LEFT_OVER

    return depth_of


def _by_call(matcher: Callable[[str], Any]) -> Callable[[str], Depth]:
    """Depths by a function of timm's, whose 0 is the stem."""

    def depth_of(name: str) -> Depth:
        depth = matcher(name)
        depth = tuple(depth) if isinstance(depth, Iterable) else (depth,)
        return STEM if depth == (0,) else depth

    return depth_of


def _by_number(net: nn.Module, coarse: bool) -> Callable[[str], Depth]:
    """Depths of a model that tells nothing: by the numbers in the names of its largest child that is a list."""
    lists = [name for name, child in net.named_children() if isinstance(child, (nn.Sequential, nn.ModuleList))]
    trunk = max(lists, key=lambda name: sum(part.numel() for part in net.get_submodule(name).parameters()), default="")
    names = [name for name, _ in net.named_parameters()]
    inside = [name.startswith(f"{trunk}.") for name in names]
    before = set(names[: inside.index(True)] if any(inside) else names)

    def depth_of(name: str) -> Depth:
        if not name.startswith(f"{trunk}."):
            return STEM if name in before else LEFT_OVER
        numbers = [float(part) for part in name.split(".") if part.isdigit()]
        return tuple(numbers[: 1 if coarse else 2])

    return depth_of


def _by_pool(net: nn.Module, coarse: bool) -> Callable[[str], Depth]:
    """Depths in a VGG: by the pools before a layer, or by its convolution, with which its batch norm goes."""
    kind = nn.MaxPool2d if coarse else nn.Conv2d
    layers = list(net.get_submodule("features").children())

    def depth_of(name: str) -> Depth:
        part, _, rest = name.partition(".")
        if part != "features":
            return LEFT_OVER
        return (float(sum(isinstance(layer, kind) for layer in layers[: int(rest.split(".")[0]) + 1])),)

    return depth_of
