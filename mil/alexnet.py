"""AlexNet with batch norm: five convolutions, in one column, which timm lacks."""

from typing import Any

from torch import Tensor, nn

# Mean and deviation are those of ImageNet; there are no weights.
CONFIG: dict[str, Any] = {
    "url": "",
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": (6, 6),
    "crop_pct": 0.875,
    "interpolation": "bilinear",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "first_conv": "blocks.0.conv",
    "classifier": "head",
}
POOLED = {0: (64, 8), 1: (192, 16), 4: (256, 32)}  # blocks with a pool: their channels, how far the picture shrank


class AlexNet(nn.Module):
    """Logits (M, classes) of float pictures (M, 3, h, w), h and w at least 63.

    The convolutions are those of Krizhevsky, Sutskever and Hinton 2012 (11, 5, 3, 3 and 3 wide, overlapping max pools
    after the first, second and fifth) in the single column of Krizhevsky 2014 (arXiv:1404.5997: 64, 192, 384, 256 and
    256 filters), each with batch norm in place of a bias, and of the response normalisation. The two hidden layers of
    4096 units are left out: the head is a mean over positions and one linear layer. Methods and attributes are those
    of a timm model, which it becomes in `mil.backbone`.
    """

    def __init__(self, num_classes: int = 1000, in_chans: int = 3, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = 256
        self.blocks = nn.Sequential(
            _Block(in_chans, 64, 11, stride=4, padding=2, pool=True),
            _Block(64, 192, 5, padding=2, pool=True),
            _Block(192, 384, 3, padding=1),
            _Block(384, 256, 3, padding=1),
            _Block(256, 256, 3, padding=1, pool=True),
        )
        self.feature_info = [
            {"num_chs": channels, "reduction": reduction, "module": f"blocks.{block}"}
            for block, (channels, reduction) in POOLED.items()
        ]
        self.global_pool: nn.Module = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes)

    def forward(self, images_MCHW: Tensor) -> Tensor:
        """Logits, or embeddings (M, 256) where there are no classes."""
        return self.forward_head(self.forward_features(images_MCHW))

    def forward_features(self, images_MCHW: Tensor) -> Tensor:
        """Maps (M, 256, h, w), 6 x 6 of 224 px."""
        return self.blocks(images_MCHW)

    def forward_head(self, maps_MCHW: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of maps; with `pre_logits` what the linear layer would be given."""
        embeddings_MC = self.drop(self.global_pool(maps_MCHW).flatten(1))
        return embeddings_MC if pre_logits else self.head(embeddings_MC)

    def forward_intermediates(
        self,
        images_MCHW: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> tuple[Tensor, list[Tensor]] | list[Tensor]:
        """The last maps and those behind the pools (or these alone): all three, the last few, or some by index.

        As of other timm models; `norm`, `stop_early` and `output_fmt` change nothing.
        """
        pooled = []
        for index, block in enumerate(self.blocks):
            images_MCHW = block(images_MCHW)
            if index in POOLED:
                pooled.append(images_MCHW)
        chosen = range(3)[-indices:] if isinstance(indices, int) else range(3) if indices is None else indices
        intermediates = [pooled[index] for index in chosen]
        return intermediates if intermediates_only else (images_MCHW, intermediates)

    def get_classifier(self) -> nn.Module:
        """The linear layer of the head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Give the head a new linear layer; none for 0 classes."""
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Every convolution is a stage; there is no stem before them."""
        return {"blocks": r"^blocks\.(\d+)"}


class _Block(nn.Module):
    """Convolution, batch norm, ReLU, and a max pool where asked."""

    def __init__(self, channels: int, filters: int, kernel: int, stride: int = 1, padding: int = 0, pool: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(channels, filters, kernel, stride, padding, bias=False)
        self.norm = nn.BatchNorm2d(filters)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2) if pool else nn.Identity()
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, maps_MCHW: Tensor) -> Tensor:
        return self.pool(self.act(self.norm(self.conv(maps_MCHW))))
