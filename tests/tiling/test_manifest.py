"""The manifests of a folder read as one."""

import os
from pathlib import Path

import pytest

from tiling.errors import InputError
from tiling.manifest import ManifestRow, checked, manifest_name, read_manifest, read_manifests, write_manifest
from tiling.shards import WHOLE, Shard


def row(name: str, status: str) -> dict[str, ManifestRow]:
    return {name: ManifestRow(name, f"/{name}", status, 0, 0.0, "")}


def test_round_trip(tmp_path: Path) -> None:
    rows = {
        "b\n,\"'": ManifestRow("b\n,\"'", "/x", "failed", 0, 0.0, "it, is\nso"),
        "ä": ManifestRow("ä", "/y z", "done", 16, 1.25, ""),
        "c": ManifestRow("c", "/c", "done", 16, 1.25, "", "the map was nearly flat"),
    }
    write_manifest(tmp_path, rows)
    assert read_manifest(tmp_path) == rows


def test_older_manifest_has_no_notes(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("slide_id,path,status,tiles,seconds,error\na,/a,done,3,0.5,\n")
    assert read_manifest(tmp_path) == {"a": ManifestRow("a", "/a", "done", 3, 0.5, "", "")}
    write_manifest(tmp_path, read_manifest(tmp_path))
    header, row = (tmp_path / "manifest.csv").read_text().splitlines()
    assert (header, row) == ("slide_id,path,status,tiles,seconds,error,note", "a,/a,done,3,0.5,,")


def test_kind_of_a_note_is_what_is_not_in_brackets() -> None:
    def kind(note: str) -> str:
        return ManifestRow("a", "/a", "done", 1, 0.0, "", note).kind_of_note

    assert kind("the map was flat (0.01, below 0.02): tissue decided (alone)") == "the map was flat: tissue decided"
    assert kind("") == ""


def test_other_table(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="is no manifest of this program"):
        read_manifest(tmp_path)


def test_names() -> None:
    assert manifest_name(WHOLE) == "manifest.csv"
    assert manifest_name(Shard(3, 12)) == "manifest-3-of-12.csv"


def test_file_written_last_wins(tmp_path: Path) -> None:
    write_manifest(tmp_path, {**row("a", "failed"), **row("b", "done")})
    write_manifest(tmp_path, row("a", "done"), Shard(1, 2))
    write_manifest(tmp_path, row("c", "waiting"), Shard(2, 2))
    for seconds, name in enumerate(["manifest.csv", "manifest-2-of-2.csv", "manifest-1-of-2.csv"]):
        os.utime(tmp_path / name, (seconds, seconds))
    (tmp_path / "manifest-old.csv").write_text("not ours")
    assert [manifest.shard for manifest in read_manifests(tmp_path)] == [WHOLE, Shard(2, 2), Shard(1, 2)]
    assert {name: each.status for name, each in read_manifest(tmp_path).items()} == {
        "a": "done", "b": "done", "c": "waiting",
    }  # fmt: skip
    os.utime(tmp_path / "manifest.csv", (9, 9))
    assert read_manifest(tmp_path)["a"].status == "failed"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("../a,/x,done,1,0,,", "the slide_id '../a', which cannot be the name of a file"),
        ("..,/x,done,1,0,,", "the slide_id '..', which cannot be the name of a file"),
        ("a,/x,gone,1,0,,", "the status 'gone', none of done, empty, failed, waiting"),
        ("a,/x,done,one,0,,", "invalid literal"),
        ("a,/x", "is no manifest of this program"),
    ],
)
def test_rows_of_strangers(tmp_path: Path, line: str, sentence: str) -> None:
    (tmp_path / "manifest.csv").write_text(f"slide_id,path,status,tiles,seconds,error,note\n{line}\n")
    with pytest.raises(InputError, match=sentence):
        read_manifest(tmp_path)


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.csv")
    with pytest.raises(InputError, match="is no file, and so no manifest"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("change", [{"tiles": "1"}, {"tiles": True}, {"path": None}, {"error": []}, {"slide_id": 1}])
def test_types_are_checked(change: dict[str, object]) -> None:
    row = ManifestRow("a", "/a", "done", 1, 0.0, "")
    assert checked(row) == row
    with pytest.raises(ValueError, match="a row has the"):
        checked(row._replace(**change))  # type: ignore[arg-type]
