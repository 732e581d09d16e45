"""Packaged configs without the command line, for benchmarks that must run where jsonargparse is not
installed; and batches of random pictures.
"""

from __future__ import annotations

from typing import Any, get_type_hints

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from gan3d.camera import Camera
from gan3d.checkpoints.portable import as_asked, class_and_arguments
from gan3d.data.dataset import Batch
from gan3d.discriminators import DISCRIMINATORS
from gan3d.generators import GENERATORS
from gan3d.training.gan import GAN
from gan3d.training.losses import Losses
from gan3d.zoo import configs


def gan_of(name: str, **options: Any) -> GAN:
    """The harness of a packaged config.

    Args:
        name: of the config.
        **options: arguments of `GAN` in place of the config's.
    """
    section = configs.read(configs.find(name))["model"]
    networks = []
    for registry, key in ((GENERATORS, "generator"), (DISCRIMINATORS, "discriminator")):
        made = section.pop(key)
        cls, arguments = class_and_arguments(registry, made["class_path"], made["init_args"])
        networks.append(cls(**arguments))
    hints = get_type_hints(GAN.__init__) | get_type_hints(Losses)
    recorded = {key: as_asked(value, hints[key]) for key, value in section.items()}
    return GAN(*networks, **recorded | options)


class Reals(LightningDataModule):
    """The same batch of random pictures, with cameras, again and again.

    Args:
        side: of the pictures.
        batch: pictures per iteration.
        iterations: batches.
    """

    def __init__(self, side: int, batch: int, iterations: int):
        super().__init__()
        self.image_resolution, self.iterations = side, iterations
        self.batch_size_at = None
        angles = torch.linspace(-0.3, 0.3, batch)
        camera = Camera.from_angles(angles, angles / 2)
        self.labels: Tensor = camera.label()
        levels = torch.randint(256, (batch, 3, side, side), dtype=torch.uint8)
        self.batch = Batch(levels, camera, torch.arange(batch))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(
            range(self.iterations),  # type: ignore[arg-type]
            batch_size=None,
            collate_fn=lambda _: self.batch,
        )
