"""Micro-batches: a process's share of a batch, split without any effect on the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from einops import rearrange
from torch import Tensor

from gan3d.camera import Camera


class PosedBatch(Protocol):
    """What training data give: see gan3d.data.Batch."""

    camera: Camera | None
    index: Tensor

    @property
    def image(self) -> Tensor: ...

    @property
    def mask(self) -> Tensor | None: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Part:
    """A micro-batch.

    Attributes:
        image: real images [b 3 H W].
        camera: their cameras.
        indices: image indices, which all draws depend on.
        share: of the process's batch.
        mask: coverage of the foreground in the real images, [b 1 H W] in [0, 1].
    """

    image: Tensor
    camera: Camera | None
    indices: list[int]
    share: float = 1.0
    mask: Tensor | None = None


def micro_batches(batch: PosedBatch, size: int, group_size: int, dtype: torch.dtype) -> list[Part]:
    """Splits a batch into parts, each in the order in which minibatch standard deviation groups
    consecutive images.

    The discriminator's groups are strided, "(g m)": group m holds images m, m + M, .. of its input.
    Laid out as here, group m of every part is the same `group_size` consecutive images, however a
    batch is split up.

    Args:
        batch: of one process; `index` on the host.
        size: images per part, at most all of them.
        group_size: images that are judged together.
        dtype: of the networks.
    """
    local = len(batch)
    size = min(size, local)
    if local % size or size % group_size:
        raise ValueError(
            f"a process has {local} images per iteration in micro-batches of {size}, judged in "
            f"groups of {group_size}: each must divide the one before; change data.batch_size, "
            "model.run.micro_batch_size or the discriminator's group_size"
        )

    images, masks = batch.image, batch.mask  # these may be made as they are read

    def part(start: int) -> Part:
        def strided(values: Tensor) -> Tensor:
            some = values[start : start + size]
            return rearrange(some, "(m g) ... -> (g m) ...", g=group_size)

        camera = batch.camera
        if camera is not None:
            camera = Camera(strided(camera.cam2world), strided(camera.intrinsics)).to(dtype)
        mask = None if masks is None else strided(masks).to(dtype)
        image, indices = strided(images).to(dtype), strided(batch.index).tolist()
        return Part(image, camera, indices, size / local, mask)

    return [part(start) for start in range(0, local, size)]
