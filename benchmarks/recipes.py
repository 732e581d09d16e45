"""Packaged configs without the command line, for benchmarks that must run where jsonargparse is not
installed; and batches of random pictures.
"""

from __future__ import annotations

from typing import Any, get_type_hints

import torch

from gan3d.checkpoints.portable import as_asked, class_and_arguments
from gan3d.discriminators import DISCRIMINATORS
from gan3d.generators import GENERATORS
from gan3d.training.estimate.repeated import RepeatedBatch
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


def random_reals(side: int, batch: int, iterations: int) -> RepeatedBatch:
    """The same batch of random pictures, with cameras, again and again.

    Args:
        side: of the pictures.
        batch: pictures per iteration.
        iterations: batches.
    """
    levels = torch.randint(256, (batch, 3, side, side), dtype=torch.uint8)
    return RepeatedBatch(side, batch, iterations, image=levels)
