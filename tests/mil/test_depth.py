"""How deep parameters lie: timm's patterns, functions, and models that tell nothing."""

from typing import Any

import pytest
from torch import nn

from mil.depth import parameter_depths, parameter_stages, stage_ends
from mil.errors import ModelError


class Net(nn.Module):
    """Parameters `stem`, `blocks.0` to `blocks.2` and `norm`."""

    def __init__(self, matcher: Any = None) -> None:
        super().__init__()
        self.stem = nn.Linear(1, 1, bias=False)
        self.blocks = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(3)))
        self.norm = nn.LayerNorm(1, bias=False)
        if matcher is not None:
            self.group_matcher = lambda coarse=False: matcher

    def names(self, groups: list[list[nn.Parameter]]) -> list[list[str]]:
        names = {id(parameter): name.removesuffix(".weight") for name, parameter in self.named_parameters()}
        return [[names[id(parameter)] for parameter in group] for group in groups]


STAGES = [["stem", "blocks.0"], ["blocks.1"], ["blocks.2", "norm"]]


@pytest.mark.parametrize(
    "matcher",
    [
        {"stem": r"^stem", "blocks": r"^blocks\.(\d+)"},
        {"stem": r"^stem", "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]},
        {"stem": r"^stem", "blocks": r"^blocks\.(\d+)", "none": None},
        lambda name: {"stem": 0, "norm": float("inf")}.get(
            name.split(".")[0], int(name.split(".")[1]) + 1 if name[0] == "b" else 0
        ),
        None,
    ],
    ids=["patterns", "suffix", "empty", "function", "nothing"],
)
def test_the_stem_goes_with_the_first_stage_and_what_is_left_with_the_last(matcher: Any) -> None:
    net = Net(matcher)
    assert net.names(parameter_stages(net)) == STAGES


def test_layers() -> None:
    net = Net({"stem": r"^stem", "blocks": r"^blocks\.(\d+)"})
    assert net.names(parameter_depths(net)) == [["stem"], ["blocks.0"], ["blocks.1"], ["blocks.2"], ["norm"]]


def test_no_stem() -> None:
    net = Net({"blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,)), (r"^stem", (0,))]})
    assert len(parameter_stages(net)) == 3


def test_matcher_without_stages() -> None:
    def matcher(coarse: bool = False) -> dict[str, str]:
        assert not coarse, "not implemented"
        return {"everything": r".*"}

    net = Net()
    net.group_matcher = matcher
    assert net.names(parameter_stages(net)) == STAGES
    assert len(parameter_depths(net)) == 1


class TestStageEnds:
    @pytest.mark.parametrize(
        ("reductions", "ends"),
        [
            ([2, 4, 8, 16, 32], [2, 3, 4]),
            ([4, 8, 8, 8, 16], [0, 3, 4]),
            ([16] * 12, [5, 8, 11]),  # a half, three quarters, and the last of a ViT's blocks
            ([16] * 6, [2, 4, 5]),
            ([8, 16, 16, 16], [1, 2, 3]),
        ],
    )
    def test_where_maps_shrink(self, reductions: list[int], ends: list[int]) -> None:
        net = nn.Identity()
        net.forward_intermediates = None  # type: ignore[assignment]
        net.feature_info = [{"reduction": reduction} for reduction in reductions]  # type: ignore[assignment]
        assert stage_ends(net) == ends

    def test_too_few(self) -> None:
        net = nn.Identity()
        net.forward_intermediates = None  # type: ignore[assignment]
        net.feature_info = [{"reduction": 4}, {"reduction": 8}]  # type: ignore[assignment]
        with pytest.raises(ModelError, match="the backbone Identity has fewer than three stages; choose another"):
            stage_ends(net)

    def test_none(self) -> None:
        with pytest.raises(ModelError, match="the backbone Identity gives no intermediate maps; choose another"):
            stage_ends(nn.Identity())
