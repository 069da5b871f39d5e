"""A model comes back as it was saved, or is refused with a sentence."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mil.checkpoint import ModelCard, load_model, read_card, save_model
from mil.errors import RunError
from mil.metadata import MetadataCoder
from mil.model import MILNet, build_model
from mil.settings import ModelSpec
from mil.task import Task

CARD = ModelCard(
    ModelSpec(backbone="test_resnet", train_px=32, pooling="concat", embed=(8,)),
    Task(("a", "b", "c"), "one vs normal", "b"),
    {"instances": 4},
    MetadataCoder({"site": ("colon", "skin")}, {"age": (50.0, 10.0)}),
    2,
    7,
)


def build() -> MILNet:
    return build_model(CARD.model, CARD.task, CARD.bag_spec, CARD.metadata)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(tmp_path / "fold_2", build(), CARD)
    return tmp_path / "fold_2"


def test_round_trip(folder: Path) -> None:
    torch.manual_seed(0)
    saved = build()
    model, card = load_model(folder)
    assert card == CARD
    assert not model.training
    for name, value in saved.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0)
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_weights_are_never_fetched_again(tmp_path: Path) -> None:
    for wanted in (replace(CARD.model, pretrained=True), replace(CARD.model, weights="gone.safetensors")):
        save_model(tmp_path, build(), replace(CARD, model=wanted))
        assert read_card(tmp_path).model == CARD.model


def test_weights_under_two_names(tmp_path: Path) -> None:
    """CoaT's stages share some of theirs."""
    card = replace(CARD, model=ModelSpec(backbone="coat_lite_tiny", train_px=32, pooling="avg"))
    model = build_model(card.model, card.task, card.bag_spec, card.metadata)
    save_model(tmp_path, model, card)
    loaded, _ = load_model(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def change(folder: Path, **values: object) -> None:
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**content, **values}))


def test_other_version(folder: Path) -> None:
    change(folder, format_version=99)
    with pytest.raises(
        RunError, match="is gigabag-model version 99, this program reads gigabag-model version 2; train again"
    ):
        load_model(folder)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no such file: .*model\.json'; is the training finished\?"):
        load_model(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 3}', "nonsense"])
def test_damaged_card(folder: Path, text: str) -> None:
    (folder / "model.json").write_text(text)
    with pytest.raises(RunError, match=r"model\.json' is no model card"):
        load_model(folder)


@pytest.mark.parametrize("spec", [None, {}, {"instances": None}, {"features": "many"}])
def test_bag_spec_of_no_use(folder: Path, spec: object) -> None:
    change(folder, bag_spec=spec)
    with pytest.raises(RunError, match="is no model card"):
        load_model(folder)


@pytest.mark.parametrize(
    "metadata", [None, {}, {"categories": [], "scales": {}}, {"categories": {}, "scales": {"a": [0, 0]}}]
)
def test_metadata_of_no_use(folder: Path, metadata: object) -> None:
    change(folder, metadata=metadata)
    with pytest.raises(RunError, match="is no model card"):
        load_model(folder)


def test_card_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.json").mkdir()
    with pytest.raises(RunError, match="is no model card"):
        load_model(tmp_path)


def test_unknown_setting(folder: Path) -> None:
    change(folder, model={"backbone": "test_resnet", "colour": "blue"})
    with pytest.raises(RunError, match="is no model card .*colour"):
        load_model(folder)


def test_weights_cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunError, match=r"model\.safetensors' does not hold the weights of this model"):
        load_model(folder)


def test_weights_of_another_model(folder: Path) -> None:
    change(folder, task={"classes": ["a", "b", "c"]})
    with pytest.raises(RunError, match="does not hold the weights of this model .*size mismatch"):
        load_model(folder)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ({"head_hidden": 10**9}, r"not in it: head\.classifier\.4\.bias"),
        (
            {"embed": [10**9]},
            r"size mismatch for encoder\.embedding\.0\.weight: \[8, 96\] in place of \[1000000000, 96\]",
        ),
        ({"embed": [10**15]}, "does not hold the weights of this model"),
        ({"backbone": "vit_giant_patch14_clip_224", "train_px": 224}, r"not in it: encoder\.backbone\.net\.blocks"),
        ({"train_px": 10**6}, "--train-px must be from 1 to 4096, not 1000000"),
        ({"embed": [1] * 101}, "--embed takes 100 widths at most, not 101"),
        ({"train_px": "32"}, "train_px cannot be '32'"),
        ({"train_px": True}, "train_px cannot be True"),
        ({"embed": 8}, "embed cannot be 8"),
        ({"embed": [[8]]}, r"embed cannot be \[\[8\]\]"),
        ({"pooling": "sum"}, "pooling cannot be 'sum'"),
        ({"temperature": None}, "temperature cannot be None"),
        ({"dropout": float("nan")}, "it has NaN in place of a number"),
        ({"attention_hidden": 10**50}, "it has a number of 51 digits"),
        (
            {"arch": "chipnet", "pooling": "attention", "embed": [], "train_px": 256},
            "its bags are not those of --arch chipnet",
        ),
    ],
)
def test_what_a_card_claims_takes_no_memory(folder: Path, model: dict[str, object], sentence: str) -> None:
    content = json.loads((folder / "model.json").read_text())
    change(folder, model={**content["model"], **model})
    with pytest.raises(RunError, match=sentence):
        load_model(folder)


@pytest.mark.parametrize(
    "task",
    [
        None, [], {"classes": "ab"}, {"classes": ["a"]}, {"classes": ["a", "a", "b"]}, {"classes": ["a", ["b"], "c"]},
        {"classes": ["a", "b", "\ud800"]}, {"classes": ["a", "b", "c"], "kind": "other"},
        {"classes": ["a", "b", "c"], "kind": "one vs normal"}, {"classes": ["a", "b", "c"], "normal": "d"},
    ],
)  # fmt: skip
def test_task_of_no_use(folder: Path, task: object) -> None:
    change(folder, task=task)
    with pytest.raises(RunError, match="is no model card"):
        load_model(folder)


@pytest.mark.parametrize("values", [{"fold": [1]}, {"fold": -1}, {"epoch": 1.5}, {"epoch": True}, {"fold": 2**31}])
def test_counts_of_no_use(folder: Path, values: dict[str, object]) -> None:
    change(folder, **values)
    with pytest.raises(RunError, match="its fold and its epoch are no counts"):
        load_model(folder)


def test_card_nested_deeply(folder: Path) -> None:
    (folder / "model.json").write_text("[" * 100_000)
    with pytest.raises(RunError, match="is no model card .it is nested too deeply"):
        load_model(folder)


def test_weights_that_are_no_numbers(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["head.classifier.1.bias"][0] = torch.nan
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(RunError, match=r"\(head\.classifier\.1\.bias is not a number\)"):
        load_model(folder)


def test_weights_of_another_type(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["head.classifier.1.bias"] = tensors["head.classifier.1.bias"].half()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(RunError, match=r"head\.classifier\.1\.bias is F16 in place of torch\.float32"):
        load_model(folder)


def test_files_that_never_end(folder: Path) -> None:
    """An archive can hold pipes, and links to devices."""
    for name in ("model.safetensors", "model.json"):
        (folder / name).rename(folder / "kept")
        os.mkfifo(folder / name)
        with pytest.raises(RunError, match="it is no regular file"):
            load_model(folder)
        (folder / name).unlink()
        (folder / name).symlink_to("/dev/zero")
        with pytest.raises(RunError, match="it is no regular file"):
            load_model(folder)
        (folder / name).unlink()
        (folder / "kept").rename(folder / name)
    load_model(folder)
