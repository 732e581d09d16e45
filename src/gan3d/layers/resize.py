"""Resizing images between raw and final resolution, as EG3D's dual discrimination does."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.layers.convolution import BINOMIAL
from gan3d.ops.resample import downsample2d, setup_filter, upsample2d

ResizeFilter = Literal["antialiased", "classic", "none"]


def filtered_resizing(
    image: Tensor,
    size: int,
    filter_mode: ResizeFilter | float = "antialiased",
    f: Tensor | None = None,
) -> Tensor:
    """Images at another size, bilinear, pixel centers at half-integers.

    Args:
        image: [b c h w].
        size: side of the result.
        filter_mode: "antialiased" widens the kernel when shrinking, "none" does not, a number in
            [0, 1] interpolates from none (0) to antialiased (1), "classic" resizes at twice the
            size, between StyleGAN2's up- and downsampling.
        f: filter of "classic", [1, 3, 3, 1] by default.

    Returns:
        [b c size size].

    Raises:
        ValueError: the mode is unknown.
    """
    if filter_mode == "classic":
        f = setup_filter(BINOMIAL).to(image.device) if f is None else f
        fine = _bilinear(upsample2d(image, f), 2 * size + 2, antialias=False)
        return downsample2d(fine, f, flip_filter=True, padding=-1)
    if filter_mode in ("antialiased", "none"):
        return _bilinear(image, size, antialias=filter_mode == "antialiased")
    if isinstance(filter_mode, str) or not 0 <= filter_mode <= 1:
        raise ValueError(
            f"filter_mode {filter_mode!r} is unknown; choose antialiased, classic, none or a "
            "number in [0, 1]"
        )
    aliased = _bilinear(image, size, antialias=False)
    return aliased.lerp(_bilinear(image, size, antialias=True), filter_mode)


def _bilinear(image: Tensor, size: int, antialias: bool) -> Tensor:
    x = image.to(torch.promote_types(image.dtype, torch.float32))  # a CPU has no other kernel
    return F.interpolate(
        x, size=(size, size), mode="bilinear", align_corners=False, antialias=antialias
    ).to(image.dtype)
