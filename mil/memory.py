"""How much memory a training step needs, and which settings would need less.

The step is played through with tensors that have shapes and no values (PyTorch's fake tensors): forward and backward of
the very network, chunks and half precision included. Every storage is counted while it lives, as PyTorch's own
`torch.distributed._tools.mem_tracker` does, which needs modules to be told apart that this does not. Not seen is what
kernels take for themselves while they work.
"""

import copy
import weakref
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mil.cohort import Cohort
from mil.feed import read_ahead
from mil.metadata import fit_metadata
from mil.model import build_model
from mil.network import Network
from mil.optim import make_optimizer, prepare
from mil.recipe import OptimSpec, Recipe
from mil.room import available_bytes, is_out_of_memory
from mil.settings import ModelSpec
from mil.task import Task
from tiling.features import FEATURES
from tiling.overview import OVERVIEWS

GB, MB = 10**9, 10**6
_PROBE = 128


class StepMemory(NamedTuple):
    """Bytes on the device at the peak of a training step, and of how many bags and instances.

    `weights` are parameters and buffers, with the average of them where there is one, or on a CPU the copies that it is
    of; `inputs` the uint8 tiles or float32 features of the batch, its augmented copy, and the batches read ahead;
    `step` gradients and activations together.
    """

    weights: int
    optimizer: int
    inputs: int
    step: int
    bags: int
    instances: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.optimizer + self.inputs + self.step


def step_memory(cohort: Cohort, recipe: Recipe, device: torch.device, processes: int = 1) -> StepMemory:
    """What the largest step of a training needs on each device: that over the largest bags.

    The network is built, without its pretrained weights; raises ModelError or SettingsError where that cannot be.
    """
    spec = recipe.train
    bags = min(len(cohort.sizes), -(-spec.batch_size // processes))
    instances = sum(sorted(cohort.sizes)[-bags:])
    net, metadata = _network(cohort, recipe, device)
    shape = _shape(cohort, recipe.model)
    passes = min(2, recipe.optim.accumulate)  # the second finds gradients there already
    play = partial(_played, net, bags, shape, metadata, device, passes)
    step = _extrapolated(play, instances, spec.instance_chunk)
    weights = sum(map(_bytes, [*net.parameters(), *net.buffers()]))
    learning = sum(_bytes(weight) for weight in net.parameters() if weight.requires_grad)
    optimizer = round(learning * state_share(recipe.optim))
    averaged = weights if recipe.optim.ema is not None or recipe.optim.average_last is not None else 0
    if recipe.optim.average_last is not None and device.type == "cpu":  # where the ends of the last epochs are kept
        averaged = min(recipe.optim.average_last, spec.epochs) * (learning + sum(map(_bytes, net.buffers())))
    held = sum(sorted(cohort.sizes)[-bags * (1 + read_ahead(bags, spec.loader_workers)) :])
    augmented = instances if recipe.augment.augment and FEATURES not in cohort.bag_spec else 0
    inputs = (held + augmented) * shape.numel() * (4 if len(shape) == 1 else 1)
    return StepMemory(weights + averaged, optimizer, inputs, step, bags, instances)


def state_share(spec: OptimSpec) -> float:
    """Bytes an optimiser keeps for each byte of weights: 2 for AdamW, 1 for SGD with momentum.

    Found out on a small network of matrices; raises SettingsError for an optimiser that there is not.
    """
    net = build_model(ModelSpec(embed=(_PROBE,)), Task(("0", "1")), {FEATURES: _PROBE})
    optimizer = make_optimizer(net, replace(spec, layer_decay=1.0))
    for weight in net.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    kept = sum(_bytes(leaf) for leaf in tree_leaves(list(optimizer.state.values())) if isinstance(leaf, Tensor))
    return kept / sum(map(_bytes, net.parameters()))


def out_of_memory_sentence(
    error: BaseException, cohort: Cohort, recipe: Recipe, device: torch.device, processes: int = 1
) -> str | None:
    """What to say of an error of a step that ran out of memory, None for any other error.

    It names the flags that help, each with a value that is estimated to fit.
    """
    if not is_out_of_memory(error):
        return None
    needs, there = step_memory(cohort, recipe, device, processes), available_bytes(device)
    return _sentence(cohort, recipe, device, processes, needs, there)


def in_gb(size: float) -> str:
    """Bytes for a reader: `5.2 GB`, `340 MB`."""
    return f"{size / GB:.1f} GB" if size >= GB else f"{size / MB:.0f} MB"


def settings_that_fit(
    cohort: Cohort, recipe: Recipe, device: torch.device, there: int, processes: int = 1
) -> list[tuple[str, StepMemory]]:
    """Flags, each with the largest value that is estimated to need no more than `there` bytes, and what it needs.

    A flag of which no value fits, or none that can be trained with, is left out.
    """
    needs = step_memory(cohort, recipe, device, processes)
    train = recipe.train
    kinds: list[tuple[str, list[Any]]] = [
        ("instance_chunk", _halves(min(needs.instances, train.instance_chunk or needs.instances), 2)),
        ("batch_size", _halves(train.batch_size, processes * recipe.model.least_bags)),
    ]
    if device.type == "cuda" and _is_whole(recipe):
        kinds.append(("precision", ["bf16"]))
    found = []
    for name, values in kinds:
        sizes: dict[Any, StepMemory] = {}

        def fits(value: Any, name: str = name, sizes: dict[Any, StepMemory] = sizes) -> bool:
            smaller = replace(recipe, train=replace(train, **{name: value}))
            try:
                sizes[value] = step_memory(cohort, smaller, device, processes)
            except ValueError:  # too few for a batch norm, and so is every smaller value
                return True
            return sizes[value].total <= there

        place = bisect_left(values, True, key=fits)  # the first that fits: less needs less
        if place < len(values) and values[place] in sizes:
            found.append((f"--{name.replace('_', '-')} {values[place]}", sizes[values[place]]))
    return found


def _sentence(
    cohort: Cohort, recipe: Recipe, device: torch.device, processes: int, needs: StepMemory, there: int
) -> str:
    kind = "overviews" if OVERVIEWS in cohort.bag_spec else "tiles"
    tiles = "instances" if FEATURES in cohort.bag_spec else f"{kind} of {recipe.model.input_px} px"
    # What was estimated to fit did not: what is proposed has to be clearly less.
    fitting = settings_that_fit(cohort, recipe, device, min(there, round(0.7 * needs.total)), processes)
    would = ", ".join(f"{flag} would need about {in_gb(size.total)}" for flag, size in fitting)
    return (
        f"out of memory: a step of {needs.bags} bags with {needs.instances} {tiles} needs about {in_gb(needs.total)}, "
        f"and {in_gb(there)} are free on the {'GPU' if device.type == 'cuda' else 'machine'}; " + (would or _LESS[kind])
    )


_LESS = {
    "tiles": "take a smaller --train-px or --backbone, or fewer --instances when tiling",
    "overviews": "take a smaller --overview-px or --backbone",
}


def _halves(value: int, least: int) -> list[int]:
    """Powers of two below a value, the largest first."""
    return [2**power for power in range(value.bit_length(), -1, -1) if least <= 2**power < value]


def _network(cohort: Cohort, recipe: Recipe, device: torch.device) -> tuple[Network, int]:
    """The network as it is trained, with other weights and not compiled; and how much metadata it takes."""
    table = recipe.table
    metadata = fit_metadata(cohort.labels.table, table.categorical, table.numeric)
    # How many chips of ChipNet are background is not known before: it is counted as if none were.
    model = replace(recipe.model, pretrained=False, weights=None, mask_background=False)
    net = build_model(model, cohort.labels.task, cohort.bag_spec, metadata)
    prepare(net, replace(recipe.train, compile=False), device)
    return net.train(), metadata.width


def _shape(cohort: Cohort, model: ModelSpec) -> torch.Size:
    """That of an instance: a picture (3, px, px) or features (C,)."""
    channels = cohort.bag_spec.get(FEATURES)
    return torch.Size((3, model.input_px, model.input_px) if channels is None else (int(channels),))


def _extrapolated(play: Callable[[int], int], instances: int, chunk: int | None) -> int:
    """What `play` gives for so many instances; of many chunks three are played, for each more adds the same."""
    parts = 1 if chunk is None else -(-instances // chunk)
    if parts <= 3:
        return play(instances)
    each = -(-instances // parts)
    two, three = play(2 * each), play(3 * each)
    return three + (parts - 3) * (three - two)


def _played(
    net: Network, bags: int, shape: torch.Size, metadata: int, device: torch.device, passes: int, instances: int
) -> int:
    """Peak bytes of gradients and activations of a step over bags of one size."""
    longest = -(-instances // bags)
    mask_BN = torch.ones(bags, longest, dtype=torch.bool)
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = _without_values(net, device)
        kind = torch.uint8 if len(shape) == 3 else torch.float32
        instances_M = torch.empty(bags * longest, *shape, dtype=kind, device=device)
        metadata_BF = torch.empty(bags, metadata, device=device)
        with _Peak([*fake.parameters(), *fake.buffers(), instances_M]) as peak:
            for _ in range(passes):
                logits_BK = fake(instances_M, mask_BN, metadata_BF).logits_BK
                torch.autograd.backward(logits_BK.square().sum())
    return peak.most


def _without_values(net: Network, device: torch.device) -> Network:
    """A copy of a network on a device, of which a fake tensor mode is entered."""
    memo: dict[int, Any] = {id(buffer): torch.empty_like(buffer, device=device) for buffer in net.buffers()}
    for weight in net.parameters():
        memo[id(weight)] = nn.Parameter(torch.empty_like(weight, device=device), weight.requires_grad)
    return copy.deepcopy(net, memo)


class _Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that are made while it is entered, but for those of `known` tensors."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = known  # which keeps them alive, and so their storages' addresses theirs
        self.alive = {tensor.untyped_storage()._cdata for tensor in known}
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.alive:
            self.alive.add(key)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.now -= size


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _is_whole(recipe: Recipe) -> bool:
    return recipe.train.precision == "fp32"
