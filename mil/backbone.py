"""Any timm image model as a source of feature maps. As models, timm is imported here and in `mil.weights` alone."""

import difflib
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

import timm
import torch
from timm.models import VGG, build_model_with_cfg, is_model_in_modules, is_model_pretrained, register_model
from torch import Tensor, nn

from mil.alexnet import CONFIG, AlexNet
from mil.depth import block_of, maps_behind_pools, parameter_depths, parameter_stages, stage_ends
from mil.errors import ModelError, cause
from mil.layout import as_maps, is_channels_last
from mil.luminosity import standard_luminosity
from mil.room import is_out_of_memory

COLOURS = {"rgb": slice(0, 3), "r": slice(0, 1), "g": slice(1, 2), "b": slice(2, 3)}
default_cfgs = {"alexnet": CONFIG}  # where timm looks for it


@register_model  # type: ignore[untyped-decorator]
def alexnet(pretrained: bool = False, **kwargs: Any) -> AlexNet:
    """AlexNet for timm.create_model."""
    features = {"out_indices": (0, 1, 2), "feature_cls": "getter"}
    return build_model_with_cfg(AlexNet, "alexnet", pretrained, feature_cfg=features, **kwargs)


class Backbone(nn.Module):
    """A timm model without its head: uint8 pictures in, feature maps out.

    The maps are what the model's `forward_features` gives, brought to one layout: maps as they are, channels-last maps
    turned, tokens put on their grid without class tokens and registers. Models that end in no single map (those of two
    or more branches: coat, crossvit, efficientvim; and pit, which gives nothing but class tokens) give their pooled
    embedding as a map of 1 x 1. With `reduction` they are those of the last block in which so many pixels a side are
    one position, and what lies behind it is cut off: 16 is a ResNet without its last stage. They are taken as they
    leave their block, without a norm.

    What takes no part in the maps is taken out of the model (pooling, norms and convolutions of the head), or, where
    it can't be, never learns. `channels` is the depth of the maps. Pictures are scaled to the mean and deviation the
    model was trained with; with `luminosity` their brightness is made alike before (see mil.luminosity). Raises
    ModelError for a model that timm does not know, that does not take pictures of `px`, that has no such `reduction`,
    or whose weights can't be fetched; `px_flag` is the setting that it then names, None where nobody can set the size.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str, px: int, colours: str = "rgb", pretrained: bool = False, luminosity: bool = False,
        px_flag: str | None = "--train-px", reduction: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if colours not in COLOURS:
            raise ModelError(f"colours are one of {', '.join(COLOURS)}, not {colours!r}")
        self.planes, self.luminosity = COLOURS[colours], luminosity
        # timm's models share attributes that no type tells
        self.net: Any = _create(name, px, self.planes, pretrained, px_flag)
        for statistic in ("mean", "std"):
            values = torch.tensor(self.net.pretrained_cfg[statistic]).expand(3)[self.planes]
            self.register_buffer(statistic, 255 * values.view(1, -1, 1, 1), persistent=False)
        self.name, self.px, self._px_flag = name, px, px_flag
        self._block = None if reduction is None else block_of(self.net, reduction)
        self._fixed_statistics = False
        self._channels_last = False
        self._learnable = {name for name, parameter in self.net.named_parameters() if parameter.requires_grad}
        (self.channels,) = self.settle(self._first_maps)

    def forward(self, images_MCHW: Tensor) -> Tensor:
        """Float maps (M, channels, h, w) of RGB uint8 (M, 3, px, px), of which only the asked colour is used."""
        maps = self.net(self.scaled(images_MCHW))
        if self._block is not None:
            return maps[0]
        maps_MCHW = as_maps(self.net, maps, self._channels_last)
        assert maps_MCHW is not None
        return maps_MCHW

    def scaled(self, images_MCHW: Tensor) -> Tensor:
        """What the model is given: the asked planes, by mean and deviation, float (M, 3 or 1, px, px)."""
        if self.luminosity:
            images_MCHW = standard_luminosity(images_MCHW)
        return (images_MCHW[:, self.planes] - self.mean) / self.std

    def freeze(self, stages: int | None) -> None:
        """Keep the stem and the first `stages` stages as they are, None: everything; what lies behind learns (again).

        Frozen parameters need no gradient, and modules with none but frozen parameters stay in evaluation mode.
        Stages are those of timm's coarse `group_matcher`: four of a ResNet, every block of a ViT, every convolution of
        alexnet. Raises ModelError for more stages than there are.
        """
        found = parameter_stages(self.net)
        if stages is not None and not 0 <= stages <= len(found):
            raise ModelError(
                f"the backbone {self.name!r} has {len(found)} stages, {stages} of them can't be frozen; "
                f"give a number from 0 to {len(found)}"
            )
        frozen = set(chain.from_iterable(found[:stages]))
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(name in self._learnable and parameter not in frozen)
        self.train(self.training)

    def freeze_batch_norm(self) -> None:
        """Make all batch norms use their stored statistics in training too; their scale and shift still learn."""
        self._fixed_statistics = True
        self.train(self.training)

    def depth_groups(self) -> list[list[nn.Parameter]]:
        """All parameters by layer, from the stem to the last, each in one group (timm's fine `group_matcher`)."""
        return parameter_depths(self.net)

    def train(self, mode: bool = True) -> "Backbone":
        """Change to training (or evaluation), but for what is frozen."""
        super().train(mode)
        for module in self.net.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
            elif self._fixed_statistics and getattr(module, "running_var", None) is not None:
                module.training = False
        return self

    def last_stages(self, images_MCHW: Tensor) -> list[Tensor]:
        """Maps (M, C, h, w) of the last three stages of RGB uint8 (M, 3, px, px), in one pass; the last as `forward`.

        A stage ends where the maps shrink, in VGG behind the pool. Models that keep one size (ViT) have four stages
        of as many blocks each. The maps before the last are taken as they leave their block, without a norm. Raises
        ModelError for a model without intermediate maps.
        """
        images_MCHW = self.scaled(images_MCHW)
        if isinstance(self.net, VGG):
            return maps_behind_pools(self.net.features, images_MCHW)[-3:]
        ends = stage_ends(self.net)
        last, maps = self.net.forward_intermediates(images_MCHW, indices=ends, output_fmt="NCHW")
        last_MCHW = as_maps(self.net, last, self._channels_last)
        return [*maps[:2], maps[2] if last_MCHW is None else last_MCHW]

    def settle(self, maps_of: Callable[[Tensor], list[Tensor]]) -> list[int]:
        """Depths of the maps that a function gives for an empty picture; what takes no part in them learns no more.

        Refuses a backbone that does not fit before it is trained: raises ModelError.
        """
        training, asked = self.training, [parameter.requires_grad for parameter in self.net.parameters()]
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(name in self._learnable)
        self.eval()
        called: set[nn.Module] = set()
        hooks = [
            module.register_forward_pre_hook(lambda module, _: called.add(module)) for module in self.net.modules()
        ]
        try:
            with torch.enable_grad():
                maps = maps_of(torch.zeros(1, 3, self.px, self.px, dtype=torch.uint8, device=self.mean.device))
        except (RuntimeError, AssertionError, ValueError, TypeError, IndexError, MemoryError) as error:
            if isinstance(error, ModelError):
                raise
            raise _refusal(self.name, self.px, self.planes, self._px_flag, error) from error
        finally:
            for hook in hooks:
                hook.remove()
            for parameter, learns in zip(self.net.parameters(), asked, strict=True):
                parameter.requires_grad_(learns)
        used = _parameters_behind(maps)
        _drop_unused(self.net, used, called)
        self._learnable &= {name for name, parameter in self.net.named_parameters() if parameter in used}
        self.train(training)
        return [tensor.shape[1] for tensor in maps]

    def _first_maps(self, images_MCHW: Tensor) -> list[Tensor]:
        """Maps by the model's features or, where those are none, by its embedding, which it then always uses."""
        images_MCHW = self.scaled(images_MCHW)
        if self._block is not None:
            self.net.forward = partial(
                self.net.forward_intermediates, indices=[self._block], stop_early=True, output_fmt="NCHW",
                intermediates_only=True,
            )  # fmt: skip
            return self.net(images_MCHW)
        features = self.net.forward_features(images_MCHW)
        self._channels_last = is_channels_last(self.net, features)
        maps_MCHW = as_maps(self.net, features, self._channels_last)
        if maps_MCHW is not None:
            # Called as a module, so that hooks and net.compile() do what they should.
            self.net.forward = self.net.forward_features
            return [maps_MCHW]
        maps_MCHW = as_maps(self.net, self.net(images_MCHW), self._channels_last)
        if maps_MCHW is None:
            raise ModelError(f"the backbone {self.name!r} gives neither maps nor an embedding")
        return [maps_MCHW]


def _drop_unused(net: nn.Module, used: set[nn.Parameter], called: set[nn.Module]) -> None:
    """Take out of a model the modules that were not called and hold none of the parameters that are used.

    Other parameters that are not used need no gradient from now on.
    """
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            parameters = set(child.parameters())
            if parameters and not parameters & used and not called & set(child.modules()):
                setattr(module, name, nn.Identity())
    for parameter in set(net.parameters()) - used:
        parameter.requires_grad_(False)


def _parameters_behind(maps: list[Tensor]) -> set[nn.Parameter]:
    """Parameters that would get a gradient from these maps."""
    found, seen = set(), set()
    nodes: list[Any] = [tensor.grad_fn for tensor in maps]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(node.variable)
        nodes.extend(previous for previous, _ in node.next_functions)
    return found


def _create(name: str, px: int, planes: slice, pretrained: bool, px_flag: str | None) -> Any:
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), 3)
        hint = f"did you mean {', '.join(close)}?" if close else "see timm.list_models()"
        raise ModelError(f"timm has no model {name!r}; {hint}")
    tagged = timm.list_models(f"{name.partition('.')[0]}.*", include_tags=True)
    if "." in name and name not in tagged:
        raise ModelError(f"timm has no model {name!r}; it has {', '.join(tagged) or name.partition('.')[0]}")
    if pretrained and not is_model_pretrained(name):
        raise ModelError(f"there are no pretrained weights of {name!r}; train without --pretrained, or give --weights")
    try:
        return _sized(name, px, planes, pretrained)
    except Exception as error:
        if pretrained and not is_out_of_memory(error):
            _create(name, px, planes, False, px_flag)  # a picture size that does not fit is no fault of the hub
            raise ModelError(
                f"cannot get the pretrained weights of {name!r} ({type(error).__name__}: {cause(error)}); "
                "check that the model hub can be reached, or train without --pretrained"
            ) from error
        raise _refusal(name, px, planes, px_flag, error) from error


def _sized(name: str, px: int, planes: slice, pretrained: bool) -> Any:
    """The model built for pictures of `px`, where it needs to know."""
    options = {"pretrained": pretrained, "num_classes": 0, "in_chans": planes.stop - planes.start}
    if is_model_in_modules(name, ("vgg",)) and not pretrained:
        options["mlp_ratio"] = 1 / 4096  # not to make 120 million parameters of hidden layers that are dropped
    try:
        return timm.create_model(name, **options, img_size=px)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return timm.create_model(name, **options)


def _refusal(name: str, px: int, planes: slice, px_flag: str | None, error: Exception) -> ModelError:
    if is_out_of_memory(error):
        return ModelError(
            f"out of memory: there is too little for the backbone {name!r} on a single picture of {px} px "
            f"({cause(error)}); take a smaller --backbone{f' or {px_flag}' if px_flag else ''}, or allow more memory"
        )
    usual = timm.get_pretrained_cfg(name)
    size = f", such as {usual.input_size[-1]}" if px_flag and usual and usual.input_size[-1] != px else ""
    what, remedy = ("", "") if planes == COLOURS["rgb"] else (" in one colour", ", or --channels rgb")
    return ModelError(
        f"the backbone {name!r} does not take pictures of {px} px{what} ({cause(error)}); "
        f"choose another {px_flag or '--backbone'}{size}{remedy}"
    )
