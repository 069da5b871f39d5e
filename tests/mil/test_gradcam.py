"""Grad-CAM through a bag: networks whose answer is known, the definition, and the package where it applies."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mil.checkpoint import ModelCard
from mil.errors import ModelError
from mil.gradcam import check_maps, class_score, grad_cam, heat_of
from mil.head import Head
from mil.metadata import MetadataCoder
from mil.model import Embedding, MILNet, build_model
from mil.pooling import POOLINGS, PoolingOptions, Positions
from mil.predict import Run
from mil.settings import ModelSpec
from mil.task import ONE_VS_NORMAL, Task
from tests.mil.drawn import a_bag
from tiling.bag import Bag

PX = 16
CLASSES = Task(("normal", "tumour"))


class Colours(nn.Module):
    """A backbone whose map is the picture itself: the three colours, from 0 to 1; what it learns is the scale."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(255.0))

    def forward(self, images_MCHW: Tensor) -> Tensor:
        return images_MCHW / self.scale


def a_run(net: nn.Module, task: Task = CLASSES, copies: int = 1, **spec: object) -> Run:
    card = ModelCard(ModelSpec(train_px=PX, **spec), task, {"instances": 4}, MetadataCoder({}, {}), 0, 0)
    return Run((net.eval(),) * copies, (card,) * copies, torch.device("cpu"))


def linear_net(pooling: str = "avg", weight: list[list[float]] | None = None) -> MILNet:
    """The colours, pooled over tiles and positions, and a linear layer."""
    over_tiles = POOLINGS[pooling](3, PoolingOptions(4, 8))
    net = MILNet(Colours(), Embedding(3, ()), over_tiles, Positions("avg"), Head(over_tiles.channels, 2))
    if weight is not None:
        with torch.no_grad():
            net.head.classifier[-1].weight.copy_(torch.tensor(weight))
    return net


def noise_bag(tiles: int = 3) -> Bag:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (PX, PX, 3), dtype=np.uint8) for _ in range(tiles)]
    return a_bag([(0, 0)] * tiles, tiles=pictures)


def test_it_is_the_class_activation_map_of_a_linear_head() -> None:
    """Zhou et al. 2016: the sum of the maps with the class's weights; here shared by tiles and positions."""
    weight = [[0.0, 0.0, 0.0], [2.0, -1.0, 0.5]]
    bag = noise_bag()
    maps_NHWC = np.stack([bag.tile(index) for index in range(3)]) / 255
    expected = np.maximum(maps_NHWC @ np.array(weight[1]), 0) / (3 * PX * PX)
    heat = grad_cam(a_run(linear_net("avg", weight)), bag, 1)
    assert heat.dtype == np.float64
    np.testing.assert_allclose(heat, expected, rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(grad_cam(a_run(linear_net("avg", weight)), bag, 0), np.zeros((3, PX, PX)))


def test_before_the_relu_it_adds_up_to_the_logit_of_a_linear_head() -> None:
    net, bag = linear_net("avg", [[1.0, 1.0, 1.0], [2.0, -1.0, 0.5]]), noise_bag()
    maps_MCHW = torch.stack([torch.from_numpy(bag.tile(index) / 255).permute(2, 0, 1) for index in range(3)]).float()
    logits_BK = net.from_maps(maps_MCHW.requires_grad_(True), torch.ones(1, 3, dtype=torch.bool)).logits_BK
    heat = heat_of(logits_BK[0, 1], maps_MCHW)
    bias = net.head.classifier[-1].bias[1]
    assert heat.sum().item() == pytest.approx((logits_BK[0, 1] - bias).item(), rel=1e-5)


def test_heat_lies_where_the_dark_square_is() -> None:
    pale, dark = np.full((PX, PX, 3), 240, np.uint8), np.full((PX, PX, 3), 240, np.uint8)
    dark[4:8, 8:12] = 20

    class Darkness(nn.Module):
        def forward(self, images_MCHW: Tensor) -> Tensor:
            return nn.functional.avg_pool2d(1 - images_MCHW.float().mean(1, keepdim=True) / 255, 4)

    net = MILNet(Darkness(), Embedding(1, ()), POOLINGS["avg"](1, PoolingOptions()), Positions("avg"), Head(1, 2))
    with torch.no_grad():
        net.head.classifier[-1].weight.copy_(torch.tensor([[-1.0], [1.0]]))
    heat = grad_cam(a_run(net), a_bag([(0, 0)] * 3, tiles=[pale, dark, pale]), 1)
    assert heat.shape == (3, 4, 4)
    assert np.unravel_index(heat.argmax(), heat.shape) == (1, 1, 2)
    assert heat[1, 1, 2] == pytest.approx((1 - 20 / 255) / (3 * 16), rel=1e-5)
    assert np.sort(heat.ravel())[-2] == pytest.approx((1 - 240 / 255) / (3 * 16), rel=1e-4)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(("positions", "embed"), [("avg", ()), ("both", (5,))])
def test_it_is_the_definition_with_every_pooling(pooling: str, positions: str, embed: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    spec = ModelSpec(backbone="test_resnet", train_px=64, pooling=pooling, positions=positions, embed=embed)
    assert_definition(build_model(spec, CLASSES, {"instances": 4}).eval(), spec)


@pytest.mark.parametrize(
    ("backbone", "px"),
    [("test_vit", 160), ("test_convnext", 64), ("pvt_v2_b0", 64), ("swin_tiny_patch4_window7_224", 64)],
)
def test_it_is_the_definition_with_every_kind_of_backbone(backbone: str, px: int) -> None:
    torch.manual_seed(0)
    spec = ModelSpec(backbone=backbone, train_px=px)
    assert_definition(build_model(spec, CLASSES, {"instances": 4}).eval(), spec)


def assert_definition(net: MILNet, spec: ModelSpec) -> None:
    """The heat is what a hook on the backbone and a backward pass through the whole network give."""
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (spec.train_px, spec.train_px, 3), dtype=np.uint8) for _ in range(3)]
    bag = a_bag([(0, 0)] * 3, tiles=pictures)
    kept: list[Tensor] = []
    hook = net.encoder.backbone.register_forward_hook(lambda *seen: kept.append(seen[-1]))
    tiles = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    logits_BK = net(tiles, torch.ones(1, 3, dtype=torch.bool)).logits_BK
    hook.remove()
    hottest = 0.0
    for index, chunk in ((0, None), (1, 2)):
        (gradient,) = torch.autograd.grad(logits_BK[0, index], kept[0], retain_graph=True)
        expected = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1).relu().detach().numpy()
        net.instance_chunk = chunk
        run = a_run(net)
        heat = grad_cam(run._replace(cards=(dataclasses.replace(run.card, model=spec),)), bag, index)
        assert heat.shape[1] > 1
        np.testing.assert_allclose(heat, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
        hottest = max(hottest, heat.max())
    assert hottest > 0
    assert all(weight.grad is None for weight in net.parameters())


@pytest.mark.parametrize("normalise", ["softmax", "sigmoid"])
def test_a_guided_backbone_is_looked_at_on_its_last_stage(normalise: str) -> None:
    torch.manual_seed(0)
    spec = ModelSpec(backbone="test_resnet", train_px=64, guided=normalise)
    net = build_model(spec, CLASSES, {"instances": 4}).eval()
    bag = a_bag([(0, 0)] * 2, tiles=[np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)] * 2)
    run = a_run(net)
    heat = grad_cam(run._replace(cards=(dataclasses.replace(run.card, model=spec),)), bag, 1)
    last_MCHW = net.encoder.backbone.backbone.last_stages(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))[-1]
    assert heat.shape == (2, *last_MCHW.shape[2:])
    np.testing.assert_allclose(heat[0], heat[1], rtol=1e-5)


def test_folds_are_one_network_whose_logit_is_their_mean() -> None:
    up, down = linear_net("avg", [[0.0] * 3, [2.0, 0, 0]]), linear_net("avg", [[0.0] * 3, [-1.0, 0, 0]])
    run, bag = a_run(up, copies=2), noise_bag()
    both = run._replace(models=(up.eval(), down.eval()))
    np.testing.assert_allclose(grad_cam(both, bag, 1), grad_cam(run, bag, 1) / 4, rtol=1e-5)


def test_the_class_that_is_asked_for() -> None:
    logits_K = torch.tensor([1.0, 3.0])
    assert class_score(Task(("a", "b")), logits_K, 1) == 3
    against = Task(("a", "normal", "c"), ONE_VS_NORMAL, "normal")
    assert class_score(against, logits_K, 0) == 1
    assert class_score(against, logits_K, 2) == 3
    assert float(class_score(against, logits_K, 1)) == pytest.approx(-np.log(np.exp(1) + np.exp(3)))


@pytest.mark.parametrize("backbone", ["test_resnet", "pit_ti_224"])
def test_one_position_is_refused(backbone: str) -> None:
    px = {"test_resnet": 16, "pit_ti_224": 224}[backbone]
    spec = ModelSpec(backbone=backbone, train_px=px)
    run = a_run(build_model(spec, CLASSES, {"instances": 4}).eval())
    run = run._replace(cards=(dataclasses.replace(run.card, model=spec),))
    with pytest.raises(ModelError, match=f"the backbone '{backbone}' sees a tile of {px} px as one position"):
        check_maps(run)


def test_other_networks_are_refused() -> None:
    with pytest.raises(ModelError, match="Grad-CAM is for runs of --arch milnet"):
        check_maps(a_run(nn.Linear(1, 1)))


class OneLogit(nn.Module):
    """A network on a bag as the package wants it: tiles in, logits out."""

    def __init__(self, net: MILNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, tiles: Tensor) -> Tensor:
        return self.net(tiles, torch.ones(1, len(tiles), dtype=torch.bool)).logits_BK


@pytest.mark.parametrize("pooling", ["avg", "attention"])
def test_the_package_agrees_on_the_tile_of_a_bag_of_one(pooling: str) -> None:
    package = pytest.importorskip("pytorch_grad_cam", reason="pip install grad-cam to compare with it")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    torch.manual_seed(0)
    net, bag = linear_net(pooling).eval(), noise_bag(1)
    tiles = torch.tensor(bag.tile(0)).permute(2, 0, 1)[None].float().requires_grad_(True)
    with package.GradCAM(OneLogit(net), [net.encoder.backbone]) as cam:
        theirs = cam(tiles, [ClassifierOutputTarget(1)])
    ours = grad_cam(a_run(net), bag, 1)
    # The package scales each picture to 0 … 1 by itself, so that a bag's tiles do not compare: why it is not used.
    scaled = (ours - ours.min()) / (ours - ours.min()).max()
    np.testing.assert_allclose(scaled, theirs, atol=1e-4)
