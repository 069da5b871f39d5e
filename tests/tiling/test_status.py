"""What the status says, and that it asks no bag."""

import os
from pathlib import Path

import pytest

from tiling.bag import Picked
from tiling.manifest import NOT_TILED, ManifestRow, write_manifest
from tiling.places import BY_NOTHING, BY_TISSUE, note_on
from tiling.shards import WHOLE, Shard
from tiling.status import duration, main, read_status, report, seconds_a_bag

NOW_S = 1_000_000.0


def batch(folder: Path, statuses: str, shard: Shard = WHOLE, first: int = 0, at_s: float = NOW_S) -> None:
    """A manifest with one slide a letter (done, empty, failed, waiting), and empty files for bags, 10 s apart."""
    rows = {}
    for index, letter in enumerate(statuses, first):
        name, path = f"s{index:02d}", f"/slides/it's {index}.svs"
        status, error = {
            "d": ("done", ""), "e": ("empty", "no tissue"), "w": ("waiting", NOT_TILED),
            "f": ("failed", f"{path!r} is broken"), "t": ("failed", f"{path!r} took too long"),
        }[letter]  # fmt: skip
        rows[name] = ManifestRow(name, path, status, 0, 0.0, error)
        if letter == "d":
            (folder / f"{name}.h5").touch()
            os.utime(
                folder / f"{name}.h5", (at_s - 10 * len(statuses) + 10 * index, at_s - 10 * len(statuses) + 10 * index)
            )
    write_manifest(folder, rows, shard)
    name = "manifest.csv" if shard == WHOLE else f"manifest-{shard.number}-of-{shard.of}.csv"
    os.utime(folder / name, (at_s, at_s))


def lines(folder: Path, after_s: float = 0.0) -> list[str]:
    return list(report(read_status(folder), NOW_S + after_s))


def test_all_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch(tmp_path, "dded")
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "3 done, 1 without tissue, 0 failed, 0 missing, of 4\n"


def test_failures_are_grouped_by_cause(tmp_path: Path) -> None:
    batch(tmp_path, "dftfffffwff")
    assert lines(tmp_path)[:3] == [
        "1 done, 0 without tissue, 9 failed, 1 missing, of 11",
        "  8 × the slide is broken: s01, s03, s04, s05, s06 and 3 more",
        "  1 × the slide took too long: s02",
    ]
    assert main([str(tmp_path)]) == 1


def flat(peakedness: str, instead: str) -> str:
    """As `tiling.places` notes it."""
    picked = Picked("abc", "all", float(peakedness), instead)
    assert f"(peakedness {peakedness}, below 0.02): " in note_on(picked)
    return note_on(picked)


def test_notes_are_grouped_by_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes = [flat(f"0.00{index}", BY_TISSUE) for index in range(7)] + ["", flat("0.013", BY_NOTHING), "odd\n"]
    rows = {f"s{index}": ManifestRow(f"s{index}", "/x", "done", 1, 0.0, "", note) for index, note in enumerate(notes)}
    write_manifest(tmp_path, rows)
    for name in rows.keys() - {"s1"}:
        (tmp_path / f"{name}.h5").touch()
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[:6] == [
        "9 done, 0 without tissue, 1 failed, 0 missing, of 10",
        "  1 × its bag is gone; run the same again: s1",
        "  8 bags have a note:",
        "    6 × the map was nearly flat: tissue decided: s0, s2, s3, s4, s5 and 1 more",
        "    1 × 'odd\\n': s9",
        "    1 × the map was nearly flat: the tile is the whole slide: s8",
    ]
    (tmp_path / "s1.h5").touch()
    assert main([str(tmp_path)]) == 0  # a note is no failure
    assert "    7 × the map was nearly flat: tissue decided: s0, s1, s2, s3, s4 and 2 more\n" in capsys.readouterr().out


def test_time_left(tmp_path: Path) -> None:
    batch(tmp_path, "dddwwwwww")
    assert lines(tmp_path)[-1] == "1 min 0 s left, at 10 s a slide"
    assert lines(tmp_path, 599)[-1] == "1 min 0 s left, at 10 s a slide"
    assert lines(tmp_path, 7200)[-1] == "nothing has been finished for 2 h 0 min: is a job running?"


def test_only_failures_are_left(tmp_path: Path) -> None:
    batch(tmp_path, "dfd")
    assert lines(tmp_path)[-1] == "nothing is under way; run the same again to try the failed slides once more"


def test_nothing_finished_yet(tmp_path: Path) -> None:
    batch(tmp_path, "ww")
    assert lines(tmp_path)[-1] == "too few bags are finished to say how long is left"


def test_bag_that_has_gone_is_no_bag(tmp_path: Path) -> None:
    batch(tmp_path, "ddd")
    (tmp_path / "s01.h5").unlink()
    assert lines(tmp_path)[1] == "  1 × its bag is gone; run the same again: s01"


def test_bag_finished_since_the_manifest_was_written_is_done(tmp_path: Path) -> None:
    batch(tmp_path, "dww")
    for name, time_s in (("s01", NOW_S + 5), ("s02", NOW_S - 5)):  # the second is there to be overwritten
        (tmp_path / f"{name}.h5").touch()
        os.utime(tmp_path / f"{name}.h5", (time_s, time_s))
    assert lines(tmp_path)[0] == "2 done, 0 without tissue, 0 failed, 1 missing, of 3"


def test_shards(tmp_path: Path) -> None:
    batch(tmp_path, "dd", Shard(1, 4))
    batch(tmp_path, "wf", Shard(3, 4), first=2)
    assert lines(tmp_path) == [
        "2 done, 0 without tissue, 1 failed, 1 missing, of 4",
        "  shard 1/4: 2 done, 0 without tissue, 0 failed, 0 missing, of 2",
        "  shard 3/4: 0 done, 0 without tissue, 1 failed, 1 missing, of 2",
        "  shard 2/4: not started",
        "  shard 4/4: not started",
        "  1 × the slide is broken: s03",
        "at least 10 s left, at 10 s a slide",
    ]
    assert main([str(tmp_path)]) == 1


def test_shards_of_an_older_cut_are_forgotten(tmp_path: Path) -> None:
    batch(tmp_path, "dw", Shard(1, 4), at_s=NOW_S - 100)
    batch(tmp_path, "ddd")
    assert lines(tmp_path) == ["3 done, 0 without tissue, 0 failed, 0 missing, of 3"]


def test_names_with_line_breaks_stay_on_their_line(tmp_path: Path) -> None:
    write_manifest(tmp_path, {"a\nb": ManifestRow("a\nb", "/a\nb.svs", "failed", 0, 0.0, "'/a\\nb.svs' broke")})
    assert lines(tmp_path)[1] == "  1 × the slide broke: 'a\\nb'"


def test_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 2
    assert "no such folder of bags" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 2
    assert "has no manifest.csv" in capsys.readouterr().err


def test_pace_is_that_of_the_last_bags_without_pauses() -> None:
    assert seconds_a_bag([]) is None
    assert seconds_a_bag([5.0]) is None
    assert seconds_a_bag([0.0, 2.0, 4.0, 90000.0, 90002.0]) == 2
    assert seconds_a_bag([*range(0, 9000, 30), *range(9000, 9300)]) == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.12, "0.12 s"), (42.4, "42 s"), (61, "1 min 1 s"), (3700, "1 h 1 min"), (200000, "2 d 7 h")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
