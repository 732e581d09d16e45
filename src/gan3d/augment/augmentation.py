"""Augmentation: everything that changes an image before the discriminator sees it."""

from __future__ import annotations

from dataclasses import dataclass

from gan3d.augment.ada import ADA
from gan3d.augment.blur import Blur
from gan3d.augment.diffaug import DiffAugment


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of real and generated images alike, in this order.

    Args:
        blur: blur that fades out at the start of training.
        ada: adaptive augmentation, whose strength follows the overfitting of the discriminator.
        diffaug: DiffAugment, always at full strength.
    """

    blur: Blur = Blur()
    ada: ADA = ADA()
    diffaug: DiffAugment = DiffAugment()
