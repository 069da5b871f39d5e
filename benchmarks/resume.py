"""A training that is killed again and again, against the same one left alone: the same weights and tables, to the byte.

    python benchmarks/resume.py [--kills 20] [--config my.train.yaml --bags bags --labels labels.csv]

Trains once undisturbed. Then it starts the same training with `--resume`, ends it with SIGKILL after a time drawn at
random, and starts it again, until it was killed as often as asked. Twice more it is ended with SIGTERM, after which it
must leave with status 75, if it was ready; the last one is let through. Without bags it makes some.
"""

import argparse
import filecmp
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import machine
from tiling.cli import STOPPED

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = """\
backbone: test_resnet
train_px: 64
folds: 3
epochs: 24
patience: 24
dropout: 0.3
batch_size: 4
lr: 1.0e-3
ema: 0.9
hed_jitter: 0.2
checkpoint_minutes: 0.005
device: cpu
skip_missing: true
"""


def main(argv: list[str] | None = None) -> int:
    """Kill, resume, compare; status 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how often it is killed")
    parser.add_argument("--slides", type=int, default=24, help="slides to make")
    parser.add_argument("--bags", type=Path, help="bags of your own")
    parser.add_argument("--labels", type=Path, help="their labels")
    parser.add_argument("--config", type=Path, help="settings of your own")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    args = parser.parse_args(argv)
    if (args.bags is None) != (args.labels is None):
        parser.error("give --bags and --labels, or neither")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bags, labels = (args.bags, args.labels) if args.bags else make_bags(folder, args.slides)
        if not (config := args.config):
            config = folder / "settings.yaml"
            config.write_text(SETTINGS, encoding="utf-8")
        command = [sys.executable, ROOT / "train.py", "--bags", bags, "--labels", labels, "--config", config]
        start = time.perf_counter()
        subprocess.run([*command, "--doctor"], check=True, capture_output=True)
        ready_s = time.perf_counter() - start
        start = time.perf_counter()
        subprocess.run([*command, "--out", folder / "undisturbed"], check=True, capture_output=True)
        whole_s = time.perf_counter() - start
        ended = kill([*command, "--out", folder / "killed", "--resume"], args.kills, ready_s, whole_s, args.seed)
        different = differing(folder / "undisturbed", folder / "killed")
    print(f"{machine('torch')}; the training alone took {whole_s:.0f} s, {ready_s:.0f} s of it before the first step")
    print(f"ended {len(ended)} times: {', '.join(ended)}")
    print(f"different: {', '.join(different)}" if different else "every file of the run is the same, to the byte")
    return 1 if different else 0


def make_bags(folder: Path, slides: int) -> tuple[Path, Path]:
    """Bags of made-up slides, and their labels."""
    made, bags = folder / "made", folder / "bags"
    for words in (
        ["tiling.synthetic", "--out", made, "--slides", slides, "--seed", 1],
        ["tiling", made / "slides", "--out", bags, "--config", ROOT / "configs" / "demo.tiling.yaml"],
    ):
        # Status 1: one of the slides is broken, on purpose.
        subprocess.run([sys.executable, "-m", *map(str, words)], cwd=ROOT, check=False, capture_output=True)
    return bags, made / "labels.csv"


def kill(command: list[str | Path], kills: int, ready_s: float, whole_s: float, seed: int) -> list[str]:
    """Start, end and start again; gives when and how each ended, and lets the last one through."""
    chance = random.Random(seed)
    ended: list[str] = []
    signals = [signal.SIGKILL] * kills
    for place in (kills // 3, 2 * kills // 3):
        signals.insert(place, signal.SIGTERM)
    for number in signals:
        # As far as that goes on average, the last falls near the end of the training.
        seconds = chance.uniform(0, ready_s + 2 * (whole_s - ready_s) / len(signals))
        if number == signal.SIGTERM:
            seconds += ready_s  # so that there is something to save
        process = subprocess.Popen([*command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            _, said = process.communicate(timeout=seconds)
            sys.exit(f"the training ended by itself after {len(ended)} kills; give it more epochs: {said}")
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            _, said = process.communicate()
        if number == signal.SIGTERM and process.returncode != STOPPED:
            sys.exit(f"after a SIGTERM the training left with status {process.returncode}, not {STOPPED}: {said}")
        ended.append(f"{seconds:.1f} s ({process.returncode})")
    last = subprocess.run([*command], check=False, capture_output=True, text=True)
    if last.returncode:
        sys.exit(f"the last training ended with status {last.returncode}: {last.stderr}")
    return ended


def differing(one: Path, other: Path) -> list[str]:
    """Files that are not the same in two folders, or in one of them only."""
    names = {str(path.relative_to(folder)) for folder in (one, other) for path in folder.rglob("*") if path.is_file()}
    _, different, unreadable = filecmp.cmpfiles(one, other, sorted(names), shallow=False)
    return different + unreadable


if __name__ == "__main__":
    sys.exit(main())
