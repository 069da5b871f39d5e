"""Peak memory and time of one training step over bags of 16 to 1024 tiles, all at once and in chunks.

`python benchmarks/memory.py` runs every case in a process of its own: forward and backward of MILNet with attention
over one bag. Memory is what the step needs beyond the network and the tiles, which are there before: the peak of the
process's resident memory on a CPU, of PyTorch's allocations on a GPU.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import device_name, machine

MIB = 2**20


class Step(NamedTuple):
    """What one step took; `mib` beyond what was there before it, None where it did not fit."""

    mib: float | None
    seconds: float
    inputs_mib: float


def main(argv: list[str] | None = None) -> int:
    """Measure and print; status 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "vit_tiny_patch16_224"], help="timm models")
    parser.add_argument("--instances", nargs="+", type=int, default=[16, 64, 256, 1024], help="tiles of the bag")
    parser.add_argument("--chunk", type=int, default=16, help="tiles at a time")
    parser.add_argument("--px", type=int, default=224, help="side of a tile in pixels")
    parser.add_argument("--limit-gib", type=float, default=16, help="memory that a case may take on a CPU")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to compute")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.case:
        print(json.dumps(measure(**json.loads(args.case))))
        return 0
    from mil.predict import pick_device

    device = pick_device(args.device).type
    print(f"{machine('torch', 'timm')}; {device_name(device)}; tiles of {args.px} px, {args.chunk} at a time, float32")
    for backbone in args.backbones:
        first = args.instances[0]
        print(f"\n{backbone}\n\n| tiles | tiles, MiB | all at once | in chunks | times the memory of {first} |")
        print("|---|---|---|---|---|")
        least = 0.0
        for count in args.instances:
            case = {"backbone": backbone, "count": count, "px": args.px, "device": device, "gib": args.limit_gib}
            whole, parts = (run({**case, "chunk": chunk}) for chunk in (None, args.chunk))
            least = least or whole.mib or 0.0
            ratio = "" if parts.mib is None else f"{parts.mib / least:.2f}"
            print(f"| {count} | {parts.inputs_mib:.0f} | {shown(whole)} | {shown(parts)} | {ratio} |", flush=True)
    return 0


def shown(step: Step) -> str:
    """A cell of the table."""
    return "does not fit" if step.mib is None else f"{step.mib:.0f} MiB, {step.seconds:.1f} s"


def run(case: dict[str, object]) -> Step:
    """The case in a process of its own, which may die of it."""
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    # Told so, glibc gives back at once what is freed, and the peak is that of what is in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(MIB)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode == 0:
        return Step(*json.loads(done.stdout.splitlines()[-1]))
    if any(word in done.stderr for word in ("memory", "alloc")) or done.returncode < 0:
        return Step(None, 0.0, 0.0)
    raise RuntimeError(done.stderr)


def measure(backbone: str, count: int, px: int, device: str, gib: float, chunk: int | None) -> Step:
    """One step after a small one that warms up."""
    if device == "cpu":
        resource.setrlimit(resource.RLIMIT_DATA, (int(gib * 2**30),) * 2)
    import torch

    from mil.model import build_model
    from mil.optim import prepare
    from mil.recipe import TrainSpec
    from mil.settings import ModelSpec
    from mil.task import Task

    torch.manual_seed(0)
    spec = TrainSpec(instance_chunk=chunk, batch_norm="frozen")
    model = build_model(ModelSpec(backbone=backbone, train_px=px), Task(("0", "1")), {"instances": count})
    prepare(model, spec, torch.device(device))
    model.to(device).train()

    def step(tiles: torch.Tensor) -> float:
        start = time.perf_counter()
        logits = model(tiles, torch.ones(1, len(tiles), dtype=torch.bool)).logits_BK
        loss = torch.nn.functional.cross_entropy(logits, torch.zeros(1, dtype=torch.long, device=device))
        torch.autograd.backward(loss)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    tiles = torch.randint(256, (count, 3, px, px), dtype=torch.uint8, device=device)
    step(tiles[:2])
    before = reset_peak(device)
    seconds = step(tiles)
    return Step((peak(device) - before) / MIB, seconds, tiles.numel() / MIB)


def reset_peak(device: str) -> int:
    """Bytes in use now, from which on the peak counts."""
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak(device: str) -> int:
    """The most bytes in use since `reset_peak`."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    raise SystemExit(main())
