"""What MILNet costs beyond its backbone, and what the flags of training bring.

`python benchmarks/model.py` times forward and backward of MILNet (avg and attention pooling) and of the bare timm model
with its own classifier on the same stacked tiles, uint8 in, in turns; then MILNet with each flag and without any, in
turns again. Shown are medians over the rounds of the ratio within a round.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

from benchmarks.machine import device_name, machine
from mil.model import build_model
from mil.optim import prepare
from mil.predict import pick_device
from mil.recipe import TrainSpec
from mil.settings import ModelSpec
from mil.task import Task

Step = Callable[[], None]
FLAGS: dict[str, dict[str, object]] = {
    "plain": {},
    "--channels-last": {"channels_last": True},
    "--precision bf16": {"precision": "bf16"},
    "--compile": {"compile": True},
    "--precision bf16 --channels-last": {"precision": "bf16", "channels_last": True},
    "--precision bf16 --channels-last --compile": {"precision": "bf16", "channels_last": True, "compile": True},
}


def main(argv: list[str] | None = None) -> int:
    """Measure and print; status 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "vit_tiny_patch16_224"], help="timm models")
    parser.add_argument("--bags", type=int, default=2, help="bags of a step")
    parser.add_argument("--instances", type=int, default=16, help="tiles of a bag")
    parser.add_argument("--px", type=int, default=224, help="side of a tile in pixels")
    parser.add_argument("--rounds", type=int, default=9, help="times everything is measured")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to compute")
    args = parser.parse_args(argv)
    device = pick_device(args.device)
    tiles = torch.randint(256, (args.bags * args.instances, 3, args.px, args.px), dtype=torch.uint8, device=device)
    print(
        f"{machine('torch', 'timm')}; {device_name(device.type)}; {args.bags} bags of {args.instances} tiles of "
        f"{args.px} px, forward and backward, {args.rounds} rounds"
    )
    print("\n| backbone | bare timm model | MILNet, avg | MILNet, attention |\n|---|---|---|---|")
    for name in args.backbones:
        steps = {"bare": bare_step(name, args.px, tiles)}
        steps |= {pooling: mil_step(name, args, tiles, pooling, {}) for pooling in ("avg", "attention")}
        seconds = in_turns(steps, args.rounds)
        ratios = [ratio(seconds[pooling], seconds["bare"]) for pooling in ("avg", "attention")]
        print(
            f"| {name} | {statistics.median(seconds['bare']):.3f} s | {ratios[0]:.3f} | {ratios[1]:.3f} |", flush=True
        )
    print(f"\n| flags | {' | '.join(args.backbones)} |\n|---|{'---|' * len(args.backbones)}")
    speeds = [speed_of_flags(name, args, tiles) for name in args.backbones]
    for flags in FLAGS:
        print(f"| {flags} | {' | '.join(f'{1 / speed[flags]:.2f} x' for speed in speeds)} |")
    return 0


def speed_of_flags(name: str, args: argparse.Namespace, tiles: Tensor) -> dict[str, float]:
    """The time of a step with each flag, as a share of the plain one."""
    steps = {flags: mil_step(name, args, tiles, "attention", settings) for flags, settings in FLAGS.items()}
    seconds = in_turns(steps, args.rounds)
    return {flags: ratio(seconds[flags], seconds["plain"]) for flags in FLAGS}


def bare_step(name: str, px: int, tiles: Tensor) -> Step:
    """A step of the timm model with a classifier of two, each tile an example of its own."""
    import timm

    from mil.backbone import Backbone

    scaled = Backbone(name, px).to(tiles.device)
    try:
        net: nn.Module = timm.create_model(name, num_classes=2, img_size=px)
    except TypeError:  # it takes pictures of any size
        net = timm.create_model(name, num_classes=2)
    net.to(tiles.device).train()
    target = torch.zeros(len(tiles), dtype=torch.long, device=tiles.device)

    def step() -> None:
        net.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(net((tiles - scaled.mean) / scaled.std), target))

    return step


def mil_step(name: str, args: argparse.Namespace, tiles: Tensor, pooling: str, settings: dict[str, object]) -> Step:
    """A step of MILNet, its tiles in bags."""
    spec = TrainSpec(**settings)  # type: ignore[arg-type]
    model = build_model(
        ModelSpec(backbone=name, train_px=args.px, pooling=pooling),  # type: ignore[arg-type]
        Task(("0", "1")),
        {"instances": args.instances},
    )
    prepare(model, spec, tiles.device)
    model.to(tiles.device).train()
    mask = torch.ones(args.bags, args.instances, dtype=torch.bool)
    target = torch.zeros(args.bags, dtype=torch.long, device=tiles.device)

    def step() -> None:
        model.zero_grad()
        loss = nn.functional.cross_entropy(model(tiles, mask).logits_BK, target)
        torch.autograd.backward(loss)

    return step


def in_turns(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of each step in each round; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(one: list[float], other: list[float]) -> float:
    """The median over the rounds of one time to the other's in the same round."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    raise SystemExit(main())
