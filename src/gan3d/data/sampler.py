"""The endless order of training images, without state.

    image i of a run shows item perm_e[i mod n],   e = i // n

where perm_e is a permutation of the n items that depends on (seed, e) only. A global batch is B
consecutive images; process r of W takes its block [r B/W, (r+1) B/W). So the order is the same on
one process and on eight, and a run resumes by starting at the number of images seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from torch.utils.data import Sampler

from gan3d.randomness import key


# A batch spans two epochs at most, unless the set is smaller than the batch.
@lru_cache(maxsize=4)
def permutation(num_items: int, *labels: int | str) -> np.ndarray:
    """A read-only permutation of 0 ... num_items-1, a function of the labels only."""
    seed = key(*labels)
    # The streams of RandomState are frozen (NEP 19); those of Generator may change with numpy.
    order = np.random.RandomState([seed & 0xFFFFFFFF, seed >> 32]).permutation(num_items)
    order.flags.writeable = False
    return order


class EndlessOrder:
    """Maps image index to item, endlessly: every `len(items)` images show each item once.

    Args:
        items: the items to show.
        seed: seed of the permutations.
    """

    def __init__(self, items: Sequence[int] | np.ndarray, seed: int):
        if len(items) == 0:
            raise ValueError("no items to order; the training set is empty")
        self.items = np.asarray(items)
        self.seed = seed

    def __getitem__(self, index: int) -> int:
        epoch, position = divmod(index, len(self.items))
        order = permutation(len(self.items), self.seed, "epoch", epoch)
        return int(self.items[order[position]])


class EndlessBatches(Sampler[list[int]]):
    """Endless batches of image indices for one process, a `batch_sampler` for DataLoader.

    Args:
        batch_size: images per iteration over all processes, or a function of the images seen that
            returns it.
        start: returns the number of images seen; called whenever iteration over the batches begins.
        rank: rank of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        batch_size: int | Callable[[int], int],
        *,
        start: Callable[[], int] = lambda: 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        if not 0 <= rank < world_size:
            raise ValueError(
                f"rank {rank} of {world_size} processes; expected 0 to {world_size - 1}"
            )
        self.batch_size = batch_size if callable(batch_size) else lambda _: batch_size
        self.start = start
        self.rank = rank
        self.world_size = world_size
        self._local_batch_size(0)  # raises early if the batch cannot be divided

    def __iter__(self) -> Iterator[list[int]]:
        first = self.start()
        while True:
            local = self._local_batch_size(first)
            local_first = first + self.rank * local
            yield list(range(local_first, local_first + local))
            first += local * self.world_size

    def _local_batch_size(self, images_seen: int) -> int:
        """Images per iteration of one process."""
        batch_size = self.batch_size(images_seen)
        world_size = self.world_size
        if batch_size < 1 or batch_size % world_size:
            fits = max(batch_size // world_size, 1) * world_size
            raise ValueError(
                f"batch_size {batch_size} (images per iteration, over all processes) cannot be "
                f"divided among {world_size} processes; use a multiple of {world_size}, such as "
                f"{fits}"
            )
        return batch_size // world_size
