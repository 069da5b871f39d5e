"""Chips: where they are cut, in which order they come back, which are background."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mil.backbone import Backbone
from mil.chips import Chips, background, cut
from mil.data import square_tensor
from tests.conftest import GLASS, NUCLEI, STROMA, paint


class Colours(nn.Module):
    """Stands for a backbone of chips: maps of 2 x 2 whose mean is that of the chip's colours."""

    px, channels, luminosity = 32, 3, False

    def forward(self, images_MCHW: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images_MCHW.float(), 16)


def chips(luminosity: bool = False, skip_background: bool = False) -> Chips:
    backbone: Any = Colours()
    return Chips(backbone, luminosity, skip_background)


def square(rgb: np.ndarray) -> Tensor:
    return torch.from_numpy(rgb.transpose(2, 0, 1).copy())[None]


def test_an_odd_chip_is_found_in_its_cell() -> None:
    """Row 1, column 2 of the second square, which is its chip 6 of 4 x 4."""
    odd = square(paint(128, 128, (64, 32, 32, STROMA)))
    both = torch.cat([torch.zeros_like(odd), odd])
    pictures = cut(both)
    assert pictures.shape == (32, 3, 32, 32)
    expected = torch.tensor(STROMA, dtype=torch.uint8).view(3, 1, 1).expand(3, 32, 32)
    assert torch.equal(pictures[16 + 6], expected)
    maps = chips()(both)
    assert maps.shape == (2, 3, 4, 4)
    assert maps[1, :, 1, 2].tolist() == [*STROMA]
    assert maps[1, :, 2, 1].tolist() == [*GLASS]
    assert maps[0].count_nonzero() == 0


def test_a_chip_sees_nothing_of_its_neighbours() -> None:
    torch.manual_seed(0)
    real = Chips(Backbone("test_resnet", 32)).eval()
    picture = torch.randint(256, (1, 3, 96, 96), dtype=torch.uint8)
    other = torch.randint(256, (1, 3, 96, 96), dtype=torch.uint8)
    other[..., 32:64, 64:] = picture[..., 32:64, 64:]
    with torch.inference_mode():
        first, second = real(picture), real(other)
    assert first.shape == (1, real.channels, 3, 3)
    torch.testing.assert_close(first[0, :, 1, 2], second[0, :, 1, 2])
    assert not torch.allclose(first[0, :, 1, 1], second[0, :, 1, 1])


def test_brightness_is_that_of_the_square() -> None:
    """A dark chip beside a bright one stays dark."""
    picture = square(paint(64, 64, (0, 0, 32, (100, 100, 100))))
    maps = chips(luminosity=True)(picture)
    assert maps[0, 0, 0, 0] < 0.5 * maps[0, 0, 1, 1]


class TestSkipping:
    def test_background_is_not_seen_and_marked(self) -> None:
        """Of the second square, which is nothing but glass, all chips are seen."""
        net = chips(skip_background=True)
        seen: list[int] = []
        net.backbone.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
        squares = torch.cat([square(paint(64, 64, (4, 4, 20, STROMA), (40, 36, 20, STROMA))), square(paint(64, 64))])
        maps, expected = net(squares), chips()(squares)
        assert seen == [2 + 4]
        assert maps[:, 3].tolist() == [[[0, 1], [1, 0]], [[0, 0], [0, 0]]]
        assert torch.equal(maps[:, :3], torch.where(maps[:, 3:] > 0, 0, expected))

    def test_gradients_are_those_of_the_chips_that_are_seen(self) -> None:
        torch.manual_seed(0)
        real = Backbone("test_resnet", 32).eval()
        picture = square(paint(64, 64, (4, 4, 20, STROMA), (36, 36, 20, NUCLEI)))
        weight = next(real.parameters())
        found = []
        for skip_background in (False, True):
            maps = Chips(real, skip_background=skip_background)(picture)
            (maps[0, 0, 0, 0] - 2 * maps[0, 1, 1, 1]).backward()
            assert weight.grad is not None
            found.append(weight.grad)
            weight.grad = None
        assert found[0].abs().sum() > 0
        torch.testing.assert_close(found[1], found[0])


class TestBackground:
    def test_glass_and_padding_but_no_tissue(self) -> None:
        """Rows 0 and 3 of the square are padding; a fortieth of a chip is tissue enough."""
        found = background(square_tensor(paint(128, 64, (8, 8, 16, STROMA), (40, 40, 5, STROMA)), 128))
        assert (~found[0]).nonzero().tolist() == [[1, 0], [2, 1]]

    @pytest.mark.parametrize(("noise", "is_background"), [(2.0, True), (4.0, False)])
    def test_threshold(self, noise: float, is_background: bool) -> None:
        random = np.random.default_rng(0)
        rgb = (200 + random.normal(0, noise, (64, 64, 3))).round().astype(np.uint8)
        assert background(square(rgb)).tolist() == [[[is_background] * 2] * 2]

    def test_black_pixels_count_for_nothing(self) -> None:
        """A hundredth of the pixels dropped leaves glass glass; a chip that is all black is background."""
        random = np.random.default_rng(0)
        rgb = paint(64, 64, (0, 0, 32, (0, 0, 0)))
        rgb[random.random((64, 64)) < 0.01] = 0
        rgb[40:44, 40:44] = STROMA
        assert background(square(rgb)).tolist() == [[[True, True], [True, False]]]

    def test_turns_and_mirrors_move_it(self) -> None:
        picture = square(paint(96, 96, (40, 4, 20, STROMA)))
        found = background(picture)
        assert torch.equal(background(picture.rot90(1, (2, 3))), found.rot90(1, (1, 2)))
        assert torch.equal(background(picture.flip(3)), found.flip(2))
