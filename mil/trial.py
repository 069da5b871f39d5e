"""A network as a training would start with it, tried before anything is trained: whether it can be, and how fast."""

import time

import torch

from mil.augment import OF_INSTANCES, ON_PIXELS
from mil.cohort import Cohort
from mil.errors import ModelError, cause
from mil.jpeg import check_decoder
from mil.losses import TaskLoss
from mil.memory import out_of_memory_sentence
from mil.metadata import fit_metadata
from mil.model import build_model, refuse_changed, start_from_weights
from mil.network import Network, bare
from mil.optim import make_optimizer, prepare
from mil.recipe import Recipe
from mil.weights import WeightsReport
from tiling.features import FEATURES
from tiling.overview import OVERVIEWS

_TIMED = 8  # instances of the step that is timed


def try_model(
    cohort: Cohort, recipe: Recipe, device: torch.device, world: int = 1
) -> tuple[Network, WeightsReport | None]:
    """The network of a training by `world` processes with the weights it starts from, and what is to say of those.

    Its loss and its optimiser are made too, so that all that does not fit is refused: raises ModelError or
    SettingsError.
    """
    TaskLoss(cohort.labels.task, recipe.loss, cohort.labels.targets)
    metadata = fit_metadata(cohort.labels.table, recipe.table.categorical, recipe.table.numeric)
    net = build_model(recipe.model, cohort.labels.task, cohort.bag_spec, metadata)
    weights = start_from_weights(net, recipe.model)
    if FEATURES in cohort.bag_spec:
        refuse_changed(recipe.augment, ON_PIXELS)
        refuse_changed(recipe.train, ("cache", "decode"))
    elif OVERVIEWS in cohort.bag_spec:
        refuse_changed(recipe.augment, OF_INSTANCES, "is for the tiles of a bag, and ChipNet has one overview")
        refuse_changed(recipe.train, ("cache", "decode"), "is for tiles, and overviews are kept in memory")
    elif recipe.train.decode == "gpu":
        check_decoder(cohort.bag_spec, device)
    prepare(net, recipe.train, device, world)
    make_optimizer(net, recipe.optim)
    norm = "the batch norm of ChipNet takes means over slides"
    norm = norm if recipe.model.takes_overviews else "--head-norm takes means over bags"
    for bags, why in ((1, "each process takes a bag of a batch"), (2, norm)):
        if recipe.train.batch_size < bags * world and bags <= recipe.model.least_bags:
            raise ModelError(f"{why}: give a --batch-size of {bags * world} or more")
    return net, weights


def explained(error: Exception, cohort: Cohort, recipe: Recipe, device: torch.device, processes: int = 1) -> str | None:
    """What a user can do about an error of PyTorch in a step, None for any other."""
    if "more than 1 value per channel" in str(error):
        return (
            f"batch norm has nothing to take a mean of ({error}); raise --batch-size, or --instance-chunk if you gave "
            "one, or --train-px, or tile with more --instances"
        )
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return f"the backbone cannot be compiled here ({cause(error)}); train without --compile"
    return out_of_memory_sentence(error, cohort, recipe, device, processes)


def describe(net: Network, recipe: Recipe) -> str:
    """What a network is, in a line."""
    weights = sum(weight.numel() for weight in net.parameters())
    learning = sum(weight.numel() for weight in net.parameters() if weight.requires_grad)
    share = f"{weights / 1e6:.1f} million weights, of which {100 * learning / weights:.0f} % learn"
    backbone = bare(net.encoder.backbone)
    if backbone is None:
        return f"features, {recipe.model.pooling} pooling: {share}"
    depth = net.encoder.backbone.channels
    if recipe.model.takes_overviews:
        cells = recipe.model.overview_px // backbone.px
        return f"ChipNet of {backbone.name}, maps of {cells} x {cells} chips, {depth} deep: {share}"
    return f"{backbone.name} on {backbone.px} px, maps {depth} deep, {recipe.model.pooling} pooling: {share}"


def seconds_per_instance(net: Network, cohort: Cohort, recipe: Recipe, device: torch.device) -> float:
    """How long forward and backward take, by a step over two small bags; one before it warms up."""
    channels, px = cohort.bag_spec.get(FEATURES), recipe.model.input_px
    each = max(1, min(_TIMED, sum(cohort.sizes)) // 2)
    bags_of = (2 * each, 1) if recipe.model.takes_overviews else (2, each)
    shape = (2 * each, 3, px, px) if channels is None else (2 * each, int(channels))
    instances_M = torch.zeros(shape, dtype=torch.uint8 if channels is None else torch.float32, device=device)
    width = fit_metadata(cohort.labels.table, recipe.table.categorical, recipe.table.numeric).width
    mask_BN, metadata_BF = torch.ones(bags_of, dtype=torch.bool), torch.zeros(bags_of[0], width, device=device)
    net.to(device).train()
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        loss = net(instances_M, mask_BN, metadata_BF).logits_BK.square().sum()
        torch.autograd.backward(loss)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    return seconds / (2 * each)
