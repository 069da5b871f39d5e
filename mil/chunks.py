"""Instances through a network some at a time, with the gradients of all at once.

Of a chunk only the result is kept. In the backward pass it is computed once more, chunk by chunk, so that the
activations of one chunk are all that is ever held (Chen et al. 2016, "Training deep nets with sublinear memory cost").

Gradients are those of the whole where an instance's result does not depend on its neighbours. **Batch norm in training
mode** is the exception: it takes mean and variance over a chunk instead of over the batch ("ghost" batch norm,
Hoffer et al. 2017), a somewhat different network; its running statistics are updated once a chunk, not again when the
chunk is recomputed. With frozen batch norm, or none (ViT, ConvNeXt), nothing differs. Dropout and stochastic depth draw
the same numbers when recomputed, but others than without chunks.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def in_chunks(network: nn.Module, instances_M: Tensor, chunk: int | None) -> Tensor:
    """What `network` gives for instances (M, …), at most `chunk` of them at a time; None for all at once."""
    if chunk is None or len(instances_M) <= chunk:
        return network(instances_M)
    # Parts as equal as can be: batch norm in training cannot do with one instance, and counts each part alike.
    parts = torch.tensor_split(instances_M, -(-len(instances_M) // chunk))
    learns = torch.is_grad_enabled() and any(weight.requires_grad for weight in network.parameters())
    if not learns:
        return torch.cat([network(part) for part in parts])
    norms = [module for module in network.modules() if getattr(module, "running_var", None) is not None]

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(norms)

    return torch.cat([checkpoint(network, part, use_reentrant=False, context_fn=contexts) for part in parts])


@contextmanager
def _statistics_kept(norms: list[nn.Module]) -> Iterator[None]:
    """A block that leaves the running statistics of batch norms as they were."""
    kept = [(norm, dict(norm.named_buffers(recurse=False))) for norm in norms]
    for norm, buffers in kept:  # autograd wants the tensors of the first time again, so there have to be some
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, buffers in kept:
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)
