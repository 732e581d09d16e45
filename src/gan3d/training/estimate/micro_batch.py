"""The largest micro-batch that fits a device's memory: `--model.run.micro_batch_size auto`.

    among the sizes that divide every stage's share of a process, and are whole groups of minibatch
    standard deviation, the largest one whose estimated need is there

Gradients accumulate over micro-batches, so the size changes memory and time, and no result.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

from gan3d.training.estimate.gpus import GPUS
from gan3d.training.estimate.needs import Estimator, Spread
from gan3d.training.gan import GAN


def sizes(shares: Sequence[int], group_size: int) -> list[int]:
    """Micro-batches that split every share evenly into whole groups, ascending.

    Args:
        shares: images of a process in an iteration, of each stage.
        group_size: images that are judged together.
    """

    def splits(size: int) -> bool:
        parts = [min(size, share) for share in shares]
        return all(s % p == 0 and p % group_size == 0 for s, p in zip(shares, parts, strict=True))

    return [size for size in range(1, max(shares) + 1) if splits(size)]


def largest_micro_batch(gan: GAN, spread: Spread, there: int) -> tuple[int, int]:
    """The largest micro-batch that a CUDA device has the memory for; the smallest, if it has it for
    none.

    Args:
        gan: the harness, before its networks are sharded; it is left as it is.
        spread: of the training.
        there: bytes of a device that the training may take, weights included.

    Returns:
        images at once, and the bytes that they need in all.

    Raises:
        ValueError: no size splits the batch.
    """
    estimator = Estimator(gan, next(iter(GPUS.values())))  # for what any GPU has besides
    shares = [
        (stage.batch_size or spread.batch_size) // spread.devices
        for stage in gan.stages
        if stage.micro_batch_size is None
    ]
    group = gan.discriminator.group_size
    candidates = sizes(shares or [group], group)
    if not candidates:
        raise ValueError(
            f"a process has {max(shares)} images per iteration, judged in groups of {group}, which "
            "do not divide them; change data.batch_size or the discriminator's group_size"
        )
    needed: dict[int, int] = {}

    def total(size: int) -> int:
        if size not in needed:
            needed[size] = estimator.needs(replace(spread, micro_batch_size=size)).total
        return needed[size]

    # More images at once need more memory: few sizes are estimated.
    *smaller, whole = candidates
    fitting = candidates
    if total(whole) > there:
        fitting = smaller[: bisect_right(smaller, there, key=total)]
    size = fitting[-1] if fitting else candidates[0]
    return size, total(size)
