"""Blur of what the discriminator sees, fading out (Karras et al. 2021, EG3D supplement)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gan3d.layers.precision import full_precision
from gan3d.ops.resample import filter2d
from gan3d.schedules import fraction


@dataclass(frozen=True)
class Blur:
    """Blurs everything the discriminator sees, fading out linearly.

    Args:
        sigma: initial strength in pixels; 0 is off. EG3D: 10.
        fade_kimg: fades to zero over this many kimg. EG3D: 200.
    """

    sigma: float = 0.0
    fade_kimg: float = 200.0

    def sigma_at(self, images_seen: int) -> float:
        if self.fade_kimg <= 0:
            return 0.0
        return self.sigma * (1.0 - fraction(images_seen, self.fade_kimg))


def blur(image: Tensor, sigma: float) -> Tensor:
    """Separable filter with taps 2^-(k / sigma)^2, |k| <= 3 sigma, normalized to sum 1.

    The base is 2, not e, as in the published code (specs/eg3d.md, section 11). Computes without
    autocast, in float32 or more.

    Args:
        image: [b c h w].
        sigma: pixels; the image is returned unchanged below 1/3.
    """
    radius = math.floor(3 * sigma)
    if radius <= 0:
        return image
    k = torch.arange(-radius, radius + 1, device=image.device, dtype=torch.float32)
    taps = torch.exp2(-((k / sigma) ** 2))
    with full_precision(image):
        x = image.to(torch.promote_types(image.dtype, torch.float32))
        return filter2d(x, taps / taps.sum()).to(image.dtype)
