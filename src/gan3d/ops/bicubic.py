"""GRAM-HD's anti-aliased bicubic downsampling Gamma (section 3.4; specs/gramhd.md 10).

Along each axis, for i = 0 .. 4 S - 1,

    y_p  = sum_i k_i x_{S p + i - 3 S / 2},   k_i = c((i - 2 S + 1/2) / S) / S
    c(t) =  1.5 |t|^3 - 2.5 t^2 + 1              for |t| <= 1
    c(t) = -0.5 |t|^3 + 2.5 t^2 - 4 |t| + 2      for |t| < 2

This is the cubic with a = -0.5; torch's bicubic has a = -0.75. It is stretched by S, so that it is
a low-pass filter; its taps sum to 1. GRAM-HD measures consistency between resolutions with it.

Convention: pixels are areas, one pixel of y covers S x S of x. Border pixels are replicated.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from gan3d.host import upload


def bicubic_downsample(x: Tensor, factor: int) -> Tensor:
    """Gamma(x); linear, so differentiable any number of times.

    Computes without autocast, in float32 or more: differences to the result are small.

    Args:
        x: [.. c h w], at least three axes; h and w are multiples of `factor`.
        factor: S, even.

    Returns:
        [.. c h/S w/S].

    Raises:
        ValueError: `factor` is odd or does not divide h and w.
    """
    if factor < 2 or factor % 2:
        raise ValueError(f"factor {factor} is not an even number; use 2, 4, 8 or 16")
    h, w = x.shape[-2:]
    if x.ndim < 3 or h % factor or w % factor:
        raise ValueError(
            f"x {tuple(x.shape)} is not [.. c h w] with h and w multiples of factor {factor}; "
            "crop or pad it"
        )
    # Every plane is an image of one channel.
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    planes = rearrange(x, "... h w -> (...) 1 h w")
    border = 3 * factor // 2
    planes = F.pad(planes, (border, border, border, border), mode="replicate")

    # The filter is separable: along the width, then along the height.
    taps = upload(cubic_taps(factor).to(x.dtype), x.device)
    with torch.autocast(x.device.type, enabled=False):
        planes = F.conv2d(planes, taps[None, None, None], stride=(1, factor))
        planes = F.conv2d(planes, taps[None, None, :, None], stride=(factor, 1))
    return planes.reshape(*x.shape[:-2], h // factor, w // factor)


def cubic_taps(factor: int) -> Tensor:
    """The taps k, [4 S], float64."""
    t = ((torch.arange(4 * factor, dtype=torch.float64) - 2 * factor + 0.5) / factor).abs()
    inner = 1.5 * t**3 - 2.5 * t**2 + 1
    outer = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return torch.where(t <= 1, inner, torch.where(t < 2, outer, torch.zeros_like(t))) / factor
