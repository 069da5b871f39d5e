"""What can be set of tiles, and what cannot."""

import pytest

from tiling.errors import InputError
from tiling.spec import TileSpec


def test_default_is_the_published_scale() -> None:
    spec = TileSpec()
    assert (spec.instances, spec.size, spec.longest_edge, spec.mpp, spec.downsample) == (
        16,
        1024,
        20000,
        None,
        None,
    )
    assert TileSpec(mpp=0.5).longest_edge is None


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"mpp": 1.0, "downsample": 2.0}, "give one scale, not 2"),
        ({"instances": 0}, "--instances must be at least 1, not 0"),
        ({"size": -5}, "--size must be from 8 to 8192, not -5"),
        ({"mpp": 0.0}, "--mpp must be at least 0.01, not 0.0"),
        ({"downsample": float("nan")}, "--downsample must be a finite number, not nan"),
        ({"min_tissue": 1.5}, "--min-tissue must be from 0 to 1, not 1.5"),
        ({"quality": 101}, "--quality must be from 1 to 100, not 101"),
        ({"chroma": 411}, "--chroma is one of 420, 422, 444, not 411"),
        ({"codec": "jxl"}, "--codec is one of jpeg, webp, png, raw, not 'jxl'"),
        ({"train_px": 0}, "--train-px must be at least 1, not 0"),
        ({"train_px": 1024}, "--train-px must be less than --size, which is 1024, not 1024"),
        ({"rank": "best"}, "--rank is one of tissue, darkness, texture, uniform, attention, box, not 'best'"),
        ({"attention_share": 0.5}, "--attention-share and --min-distance are for --rank attention; leave them out"),
        ({"rank": "box", "min_distance": 2.0}, "--attention-share and --min-distance are for --rank attention"),
        ({"rank": "attention", "attention_share": 1.5}, "--attention-share must be from 0 to 1, not 1.5"),
        ({"rank": "attention", "min_distance": -1.0}, "--min-distance must be at least 0, not -1.0"),
        ({"rank": "attention", "whole": "black"}, "--rank and --min-tissue choose among tiles, and --whole gives one"),
        ({"rank": "box", "instances": 4}, "--rank box gives one tile, not --instances 4"),
        ({"rank": "box", "min_tissue": 0.5}, "--min-tissue chooses among tiles, and --rank box gives one"),
    ],
)
def test_wrong_values(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        TileSpec(**wrong)  # type: ignore[arg-type]


def test_box_is_one_tile_and_keeps_the_scale_of_the_overview() -> None:
    spec = TileSpec(rank="box")
    assert (spec.instances, spec.longest_edge, spec.needs_chipnet) == (1, 20000, True)


def test_who_needs_a_chipnet() -> None:
    ranks = ("tissue", "darkness", "texture", "uniform", "attention", "box")
    assert [rank for rank in ranks if TileSpec(rank=rank).needs_chipnet] == ["attention", "box"]  # type: ignore[arg-type]
