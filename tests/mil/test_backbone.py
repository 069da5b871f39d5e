"""Every family of timm as a backbone: maps in their place, one colour, what is frozen, what learns."""

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import timm
import torch
from torch import Tensor, nn

from mil.backbone import Backbone
from mil.depth import parameter_stages
from mil.errors import ModelError, SettingsError
from mil.settings import ModelSpec


class Family(NamedTuple):
    """The smallest member of a family, a size it takes, and the maps (channels, side, side) it gives of that."""

    name: str
    px: int
    channels: int
    side: int
    stages: int


FAMILIES = [
    Family("alexnet", 96, 256, 2, 5),
    Family("convit_tiny", 64, 192, 4, 12),
    Family("cpubone_nano", 64, 192, 2, 4),  # the head has convolutions
    Family("cs3darknet_focus_s", 64, 512, 2, 4),
    Family("deit_tiny_distilled_patch16_224", 64, 192, 4, 12),  # two class tokens
    Family("dla46x_c", 64, 256, 2, 6),
    Family("edgenext_xx_small", 64, 168, 2, 4),
    Family("efficientvim_m1", 64, 960, 1, 3),  # no single map
    Family("efficientvit_b0", 64, 128, 2, 4),  # the head has convolutions
    Family("ese_vovnet19b_slim_dw", 64, 512, 2, 4),
    Family("fasternet_t0", 64, 320, 2, 4),
    Family("gmlp_ti16_224", 64, 128, 4, 30),
    Family("hgnetv2_b0", 64, 1024, 2, 4),
    Family("inception_next_atto", 64, 320, 2, 4),
    Family("lcnet_035", 64, 176, 2, 6),  # num_features of the last block, a convolution in the head
    Family("levit_128s", 96, 384, 2, 3),
    Family("mobilevit_xxs", 64, 320, 2, 5),
    Family("pit_ti_224", 64, 256, 1, 3),  # nothing but class tokens, no group_matcher
    Family("pvt_v2_b0", 64, 256, 2, 4),
    Family("regnetx_002", 64, 368, 2, 4),
    Family("repghostnet_050", 64, 480, 2, 10),
    Family("starnet_s050", 64, 128, 2, 4),
    Family("test_byobnet", 64, 256, 2, 4),
    Family("test_coatnet", 64, 128, 2, 4),
    Family("test_convnext", 64, 64, 2, 4),
    Family("test_efficientnet", 64, 256, 2, 5),  # the last convolution is part of the maps
    Family("test_mambaout", 64, 64, 2, 4),  # channels last
    Family("test_nfnet", 64, 192, 2, 4),  # no batch norm
    Family("test_resnet", 64, 96, 2, 4),
    Family("test_vit", 64, 64, 4, 6),
    Family("test_vit3", 64, 96, 4, 9),  # pooled by attention, a register
    Family("test_vit_relpos", 64, 96, 4, 9),
    Family("vit_tiny_patch16_dinov3_qkvb", 64, 192, 4, 12),  # four registers
    Family("vit_tiny_r_s16_p8_224", 64, 192, 2, 12),
]
SLOW = [
    Family("cait_xxs24_224", 64, 192, 4, 24),
    Family("coat_tiny", 64, 152, 1, 17),  # four branches
    Family("crossvit_tiny_240", 240, 288, 1, 3),  # one size, two branches
    Family("csatv2", 128, 386, 2, 4),  # no group_matcher
    Family("densenet121", 64, 1024, 2, 4),
    Family("efficientformer_l1", 224, 448, 7, 4),  # one size, tokens at the end
    Family("hiera_tiny_224", 64, 768, 2, 12),
    Family("nest_tiny", 64, 384, 4, 3),
    Family("poolformerv2_s12", 64, 512, 2, 4),  # no group_matcher
    Family("rdnet_tiny", 64, 1040, 2, 7),  # no coarse group_matcher
    Family("resnetv2_18", 64, 512, 2, 4),
    Family("swin_tiny_patch4_window7_224", 64, 768, 2, 4),  # channels last
    Family("tiny_vit_5m_224", 64, 320, 2, 4),
    Family("twins_svt_small", 64, 512, 2, 4),
    Family("vgg16_bn", 32, 512, 1, 5),
    Family("volo_d1_224", 64, 384, 4, 21),  # a class token it says nothing of
    Family("xcit_nano_12_p8_224", 64, 128, 8, 14),
]


def pictures(count: int, px: int) -> Tensor:
    torch.manual_seed(0)
    return torch.randint(256, (count, 3, px, px), dtype=torch.uint8)


def learning(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def learns(output: Any) -> bool:
    return any(
        part.requires_grad for part in (output if isinstance(output, tuple) else (output,)) if isinstance(part, Tensor)
    )


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


def statistics(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items() if "running" in name}


class TestFamilies:
    @pytest.fixture(
        scope="class",
        params=[*FAMILIES, *(pytest.param(family, marks=pytest.mark.slow) for family in SLOW)],
        ids=lambda family: family.name,
    )
    def built(self, request: pytest.FixtureRequest) -> tuple[Family, Backbone]:
        torch.manual_seed(0)
        return request.param, Backbone(request.param.name, request.param.px)

    @pytest.fixture
    def family(self, built: tuple[Family, Backbone]) -> Family:
        return built[0]

    @pytest.fixture
    def backbone(self, built: tuple[Family, Backbone]) -> Iterator[Backbone]:
        yield built[1]
        built[1].zero_grad()
        built[1].freeze(0)
        built[1].train()

    def test_gives_maps(self, family: Family, backbone: Backbone) -> None:
        with torch.inference_mode():
            maps = backbone.eval()(pictures(2, family.px))
        assert maps.shape == (2, backbone.channels, family.side, family.side)
        assert (backbone.channels, maps.dtype) == (family.channels, torch.float32)

    def test_all_that_learns_gets_a_gradient(self, family: Family, backbone: Backbone) -> None:
        backbone(pictures(2, family.px)).sum().backward()
        assert learning(backbone)
        assert [name for name, value in backbone.named_parameters() if value.requires_grad and value.grad is None] == []

    def test_groups_hold_every_parameter_once(self, family: Family, backbone: Backbone) -> None:
        everything = sorted(id(parameter) for parameter in backbone.parameters())
        stages = parameter_stages(backbone.net)
        assert len(stages) == family.stages
        for groups in (stages, backbone.depth_groups()):
            assert sorted(id(parameter) for group in groups for parameter in group) == everything
            assert all(groups)

    def test_a_frozen_stage_stays_as_it_is(self, family: Family, backbone: Backbone) -> None:
        backbone.freeze(1)
        backbone.train()
        first = set(parameter_stages(backbone.net)[0])
        still = [module for module in backbone.net.modules() if (own := set(module.parameters())) and own <= first]
        recorded: list[bool] = []
        hooks = [
            module.register_forward_hook(lambda *call: recorded.append(learns(call[2]) and not learns(call[1])))
            for module in still
        ]
        inside = {id(value) for module in still for value in module.buffers()}
        kept = {
            name: value.clone() for name, value in tensors(backbone).items() if value in first or id(value) in inside
        }
        optimizer = torch.optim.SGD(backbone.parameters(), lr=1e-3)
        backbone(pictures(2, family.px)).sum().backward()
        optimizer.step()
        for hook in hooks:
            hook.remove()
        assert recorded
        assert not any(recorded)
        assert not any(module.training for module in still)
        assert all(torch.equal(tensors(backbone)[name], value) for name, value in kept.items())
        assert learning(backbone) == {name for name, value in backbone.named_parameters() if value.grad is not None}

    def test_all_frozen(self, family: Family, backbone: Backbone) -> None:
        learned = learning(backbone)
        backbone.freeze(None)
        backbone.train()
        before = statistics(backbone)
        assert not learning(backbone)
        assert not backbone(pictures(2, family.px)).requires_grad
        assert not any(module.training for module in backbone.net.modules())
        assert all(torch.equal(value, before[name]) for name, value in statistics(backbone).items())
        backbone.freeze(0)
        assert learning(backbone) == learned


class TestPlace:
    """A bright patch in a corner changes the maps most in that corner."""

    @pytest.mark.parametrize(
        ("name", "px"),
        [
            ("test_resnet", 128),
            ("test_efficientnet", 128),
            ("test_mambaout", 128),  # channels last
            ("test_vit", 96),  # a class token
            ("deit_tiny_distilled_patch16_224", 96),  # and one of distillation
            ("test_vit2", 96),  # a register alone
            ("vit_tiny_patch16_dinov3_qkvb", 96),  # a class token and four registers
            pytest.param("swin_tiny_patch4_window7_224", 128, marks=pytest.mark.slow),
            pytest.param("hiera_tiny_224", 128, marks=pytest.mark.slow),  # tokens in the order of its windows
            pytest.param("volo_d1_224", 96, marks=pytest.mark.slow),
        ],
    )
    def test_corners(self, name: str, px: int) -> None:
        torch.manual_seed(0)
        backbone = Backbone(name, px).eval()
        dark = torch.full((1, 3, px, px), 60, dtype=torch.uint8)
        for rows in (slice(0, px // 4), slice(-px // 4, None)):
            for columns in (slice(0, px // 4), slice(-px // 4, None)):
                bright = dark.clone()
                bright[:, :, rows, columns] = 230
                with torch.inference_mode():
                    change = (backbone(bright) - backbone(dark)).double().norm(dim=1)[0]
                row, column = divmod(int(change.argmax()), change.shape[1])
                middle = (change.shape[0] - 1) / 2
                assert (row > middle, column > middle) == (rows.start != 0, columns.start != 0)

    def test_embeddings_are_those_of_the_model(self) -> None:
        backbone = Backbone("pit_ti_224", 64).eval()
        images = pictures(2, 64)
        with torch.inference_mode():
            expected = type(backbone.net).forward(backbone.net, backbone.scaled(images))
            assert backbone(images)[:, :, 0, 0].equal(expected)


class TestColours:
    @pytest.mark.parametrize(("colours", "plane"), [("r", 0), ("g", 1), ("b", 2)])
    def test_one_plane_with_its_own_mean(self, colours: str, plane: int) -> None:
        backbone = Backbone("resnet10t", 32, colours).eval()
        given: list[Tensor] = []
        backbone.net.register_forward_pre_hook(lambda _, images: given.append(images[0]))
        images = pictures(2, 32)
        with torch.inference_mode():
            maps = backbone(images)
            images[:, [other for other in range(3) if other != plane]] = 7
            assert backbone(images).equal(maps)
        mean, std = (backbone.net.pretrained_cfg[name][plane] for name in ("mean", "std"))
        expected = (images[:, plane : plane + 1].double() / 255 - mean) / std
        torch.testing.assert_close(given[0].double(), expected, rtol=1e-5, atol=1e-5)
        assert backbone.net.conv1[0].in_channels == 1

    def test_all_three(self) -> None:
        backbone = Backbone("test_resnet", 32)
        white = backbone.scaled(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8))
        mean, std = backbone.net.pretrained_cfg["mean"], backbone.net.pretrained_cfg["std"]
        expected = [(1 - m) / s for m, s in zip(mean, std, strict=True)]
        torch.testing.assert_close(white[0, :, 0, 0], torch.tensor(expected), rtol=1e-5, atol=1e-5)


class TestUnused:
    """What takes no part in the maps is neither kept nor trained."""

    @pytest.mark.parametrize(
        ("name", "dropped"),
        [
            ("repghostnet_050", ("conv_head.",)),
            ("test_convnext", ("head.norm.",)),
            ("test_vit3", ("attn_pool.", "fc_norm.")),
            ("test_mambaout", ("head.",)),
        ],
    )
    def test_dropped(self, name: str, dropped: tuple[str, ...]) -> None:
        whole = timm.create_model(name, num_classes=0).state_dict()
        gone = whole.keys() - Backbone(name, 64).net.state_dict().keys()
        assert gone == {key for key in whole if key.startswith(dropped)}
        assert gone

    def test_maps_are_the_same_without(self) -> None:
        torch.manual_seed(0)
        whole = timm.create_model("vgg11_bn", mlp_ratio=1 / 4096).eval()
        backbone = Backbone("vgg11_bn", 64).eval()
        backbone.net.features.load_state_dict(whole.features.state_dict())
        images = pictures(1, 64)
        with torch.inference_mode():
            assert backbone(images).equal(whole.forward_features(backbone.scaled(images)))
        # 9 220 480 of the eight convolutions of Simonyan and Zisserman 2015, and two for each of 2752 channels
        assert sum(parameter.numel() for parameter in backbone.parameters()) == 9_220_480 + 2 * 2752
        assert backbone.channels == 512

    def test_what_cannot_be_dropped_does_not_learn(self) -> None:
        backbone = Backbone("efficientvim_m1", 64)
        assert learning(backbone) == {name for name, _ in backbone.named_parameters()} - {"net.weights"}
        backbone.freeze(1)
        backbone.freeze(0)
        assert "net.weights" not in learning(backbone)


class TestFreezing:
    def test_stages_of_a_resnet(self) -> None:
        backbone = Backbone("test_resnet", 32)
        everything = learning(backbone)
        backbone.freeze(2)
        frozen = everything - learning(backbone)
        assert {name.split(".")[1] for name in frozen} == {"conv1", "bn1", "layer1", "layer2"}
        assert {name.split(".")[1] for name in learning(backbone)} == {"layer3", "layer4"}
        backbone.freeze(4)
        assert not learning(backbone)
        backbone.freeze(0)
        assert learning(backbone) == everything

    @pytest.mark.parametrize(
        ("name", "stages", "learns"),
        [
            ("test_vit", 6, set()),  # the last norm goes with the last block
            ("test_vit", 5, {"blocks", "norm"}),
            ("alexnet", 4, {"blocks"}),
            ("vgg11_bn", 4, {"features"}),
            ("test_efficientnet", 4, {"blocks", "conv_head", "bn2"}),
        ],
    )
    def test_last_stages(self, name: str, stages: int, learns: set[str]) -> None:
        backbone = Backbone(name, 64)
        backbone.freeze(stages)
        assert {parameter.split(".")[1] for parameter in learning(backbone)} == learns

    def test_vgg_freezes_up_to_a_pool(self) -> None:
        backbone = Backbone("vgg11_bn", 32)
        backbone.freeze(2)  # conv, norm, ReLU and pool, twice
        assert min(int(name.split(".")[2]) for name in learning(backbone)) == 8

    def test_stages_that_are_not_there(self) -> None:
        backbone = Backbone("test_resnet", 32)
        for stages in (5, -1):
            with pytest.raises(ModelError, match=f"'test_resnet' has 4 stages, {stages} of them can't be frozen; give"):
                backbone.freeze(stages)

    def test_dropout_of_a_frozen_stage_is_off(self) -> None:
        backbone = Backbone("test_resnet", 32)
        for stage in (backbone.net.layer1, backbone.net.layer2):
            stage.append(nn.Dropout(0.5))
        backbone.freeze(1)
        backbone.eval()
        backbone.train()
        assert not backbone.net.layer1[-1].training
        assert backbone.net.layer2[-1].training

    def test_nothing_frozen_is_recorded(self) -> None:
        backbone = Backbone("test_resnet", 32)
        backbone.freeze(2)
        outputs: dict[str, Tensor] = {}
        for name in ("layer2", "layer3"):
            backbone.net.get_submodule(name).register_forward_hook(
                lambda *call, name=name: outputs.update({name: call[2]})
            )
        backbone(pictures(4, 32))
        assert outputs["layer2"].grad_fn is None
        assert outputs["layer3"].grad_fn is not None

    def test_batch_norm_can_keep_its_statistics(self) -> None:
        backbone = Backbone("test_resnet", 64)
        backbone(pictures(4, 64))
        backbone.freeze_batch_norm()
        backbone.eval()
        backbone.train()
        before = statistics(backbone)
        images = pictures(3, 64)
        training = backbone(images)
        training.sum().backward()
        assert before
        assert all(torch.equal(value, before[name]) for name, value in statistics(backbone).items())
        assert backbone.net.bn1.weight.grad.any()
        assert backbone.training
        assert training.equal(backbone.eval()(images))

    def test_frozen_in_the_middle_of_training(self) -> None:
        backbone = Backbone("test_resnet", 32).eval()
        backbone.freeze(1)
        assert not any(module.training for module in backbone.modules())


class TestDepth:
    def test_layers_of_a_vit(self) -> None:
        backbone = Backbone("test_vit", 64)
        names = {id(parameter): name for name, parameter in backbone.net.named_parameters()}
        groups = [{names[id(parameter)] for parameter in group} for group in backbone.depth_groups()]
        assert len(groups) == 7
        assert {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= groups[0]
        assert {name.split(".")[1] for name in groups[1]} == {"0"}
        assert {"norm.weight", "norm.bias"} < groups[6]

    def test_order_of_a_vgg(self) -> None:
        backbone = Backbone("vgg11_bn", 32)
        groups = backbone.depth_groups()
        assert [group[0].shape[0] for group in groups] == [64, 128, 256, 256, 512, 512, 512, 512]
        assert [len(group) for group in groups] == [4] * 8  # a convolution and its batch norm


class TestPrecision:
    @pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_mambaout"])
    def test_double(self, name: str) -> None:
        torch.manual_seed(0)
        backbone = Backbone(name, 64).eval()
        images = pictures(2, 64)
        single = backbone(images)
        double = backbone.double()(images)
        assert double.dtype == torch.float64
        torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
    def test_bfloat16(self, name: str) -> None:
        torch.manual_seed(0)
        backbone = Backbone(name, 64).eval()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            assert backbone(pictures(2, 64)).isfinite().all()

    @pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_mambaout"])
    def test_channels_last(self, name: str) -> None:
        torch.manual_seed(0)
        backbone = Backbone(name, 64).eval()
        images = pictures(2, 64)
        with torch.inference_mode():
            plain = backbone(images)
            backbone.to(memory_format=torch.channels_last)
            torch.testing.assert_close(backbone(images.to(memory_format=torch.channels_last)), plain)


class TestAsAModule:
    @pytest.mark.parametrize(
        "duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=["deepcopy", "pickle"]
    )
    def test_a_copy_is_its_own(self, duplicate: Callable[[Backbone], Backbone]) -> None:
        backbone = Backbone("test_resnet", 32).eval()
        images = pictures(2, 32)
        with torch.inference_mode():
            maps = backbone(images)
            other = duplicate(backbone)
            assert other(images).equal(maps)
            for parameter in backbone.parameters():
                parameter.zero_()
            assert other(images).equal(maps)
            assert not backbone(images).equal(maps)

    @pytest.mark.parametrize("name", ["test_vit", "test_mambaout"])
    def test_compiles_without_a_break(self, name: str) -> None:
        torch.manual_seed(0)
        backbone = Backbone(name, 64).eval()
        images = pictures(2, 64)
        names = list(backbone.state_dict())
        with torch.no_grad():
            maps = backbone(images)
            graphs: list[int] = []
            backbone.net.compile(backend=lambda graph, _: graphs.append(1) or graph.forward, fullgraph=True)
            torch.testing.assert_close(backbone(images), maps)
        assert graphs == [1]
        assert list(backbone.state_dict()) == names

    def test_building_leaves_it_in_training(self) -> None:
        assert Backbone("test_resnet", 32).training


class TestRefused:
    def test_unknown_backbone(self) -> None:
        with pytest.raises(ModelError, match=r"timm has no model 'resnet_18'; did you mean .*resnet"):
            Backbone("resnet_18", 32)

    def test_unknown_weights(self) -> None:
        with pytest.raises(ModelError, match=r"timm has no model 'resnet18\.best'; it has resnet18\.a1_in1k, "):
            Backbone("resnet18.best", 32)

    def test_unknown_colours(self) -> None:
        with pytest.raises(ModelError, match="colours are one of rgb, r, g, b, not 'green'"):
            Backbone("test_resnet", 32, "green")

    def test_pictures_too_small(self) -> None:
        with pytest.raises(
            ModelError, match="'vgg11' does not take pictures of 8 px .*; choose another --train-px, such"
        ):
            Backbone("vgg11", 8)

    @pytest.mark.parametrize("pretrained", [False, True])
    def test_too_little_memory(self, monkeypatch: pytest.MonkeyPatch, pretrained: bool) -> None:
        """Which is no matter of a size that the model takes."""

        def full(*_: object, **__: object) -> None:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

        monkeypatch.setattr("mil.backbone.timm.create_model" if pretrained else "mil.backbone.as_maps", full)
        sentence = r"^out of memory: .* 'resnet18' on a single picture of 32 px \(.*allocate memory\); take a smaller"
        with pytest.raises(ModelError, match=sentence):
            Backbone("resnet18", 32, pretrained=pretrained)

    def test_a_model_of_one_size(self) -> None:
        sentence = r"'levit_128s' does not take pictures of 100 px \(.*\); choose another --train-px, such as 224$"
        with pytest.raises(ModelError, match=sentence):
            Backbone("levit_128s", 100)

    @pytest.mark.filterwarnings("ignore:CSATv2")
    def test_a_model_of_three_colours(self) -> None:
        sentence = r"'csatv2' does not take pictures of 512 px in one colour .* --train-px, or --channels rgb"
        with pytest.raises(ModelError, match=sentence):
            Backbone("csatv2", 512, "g")

    def test_hub_out_of_reach(self, monkeypatch: pytest.MonkeyPatch) -> None:
        create = timm.create_model

        def unreachable(name: str, pretrained: bool = False, **options: object) -> nn.Module:
            if pretrained:
                raise OSError("no route\nto host")
            return create(name, **options)

        monkeypatch.setattr("timm.create_model", unreachable)
        sentence = (
            r"cannot get the pretrained weights of 'resnet18' \(OSError: no route to host\); check that the model hub"
        )
        with pytest.raises(ModelError, match=sentence):
            Backbone("resnet18", 32, pretrained=True)

    def test_no_weights_at_the_hub(self) -> None:
        with pytest.raises(
            ModelError, match="there are no pretrained weights of 'alexnet'; train without --pretrained"
        ):
            Backbone("alexnet", 64, pretrained=True)


class TestReduction:
    @pytest.mark.parametrize(
        ("name", "reduction", "channels"),
        [("resnet18", 16, 256), ("test_efficientnet", 32, 64), ("test_vit", 16, 64), ("test_convnext", 8, 32)],
    )
    def test_is_the_intermediate_map_of_timm(self, name: str, reduction: int, channels: int) -> None:
        torch.manual_seed(0)
        backbone = Backbone(name, 64, reduction=reduction).eval()
        torch.manual_seed(0)
        whole = Backbone(name, 64).eval()
        images = pictures(2, 64)
        with torch.inference_mode():
            maps = backbone(images)
            all_maps = whole.net.forward_intermediates(whole.scaled(images), intermediates_only=True, output_fmt="NCHW")
        expected = [each for each in all_maps if each.shape[-1] == 64 // reduction][-1]
        assert maps.shape == (2, channels, 64 // reduction, 64 // reduction)
        assert torch.equal(maps, expected)
        assert backbone.channels == channels

    def test_what_lies_behind_is_cut_off(self) -> None:
        backbone = Backbone("resnet18", 64, reduction=16)
        found = {name.split(".")[1] for name, _ in backbone.named_parameters()}
        assert found == {"conv1", "bn1", "layer1", "layer2", "layer3"}
        backbone(pictures(2, 64)).sum().backward()
        assert all(weight.grad is not None for weight in backbone.parameters())
        copied = copy.deepcopy(backbone).eval()
        with torch.no_grad():
            copied.net.conv1.weight.zero_()
            assert not torch.equal(copied(pictures(2, 64)), backbone.eval()(pictures(2, 64)))

    def test_none_such(self) -> None:
        with pytest.raises(
            ModelError, match="--reduction 3 is none of the backbone 'resnet18', whose maps have 2, 4, 8, 16, 32"
        ):
            Backbone("resnet18", 64, reduction=3)
        with pytest.raises(SettingsError, match="--guided looks at the last three stages of a backbone; leave --reduc"):
            ModelSpec(guided="softmax", reduction=16)
