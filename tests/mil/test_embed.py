"""An embedding is what the head is given, of each model of a run, whatever the metadata."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mil.embed import embed
from mil.predict import instances_of, load_run, outputs_of
from tests.conftest import Trained
from tiling.bag import BagRef, read_bag
from tiling.bags import open_bags

CPU = torch.device("cpu")


@pytest.mark.parametrize("network", ["trained", "trained_again", "trained_chipnet"])
def test_head_makes_the_logits_of_it(network: str, request: pytest.FixtureRequest) -> None:
    found: Trained = request.getfixturevalue(network)
    run = load_run(found.run, CPU)
    ((name, embeddings),) = embed([run, run], open_bags(found.bags), ["s03"], 1)
    assert not isinstance(embeddings, Exception)
    assert (name, len(embeddings)) == ("s03", 2)
    np.testing.assert_array_equal(*embeddings)
    with torch.inference_mode():
        outputs = outputs_of(run, instances_of(run, read_bag(BagRef(found.bags / "s03.h5"))), None)
        for model, vector_C, output in zip(run.models, embeddings[0], outputs, strict=True):
            logits_BK = model.head(torch.from_numpy(vector_C)[None], torch.zeros(1, 0))
            torch.testing.assert_close(logits_BK, output.logits_BK)


def test_slides_come_in_their_order_and_a_damaged_bag_alone_has_none(trained: Trained, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained.bags, tmp_path / "bags"))
    (folder / "s02.h5").write_bytes(b"nothing")
    names = ["s05", "s02", "s00"]
    found = [*embed([load_run(trained.run, CPU)], open_bags(folder), names, 2)]
    assert [name for name, _ in found] == names
    assert [isinstance(embedding, Exception) for _, embedding in found] == [False, True, False]
