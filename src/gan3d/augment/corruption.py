"""Filtering, noise and cutout of ADA (off in EG3D).

Karras et al. 2020, appendices B.4 and B.5; specs/eg3d.md, section 14.4.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from gan3d.augment.transforms import Transforms, sometimes
from gan3d.host import constant, upload
from gan3d.randomness import Randomness

# Low-pass filter of the sym2 wavelet.
SYM2 = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)
# Relative power of the bands in natural images.
EXPECTED_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)


@functools.cache
def filter_bank() -> Tensor:
    """Four filters, low to high band, that add up to an impulse, [4 43], float32."""
    low = np.asarray(SYM2)
    high = low * (-1.0) ** np.arange(len(low))
    low2 = np.convolve(low, low[::-1]) / 2
    high2 = np.convolve(high, high[::-1]) / 2
    bank = np.eye(4, 1)
    for i in range(1, 4):
        stuffed = np.zeros((4, 2 * bank.shape[1] - 1))
        stuffed[:, ::2] = bank
        bank = np.stack([np.convolve(row, low2) for row in stuffed])
        start = (bank.shape[1] - len(high2)) // 2
        bank[i, start : start + len(high2)] += high2
    return torch.from_numpy(bank).float()


def filter_bands(images: Tensor, transforms: Transforms, p: float, draw: Randomness) -> Tensor:
    """Images [b c h w] with their frequency bands amplified, at constant expected power."""
    t = transforms
    b, c, h, w = images.shape
    bank = upload(filter_bank().to(draw.dtype), draw.device)
    reach = bank.shape[1] // 2
    if min(h, w) <= reach:
        raise ValueError(
            f"imgfilter mirrors {reach} pixels and got images of {h} x {w}; set "
            "transforms.imgfilter 0"
        )

    # gains of the bands
    expected = constant(EXPECTED_POWER, bank)
    gains = torch.ones(b, 4, dtype=draw.dtype, device=draw.device)
    for i, strength in enumerate(t.imgfilter_bands):
        name = f"imgfilter_{i}"
        factor = torch.exp2(t.imgfilter_std * draw.normal(name))
        factor = sometimes(draw, name, t.imgfilter * p * strength, factor, 1.0)
        band = torch.ones_like(gains)
        band[:, i] = factor
        gains = gains * band / (expected * band.square()).sum(dim=1, keepdim=True).sqrt()

    # one separable filter per image
    taps = upload((gains @ bank).to(images.dtype), images.device)
    taps = taps.repeat_interleave(c, dim=0)[:, None]  # (b c) 1 k
    y = rearrange(F.pad(images, [reach] * 4, mode="reflect"), "b c h w -> 1 (b c) h w")
    y = F.conv2d(y, taps[:, :, None], groups=b * c)
    y = F.conv2d(y, taps[:, :, :, None], groups=b * c)
    return rearrange(y, "1 (b c) h w -> b c h w", b=b)


def add_noise(images: Tensor, transforms: Transforms, p: float, draw: Randomness) -> Tensor:
    """Adds Gaussian noise to images [b c h w], of a standard deviation drawn per image."""
    sigma = draw.normal("noise_sigma").abs() * transforms.noise_std
    sigma = sometimes(draw, "noise_sigma", transforms.noise * p, sigma)
    noise = draw.on(images.device).normal("noise", *images.shape[1:])
    return images + (upload(sigma, images.device)[:, None, None, None] * noise).to(images)


def cut_out(images: Tensor, transforms: Transforms, p: float, draw: Randomness) -> Tensor:
    """Sets a square of images [b c h w] to zero."""
    h, w = images.shape[-2:]
    draw = draw.on(images.device)
    size = torch.full((len(draw),), transforms.cutout_size, dtype=draw.dtype, device=draw.device)
    half = sometimes(draw, "cutout", transforms.cutout * p, size)[:, None] / 2  # b 1
    x, y = draw.uniform("cutout", 2)[:, :, None].unbind(1)  # b 1
    across = (torch.arange(w, dtype=draw.dtype, device=draw.device) + 0.5) / w
    down = (torch.arange(h, dtype=draw.dtype, device=draw.device) + 0.5) / h
    outside_x = (across - x).abs() >= half  # b w
    outside_y = (down - y).abs() >= half  # b h
    kept = outside_x[:, None, None, :] | outside_y[:, None, :, None]
    return images * kept.to(images)
