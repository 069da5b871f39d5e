"""Weights of files: what loads, what is said, and that nothing of a file runs."""

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mil.backbone import Backbone
from mil.errors import ModelError
from mil.weights import WeightsReport, load_weights


def state_dict(name: str = "test_resnet", **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return timm.create_model(name, **options).state_dict()


def same(backbone: Backbone, tensors: dict[str, Tensor]) -> bool:
    return all(value.equal(tensors[name]) for name, value in backbone.net.state_dict().items())


class TestFormats:
    def test_safetensors(self, tmp_path: Path) -> None:
        tensors = state_dict()
        save_file(tensors, tmp_path / "w.safetensors")
        backbone = Backbone("test_resnet", 32)
        report = load_weights(backbone, tmp_path / "w.safetensors")
        assert same(backbone, tensors)
        assert report == WeightsReport(75, [], ["fc.bias", "fc.weight"], [], tmp_path / "w.safetensors")

    @pytest.mark.parametrize("suffix", ["pt", "pth", "bin"])
    @pytest.mark.parametrize("zipped", [True, False])
    def test_torch(self, tmp_path: Path, suffix: str, zipped: bool) -> None:
        tensors, path = state_dict(), tmp_path / f"w.{suffix}"
        torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
        backbone = Backbone("test_resnet", 32)
        assert load_weights(backbone, path).loaded == 75
        assert same(backbone, tensors)

    def test_half_precision_is_widened(self, tmp_path: Path) -> None:
        tensors = {name: value.half() if value.is_floating_point() else value for name, value in state_dict().items()}
        save_file(tensors, tmp_path / "w.safetensors")
        backbone = Backbone("test_resnet", 32)
        load_weights(backbone, tmp_path / "w.safetensors")
        assert backbone.net.bn1.weight.dtype == torch.float32
        assert backbone.net.layer1[0].conv1.weight.equal(tensors["layer1.0.conv1.weight"].float())


class TestCheckpoints:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda tensors: {"state_dict": tensors, "epoch": 3, "arch": "resnet"},
            lambda tensors: {"model": tensors, "args": argparse.Namespace(lr=0.1)},
            lambda tensors: {"module." + name: value for name, value in tensors.items()},
            lambda tensors: {
                "state_dict": {"module.encoder.backbone." + name: value for name, value in tensors.items()}
            },
            lambda tensors: (
                {"net." + name: value for name, value in tensors.items()} | {"projector.weight": torch.ones(2)}
            ),
            lambda tensors: {"model": {"trunk": tensors}},
            lambda tensors: {"model": {name: value * 0 for name, value in tensors.items()}, "model_ema": tensors},
            lambda tensors: {
                "student": {"module.backbone." + name: value * 0 for name, value in tensors.items()},
                "teacher": {"backbone." + name: value for name, value in tensors.items()},
                "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
            },
        ],
        ids=["state_dict", "model", "module", "prefixes", "net", "nested", "ema", "teacher"],
    )
    def test_found_inside(self, tmp_path: Path, wrap: Any) -> None:
        tensors = state_dict()
        torch.save(wrap(tensors), tmp_path / "w.pth")
        backbone = Backbone("test_resnet", 32)
        report = load_weights(backbone, tmp_path / "w.pth")
        assert (report.loaded, report.missing, report.mismatched) == (75, [], [])
        assert same(backbone, tensors)

    def test_a_run_of_ours(self, tmp_path: Path) -> None:
        other = Backbone("test_resnet", 32)
        tensors = {f"backbone.{name}": value for name, value in other.state_dict().items()}
        save_file(tensors | {"head.1.weight": torch.ones(2, 96)}, tmp_path / "model.safetensors")
        backbone = Backbone("test_resnet", 32)
        report = load_weights(backbone, tmp_path / "model.safetensors")
        assert (report.loaded, report.unexpected) == (75, ["head.1.weight"])
        assert same(backbone, other.net.state_dict())


class TestConversion:
    def test_position_embeddings_of_another_size(self, tmp_path: Path) -> None:
        tensors = state_dict("test_vit")
        torch.save(tensors, tmp_path / "w.pth")
        backbone = Backbone("test_vit", 96)
        report = load_weights(backbone, tmp_path / "w.pth")
        assert (report.loaded, report.missing, report.mismatched) == (78, [], [])
        before, after = tensors["pos_embed"], backbone.net.pos_embed
        assert (before.shape, after.shape) == ((1, 101, 64), (1, 37, 64))
        assert after[:, 0].equal(before[:, 0])  # of the class token
        torch.testing.assert_close(after[:, 1:].mean(), before[:, 1:].mean(), rtol=0, atol=1e-3)
        assert backbone.net.blocks[5].mlp.fc2.weight.equal(tensors["blocks.5.mlp.fc2.weight"])

    def test_another_spelling(self, tmp_path: Path) -> None:
        """The first authors' ConvNeXt names its stages otherwise."""
        tensors = state_dict("test_convnext", num_classes=0)
        theirs = {}
        for name, value in tensors.items():
            name = name.replace("stem.", "downsample_layers.0.").replace(".blocks.", ".")
            for stage in range(1, 4):
                name = name.replace(f"stages.{stage}.downsample.", f"downsample_layers.{stage}.")
            name = name.replace(".conv_dw.", ".dwconv.").replace(".mlp.fc", ".pwconv").replace("head.norm", "norm")
            theirs[name] = value
        assert len(theirs.keys() & tensors.keys()) < len(tensors) / 2
        torch.save({"model": theirs}, tmp_path / "w.pth")
        backbone = Backbone("test_convnext", 64)
        report = load_weights(backbone, tmp_path / "w.pth")
        assert (report.missing, report.mismatched) == ([], [])
        assert same(backbone, tensors)

    def test_first_convolution_of_one_colour(self, tmp_path: Path) -> None:
        tensors = state_dict()
        torch.save(tensors, tmp_path / "w.pth")
        backbone = Backbone("test_resnet", 32, "g")
        report = load_weights(backbone, tmp_path / "w.pth")
        assert (report.loaded, report.mismatched) == (75, [])
        torch.testing.assert_close(backbone.net.conv1[0].weight, tensors["conv1.0.weight"].sum(1, keepdim=True))

    def test_vgg_with_a_head_of_three_layers(self, tmp_path: Path) -> None:
        theirs = dict(timm.create_model("vgg11_bn", mlp_ratio=1 / 4096).features.state_dict(prefix="features."))
        torch.save(theirs | {"classifier.6.bias": torch.zeros(1000)}, tmp_path / "w.pth")
        backbone = Backbone("vgg11_bn", 32)
        report = load_weights(backbone, tmp_path / "w.pth")
        assert (report.loaded, report.missing, report.unexpected) == (48, [], ["classifier.6.bias"])
        assert same(backbone, theirs)


class TestReport:
    def test_what_did_not_match(self, tmp_path: Path) -> None:
        tensors = state_dict()
        del tensors["bn1.weight"]
        tensors["layer4.0.conv1.weight"] = torch.zeros(5, 5, 3, 3)
        path = tmp_path / "w.pth"
        torch.save(tensors, path)
        backbone = Backbone("test_resnet", 32)
        kept = backbone.net.layer4[0].conv1.weight.clone()
        report = load_weights(backbone, path)
        shape = tuple(kept.shape)
        mismatched = [f"layer4.0.conv1.weight (5, 5, 3, 3) in place of {shape}"]
        assert report == WeightsReport(73, ["bn1.weight"], ["fc.weight", "fc.bias"], mismatched, path)
        assert str(report) == (
            f"loaded 73 of 75 tensors from {str(path)!r}; missing: bn1.weight; not used: fc.weight, fc.bias; "
            f"of another shape: layer4.0.conv1.weight (5, 5, 3, 3) in place of {shape}"
        )
        assert backbone.net.layer4[0].conv1.weight.equal(kept)

    def test_sentence(self) -> None:
        path = Path("w.pth")
        assert str(WeightsReport(3, [], [], [], path)) == "loaded 3 of 3 tensors from 'w.pth'"
        report = WeightsReport(2, list("abcdefg"), [], [], path)
        assert str(report) == "loaded 2 of 9 tensors from 'w.pth'; missing: a, b, c, d, e and 2 more"


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


class TestRefused:
    def test_code_is_not_run(self, tmp_path: Path) -> None:
        torch.save({"state_dict": state_dict(), "extra": Evil(tmp_path / "ran")}, tmp_path / "evil.pth")
        with pytest.raises(
            ModelError, match=r"evil.pth' can only be read by running code of it \(posix.mkdir\), which"
        ):
            load_weights(Backbone("test_resnet", 32), tmp_path / "evil.pth")
        (tmp_path / "evil.bin").write_bytes(pickle.dumps(Evil(tmp_path / "ran"), protocol=2))
        with pytest.raises(ModelError, match=r"evil.bin' (can only be read by running code|is no file of weights)"):
            load_weights(Backbone("test_resnet", 32), tmp_path / "evil.bin")
        assert not (tmp_path / "ran").exists()
        pickle.loads((tmp_path / "evil.bin").read_bytes())
        assert (tmp_path / "ran").exists()  # it would have

    def test_a_whole_model(self, tmp_path: Path) -> None:
        torch.save(timm.create_model("test_resnet"), tmp_path / "w.pt")
        with pytest.raises(ModelError, match=r"running code of it \(timm.*ResNet\), which is refused; save its state"):
            load_weights(Backbone("test_resnet", 32), tmp_path / "w.pt")

    @pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
    @pytest.mark.parametrize(
        "content", [b"", b"no weights at all", b"PK\x03\x04damaged", b"slide_id,label\na,1\nb,0\n"]
    )
    def test_damaged(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            ModelError, match=f"{name}' (can't be read as weights|is no file of weights that can be read)"
        ):
            load_weights(Backbone("test_resnet", 32), tmp_path / name)

    def test_missing(self, tmp_path: Path) -> None:
        for name in ("w.pth", "w.safetensors"):
            with pytest.raises(ModelError, match=f"no such file of weights: .*{name}'"):
                load_weights(Backbone("test_resnet", 32), tmp_path / name)

    def test_of_another_model(self, tmp_path: Path) -> None:
        torch.save(state_dict("test_vit"), tmp_path / "w.pth")
        sentence = (
            r"w.pth' holds 0 of the 75 tensors of the backbone 'test_resnet': it names cls_token, .* and \d+ more, "
            r"the backbone conv1\.0\.weight, .*; choose the --backbone these weights are of"
        )
        backbone = Backbone("test_resnet", 32)
        before = {name: value.clone() for name, value in backbone.net.state_dict().items()}
        with pytest.raises(ModelError, match=sentence):
            load_weights(backbone, tmp_path / "w.pth")
        assert same(backbone, before)

    @pytest.mark.parametrize("content", [[1, 2], {}, torch.zeros(3), {"epoch": 3}])
    def test_nothing_inside(self, tmp_path: Path, content: object) -> None:
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(ModelError, match="holds 0 of the 75 tensors .*: it names nothing, the backbone"):
            load_weights(Backbone("test_resnet", 32), tmp_path / "w.pth")


class TestReal:
    """The weights of tf_efficientnet_lite0 as timm gives them."""

    @pytest.fixture
    def path(self, real_data: Path) -> Path:
        path = real_data / "weights" / "tf_efficientnet_lite0.safetensors"
        if not path.exists():
            pytest.skip("no weights/tf_efficientnet_lite0.safetensors beside the real slides")
        return path

    @pytest.mark.parametrize("colours", ["rgb", "g"])
    def test_all_of_it(self, path: Path, colours: str) -> None:
        backbone = Backbone("tf_efficientnet_lite0", 64, colours)
        report = load_weights(backbone, path)
        assert report == WeightsReport(245, [], ["classifier.bias", "classifier.weight"], [], path)
        stem = load_file(path)["conv_stem.weight"]
        torch.testing.assert_close(
            backbone.net.conv_stem.weight, stem if colours == "rgb" else stem.sum(1, keepdim=True)
        )

    def test_round_trip(self, path: Path, tmp_path: Path) -> None:
        first, second = (Backbone("tf_efficientnet_lite0", 64).eval() for _ in range(2))
        load_weights(first, path)
        torch.save(first.state_dict(), tmp_path / "w.pth")
        assert (
            str(load_weights(second, tmp_path / "w.pth"))
            == f"loaded 245 of 245 tensors from {str(tmp_path / 'w.pth')!r}"
        )
        torch.manual_seed(0)
        images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
        with torch.inference_mode():
            assert first(images).equal(second(images))
