"""The classifier: from the vector of a bag, and maybe metadata, to logits."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


class Head(nn.Module):
    """Dropout, linear; or, with `hidden`, dropout, linear, batch norm if asked for, activation, dropout, linear.

    Metadata (B, metadata) goes through two layers of `metadata_hidden` with ReLU and joins the bag's vector before
    the classifier.
    """

    def __init__(
        self, channels: int, logits: int, hidden: int | None = None, activation: str = "relu", norm: bool = False,
        dropout: float = 0.0, metadata: int = 0, metadata_hidden: int = 32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.logits, self.metadata_width = logits, metadata
        self.metadata = None
        if metadata:
            self.metadata = nn.Sequential(
                nn.Linear(metadata, metadata_hidden), nn.ReLU(), nn.Linear(metadata_hidden, metadata_hidden), nn.ReLU()
            )
            channels += metadata_hidden
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        if hidden is not None:
            layers += [nn.Linear(channels, hidden, bias=not norm), *([nn.BatchNorm1d(hidden)] if norm else [])]
            layers += [ACTIVATIONS[activation](), nn.Dropout(dropout)]
        self.classifier = nn.Sequential(*layers, nn.Linear(hidden or channels, logits))

    def forward(self, bags_BC: Tensor, metadata_BF: Tensor | None = None) -> Tensor:
        """Logits (B, K)."""
        if self.metadata is not None:
            bags_BC = torch.cat([bags_BC, self.metadata(metadata_BF)], dim=1)
        return self.classifier(bags_BC)


def silence(head: Head, places: Sequence[int]) -> None:
    """Let places of the metadata say nothing to begin with.

    An unknown that never occurs in training then says nothing in scoring either, in place of something random.
    """
    if head.metadata is not None:
        with torch.no_grad():
            first = head.metadata[0]
            assert isinstance(first, nn.Linear)
            first.weight[:, list(places)] = 0


def initialise(head: Head, how: str) -> None:
    """Start the linear layers otherwise than PyTorch does: `xavier` or `kaiming` weights (normal) and no bias.

    `zero` leaves the hidden layers as they are and sets the last to 0, so that all classes start equal; `default`
    changes nothing.
    """
    linears = [module for module in head.modules() if isinstance(module, nn.Linear)]
    for linear in {"default": [], "zero": linears[-1:]}.get(how, linears):
        _FILLS[how](linear.weight)
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)


_FILLS: dict[str, Callable[[Tensor], Tensor]] = {
    "xavier": nn.init.xavier_normal_,
    "kaiming": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
    "zero": nn.init.zeros_,
}
