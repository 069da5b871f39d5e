"""ChipNet: its map and its sum by hand, grids of any size, background, what is refused; that it learns and goes on."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from mil.chipnet import ChipNet, entropy
from mil.cohort import Cohort, gather
from mil.data import OverviewReader
from mil.errors import LabelsError, ModelError, SettingsError, Stopped
from mil.folds import Split
from mil.head import Head
from mil.labels import Labels, read_labels
from mil.launcher import Launch
from mil.loop import train_fold
from mil.memory import step_memory
from mil.metadata import MetadataCoder
from mil.model import build_model
from mil.optim import make_optimizer
from mil.processes import Processes
from mil.recipe import Recipe
from mil.run import train_run
from mil.settings import ModelSpec
from mil.task import Task
from mil.trial import try_model
from tests.conftest import GLASS, NUCLEI, STROMA, CohortFiles, paint
from tests.mil.test_chips import chips, square
from tests.mil.test_resume import After, content
from tiling.bag import BagRef
from tiling.features import write_features

TASK = Task(("a", "b"))
OVERVIEW = {"overviews": True, "instances": 16}
ONE = Processes(Launch(), torch.device("cpu"))
RECIPE = Recipe.of(arch="chipnet", backbone="test_resnet", overview_px=64, folds=2, epochs=2, lr=1e-3, device="cpu")


def spec(**settings: Any) -> ModelSpec:
    return ModelSpec(**{"arch": "chipnet", "backbone": "test_resnet", **settings})


def build(**settings: Any) -> Any:
    torch.manual_seed(0)
    return build_model(spec(**settings), TASK, OVERVIEW).eval()


def one_each(squares: Tensor) -> Tensor:
    return torch.ones(len(squares), 1, dtype=torch.bool)


def noise(count: int, px: int) -> Tensor:
    torch.manual_seed(0)
    return torch.randint(256, (count, 3, px, px), dtype=torch.uint8)


class Given(nn.Module):
    """Scores (B, 1, G, G) that are given, in place of those of convolutions."""

    def __init__(self, scores_BGG: list[Any]) -> None:
        super().__init__()
        self.scores = torch.tensor(scores_BGG)

    def forward(self, maps_BCGG: Tensor) -> Tensor:
        return self.scores[:, None]


def by_hand(scores: list[Any], mask_background: bool = False) -> ChipNet:
    """ChipNet whose embeddings are the colours of chips, of given scores, whose logits are what the head is given."""
    net = ChipNet(chips(skip_background=mask_background), Head(3, 3)).eval()
    net.score = Given(scores)  # type: ignore[assignment]
    net.norm[2] = nn.Identity()
    with torch.no_grad():
        net.head.classifier[1].weight.copy_(torch.eye(3))  # type: ignore[union-attr, operator]
        net.head.classifier[1].bias.zero_()  # type: ignore[union-attr, operator]
    return net


def test_weighted_sum_by_hand() -> None:
    """exp of the scores is 1, 2, 3, 4 of 10; colours differ by chip, and the softmax goes over all of them."""
    log = [[math.log(1), math.log(2)], [math.log(3), math.log(4)]]
    picture = square(paint(64, 64, (0, 0, 32, (10, 0, 0)), (32, 0, 32, (0, 20, 0)), (0, 32, 32, (0, 0, 30)),
                           (32, 32, 32, (40, 40, 40))))  # fmt: skip
    output = by_hand([log])(picture, one_each(picture))
    assert output.attention_BN is None
    torch.testing.assert_close(output.map_BGG, torch.tensor([[[0.1, 0.2], [0.3, 0.4]]]))
    torch.testing.assert_close(output.logits_BK, torch.tensor([[1.0 + 16, 4 + 16, 9 + 16]]))


def test_each_slide_has_a_map_of_its_own() -> None:
    output = by_hand([[[0.0, 0], [0, 0]], [[0.0, 0], [0, 200]]])(noise(2, 64), torch.ones(2, 1, dtype=torch.bool))
    assert output.map_BGG is not None
    assert output.map_BGG.tolist() == [[[0.25, 0.25], [0.25, 0.25]], [[0, 0], [0, 1]]]


def test_map_is_an_output_and_no_attribute() -> None:
    net = build()
    before = {*vars(net), *net.state_dict()}
    picture = noise(1, 64)
    assert net(picture, one_each(picture)).map_BGG.shape == (1, 2, 2)
    assert {*vars(net), *net.state_dict()} == before


def test_larger_squares_give_finer_maps_with_the_same_weights() -> None:
    """A model for 224 px takes 448, of which a corner of 224 px has the embeddings that it has alone."""
    net = build(overview_px=224)
    picture = noise(1, 448)
    with torch.inference_mode():
        fine = net(picture, one_each(picture)).map_BGG
        embeddings = net.encoder(picture)
        corner = net.encoder(picture[..., :224, 224:])
    assert fine.shape == (1, 14, 14)
    assert fine.sum().item() == pytest.approx(1)
    torch.testing.assert_close(embeddings[:, :, :7, 7:], corner)


def test_turned_pictures_have_turned_maps() -> None:
    """With kernels that are the same whichever way they are turned; the network's own learn that."""
    torch.manual_seed(0)
    net = ChipNet(chips(), Head(3, 2), hidden=4).eval()
    with torch.no_grad():
        for conv in (net.score[0], net.score[3]):
            kernel = conv.weight
            turned = [
                (kernel if mirror else kernel.flip(3)).rot90(turn, (2, 3)) for mirror in (0, 1) for turn in range(4)
            ]
            kernel.copy_(torch.stack(turned).mean(0) / 20)
    picture = square(paint(96, 96, (64, 0, 32, STROMA), (0, 32, 40, NUCLEI)))
    with torch.inference_mode():
        upright = net(picture, one_each(picture))
        for turn in range(4):
            for flipped in (False, True):

                def moved(tensor: Tensor, rows: int, turn: int = turn, flipped: bool = flipped) -> Tensor:
                    tensor = tensor.rot90(turn, (rows, rows + 1))
                    return tensor.flip(rows) if flipped else tensor

                output = net(moved(picture, 2), one_each(picture))
                torch.testing.assert_close(output.map_BGG, moved(upright.map_BGG, 1))
                torch.testing.assert_close(output.logits_BK, upright.logits_BK)
    assert upright.map_BGG.std() > 0.001


class TestBackground:
    def test_gets_no_attention(self) -> None:
        scores = [[[5.0, 1], [1, 9]]]
        picture = square(paint(64, 64, (34, 2, 20, STROMA), (2, 34, 20, STROMA)))
        output = by_hand(scores, mask_background=True)(picture, one_each(picture))
        assert output.map_BGG is not None
        assert output.map_BGG.tolist() == [[[0, 0.5], [0.5, 0]]]

    def test_where_all_is_background_none_is_masked(self) -> None:
        bare, tissue = square(paint(64, 64)), square(paint(64, 64, (2, 2, 20, STROMA)))
        both = torch.cat([bare, tissue])
        output = by_hand([[[0.0, 0], [0, 0]]] * 2, mask_background=True)(both, one_each(both))
        assert output.map_BGG is not None
        assert output.map_BGG.tolist() == [[[0.25, 0.25], [0.25, 0.25]], [[1, 0], [0, 0]]]
        assert output.logits_BK[0].tolist() == [*GLASS]

    def test_is_a_neighbour_of_zeros(self) -> None:
        """The score of a cell is here the red of the 3 x 3 about it; two of the three with tissue are neighbours."""
        net = by_hand([[[0.0]]], mask_background=True)
        conv = nn.Conv2d(3, 1, 3, padding=1, bias=False)
        with torch.no_grad():
            conv.weight.copy_(torch.tensor([0.01, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 3, 3))
        net.score = conv  # type: ignore[assignment]
        picture = square(paint(96, 96, *((x0, y0, 16, STROMA) for x0, y0 in ((0, 0), (32, 0), (64, 64)))))
        red = 0.01 * picture[0, 0, :32, :32].double().mean().item()
        output = net(picture, one_each(picture))
        assert output.map_BGG is not None
        expected = torch.zeros(3, 3)
        expected[[0, 0, 2], [0, 1, 2]] = torch.tensor([2 * red, 2 * red, red]).softmax(0)
        torch.testing.assert_close(output.map_BGG[0], expected)

    @pytest.mark.parametrize("mask_background", [False, True])
    def test_what_a_frozen_backbone_gave_leads_to_the_same(self, mask_background: bool) -> None:
        net = build(mask_background=mask_background)
        net.encoder.backbone.freeze(None)
        net.instance_chunk = 1
        pictures = torch.cat([square(paint(96, 96, (40, 40, 20, STROMA))), noise(1, 96)])
        with torch.inference_mode():
            direct = net(pictures, one_each(pictures))
            once = net(net.through_frozen(pictures), one_each(pictures))
        assert (direct.map_BGG[0] == 0).sum() == (8 if mask_background else 0)
        torch.testing.assert_close(once.map_BGG, direct.map_BGG)
        torch.testing.assert_close(once.logits_BK, direct.logits_BK)

    def test_gradients_are_numbers(self) -> None:
        net = build(mask_background=True).train()
        pictures = torch.cat([square(paint(96, 96)), square(paint(96, 96, (40, 40, 20, STROMA)))])
        output = net(pictures, one_each(pictures))
        (output.logits_BK.sum() + entropy(output.map_BGG).sum()).backward()
        assert all(weight.grad is None or weight.grad.isfinite().all() for weight in net.parameters())


def test_half_precision_has_maps_and_logits_in_single() -> None:
    """Scores so far apart that float16 could not tell them."""
    net = build()
    net.half_precision = torch.bfloat16
    picture = noise(2, 64)
    with torch.no_grad():
        net.score[3].weight.mul_(1e6)
        output = net(picture, one_each(picture))
    assert output.map_BGG.dtype == output.logits_BK.dtype == torch.float32
    assert output.logits_BK.isfinite().all()
    torch.testing.assert_close(output.map_BGG.sum((1, 2)), torch.ones(2))


def test_chunks_are_of_squares() -> None:
    net = build()
    pictures = noise(3, 64)
    with torch.inference_mode():
        whole = net(pictures, one_each(pictures))
        seen: list[int] = []
        net.encoder.backbone.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
        net.instance_chunk = 2
        torch.testing.assert_close(net(pictures, one_each(pictures)).logits_BK, whole.logits_BK)
    assert sorted(seen) == [1, 2]


def test_channels_are_dropped_whole() -> None:
    net = build(map_dropout=0.5).train()
    seen: list[Tensor] = []
    net.drop_channels.register_forward_hook(lambda _, __, result: seen.append(result))
    pictures = noise(2, 96)
    net(pictures, one_each(pictures))
    dropped = (seen[0] == 0).flatten(2)
    assert torch.equal(dropped.all(2), dropped.float().mean(2) > 0.9)
    assert 0.3 < dropped.all(2).float().mean() < 0.8


def test_metadata_joins_behind_the_map() -> None:
    coder = MetadataCoder({"sex": ("f", "m")}, {})
    torch.manual_seed(0)
    net = build_model(spec(), TASK, OVERVIEW, coder).eval()
    pictures = noise(1, 64).expand(2, -1, -1, -1)
    with torch.inference_mode():
        output = net(pictures, one_each(pictures), torch.eye(2, coder.width))
    assert torch.equal(output.map_BGG[0], output.map_BGG[1])
    assert not torch.equal(output.logits_BK[0], output.logits_BK[1])


@pytest.mark.parametrize("name", ["resnet18", "test_vit", "vgg11_bn", "test_efficientnet"])
def test_backbones_at_32_px(name: str) -> None:
    """One position left of a chip, or more."""
    net = build(backbone=name)
    picture = noise(1, 64)
    with torch.inference_mode():
        assert net(picture, one_each(picture)).map_BGG.shape == (1, 2, 2)


def test_a_backbone_that_takes_no_chips_is_refused_by_its_own_name() -> None:
    with pytest.raises(
        ModelError, match=r"'crossvit_9_240' does not take pictures of 32 px .*choose another --backbone$"
    ):
        build(backbone="crossvit_9_240")


def test_learning_rates() -> None:
    net = build()
    optimizer = make_optimizer(net, Recipe.of(lr=5e-5, lr_attention=3e-4, lr_head=1e-4, weight_decay=0).optim)
    rate = {weight: group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    found = {name.partition(".")[0]: rate[weight] for name, weight in net.named_parameters()}
    assert found == {"encoder": 5e-5, "score": 3e-4, "norm": 1e-4, "head": 1e-4}


def test_entropy() -> None:
    maps = torch.tensor([[[0.25, 0.25], [0.25, 0.25]], [[0, 1.0], [0, 0]], [[0.5, 0], [0, 0.5]]])
    torch.testing.assert_close(entropy(maps), torch.tensor([1.0, 0.0, 0.5]))


class TestRefused:
    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"pooling": "max"}, "--pooling is not for --arch chipnet; leave it out"),
            ({"train_px": 64}, "--train-px is not for --arch chipnet"),
            ({"head_hidden": 8}, "--head-hidden is not for --arch chipnet"),
            ({"arch": "milnet", "mask_background": True}, "--mask-background is not for --arch milnet"),
            ({"arch": "milnet", "overview_px": 448}, "--overview-px is not for --arch milnet"),
            ({"overview_px": 100}, "--overview-px is a multiple of 32, the side of a chip, not 100"),
            ({"overview_px": 32}, "--overview-px must be from 64 to 4096, not 32"),
        ],
    )
    def test_settings(self, settings: dict[str, Any], words: str) -> None:
        with pytest.raises(SettingsError, match=words):
            spec(**settings)

    def test_entropy_of_no_map(self) -> None:
        with pytest.raises(SettingsError, match="--map-entropy is for the map of --arch chipnet"):
            Recipe.of(map_entropy=0.1)

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"drop_instances": 0.5}, "--drop-instances is for the tiles of a bag, and ChipNet has one overview"),
            ({"cache": None}, "--cache is for tiles, and overviews are kept in memory; leave it out"),
            ({"batch_size": 1}, "the batch norm of ChipNet takes means over slides: give a --batch-size of 2 or more"),
        ],
    )
    def test_training(self, overviews: Cohort, settings: dict[str, Any], words: str) -> None:
        with pytest.raises((ModelError, SettingsError), match=words):
            try_model(overviews, RECIPE.but(**settings), torch.device("cpu"))

    def test_features(self, cohort: CohortFiles, tmp_path: Path) -> None:
        write_features(tmp_path / "s00.h5", np.zeros((3, 2), np.float32))
        with pytest.raises(LabelsError, match=r"s00.h5' holds features, and --arch chipnet looks at overviews"):
            gather(read_labels(cohort.labels), tmp_path, skip_missing=True, overviews=True)


@pytest.fixture(scope="module")
def overviews(cohort: CohortFiles, bags: Path) -> Cohort:
    return gather(read_labels(cohort.labels), bags, skip_missing=False, overviews=True)


def test_cohort_of_overviews(overviews: Cohort) -> None:
    assert overviews.sizes == [1] * 12
    scale = {"longest_edge": None, "mpp": None, "magnification": None, "downsample": 1, "whole": None}
    assert overviews.bag_spec == {"overviews": True, "instances": 6, "size": 32, "min_tissue": 0.1, **scale}


def test_memory_is_that_of_the_squares(overviews: Cohort) -> None:
    """Four squares read, as many augmented, and those read ahead."""
    needs = step_memory(overviews, RECIPE.but(loader_workers=0), torch.device("cpu"))
    assert (needs.bags, needs.instances, needs.inputs) == (4, 4, 8 * 3 * 64 * 64)
    finer = step_memory(overviews, RECIPE.but(loader_workers=0, overview_px=128), torch.device("cpu"))
    assert finer.inputs == 4 * needs.inputs
    assert 3 < finer.step / needs.step < 5


def painted(slides: int) -> tuple[Cohort, dict[Any, Tensor], list[tuple[int, int]]]:
    """Tissue of 4 x 4 chips, one of which is purple where the slide is positive, and where that one is."""
    random = np.random.default_rng(0)
    squares, cells = {}, []
    for index in range(slides):
        row, column = random.integers(0, 4, 2)
        purple = [(32 * column, 32 * row, 32, NUCLEI)] if index % 2 else []
        rgb = paint(128, 128, (0, 0, 128, STROMA), *purple) + random.normal(0, 8, (128, 128, 3))
        squares[BagRef(Path(f"s{index}.h5"))] = square(rgb.clip(0, 255).astype(np.uint8))
        cells.append((int(row), int(column)))
    names = [f"s{index}" for index in range(slides)]
    table = pd.DataFrame({"slide_id": names, "patient_id": names, "label": ["a", "b"] * (slides // 2)})
    labels = Labels(table.assign(target=[0, 1] * (slides // 2)), TASK)
    return Cohort(labels, list(squares), [1] * slides, OVERVIEW, table[:0], []), squares, cells


def test_learns_where_to_look() -> None:
    """The slides are told, and of those it had not seen the map is where the one chip is that tells them."""
    cohort, squares, cells = painted(32)
    recipe = RECIPE.but(epochs=20, lr=3e-3, batch_size=8, valid_share=0.0, overview_px=128, weight_decay=0.0)
    split = Split(0, "0", np.arange(8, 32), np.arange(0), np.arange(8))
    result = train_fold(cohort, split, recipe, squares.__getitem__, ONE)
    assert (result.probabilities[:, 1] > 0.5).tolist() == [False, True] * 4
    for place in range(1, 8, 2):
        picture = squares[cohort.bags[place]]
        with torch.inference_mode():
            map_GG = result.model.eval()(picture, one_each(picture)).map_BGG[0]
        assert divmod(int(map_GG.argmax()), 4) == cells[place]


def test_entropy_is_part_of_the_loss() -> None:
    """That of an epoch of one step is larger by a tenth of the maps' mean entropy, which is even at the start."""
    cohort, squares, _ = painted(8)
    split = Split(0, "0", np.arange(8), np.arange(0), np.arange(2))
    losses = []
    for weight in (0.0, 0.1):
        recipe = RECIPE.but(epochs=1, batch_size=8, valid_share=0.0, overview_px=128, map_entropy=weight)
        losses.append(train_fold(cohort, split, recipe, squares.__getitem__, ONE).log[0].train_loss)
    plain, regularised = losses
    assert 0.05 < regularised - plain <= 0.1


@pytest.mark.parametrize(
    "settings",
    [
        {"dropout": 0.5, "map_dropout": 0.5, "hed_jitter": 0.2, "ema": 0.9, "map_entropy": 0.1},
        {"mask_background": True, "freeze": "all", "augment": False},
    ],
)
def test_goes_on_to_the_same_bytes(overviews: Cohort, tmp_path: Path, settings: dict[str, Any]) -> None:
    recipe = RECIPE.but(batch_size=2, **settings)
    train_run(overviews, tmp_path / "whole", recipe, ONE)
    stops = 0
    for session in range(100):
        try:
            train_run(overviews, tmp_path / "run", recipe, ONE, resume=True, stop=After(2 + session % 3))
        except Stopped:
            stops += 1
        else:
            break
    assert 4 <= stops < 99
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_reader_leaves_tiles_alone(overviews: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> Iterator[bytes]:
        raise AssertionError("tiles were read")

    monkeypatch.setattr("tiling.bag._pictures", refuse)
    read = OverviewReader(64)(overviews.bags[1])
    assert (read.shape, read.dtype) == ((1, 3, 64, 64), torch.uint8)
    # The slide is 256 x 192: in the square, tissue begins at 32 / 4 px, below a padding of 8 px.
    stroma, glass = torch.tensor(STROMA), torch.tensor(GLASS)
    assert (read[0, :, 20, 12].int() - stroma).abs().max() < 20
    assert (read[0, :, 2, 12].int() - glass).abs().max() < 10
