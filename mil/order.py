"""In which order bags are trained on, and which of them together."""

import numpy as np


class Batches:
    """The batches of each epoch, from the seed and the epoch alone: a training can begin in the middle of any.

    There are `count` bags, `batch_size` a batch over all `world` processes. With `weights` (count,), at least one of
    them above 0, an epoch is `count` draws with replacement, a bag's chance in proportion to its weight. No batch has
    fewer bags than there are processes, nor one bag alone, from which batch norm cannot learn, where batches have
    more: what would be left over is put into the batch before. (Where there is no batch before, it stays.)
    """

    def __init__(
        self, count: int, batch_size: int, seed: int, shuffle: bool, weights: np.ndarray | None = None, world: int = 1
    ) -> None:
        assert batch_size >= world, "a batch has a bag for each process"
        self.count, self.batch_size, self.seed, self.shuffle = count, batch_size, seed, shuffle
        self.chances = None if weights is None else weights / weights.sum()
        self.least = min(batch_size, max(2, world))

    def __len__(self) -> int:
        """Batches of an epoch, the same in each."""
        full, rest = divmod(self.count, self.batch_size)
        return full + (rest >= self.least or (rest > 0 and not full))

    def plan(self, epoch: int) -> list[np.ndarray]:
        """The places of the bags of each batch, int64 (bags of the batch,), in their order."""
        places = self._places(epoch)
        return np.split(places, self.batch_size * np.arange(1, len(self))) if len(places) else []

    def _places(self, epoch: int) -> np.ndarray:
        random = np.random.default_rng((self.seed, epoch))
        if self.chances is not None:
            return random.choice(self.count, self.count, p=self.chances)
        return random.permutation(self.count) if self.shuffle else np.arange(self.count)
