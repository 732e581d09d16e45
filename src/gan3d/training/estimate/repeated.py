"""One batch, again and again: for what asks a training what it needs, not what it learns."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from gan3d.camera import Camera
from gan3d.data.dataset import Batch

POSES = 64  # labels of the set


class RepeatedBatch(LightningDataModule):
    """A data module whose batches are all the same.

    Args:
        side: of the images, in pixels.
        batch_size: images per iteration and process.
        iterations: in an epoch.
        posed: whether images have cameras, and the set has labels.
        image: [b 3 side side], [-1, 1] or uint8; None is black, of one number in memory.
    """

    def __init__(
        self,
        side: int,
        batch_size: int,
        iterations: int = 2,
        posed: bool = True,
        image: Tensor | None = None,
    ):
        super().__init__()
        self.image_resolution, self.batch_size, self.batch_size_at = side, batch_size, None
        self.iterations = iterations
        self.labels = _cameras(POSES).label() if posed else None
        if image is None:
            image = torch.zeros(batch_size, 3, 1, 1).expand(-1, -1, side, side)
        camera = _cameras(batch_size) if posed else None
        self.batch = Batch(image, camera, torch.arange(batch_size))

    def train_dataloader(self) -> DataLoader:
        numbers = range(self.iterations)
        return DataLoader(numbers, batch_size=None, collate_fn=lambda _: self.batch)  # type: ignore[arg-type]

    def val_dataloader(self) -> list[DataLoader]:
        return []


def _cameras(number: int) -> Camera:
    angles = torch.linspace(-0.3, 0.3, number)
    return Camera.from_angles(angles, angles / 2)
