import random

import numpy as np
import pytest
import torch

from mil import augment as module
from mil.augment import ON_PIXELS, Augment
from mil.errors import ModelError, SettingsError
from mil.model import refuse_changed
from mil.recipe import AugmentSpec

PLAIN = {"flip": False, "quarter_turns": False}
ALL = AugmentSpec(
    rotate=30, color_jitter=0.2, hue_jitter=0.04, hed_jitter=0.05, blur=0.5, pixel_dropout=0.02, coarse_dropout=0.5,
    hair=0.5, shuffle_instances=True, drop_instances=0.3,
)  # fmt: skip
STRENGTHS = {
    "rotate": 30.0, "color_jitter": 0.3, "hue_jitter": 0.1, "hed_jitter": 0.1, "blur": 1.0, "pixel_dropout": 0.05,
    "coarse_dropout": 1.0, "hair": 1.0,
}  # fmt: skip


def tiles(count: int, px: int = 32) -> torch.Tensor:
    return torch.randint(256, (count, 3, px, px), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def alike(count: int, px: int = 32) -> torch.Tensor:
    """The same tile so many times."""
    return tiles(1, px).repeat(count, 1, 1, 1)


def mask(*lengths: int) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def test_by_default_only_the_symmetries_of_the_square() -> None:
    tile = torch.arange(12, dtype=torch.uint8).view(1, 3, 2, 2)
    torch.manual_seed(0)
    out, same = Augment(AugmentSpec())(tile.repeat(8000, 1, 1, 1), mask(*[16] * 500))
    turns = [torch.rot90(tile[0], turn, (1, 2)) for turn in range(4)]
    for expected in [*turns, *(turned.flip(2) for turned in turns)]:
        count = int((out == expected).flatten(1).all(1).sum())
        assert abs(count - 1000) < 4 * (8000 / 8 * 7 / 8) ** 0.5
    assert same.equal(mask(*[16] * 500))


@pytest.mark.parametrize(("flip", "quarter_turns", "kinds"), [(True, False, 4), (False, True, 4), (True, True, 8)])
def test_flips_and_turns_apart(flip: bool, quarter_turns: bool, kinds: int) -> None:
    tile = torch.arange(12, dtype=torch.uint8).view(1, 3, 2, 2)
    torch.manual_seed(0)
    out, _ = Augment(AugmentSpec(flip=flip, quarter_turns=quarter_turns))(tile.repeat(4000, 1, 1, 1), mask(4000))
    found, counts = out.flatten(1).unique(dim=0, return_counts=True)
    assert len(found) == kinds
    assert counts.tolist() == pytest.approx([4000 / kinds] * kinds, abs=4 * (4000 / kinds) ** 0.5)
    mirrored = tile[0].flip(2).flatten()
    assert bool((found == mirrored).all(1).any()) == flip
    assert bool((found == torch.rot90(tile[0], 1, (1, 2)).flatten()).all(1).any()) == quarter_turns


@pytest.mark.parametrize("spec", [AugmentSpec(augment=False), AugmentSpec(flip=False, quarter_turns=False)])
def test_off_is_untouched_and_draws_nothing(spec: AugmentSpec) -> None:
    given, before = tiles(3), torch.get_rng_state()
    out, same = Augment(spec)(given, mask(2, 1))
    assert out is given
    assert same.equal(mask(2, 1))
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize("name", STRENGTHS)
def test_each_change(name: str) -> None:
    change = Augment(AugmentSpec(**PLAIN, **{name: STRENGTHS[name]}))
    given = alike(6)
    kept = given.clone()
    torch.manual_seed(1)
    out, same = change(given, mask(4, 2))
    assert out.dtype == torch.uint8
    assert out.shape == given.shape
    assert given.equal(kept)
    assert same.equal(mask(4, 2))
    # Every tile is changed, in its own way.
    assert len(torch.cat((given[:1], out)).flatten(1).unique(dim=0)) == 7


@pytest.mark.parametrize("name", STRENGTHS)
def test_one_change_for_a_bag(name: str) -> None:
    change = Augment(AugmentSpec(**PLAIN, **{name: STRENGTHS[name]}, per="bag"))
    torch.manual_seed(1)
    out, _ = change(alike(6), mask(4, 2))
    assert (out[:4] == out[0]).all()
    assert (out[4:] == out[4]).all()
    assert not out[0].equal(out[4])


def test_one_symmetry_for_a_bag() -> None:
    torch.manual_seed(0)
    out, _ = Augment(AugmentSpec(per="bag"))(alike(160), mask(*[4] * 40))
    assert all(len(bag.flatten(1).unique(dim=0)) == 1 for bag in out.split(4))
    assert len(out.flatten(1).unique(dim=0)) == 8


def test_one_change_for_a_bag_wherever_its_tiles_are() -> None:
    with_gaps = torch.tensor([[True, False, True], [False, True, True]])
    torch.manual_seed(1)
    out, same = Augment(AugmentSpec(**PLAIN, color_jitter=0.3, per="bag"))(alike(4), with_gaps)
    assert out[0].equal(out[1])
    assert out[2].equal(out[3])
    assert not out[0].equal(out[2])
    assert same.equal(with_gaps)


@pytest.mark.parametrize(("name", "chance"), [("hair", 0.25), ("blur", 0.5), ("coarse_dropout", 0.75)])
def test_chance(name: str, chance: float) -> None:
    torch.manual_seed(0)
    given = alike(400, 16)
    out, _ = Augment(AugmentSpec(**PLAIN, **{name: chance}))(given, mask(400))
    changed = int((out != given).flatten(1).any(1).sum())
    # A hair may miss the tile, and a rectangle of a tile's border have no pixel: hardly ever.
    assert abs(changed - 400 * chance) < 4 * (400 * chance * (1 - chance)) ** 0.5


def test_brightness_of_a_grey_tile_is_multiplied() -> None:
    given = torch.full((500, 3, 4, 4), 100, dtype=torch.uint8)
    torch.manual_seed(3)
    out, _ = Augment(AugmentSpec(**PLAIN, color_jitter=0.2))(given, mask(500))
    torch.manual_seed(3)
    brightness = torch.empty(500, 3).uniform_(0.8, 1.2)[:, 0]
    assert (out == out[:, :1, :1, :1]).all()  # a grey tile has no contrast and no colour
    assert (out[:, 0, 0, 0].float() - 100 * brightness).abs().max() < 0.52
    assert (int(out.min()), int(out.max())) == (80, 120)


def test_rounded_and_cut_off_once() -> None:
    white = torch.full((50, 3, 4, 4), 255, dtype=torch.uint8)
    torch.manual_seed(0)
    out, _ = Augment(AugmentSpec(**PLAIN, color_jitter=0.5))(white, mask(50))
    assert (out == 255).flatten(1).all(1).sum() > 10  # brighter than white is white, and not black again


def test_dropped_pixels_are_black_in_all_colours() -> None:
    torch.manual_seed(0)
    out, _ = Augment(AugmentSpec(**PLAIN, pixel_dropout=0.1))(
        torch.full((4, 3, 64, 64), 200, dtype=torch.uint8), mask(4)
    )
    black = (out == 0).all(1)
    assert ((out == 200).all(1) | black).all()
    assert float(black.float().mean()) == pytest.approx(0.1, abs=0.01)


def test_blur_grows_with_the_side() -> None:
    for px, scale in ((64, 1), (512, 2)):
        point = torch.zeros(3, 3, px, px, dtype=torch.uint8)
        point[:, :, px // 2 - 4 * scale : px // 2 + 4 * scale, :] = 250
        torch.manual_seed(0)
        out, _ = Augment(AugmentSpec(**PLAIN, blur=1.0))(point, mask(3))
        torch.manual_seed(0)
        torch.rand(3)  # whether
        sigma = torch.empty(3).uniform_(0.5, 2.0) * scale
        share = torch.special.erf(4 * scale / (sigma * 2**0.5))
        middle = out[:, 0, px // 2 - 1 : px // 2 + 1, 5].float().mean(1)
        torch.testing.assert_close(middle, 250 * share, atol=3, rtol=0)


def test_rectangles_and_hairs_leave_most_to_see() -> None:
    torch.manual_seed(0)
    given = torch.full((50, 3, 64, 64), 200, dtype=torch.uint8)
    for name, most in (("coarse_dropout", 0.25), ("hair", 0.35)):
        out, _ = Augment(AugmentSpec(**PLAIN, **{name: 1.0}))(given, mask(50))
        hidden = (out != 200).any(1).float().mean(dim=(1, 2))
        assert 0 < float(hidden.max()) < most


@pytest.mark.parametrize("features", [False, True])
def test_shuffled_within_bags(features: bool) -> None:
    given = torch.arange(9, dtype=torch.float32)[:, None].expand(9, 5) if features else tiles(9)
    torch.manual_seed(1)
    out, same = Augment(AugmentSpec(**PLAIN, shuffle_instances=True))(given, mask(4, 0, 5))
    assert same.equal(mask(4, 0, 5))
    assert not out.equal(given)
    for part in (slice(0, 4), slice(4, 9)):
        assert sorted(out[part].flatten(1).tolist()) == sorted(given[part].flatten(1).tolist())


def test_every_order_is_as_likely() -> None:
    given = torch.arange(3.0).repeat(3000)[:, None]
    torch.manual_seed(0)
    out, _ = Augment(AugmentSpec(shuffle_instances=True))(given, mask(*[3] * 3000))
    _, counts = out.view(3000, 3).unique(dim=0, return_counts=True)
    assert counts.tolist() == pytest.approx([500] * 6, abs=4 * 500**0.5)


@pytest.mark.parametrize("features", [False, True])
def test_left_out(features: bool) -> None:
    given = torch.arange(2000, dtype=torch.float32)[:, None].expand(2000, 2)
    if not features:
        given = (given[:, :1] % 251).to(torch.uint8)[:, :, None, None].expand(2000, 3, 2, 2)
    torch.manual_seed(0)
    out, fewer = Augment(AugmentSpec(**PLAIN, drop_instances=0.3))(given, mask(*[10] * 200))
    lengths = fewer.sum(1)
    assert len(out) == int(lengths.sum())
    assert abs(len(out) - 1400) < 4 * (2000 * 0.3 * 0.7) ** 0.5
    assert fewer.equal(mask(*lengths.tolist()))  # no gaps, and no column that is empty
    if features:
        assert (out[1:] > out[:-1]).all()  # their order stays
        assert (out[:, 0] // 10).long().bincount(minlength=200).equal(lengths)


def test_one_of_each_bag_stays() -> None:
    torch.manual_seed(0)
    features = torch.arange(600.0)[:, None]
    out, fewer = Augment(AugmentSpec(drop_instances=0.95))(features, mask(*[1, 2, 3] * 100))
    lengths = fewer.sum(1)
    assert lengths.min() == 1
    assert lengths[::3].max() == 1
    of_bag = torch.repeat_interleave(torch.arange(300), torch.tensor([1, 2, 3] * 100))
    assert of_bag[out[:, 0].long()].bincount(minlength=300).equal(lengths)
    # Which one stays is drawn too: of two alone, the first as often as the second.
    pairs = torch.arange(2.0).repeat(1000)[:, None]
    out, fewer = Augment(AugmentSpec(drop_instances=0.95))(pairs, mask(*[2] * 1000))
    alone = torch.cat([bag for bag in out.split(fewer.sum(1).tolist()) if len(bag) == 1])
    assert len(alone) > 900
    assert abs(float(alone.mean()) - 0.5) < 4 * 0.5 / len(alone) ** 0.5


def test_an_empty_bag_stays_empty() -> None:
    out, fewer = Augment(AugmentSpec(drop_instances=0.5, shuffle_instances=True))(tiles(3), mask(0, 3))
    assert fewer.sum(1).tolist() == [0, len(out)]


def test_features_are_not_changed() -> None:
    features = torch.randn(6, 8)
    everything = Augment(AugmentSpec(**{**vars(ALL), "shuffle_instances": False, "drop_instances": 0.0}))
    out, same = everything(features, mask(4, 2))
    assert out is features
    assert same.equal(mask(4, 2))


@pytest.mark.parametrize("per", ["instance", "bag"])
def test_a_saved_state_repeats_it(per: str) -> None:
    change = Augment(AugmentSpec(**{**vars(ALL), "per": per}))
    given, bags = tiles(10), mask(6, 4)
    torch.manual_seed(7)
    random.seed(1)
    np.random.seed(1)
    state = torch.get_rng_state()
    first = change(given, bags)
    second = change(given, bags)
    random.seed(2)
    np.random.seed(2)
    torch.set_rng_state(state)
    again = change(given, bags)
    assert first[0].equal(again[0])
    assert first[1].equal(again[1])
    assert first[0].shape != second[0].shape or not first[0].equal(second[0])


def test_some_tiles_at_a_time_are_as_all(monkeypatch: pytest.MonkeyPatch) -> None:
    given, bags = tiles(9), mask(5, 4)
    torch.manual_seed(7)
    together = Augment(ALL)(given, bags)
    monkeypatch.setattr(module, "_PIXELS_AT_A_TIME", {"cpu": 4 * 32 * 32 + 1})
    torch.manual_seed(7)
    apart = Augment(ALL)(given, bags)
    assert (together[0].int() - apart[0].int()).abs().max() <= 1
    assert together[1].equal(apart[1])


def test_half_precision_changes_nothing() -> None:
    given, bags = tiles(6), mask(4, 2)
    torch.manual_seed(7)
    plain = Augment(ALL)(given, bags)
    torch.manual_seed(7)
    with torch.autocast("cpu", torch.bfloat16):
        half = Augment(ALL)(given, bags)
    assert half[0].equal(plain[0])


@pytest.mark.parametrize("px", [1, 2, 7])
def test_small_tiles(px: int) -> None:
    out, fewer = Augment(ALL)(tiles(8, px), mask(5, 3))
    assert out.shape == (int(fewer.sum()), 3, px, px)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rotate": 181.0}, "--rotate must be from 0 to 180, not 181.0"),
        ({"color_jitter": 1.5}, "--color-jitter must be from 0 to 1, not 1.5"),
        ({"hue_jitter": -0.1}, "--hue-jitter must be from 0 to 0.5, not -0.1"),
        ({"drop_instances": 1.0}, "--drop-instances must be from 0 to 0.95, not 1.0"),
        ({"per": "slide"}, "--per is one of instance, bag, not 'slide'"),
        ({"augment": False, "hair": 0.5}, "--hair says nothing beside --no-augment; leave out one of the two"),
        ({"augment": False, "flip": False}, "--no-flip says nothing beside --no-augment; leave out one of the two"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        AugmentSpec(**settings)
    assert str(error.value) == message


def test_which_settings_are_of_pixels() -> None:
    others = {"augment", "shuffle_instances", "drop_instances"}
    assert {*ON_PIXELS} == vars(AugmentSpec()).keys() - others


def test_features_refuse_what_is_for_pixels() -> None:
    refuse_changed(AugmentSpec(drop_instances=0.5, shuffle_instances=True), ON_PIXELS)
    with pytest.raises(ModelError, match="--hair is for bags of tiles, and these hold features; leave it out"):
        refuse_changed(AugmentSpec(hair=0.5), ON_PIXELS)
    with pytest.raises(ModelError, match="--no-flip is for bags of tiles"):
        refuse_changed(AugmentSpec(flip=False), ON_PIXELS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("per", ["instance", "bag"])
def test_a_gpu_does_the_same_and_is_not_waited_for(per: str) -> None:
    change = Augment(AugmentSpec(**{**vars(ALL), "per": per}))
    given, bags = tiles(40, 64), mask(30, 10)
    there = given.cuda()
    torch.manual_seed(7)
    here, mask_here = change(given, bags)
    torch.manual_seed(7)
    torch.cuda.set_sync_debug_mode("error")
    try:
        out, mask_out = change(there, bags)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert mask_out.equal(mask_here)
    assert out.device == there.device
    assert ((out.cpu().int() - here.int()).abs() > 1).float().mean() < 1e-3
