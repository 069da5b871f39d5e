"""Where the parts of a slide's picture go, for slides of any shape and any number of tiles. Arithmetic in inches."""

import math
from collections.abc import Iterator
from typing import NamedTuple

MARGIN, GAP = 0.25, 0.3
HEADING = 0.95  # above all: name, prediction, facts
CAPTION = 0.24  # above each tile of the strip
BAR = 0.72  # below a panel or the strip: its colour bar
NARROWEST_PANEL = 2.6  # the bar of a panel needs that much, however narrow the slide

_WIDEST, _HIGHEST = 15.0, 8.6  # of all that is below the heading
_BETWEEN_TILES = 0.1
_TILE_SIDES = tuple(0.7 + 0.1 * step for step in range(22))
_GOOD_TILE, _GOOD_PANEL = 1.8, 5.5  # side of a tile, square root of a panel's area; more of it helps, but less so


class Box(NamedTuple):
    """A rectangle in inches, from the upper left corner of the picture."""

    left: float
    top: float
    width: float
    height: float


class Arrangement(NamedTuple):
    """Size of a picture in inches, and its boxes: of panels, of the views of each tile (tiles, views), of the strip."""

    width: float
    height: float
    panels: list[Box]
    tiles: list[list[Box]]
    strip: Box


class _Plan(NamedTuple):
    """One way to do it: panels in a row or one below the other, the strip beside or below them, in so many columns."""

    panels: int
    in_a_row: bool
    beside: bool
    columns: int
    rows: int
    views: int
    side: float
    aspect: float
    panel_height: float = 0.0

    @property
    def strip(self) -> tuple[float, float]:
        """Width and height of the strip."""
        width = self.columns * self.side + (self.columns - 1) * _BETWEEN_TILES
        each = CAPTION + self.views * self.side + (self.views - 1) * _BETWEEN_TILES / 2
        return width, self.rows * each + (self.rows - 1) * _BETWEEN_TILES + (BAR if self.views > 1 else 0)

    @property
    def panel(self) -> tuple[float, float]:
        """Width and height of a panel with its bar."""
        return max(self.aspect * self.panel_height, NARROWEST_PANEL), self.panel_height + BAR

    @property
    def block(self) -> tuple[float, float]:
        """Width and height of all panels."""
        (width, height), many = self.panel, self.panels - 1
        if self.in_a_row:
            return width + many * (width + GAP), height
        return width, height + many * (height + GAP)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of panels and strip."""
        (width, height), (strip_width, strip_height) = self.block, self.strip
        if self.beside:
            return width + GAP + strip_width, max(height, strip_height)
        return max(width, strip_width), height + GAP + strip_height

    def fitted(self) -> "_Plan":
        """The plan with panels as high as there is room for; 0 or less where there is none."""
        strip_width, strip_height = self.strip
        across, down = (self.panels, 1) if self.in_a_row else (1, self.panels)
        height = _HIGHEST if self.beside else _HIGHEST - strip_height - GAP
        width = _WIDEST - strip_width - GAP if self.beside else _WIDEST
        by_height = (height - (down - 1) * GAP) / down - BAR
        by_width = (width - (across - 1) * GAP) / across
        plan = self._replace(panel_height=min(by_height, by_width / self.aspect))
        fits = by_width >= NARROWEST_PANEL and strip_height <= _HIGHEST and strip_width <= _WIDEST
        return plan if fits else self

    def goodness(self) -> float:
        """How good it looks: large tiles, large panels, little blank."""
        height = self.panel_height
        if height <= 0:
            return 0.0
        tile = min(self.side / _GOOD_TILE, 1) + 0.15 * self.side
        area = self.aspect * height * height
        panel = min(math.sqrt(area) / _GOOD_PANEL, 1) + 0.03 * math.sqrt(area)
        used = self.panels * area + self.columns * self.rows * self.views * self.side**2
        return math.sqrt(tile * panel) * (used / math.prod(self.size)) ** 0.5


def arrange(aspect: float, panels: int, tiles: int, views: int) -> Arrangement:
    """The best arrangement of `panels` pictures of that width over height and a strip of `tiles`, each in `views`."""
    best = max((plan.fitted() for plan in _plans(aspect, panels, tiles, views)), key=_Plan.goodness)
    (block_width, block_height), (width, height) = best.block, best.size
    left, top = MARGIN, HEADING
    strip_left, strip_top = (left + block_width + GAP, top) if best.beside else (left, top + block_height + GAP)
    return Arrangement(
        width + 2 * MARGIN,
        HEADING + height + MARGIN,
        list(_panel_boxes(best, left, top)),
        [list(_views(best, index, strip_left, strip_top)) for index in range(tiles)],
        Box(strip_left, strip_top, *best.strip),
    )


def _plans(aspect: float, panels: int, tiles: int, views: int) -> Iterator[_Plan]:
    for columns in range(1, tiles + 1):
        rows = -(-tiles // columns)
        if -(-tiles // rows) == columns:  # no row is empty, none much shorter
            for side in _TILE_SIDES:
                for beside in (True, False):
                    for in_a_row in (True, False)[: min(panels, 2)]:
                        yield _Plan(panels, in_a_row, beside, columns, rows, views, side, aspect)


def _panel_boxes(plan: _Plan, left: float, top: float) -> Iterator[Box]:
    width, height = plan.panel
    for _ in range(plan.panels):
        yield Box(left, top, plan.aspect * plan.panel_height, plan.panel_height)
        left, top = (left + width + GAP, top) if plan.in_a_row else (left, top + height + GAP)


def _views(plan: _Plan, index: int, left: float, top: float) -> Iterator[Box]:
    row, column = divmod(index, plan.columns)
    strip_height = plan.strip[1] - (BAR if plan.views > 1 else 0)
    top += row * (strip_height + _BETWEEN_TILES) / plan.rows + CAPTION
    for view in range(plan.views):
        yield Box(
            left + column * (plan.side + _BETWEEN_TILES), top + view * (plan.side + _BETWEEN_TILES / 2),
            plan.side, plan.side,
        )  # fmt: skip
