"""The transforms of ADA with their probabilities and strengths.

Karras et al. 2020, section 3 and appendix B. A transform is applied to an image with probability
`multiplier * p`; a multiplier of 0 turns it off.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gan3d.randomness import Randomness


@dataclass(frozen=True)
class Transforms:
    """Multipliers of p (0 is off, 1 is as published) and strengths.

    Args:
        xflip: mirror left-right.
        rotate90: rotate by a multiple of 90 degrees.
        xint: shift by whole pixels.
        scale: zoom in and out.
        rotate: rotate by any angle, before and after `aniso`.
        aniso: stretch one axis and shrink the other.
        xfrac: shift by fractions of a pixel.
        brightness: add to all colors.
        contrast: multiply all colors.
        lumaflip: mirror the luma.
        hue: rotate about the luma axis.
        saturation: scale the distance from the luma axis.
        imgfilter: amplify or attenuate frequency bands.
        noise: add Gaussian noise.
        cutout: set a square to zero.
        xint_max: largest shift, as a fraction of the image size.
        scale_std: standard deviation of log2 of the zoom.
        rotate_max: largest angle; 1 is 180 degrees.
        aniso_std: standard deviation of log2 of the stretch.
        xfrac_std: standard deviation of the shift, as a fraction of the image size.
        brightness_std: standard deviation of the added value.
        contrast_std: standard deviation of log2 of the factor.
        hue_max: largest angle; 1 is 180 degrees.
        saturation_std: standard deviation of log2 of the factor.
        imgfilter_bands: multipliers of the four bands, low to high.
        imgfilter_std: standard deviation of log2 of a band's factor.
        noise_std: scale of the noise's standard deviation.
        cutout_size: side of the square, as a fraction of the image size.
    """

    xflip: float = 0.0
    rotate90: float = 0.0
    xint: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    aniso: float = 0.0
    xfrac: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    lumaflip: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    imgfilter: float = 0.0
    noise: float = 0.0
    cutout: float = 0.0
    xint_max: float = 0.125
    scale_std: float = 0.2
    rotate_max: float = 1.0
    aniso_std: float = 0.2
    xfrac_std: float = 0.125
    brightness_std: float = 0.2
    contrast_std: float = 0.5
    hue_max: float = 1.0
    saturation_std: float = 1.0
    imgfilter_bands: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    imgfilter_std: float = 1.0
    noise_std: float = 0.1
    cutout_size: float = 0.5

    def __post_init__(self) -> None:
        if len(self.imgfilter_bands) != 4:
            raise ValueError(
                f"imgfilter_bands are {tuple(self.imgfilter_bands)}; give four multipliers, low to "
                "high"
            )

    @property
    def geometric(self) -> bool:
        """Whether any transform moves pixels."""
        return any(
            (self.xflip, self.rotate90, self.xint, self.scale, self.rotate, self.aniso, self.xfrac)
        )

    @property
    def coloring(self) -> bool:
        """Whether any transform changes colors."""
        return any((self.brightness, self.contrast, self.lumaflip, self.hue, self.saturation))

    @property
    def any(self) -> bool:
        return self.geometric or self.coloring or any((self.imgfilter, self.noise, self.cutout))


def sometimes(
    draw: Randomness, name: str, probability: float, value: Tensor, neutral: float = 0.0
) -> Tensor:
    """`value` [b ..] for images whose draw `<name>_gate` is below the probability, else neutral."""
    applied = draw.uniform(f"{name}_gate") < probability
    applied = applied.reshape(-1, *[1] * (value.ndim - 1))
    return torch.where(applied, value, value.new_full((), neutral))


def symmetric(draw: Randomness, name: str, *shape: int) -> Tensor:
    """U[-1, 1) draws, [b *shape]."""
    return 2 * draw.uniform(name, *shape) - 1
