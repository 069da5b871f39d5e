"""What killed jobs and damaged slides do to a batch: counts, and status 1 where anything was lost.

    python benchmarks/faults.py kills
    python benchmarks/faults.py damage SLIDES…

`kills` ends a batch of four shards by kill -9 at random moments, resumes it, and compares every bag with an undisturbed
run's, byte by byte. `damage` makes damaged copies of slides (files, and folders of a DICOM series): cut short, or with
flipped bits in the header, in the table of the tiles, or in the pixels; and tiles them as one batch.
"""

import argparse
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import tifffile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import machine
from tiling.manifest import read_manifest
from tiling.synthetic.large import write_large

ROOT = Path(__file__).resolve().parent.parent
SHARDS = 4
TABLE_TAGS = {"TileOffsets", "TileByteCounts", "StripOffsets", "StripByteCounts"}
FLAGS = ["--size", "256", "--downsample", "1", "--workers", "2"]
SLIDE_SECONDS = 60.0  # the time limit of a damaged slide


def main(argv: list[str] | None = None) -> int:
    """Run one of the two; status 0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="another seed, other faults")
    commands = parser.add_subparsers(dest="command", required=True)
    kill = commands.add_parser("kills", help="kill -9 at random moments")
    kill.add_argument("--times", type=int, default=50, help="how often")
    damage = commands.add_parser("damage", help="damaged slides")
    damage.add_argument("slides", nargs="+", type=Path, help="files, or folders of one DICOM series")
    damage.add_argument("--count", type=int, default=500, help="damaged copies")
    args = parser.parse_args(argv)
    print(machine("openslide-python", "pyvips", "h5py"))
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        if args.command == "kills":
            return kills(Path(folder), args.times, chance)
        return damaged(Path(folder), args.slides, args.count, chance)


# ---- kill -9 ---------------------------------------------------------------------------------------------------------


def kills(folder: Path, times: int, chance: random.Random) -> int:
    """End a batch `times` times, and resume it each time."""
    slides = folder / "slides"
    slides.mkdir()
    for index in range(24):
        write_large(slides / f"slide_{index:02d}.tiff", 3072, 2048, seed=index)
    start = time.perf_counter()
    run_shards(slides, folder / "undisturbed")
    seconds = time.perf_counter() - start
    wanted = bytes_of(folder / "undisturbed")
    lost: Counter[str] = Counter()
    caught = 0
    for turn in range(times):
        out = folder / f"out_{turn}"
        what = "all processes" if turn % 2 else "one process"
        shards = start_shards(slides, out)
        time.sleep(chance.uniform(0, seconds))
        end(shards, chance, everything=bool(turn % 2))
        before = bytes_of(out)
        caught += 0 < len(before) < len(wanted)
        lost["bags that are not whole after the kill"] += sum(wanted[name] != data for name, data in before.items())
        run_shards(slides, out)
        after = bytes_of(out)
        lost["bags missing after the resume"] += len(wanted.keys() - after.keys())
        lost["bags that differ after the resume"] += sum(wanted.get(name) != data for name, data in after.items())
        lost["rows that are not done"] += sum(row.status != "done" for row in read_manifest(out).values())
        lost["temporary files left"] += len(list(out.glob(".*")))
        print(f"kill {turn + 1} of {what}: {len(before)} of {len(wanted)} bags were there", file=sys.stderr)
        shutil.rmtree(out)
    print(
        f"\n{times} kills of a batch of {len(wanted)} slides in {SHARDS} shards, {caught} of them while bags were made:"
    )
    for name, count in lost.items():
        print(f"  {count} {name}")
    return int(lost.total() > 0)


def start_shards(slides: Path, out: Path) -> list["subprocess.Popen[bytes]"]:
    """The shards of a batch as processes, each the head of a group with its workers."""
    command = [sys.executable, "-m", "tiling", str(slides), "--out", str(out), *FLAGS]
    return [
        subprocess.Popen(
            [*command, "--shard", f"{index}/{SHARDS}"], cwd=ROOT, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for index in range(1, SHARDS + 1)
    ]  # fmt: skip


def run_shards(slides: Path, out: Path) -> None:
    """All shards to their end."""
    for shard in start_shards(slides, out):
        if shard.wait():
            sys.exit(f"a shard that nobody disturbed ended with status {shard.returncode}")


def end(shards: Sequence["subprocess.Popen[bytes]"], chance: random.Random, everything: bool) -> None:
    """Kill all processes at once, as a power cut does, or one of them, and let the others come to their end."""
    if everything:
        victims = [pid for shard in shards for pid in group(shard.pid)]
    else:
        victims = [chance.choice([pid for shard in shards for pid in group(shard.pid)] or [shards[0].pid])]
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for shard in shards:
        shard.wait()
        while group(shard.pid):  # workers end with their parent
            time.sleep(0.01)


def group(head: int) -> list[int]:
    """The processes of a group that are alive."""
    alive = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, pgrp = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(pgrp) == head and state != "Z":
            alive.append(int(folder.name))
    return alive


def bytes_of(out: Path) -> dict[str, bytes]:
    """The bags of a folder."""
    return {path.name: path.read_bytes() for path in out.glob("*.h5")}


# ---- damaged slides --------------------------------------------------------------------------------------------------


def damaged(folder: Path, slides: Sequence[Path], count: int, chance: random.Random) -> int:
    """Tile damaged copies as one batch, and count what became of them."""
    table = folder / "slides.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["slide_id", "path"])
        for name, path in copies(folder, slides, count, chance):
            rows.writerow([name, path])
    command = [sys.executable, "-m", "tiling", str(table), "--out", str(folder / "bags"), *FLAGS]
    start = time.perf_counter()
    done = subprocess.run([*command, "--time-limit", str(SLIDE_SECONDS)], cwd=ROOT, stderr=subprocess.PIPE, check=False)
    seconds = time.perf_counter() - start
    manifest = read_manifest(folder / "bags")
    print(f"\n{count} damaged slides, tiled in {seconds:.0f} s; the batch ended with status {done.returncode}")
    counts = Counter((name.split(" ")[0], name.split(" ")[1], row.status) for name, row in manifest.items())
    for source, kind in sorted({key[:2] for key in counts}):
        parts = ", ".join(f"{counts[source, kind, status]} {status}" for status in ("done", "empty", "failed"))
        print(f"  {source:42} {kind:8} {parts}")
    faults = Counter(fault for row in manifest.values() for fault in faults_of(row.status, row.error))
    for name in ("without a row", "waiting", "without a cause", "unforeseen", "killed their worker", "took too long"):
        number = count - len(manifest) if name == "without a row" else faults[name]
        print(f"  {number} {name}")
    bad = count - len(manifest) + faults["waiting"] + faults["without a cause"] + faults["unforeseen"]
    return int(bad > 0 or done.returncode not in (0, 1))


def faults_of(status: str, error: str) -> Iterator[str]:
    """What is worth counting about a row."""
    if status == "waiting":
        yield "waiting"
    if status == "failed" and not error:
        yield "without a cause"
    for words, fault in (
        ("unexpected", "unforeseen"), ("killed the process", "killed their worker"), ("took longer", "took too long"),
    ):  # fmt: skip
        if words in error:
            yield fault


def copies(folder: Path, slides: Sequence[Path], count: int, chance: random.Random) -> Iterator[tuple[str, Path]]:
    """The name and the path of each damaged copy; a series is damaged in its largest file."""
    for index in range(count):
        slide = slides[index % len(slides)]
        kind = list(DAMAGES)[index // len(slides) % len(DAMAGES)]
        name = f"{slide.name} {kind} {index}"
        if slide.is_dir():
            path = Path(shutil.copytree(slide, folder / "slides" / name))
            path = max(path.iterdir(), key=lambda each: each.stat().st_size)
        else:
            path = folder / "slides" / name / slide.name
            path.parent.mkdir(parents=True)
            shutil.copy(slide, path)
        path.chmod(0o644)
        data = bytearray(path.read_bytes())
        path.write_bytes(DAMAGES[kind](data, path, chance))
        yield name, path


def cut(data: bytearray, path: Path, chance: random.Random) -> bytearray:
    """The file without its end."""
    return data[: chance.randrange(len(data))]


def flip(data: bytearray, ranges: Sequence[tuple[int, int]], flips: int, chance: random.Random) -> bytearray:
    """Bits turned over within byte ranges."""
    for _ in range(flips):
        first, last = chance.choice(ranges)
        data[chance.randrange(first, min(last, len(data)))] ^= 1 << chance.randrange(8)
    return data


def table_ranges(path: Path) -> list[tuple[int, int]]:
    """The byte ranges, first and behind the last, in which a TIFF keeps where its tiles are and how long."""
    try:
        with tifffile.TiffFile(path) as tiff:
            tags = [tag for page in tiff.pages for tag in page.aspage().tags.values()]
    except Exception:  # noqa: BLE001  # it raises whatever a damaged table leads it to
        return []
    return [(tag.valueoffset, tag.valueoffset + tag.valuebytecount) for tag in tags if tag.name in TABLE_TAGS]


DAMAGES: dict[str, Callable[[bytearray, Path, random.Random], bytearray]] = {
    "cut": cut,
    "header": lambda data, path, chance: flip(data, [(0, 2048)], chance.randint(1, 16), chance),
    "table": lambda data, path, chance: flip(data, table_ranges(path) or [(0, 4096)], chance.randint(1, 16), chance),
    "pixels": lambda data, path, chance: flip(data, [(4096, len(data))], chance.randint(1, 200), chance),
}


if __name__ == "__main__":
    sys.exit(main())
