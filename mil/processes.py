"""What processes that train one model tell each other.

Gradients are summed and not averaged by a wrapper of the model, for a loss is divided by the weight of the whole step
over all processes: so N of them learn what one would from the same bags.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist

from mil.errors import LaunchError, cause
from mil.launcher import Launch

T = TypeVar("T")
BUCKET_BYTES = 25 * 2**20  # of gradients that travel together
TIMEOUT_MIN = 10.0
PATIENCE = timedelta(days=2)  # while the first process does something alone


class Processes:
    """One process and the others that train with it; alone, everything below costs nothing.

    A context manager: it parts them at the end. Where one of them fails, the others get LaunchError from what they do
    together next. What they do together, all must do, in the same order.
    """

    def __init__(self, launch: Launch, device: torch.device, timeout_min: float = TIMEOUT_MIN) -> None:
        self.rank, self.world, self.device = launch.rank, launch.world, device
        self._small: Any = None  # a group of gloo, for what lies on the CPU: a GPU need not be waited for
        self._patient: Any = None
        if self.world > 1:
            gloo = dist.get_backend() == "gloo"
            timeout = timedelta(minutes=timeout_min)
            self._small = dist.group.WORLD if gloo else dist.new_group(backend="gloo", timeout=timeout)
            self._patient = dist.new_group(backend="gloo", timeout=PATIENCE)

    @property
    def is_first(self) -> bool:
        """Whether this one writes the files."""
        return self.rank == 0

    def __enter__(self) -> "Processes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.world > 1 and dist.is_initialized():
            try:
                if kind is None:  # the first holds what the others meet at: it must not be gone before them
                    self.barrier()
            finally:
                self._small = self._patient = None  # groups that outlive the interpreter abort the process
                dist.destroy_process_group()

    def share(self, places: np.ndarray) -> np.ndarray:
        """The part of some places, which all processes know, that is for this one."""
        return places[self.rank :: self.world]

    def barrier(self) -> None:
        """Wait until all are here."""
        self.any_(False)

    def any_(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        return self.sum_(torch.tensor(int(flag))).item() > 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, the same bits in each; in place."""
        if self.world > 1:
            with self._together():
                dist.all_reduce(tensor, group=self._group(tensor))
        return tensor

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum each gradient over all processes, in place; one that is None counts as 0, and stays None if all are."""
        if self.world == 1:
            return
        learning = [weight for weight in parameters if weight.requires_grad]
        there = self.sum_(torch.tensor([weight.grad is not None for weight in learning], dtype=torch.int32))
        gradients = []
        for weight, processes in zip(learning, there.tolist(), strict=True):
            if processes:
                weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
                gradients.append(weight.grad)
        self._in_buckets(gradients, self.sum_)

    def mean_(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the mean of each tensor, such as statistics of batch norm; of whole numbers the first's.

        In place. What is the same everywhere keeps its bits: the sum of N equal numbers is exact in double precision.
        """
        if self.world == 1:
            return
        tensors = list(tensors)
        floats = [tensor for tensor in tensors if tensor.is_floating_point()]
        doubles = [buffer.double() for buffer in floats]
        self._in_buckets(doubles, lambda flat: self.sum_(flat).div_(self.world))
        for tensor, mean in zip(floats, doubles, strict=True):
            tensor.copy_(mean)
        self._in_buckets([tensor for tensor in tensors if not tensor.is_floating_point()], self._from_first)

    def check_same_weights(self, model: nn.Module) -> None:
        """Raise LaunchError where parameters or buffers are not the same in all processes, to the bit."""
        if self.world == 1:
            return
        digest = hashlib.sha256()
        for value in model.state_dict().values():
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        rows = torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8).int()[None]
        table = self.gather_rows(rows, torch.tensor([self.rank]), self.world)
        if others := (table != table[0]).any(1).nonzero().flatten().tolist():
            raise LaunchError(
                f"the weights of process {others[0]} are not those of process 0: they no longer train one model; "
                "resume from the last checkpoint, on machines and GPUs of one kind"
            )

    def gather_rows(self, rows_NK: Tensor, places_N: Tensor, count: int) -> Tensor:
        """The whole table (count, K), on the CPU, of which each process has some rows: row i is number `places_N[i]`.

        A process without any gives (0, K). Each row must be there once.
        """
        places_N = places_N.cpu()
        table = rows_NK.new_zeros((count, rows_NK.shape[1]), device="cpu").index_add_(0, places_N, rows_NK.cpu())
        times = torch.zeros(count, dtype=torch.int64).index_add_(0, places_N, torch.ones_like(places_N))
        table, times = self.sum_(table), self.sum_(times)
        assert bool((times == 1).all()), f"rows are there {sorted(set(times.tolist()))} times, not once"
        return table

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process, in all of them; the others wait for it, for hours if need be.

        Where it raises in the first, the others raise LaunchError.
        """
        if self.world == 1:
            return make()
        outcome: list[Any] = [None, None]
        failure: Exception | None = None
        if self.is_first:
            try:
                outcome[0] = make()
            except Exception as error:  # noqa: BLE001  # it is raised below
                failure, outcome[1] = error, str(error) or repr(error)
        with self._together():
            dist.broadcast_object_list(outcome, src=0, group=self._patient)
        if failure is not None:
            raise failure
        if outcome[1] is not None:
            raise LaunchError(f"process 0 stopped: {outcome[1]}")
        return outcome[0]

    def wait(self) -> None:
        """Wait until all are here, for hours if need be."""
        if self.world > 1:
            with self._together():
                dist.barrier(group=self._patient)

    def _from_first(self, flat: Tensor) -> Tensor:
        with self._together():
            dist.broadcast(flat.view(torch.uint8), src=0, group=self._group(flat))  # gloo knows no bool
        return flat

    def _group(self, tensor: Tensor) -> Any:
        return self._small if tensor.device.type == "cpu" else dist.group.WORLD

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and "gloo" not in str(error):
                raise
            raise LaunchError(
                f"process {self.rank} of {self.world} lost the others ({cause(error)}); one of them ended or hangs: "
                "what it says comes before this, or is in its own log"
            ) from error

    @torch.no_grad()
    def _in_buckets(self, tensors: Sequence[Tensor], change: Callable[[Tensor], Tensor]) -> None:
        """Put tensors through `change`, many at a time as one flat tensor."""
        for bucket in _buckets(tensors):
            flat = change(torch.cat([tensor.reshape(-1) for tensor in bucket]))
            for tensor, part in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view(tensor.shape))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one kind, up to BUCKET_BYTES together or one that is larger."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        fits = size + tensor.nbytes <= BUCKET_BYTES
        if bucket and not (fits and tensor.dtype == bucket[0].dtype and tensor.device == bucket[0].device):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket
