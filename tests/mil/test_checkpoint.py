"""A model comes back as it was saved, or is refused with a sentence."""

import json
from pathlib import Path

import pytest
import torch

from mil.checkpoint import ModelCard, load_model, read_card, save_model
from mil.errors import RunError
from mil.model import build_model
from mil.settings import ModelSpec

CARD = ModelCard(
    ModelSpec(backbone="test_resnet", train_px=32, pooling="concat"), ("a", "b", "c"), {"instances": 4}, 2, 7
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(tmp_path / "fold_2", build_model(CARD.model, 3, 4), CARD)
    return tmp_path / "fold_2"


def test_round_trip(folder: Path) -> None:
    torch.manual_seed(0)
    saved = build_model(CARD.model, 3, 4)
    model, card = load_model(folder)
    assert card == CARD
    assert not model.training
    for name, value in saved.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0)
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_weights_are_never_fetched_again(tmp_path: Path) -> None:
    card = ModelCard(ModelSpec(backbone="test_resnet", pretrained=True), ("a", "b"), {"instances": 4}, 0, 0)
    save_model(tmp_path, build_model(ModelSpec(backbone="test_resnet"), 2, 4), card)
    assert read_card(tmp_path).model.pretrained is False


def change(folder: Path, **values: object) -> None:
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**content, **values}))


def test_other_version(folder: Path) -> None:
    change(folder, format_version=99)
    with pytest.raises(
        RunError, match="is gigabag-model version 99, this program reads gigabag-model version 1; train again"
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


@pytest.mark.parametrize("spec", [None, {}, {"instances": None}])
def test_tile_spec_of_no_use(folder: Path, spec: object) -> None:
    change(folder, tile_spec=spec)
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
    change(folder, classes=["a", "b"])
    with pytest.raises(RunError, match="does not hold the weights of this model .*size mismatch"):
        load_model(folder)
