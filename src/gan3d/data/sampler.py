"""Which image comes next, without end and without state.

    image i of a run shows item perm_e[i mod n], e = i // n;   perm_e is a permutation from (seed, e) alone

A global batch is B consecutive images; process r of W takes the block [r B/W, (r+1) B/W) of it. So
the order is the same for one process and for eight, and resuming means starting at the number of
images seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from torch.utils.data import Sampler

from gan3d.randomness import key


@lru_cache(maxsize=4)  # a batch spans two epochs at most, unless the set is smaller than the batch
def permutation(num_items: int, *labels: int | str) -> np.ndarray:
    """A permutation of 0 ... num_items-1, a function of the labels alone. Read-only."""
    seed = key(*labels)
    # RandomState, because its streams are frozen for good (NEP 19); Generator's may change with
    # numpy.
    order = np.random.RandomState([seed & 0xFFFFFFFF, seed >> 32]).permutation(num_items)
    order.flags.writeable = False
    return order


class EndlessOrder:
    """Image index -> item, without end: every `len(items)` images each item is shown once.

    Args:
        items: the items to show.
        seed: of the permutations.
    """

    def __init__(self, items: Sequence[int] | np.ndarray, seed: int):
        if len(items) == 0:
            raise ValueError("no items to order; the training set is empty")
        self.items, self.seed = np.asarray(items), seed

    def __getitem__(self, index: int) -> int:
        epoch, place = divmod(index, len(self.items))
        return int(self.items[permutation(len(self.items), self.seed, "epoch", epoch)[place]])


class EndlessBatches(Sampler[list[int]]):
    """Lists of image indices for one process, without end and without `__len__`; a `batch_sampler`
    of DataLoader.

    Args:
        batch_size: images per iteration over all processes; or a function of the images seen that
            gives it.
        start: called when an iteration over the batches begins: how many images the run has seen by
            then.
        rank: this process.
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
        self.start, self.rank, self.world_size = start, rank, world_size
        self._local(0)

    def __iter__(self) -> Iterator[list[int]]:
        first = self.start()
        while True:
            local = self._local(first)
            mine = first + self.rank * local
            yield list(range(mine, mine + local))
            first += local * self.world_size

    def _local(self, images_seen: int) -> int:
        """Images per iteration of one process."""
        batch_size, world_size = self.batch_size(images_seen), self.world_size
        if batch_size < 1 or batch_size % world_size:
            fits = max(batch_size // world_size, 1) * world_size
            raise ValueError(
                f"batch_size {batch_size} (images per iteration, over all processes) can not be "
                f"divided among {world_size} processes; use a multiple of {world_size}, such as "
                f"{fits}"
            )
        return batch_size // world_size
