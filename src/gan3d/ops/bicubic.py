"""GRAM-HD's anti-aliased bicubic reduction Gamma (section 3.4; specs/gramhd.md 10): what
consistency is measured by.

    y = sum_i k_i x_{S p + i - 3 S / 2},   k_i = c((i - 2 S + 1/2) / S) / S,   i = 0 .. 4 S - 1, along both axes
    c(t) = 1.5 |t|^3 - 2.5 t^2 + 1 for |t| <= 1,   -0.5 |t|^3 + 2.5 t^2 - 4 |t| + 2 for |t| < 2       (a = -0.5)

The cubic is stretched by S, so that it is a low-pass filter; its taps sum to 1. The border pixel is
repeated beyond the border. Pixels are areas: a pixel of y covers S x S of x. (Torch's bicubic has a
= -0.75.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def bicubic_downsample(x: Tensor, factor: int) -> Tensor:
    """Gamma; linear, so differentiable any number of times.

    Args:
        x: [.. c h w], at least three axes; h and w are multiples of `factor`.
        factor: S, even.

    Returns:
        [.. c h/S w/S].
    """
    if factor < 2 or factor % 2:
        raise ValueError(f"factor {factor} is not an even number; use 2, 4, 8 or 16")
    h, w = x.shape[-2:]
    if x.ndim < 3 or h % factor or w % factor:
        raise ValueError(
            f"x {tuple(x.shape)} is not [.. c h w] with h and w multiples of factor {factor}; crop "
            "it"
        )
    # Every plane is one channel of its own; along one axis and then the other.
    planes = rearrange(x, "... h w -> (...) 1 h w")
    taps, beyond = cubic_taps(factor).to(x), 3 * factor // 2
    planes = F.pad(planes, (beyond, beyond, beyond, beyond), mode="replicate")
    planes = F.conv2d(planes, taps[None, None, None], stride=(1, factor))
    return F.conv2d(planes, taps[None, None, :, None], stride=(factor, 1)).reshape(
        *x.shape[:-2], h // factor, w // factor
    )


def cubic_taps(factor: int) -> Tensor:
    """k [4 S], float64."""
    t = ((torch.arange(4 * factor, dtype=torch.float64) - 2 * factor + 0.5) / factor).abs()
    inner, outer = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return torch.where(t <= 1, inner, torch.where(t < 2, outer, torch.zeros_like(t))) / factor
