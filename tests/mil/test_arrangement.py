"""Boxes of a slide's picture: inside it, apart from each other, to scale, for slides and strips of any shape."""

from itertools import chain, combinations

import pytest

from mil.arrangement import BAR, CAPTION, HEADING, MARGIN, Box, arrange

ASPECTS = (0.05, 0.2, 0.7, 1.0, 1.4, 5.0, 30.0)


def overlap(first: Box, second: Box) -> bool:
    across = min(first.left + first.width, second.left + second.width) - max(first.left, second.left)
    down = min(first.top + first.height, second.top + second.height) - max(first.top, second.top)
    return across > 1e-9 and down > 1e-9


@pytest.mark.parametrize("aspect", ASPECTS)
@pytest.mark.parametrize(("panels", "tiles", "views"), [(1, 1, 1), (1, 8, 1), (2, 8, 2), (2, 5, 4), (2, 3, 1)])
def test_nothing_overlaps_or_leaves_the_picture(aspect: float, panels: int, tiles: int, views: int) -> None:
    plan = arrange(aspect, panels, tiles, views)
    cells = list(chain.from_iterable(plan.tiles))
    assert (len(plan.panels), len(plan.tiles), len(cells)) == (panels, tiles, tiles * views)
    with_bars = [box._replace(height=box.height + BAR) for box in plan.panels]
    for first, second in combinations([*with_bars, *cells], 2):
        assert not overlap(first, second)
    for box in (*with_bars, *cells, plan.strip):
        assert box.left >= MARGIN - 1e-9
        assert box.top >= HEADING - 1e-9
        assert box.left + box.width <= plan.width - MARGIN + 1e-9
        assert box.top + box.height <= plan.height - MARGIN + 1e-9
    for box in cells:
        assert not overlap(box, plan.strip._replace(left=plan.strip.left + plan.strip.width))
    assert plan.width <= 15.5 + 1e-9
    assert plan.height <= 9.8 + 1e-9


@pytest.mark.parametrize("aspect", ASPECTS)
def test_panels_keep_the_slide_s_shape_and_tiles_are_squares(aspect: float) -> None:
    plan = arrange(aspect, 2, 8, 2)
    for box in plan.panels:
        assert box.width / box.height == pytest.approx(aspect)
    sides = {round(box.width, 9) for views in plan.tiles for box in views}
    assert sides == {round(box.height, 9) for views in plan.tiles for box in views}
    assert len(sides) == 1


def test_the_strip_of_a_long_slide_lies_below_it_and_that_of_a_tall_one_beside() -> None:
    long, tall = arrange(5, 1, 8, 1), arrange(0.3, 1, 8, 1)
    assert {views[0].top for views in long.tiles} == {long.strip.top + CAPTION}
    assert long.strip.top > long.panels[0].top + long.panels[0].height
    assert tall.strip.left > tall.panels[0].left + tall.panels[0].width
    assert tall.strip.top == tall.panels[0].top == HEADING


def test_views_of_a_tile_stand_below_each_other() -> None:
    for views in arrange(1, 1, 8, 3).tiles:
        assert len({box.left for box in views}) == 1
        assert [box.top for box in views] == sorted(box.top for box in views)
