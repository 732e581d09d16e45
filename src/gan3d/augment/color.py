"""Color transforms of ADA: one affine map of colors per image.

    y = C [x; 1],   C is 4x4

The luma axis is v = (1, 1, 1) / sqrt(3). Karras et al. 2020, appendix B.3; specs/eg3d.md, section
14.3.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor

from gan3d.augment.transforms import Transforms, sometimes, symmetric
from gan3d.host import constant, upload
from gan3d.randomness import Randomness


def color_transform(transforms: Transforms, p: float, draw: Randomness, channels: int) -> Tensor:
    """C [b 4 4]; every step is multiplied from the left.

    Gray images (1 channel) have neither hue nor saturation.
    """
    t = transforms
    eye = torch.eye(4, dtype=draw.dtype, device=draw.device)
    v = constant((1, 1, 1, 0), eye) / math.sqrt(3)
    luma = v.outer(v)
    C = eye.repeat(len(draw), 1, 1)

    if t.brightness > 0:
        add = t.brightness_std * draw.normal("brightness")
        add = sometimes(draw, "brightness", t.brightness * p, add)
        C = (eye + add[:, None, None] * _column(eye)) @ C

    if t.contrast > 0:
        factor = torch.exp2(t.contrast_std * draw.normal("contrast"))
        factor = sometimes(draw, "contrast", t.contrast * p, factor, 1.0)
        C = torch.stack([factor, factor, factor, torch.ones_like(factor)], dim=1)[:, :, None] * C

    if t.lumaflip > 0:
        i = (2 * draw.uniform("lumaflip")).floor()
        i = sometimes(draw, "lumaflip", t.lumaflip * p, i)
        C = (eye - 2 * i[:, None, None] * luma) @ C

    if t.hue > 0 and channels > 1:
        angle = t.hue_max * math.pi * symmetric(draw, "hue")
        angle = sometimes(draw, "hue", t.hue * p, angle)
        C = turn(v[:3], angle) @ C

    if t.saturation > 0 and channels > 1:
        factor = torch.exp2(t.saturation_std * draw.normal("saturation"))
        factor = sometimes(draw, "saturation", t.saturation * p, factor, 1.0)
        C = (luma + (eye - luma) * factor[:, None, None]) @ C

    return C


def turn(axis: Tensor, angle: Tensor) -> Tensor:
    """Right-handed rotation about a unit axis [3] by angles [b] (Rodrigues), [b 4 4]."""
    x, y, z = axis
    o = torch.zeros_like(x)
    cross = torch.stack([o, -z, y, z, o, -x, -y, x, o]).view(3, 3)
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    R = torch.eye(4, dtype=angle.dtype, device=angle.device).repeat(len(angle), 1, 1)
    R[:, :3, :3] = (
        cos * torch.eye(3, dtype=R.dtype, device=R.device)
        + sin * cross
        + (1 - cos) * axis.outer(axis)
    )
    return R


def recolor(images: Tensor, C: Tensor) -> Tensor:
    """Applies color maps to images.

    Args:
        images: [b c h w] with one (gray), three, or a multiple of three channels.
        C: color maps [b 4 4].

    Raises:
        ValueError: another number of channels.
    """
    channels, h = images.shape[1], images.shape[2]
    if channels == 1:
        C = C[:, :3].mean(dim=1, keepdim=True)  # b 1 4: a gray image is r = g = b
        C = torch.stack([C[..., :3].sum(dim=-1), C[..., 3]], dim=-1)  # b 1 2
    elif channels % 3:
        raise ValueError(
            f"colors of {channels} channels are unknown; give 1 (gray), 3 (RGB) or a multiple of 3"
        )

    colors = rearrange(images, "b (n c) h w -> b c (n h w)", c=C.shape[1] if channels == 1 else 3)
    C = upload(C.to(images.dtype), images.device)
    last = C.shape[-1] - 1
    rows = C[:, : colors.shape[1]]
    colors = rows[..., :last] @ colors + rows[..., last:]
    return rearrange(colors, "b c (n h w) -> b (n c) h w", h=h, n=channels // colors.shape[1])


def _column(eye: Tensor) -> Tensor:
    """A matrix that adds to the three colors."""
    return torch.outer(constant((1, 1, 1, 0), eye), eye[3])
