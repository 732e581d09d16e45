"""Resizing of images for discriminators."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from gan3d.ops.resample import downsample2d, setup_filter, upsample2d


def filtered_resizing(
    image: Tensor, size: int, mode: Literal["antialiased", "none", "classic"] | float = "antialiased"
) -> Tensor:
    """Resizes a square image (specs/eg3d.md, 10.3).

    Args:
        image: [b c h h].
        size: new side.
        mode: bilinear with antialias, without, a mix of both (the share of the first, in (0, 1)), or `classic`:
            upsampled by two, bilinear, downsampled by two, with the binomial filter.
    """
    if mode == "antialiased" or mode == "none":
        return F.interpolate(
            image, size=(size, size), mode="bilinear", align_corners=False, antialias=mode == "antialiased"
        )
    if mode == "classic":
        f = setup_filter([1, 3, 3, 1]).to(image.device)
        image = upsample2d(image, f)
        image = F.interpolate(image, size=(2 * size + 2, 2 * size + 2), mode="bilinear", align_corners=False)
        return downsample2d(image, f, flip_filter=True, padding=-1)
    if not isinstance(mode, float) or not 0 < mode < 1:
        raise ValueError(f"mode {mode!r}: use antialiased, none, classic or a share between 0 and 1")
    return (1 - mode) * filtered_resizing(image, size, "none") + mode * filtered_resizing(image, size, "antialiased")
