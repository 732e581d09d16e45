"""DiffAugment: differentiable augmentation of everything the discriminator sees.

Zhao et al. 2020, section 4. In this order, with an own u ~ U[0, 1) per image and transform:

    brightness   x + (u - 1/2)
    saturation   2u (x - m) + m,            m the mean over the channels of a pixel
    contrast     (u + 1/2) (x - m) + m,     m the mean over the image
    translation  x[i + t_h, j + t_w], zero outside; t are integers, |t| <= translation * size
    cutout       zero in a square of side cutout * size, centered anywhere in the image

The square has 0.2 of the image's side in CIPS-3D (section 12 of its specification), 0.5 in the
original.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gan3d.randomness import Randomness


@dataclass(frozen=True)
class DiffAugment:
    """Augments real and generated images alike, at full strength from the start.

    Args:
        enabled: turns the augmentation on.
        color: change brightness, saturation and contrast.
        translation: largest shift as a fraction of the side; 0 is off.
        cutout: side of the square as a fraction of the image's side; 0 is off.
    """

    enabled: bool = False
    color: bool = True
    translation: float = 1 / 8
    cutout: float = 0.2

    def __post_init__(self) -> None:
        if not (0 <= self.translation <= 1 and 0 <= self.cutout <= 1):
            raise ValueError(
                f"diffaug got translation {self.translation} and cutout {self.cutout}; give "
                "fractions of the side, 0 to 1"
            )

    def __call__(self, images: Tensor, draw: Randomness) -> Tensor:
        """Images [b c H H], augmented if `enabled`."""
        if not self.enabled:
            return images
        return diff_augment(
            images, draw, color=self.color, translation=self.translation, cutout=self.cutout
        )


def diff_augment(
    images: Tensor,
    draw: Randomness,
    *,
    color: bool = True,
    translation: float = 1 / 8,
    cutout: float = 0.2,
) -> Tensor:
    """Augments images; linear in them, so differentiable any number of times.

    Args:
        images: [b c H H].
        draw: per image, uniform "brightness", "saturation", "contrast"; integer "translation" (t +
            its largest value) and "cutout" (row and column of the center).
        color: change brightness, saturation and contrast.
        translation: largest shift as a fraction of the side.
        cutout: side of the square as a fraction of the image's side.

    Returns:
        [b c H H].

    Raises:
        ValueError: images are not square, or differ in number from the draws.
    """
    if images.ndim != 4 or images.shape[2] != images.shape[3] or len(images) != len(draw):
        raise ValueError(
            f"diff_augment got images of shape {tuple(images.shape)} and draws for {len(draw)}; "
            "give square images [b c H H] and draws for b"
        )
    side = images.shape[-1]
    if color:
        images = _recolored(images, draw)
    most = int(side * translation + 0.5)
    if most > 0:
        images = _translated(images, draw.integers("translation", 2 * most + 1, 2) - most)
    size = int(side * cutout + 0.5)
    if size > 0:
        images = _cut_out(images, draw.integers("cutout", side + 1 - size % 2, 2), size)
    return images


def _recolored(x: Tensor, draw: Randomness) -> Tensor:
    brightness, saturation, contrast = (
        draw.uniform(name, 1, 1, 1).to(x) for name in ("brightness", "saturation", "contrast")
    )
    x = x + (brightness - 0.5)
    mean = x.mean(dim=1, keepdim=True)
    x = (x - mean) * (2 * saturation) + mean
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return (x - mean) * (contrast + 0.5) + mean


def _translated(x: Tensor, shift: Tensor) -> Tensor:
    """y[i, j] = x[i + shift_h, j + shift_w], 0 outside; shift [b 2]."""
    side = torch.arange(x.shape[-1], device=x.device)
    rows, columns = (side + shift.to(x.device)[:, :, None]).unbind(dim=1)  # b H
    for dim, index in ((2, rows[:, None, :, None]), (3, columns[:, None, None, :])):
        inside = (index >= 0) & (index < len(side))
        x = x.gather(dim, index.clamp(0, len(side) - 1).expand_as(x)) * inside
    return x


def _cut_out(x: Tensor, center: Tensor, size: int) -> Tensor:
    """x with zeros in `size` rows and columns from center - size // 2 on; center [b 2]."""
    side = torch.arange(x.shape[-1], device=x.device)
    start = center.to(x.device)[:, :, None] - size // 2
    rows, columns = ((side >= start) & (side < start + size)).unbind(dim=1)  # b H
    return x * ~(rows[:, None, :, None] & columns[:, None, None, :])
