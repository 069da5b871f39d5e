"""Where tiles and tissue lie, in level-0 pixels, to the pixel."""

import numpy as np
import pytest

from mil.shapes import cell_boxes, outlines, ranked, tile_boxes, tissue_polygons
from tests.mil.drawn import a_bag


def test_tiles_end_where_the_slide_does() -> None:
    bag = a_bag([(-10, 20), (380, 180), (100, 100)])
    assert tile_boxes(bag).tolist() == [[0, 20, 40, 70], [380, 180, 400, 200], [100, 100, 150, 150]]


def test_ranks_are_by_attention_and_ties_keep_their_order() -> None:
    bag = a_bag([(0, 0)] * 4)
    assert ranked(bag, np.array([0.2, 0.3, 0.2, 0.3])).tolist() == [1, 3, 0, 2]
    assert ranked(bag, None).tolist() == [0, 1, 2, 3]


def box(height: int, width: int, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_edges_are_exact_and_corners_cut_by_half_a_pixel() -> None:
    # Of 10 x 20 level-0 pixels a mask pixel; the box is x0 20 to 60, y0 40 to 160.
    ((ring,),) = outlines(box(10, 10, 2, 2, 8, 6), 100, 200)
    assert ring[0].tolist() == ring[-1].tolist()
    assert {tuple(point) for point in ring.tolist()} == {
        (25, 40), (55, 40), (60, 50), (60, 150), (55, 160), (25, 160), (20, 150), (20, 50),
    }  # fmt: skip


def test_tissue_at_the_edge_ends_where_the_slide_does() -> None:
    ((ring,),) = outlines(np.ones((5, 8), bool), 80, 50)
    assert (ring.min(axis=0).tolist(), ring.max(axis=0).tolist()) == ([0, 0], [80, 50])


def test_holes_belong_to_their_piece_and_specks_are_left_out() -> None:
    mask = box(40, 60, 5, 5, 35, 30) | box(40, 60, 5, 40, 15, 50)
    mask[15:20, 10:16] = False  # a hole, and one too small to be drawn
    mask[25:27, 20:22] = False
    mask[30:32, 50:52] = True
    polygons = outlines(mask, 600, 400)
    assert sorted(len(polygon) for polygon in polygons) == [1, 2]
    hole = next(polygon for polygon in polygons if len(polygon) == 2)[1]
    assert (hole.min(axis=0).tolist(), hole.max(axis=0).tolist()) == ([100, 150], [160, 200])


def test_no_tissue_has_no_outline() -> None:
    assert outlines(np.zeros((7, 9), bool), 90, 70) == []
    assert tissue_polygons(a_bag([(0, 0)], tissue=None)) == []


def test_large_masks_are_reduced_and_keep_their_place() -> None:
    ((ring,),) = outlines(box(2048, 1024, 512, 256, 1024, 768), 10240, 20480)
    assert ring.min(axis=0) == pytest.approx([2560, 5120])
    assert ring.max(axis=0) == pytest.approx([7680, 10240])
    assert len(ring) == 9


def test_overview_s_tissue_is_outlined() -> None:
    ((ring,),) = tissue_polygons(a_bag([(0, 0)], tissue=(100, 40, 300, 120)))
    assert ring.min(axis=0) == pytest.approx([100, 40], abs=3)  # the overview is a JPEG
    assert ring.max(axis=0) == pytest.approx([300, 120], abs=3)


def test_cells_of_a_map_end_where_the_slide_does() -> None:
    tall = a_bag([(0, 0)], 100, 300)  # its square begins 100 px to the left
    boxes = cell_boxes(tall, 2)
    assert boxes.shape == (2, 2, 4)
    assert boxes[0].tolist() == [[0, 0, 50, 150], [50, 0, 100, 150]]
    assert boxes[1].tolist() == [[0, 150, 50, 300], [50, 150, 100, 300]]
    assert cell_boxes(tall, 3)[0].tolist() == [[0, 0, 0, 100], [0, 0, 100, 100], [100, 0, 100, 100]]
