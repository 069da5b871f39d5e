"""A folder of bags and a merged file look the same to whoever takes bags."""

import pickle
from pathlib import Path

import pytest

from tests.tiling.test_bag import assert_same, make_bag
from tiling.bag import read_bag, write_bag, write_merged
from tiling.bags import open_bags, portable
from tiling.errors import BagError, InputError
from tiling.manifest import NOT_TILED, ManifestRow, write_manifest

ROWS = {
    "a": ManifestRow("a", "/x/a.svs", "done", 3, 1.5, ""),
    "bare": ManifestRow("bare", "/x/bare.svs", "empty", 0, 0.5, "no tissue was found"),
    "gone": ManifestRow("gone", "/x/gone.svs", "done", 3, 0.5, ""),
    "b": ManifestRow("b", "/x/b.svs", "done", 3, 0.5, "", "the map was nearly flat"),
}


def test_folder_and_merged_file_are_alike(tmp_path: Path) -> None:
    made = {name: make_bag() for name in ("b", "a.1", "a")}
    folder, file = tmp_path / "bags", tmp_path / "all.h5"
    folder.mkdir()
    for name, bag in made.items():
        write_bag(folder / f"{name}.h5", bag)
    write_manifest(folder, ROWS)
    write_merged(file, made.items(), portable(ROWS))
    bags = {path: open_bags(path) for path in (folder, file)}
    assert list(bags[folder].refs) == list(bags[file].refs) == ["a", "a.1", "b"]
    assert bags[folder].manifest == ROWS
    assert bags[file].manifest == {name: row._replace(seconds=0.0) for name, row in ROWS.items()}
    for found in bags.values():
        again = pickle.loads(pickle.dumps(found))
        for name, bag in made.items():
            assert_same(read_bag(again.refs[name]), bag)
        assert found.why_missing("bare") == "no tissue was found"
        assert found.why_missing("gone") == "its bag is gone"
        assert found.why_missing("new") == NOT_TILED


def test_notes_go_along_and_empty_ones_are_left_out() -> None:
    rows = {"a": ROWS["a"], "b": ManifestRow("b", "/b", "done", 3, 0.5, "", "the map was nearly flat")}
    assert [row.get("note") for row in portable(rows)] == [None, "the map was nearly flat"]


def test_nothing_stays_open(tmp_path: Path) -> None:
    write_merged(tmp_path / "all.h5", [("a", make_bag())], [])
    read_bag(open_bags(tmp_path / "all.h5").refs["a"])
    opened = {str(handle.readlink()) for handle in Path("/proc/self/fd").iterdir() if handle.exists()}
    assert str(tmp_path / "all.h5") not in opened


class TestRefused:
    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"no such folder of bags: .*nowhere' \(nor a merged file\)"):
            open_bags(tmp_path / "nowhere")

    def test_one_bag(self, tmp_path: Path) -> None:
        write_bag(tmp_path / "a.h5", make_bag())
        with pytest.raises(BagError, match="is one bag; give its folder"):
            open_bags(tmp_path / "a.h5")

    def test_other_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("slide_id\n")
        with pytest.raises(BagError, match=r"a\.csv' is not a complete merged file"):
            open_bags(tmp_path / "a.csv")

    @pytest.mark.parametrize("keep", [100, 2000, -1])
    def test_cut_short(self, tmp_path: Path, keep: int) -> None:
        write_merged(tmp_path / "all.h5", [("a", make_bag())], [])
        data = (tmp_path / "all.h5").read_bytes()
        (tmp_path / "all.h5").write_bytes(data[:keep])
        with pytest.raises(BagError, match=r"all\.h5' is not a complete merged file .*; merge the bags again"):
            open_bags(tmp_path / "all.h5")

    @pytest.mark.parametrize("row", [{}, {"slide_id": "a", "colour": "blue"}])
    def test_manifest_of_no_use(self, tmp_path: Path, row: dict[str, str]) -> None:
        write_merged(tmp_path / "all.h5", [("a", make_bag())], [row])
        with pytest.raises(BagError, match="has a manifest that cannot be read"):
            open_bags(tmp_path / "all.h5")
