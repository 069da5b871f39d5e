"""What mil.memory says a training step needs, against what it takes.

`python benchmarks/memory_estimate.py` runs every case in a process of its own: two steps of AdamW over one batch of
random tiles. Measured is the peak beyond what was there before the network (benchmarks/memory.py says how).
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.machine import device_name, machine
from benchmarks.memory import MIB, peak, reset_peak

CASES: list[dict[str, object]] = [
    {}, {"freeze": 2}, {"freeze": "all"}, {"instance_chunk": 4}, {"instance_chunk": 4, "freeze": "all"},
    {"precision": "bf16"},
]  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Measure and print; status 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--backbones",
        nargs="+",
        default=["resnet18", "vit_tiny_patch16_224", "efficientnetv2_rw_t"],
        help="timm models",
    )
    parser.add_argument("--px", type=int, default=224, help="side of a tile in pixels")
    parser.add_argument("--bags", type=int, default=2, help="bags of a step")
    parser.add_argument("--instances", type=int, default=16, help="tiles of a bag")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to compute")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.case:
        print(json.dumps(measure(**json.loads(args.case))))
        return 0
    from mil.predict import pick_device

    device = pick_device(args.device).type
    print(f"{machine('torch', 'timm')}; {device_name(device)}")
    print(f"{args.bags} bags of {args.instances} tiles of {args.px} px\n")
    print("| backbone | settings | estimate, MiB | measured, MiB | estimate / measured |\n|---|---|---|---|---|")
    for backbone in args.backbones:
        for settings in CASES:
            shape = {"px": args.px, "bags": args.bags, "instances": args.instances, "device": device}
            estimate, measured = run({"backbone": backbone, "settings": settings, **shape})
            shown = ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in settings.items())
            row = f"{backbone} | {shown} | {estimate / MIB:.0f} | {measured / MIB:.0f} | {estimate / measured:.2f}"
            print(f"| {row} |", flush=True)
    return 0


def run(case: dict[str, object]) -> list[int]:
    """The case in a process of its own."""
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**16)}  # what is freed is given back
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [int(value) for value in json.loads(done.stdout.splitlines()[-1])]


def measure(
    backbone: str, settings: dict[str, object], px: int, bags: int, instances: int, device: str
) -> tuple[int, int]:
    """Bytes by estimate and as measured."""
    import pandas as pd
    import torch

    from mil.cohort import Cohort
    from mil.labels import Labels
    from mil.memory import step_memory
    from mil.model import build_model
    from mil.optim import make_optimizer, prepare
    from mil.recipe import AugmentSpec, Recipe, TrainSpec
    from mil.settings import ModelSpec
    from mil.task import Task

    place, task = torch.device(device), Task(("0", "1"))
    train = TrainSpec(batch_size=bags, **settings)  # type: ignore[arg-type]
    recipe = Recipe(model=ModelSpec(backbone=backbone, train_px=px), train=train, augment=AugmentSpec(augment=False))
    cohort = Cohort(Labels(pd.DataFrame(), task), [], [instances] * bags, {"instances": instances}, pd.DataFrame(), [])
    estimate = step_memory(cohort, recipe, place)

    def step(net: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
        tiles = torch.randint(256, (2, bags * count, 3, px, px), dtype=torch.uint8, device=device)[0]  # and the next
        logits = net(tiles, torch.ones(bags, count, dtype=torch.bool)).logits_BK
        torch.autograd.backward(
            torch.nn.functional.cross_entropy(logits, torch.zeros(bags, dtype=torch.long).to(place))
        )
        optimizer.step()
        optimizer.zero_grad()

    def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        net = build_model(recipe.model, task, cohort.bag_spec)
        prepare(net, train, place)
        net.to(place).train()
        return net, make_optimizer(net, recipe.optim)

    step(*build(), 1)  # what is loaded and made once
    gc.collect()  # a network holds itself
    if device == "cpu":
        ctypes.CDLL(None).malloc_trim(0)
    before = reset_peak(device)
    net, optimizer = build()
    step(net, optimizer, instances)
    step(net, optimizer, instances)
    return estimate.total, peak(device) - before


if __name__ == "__main__":
    raise SystemExit(main())
