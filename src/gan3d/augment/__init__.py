"""Augmentation of what the discriminator sees: blur, adaptive augmentation (ADA), DiffAugment."""

from gan3d.augment.ada import ADA, PRESETS, AdaptiveP
from gan3d.augment.augmentation import Augmentation
from gan3d.augment.blur import Blur, blur
from gan3d.augment.pipe import Percentile, augment, augment_pair
from gan3d.augment.transforms import Transforms

__all__ = [
    "ADA",
    "PRESETS",
    "AdaptiveP",
    "Augmentation",
    "Blur",
    "Percentile",
    "Transforms",
    "augment",
    "augment_pair",
    "blur",
]
