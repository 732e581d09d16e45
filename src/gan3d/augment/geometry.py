"""Geometric transforms of ADA: one affine map per image, at twice the resolution between filters.

    y(q) = x(G_inv q)

with q the homogeneous pixel positions, origin in the center; x is mirrored beyond its border.
Karras et al. 2020, appendix B.2; specs/eg3d.md, sections 14.1 and 14.2.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.augment.transforms import Transforms, sometimes, symmetric
from gan3d.host import upload
from gan3d.ops.grid_sample import grid_sample
from gan3d.ops.resample import downsample2d, setup_filter, upsample2d
from gan3d.randomness import Randomness

# Low-pass filter of the sym6 wavelet. It is orthogonal: up- and downsampling restore the image.
# fmt: off
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)
# fmt: on
# Pixels that the filter reaches to each side, at twice the resolution.
REACH = len(SYM6) // 4


def inverse_transform(
    transforms: Transforms, p: float, draw: Randomness, width: int, height: int
) -> Tensor:
    """G_inv, from output to input pixels, [b 3 3]; every step is multiplied from the right.

    Args:
        transforms: the transforms.
        p: probability of each transform.
        draw: one stream per image and transform.
        width: width of the image in pixels.
        height: height of the image in pixels.
    """
    t = transforms
    one = torch.ones(len(draw), dtype=draw.dtype, device=draw.device)
    G_inv = scaling(one, one)

    # blit
    if t.xflip > 0:
        i = (2 * draw.uniform("xflip")).floor()
        i = sometimes(draw, "xflip", t.xflip * p, i)
        G_inv = G_inv @ scaling(1 / (1 - 2 * i), one)
    if t.rotate90 > 0:
        i = (4 * draw.uniform("rotate90")).floor()
        i = sometimes(draw, "rotate90", t.rotate90 * p, i)
        G_inv = G_inv @ rotation(math.pi / 2 * i)
    if t.xint > 0:
        shift = t.xint_max * symmetric(draw, "xint", 2)
        x, y = sometimes(draw, "xint", t.xint * p, shift).unbind(1)
        G_inv = G_inv @ translation(-(x * width).round(), -(y * height).round())

    # geom
    if t.scale > 0:
        s = torch.exp2(t.scale_std * draw.normal("scale"))
        s = sometimes(draw, "scale", t.scale * p, s, 1.0)
        G_inv = G_inv @ scaling(1 / s, 1 / s)
    # Two rotations, such that P(pre or post) = p.
    p_rotate = 1 - math.sqrt(min(max(1 - t.rotate * p, 0.0), 1.0))
    if t.rotate > 0:
        angle = t.rotate_max * math.pi * symmetric(draw, "pre_rotate")
        G_inv = G_inv @ rotation(sometimes(draw, "pre_rotate", p_rotate, angle))
    if t.aniso > 0:
        s = torch.exp2(t.aniso_std * draw.normal("aniso"))
        s = sometimes(draw, "aniso", t.aniso * p, s, 1.0)
        G_inv = G_inv @ scaling(1 / s, s)
    if t.rotate > 0:
        angle = t.rotate_max * math.pi * symmetric(draw, "post_rotate")
        G_inv = G_inv @ rotation(sometimes(draw, "post_rotate", p_rotate, angle))
    if t.xfrac > 0:
        shift = t.xfrac_std * draw.normal("xfrac", 2)
        x, y = sometimes(draw, "xfrac", t.xfrac * p, shift).unbind(1)
        G_inv = G_inv @ translation(-x * width, -y * height)

    return G_inv


def warp(images: Tensor, G_inv: Tensor) -> Tensor:
    """Images [b c h w] under affine maps of pixels.

    Args:
        images: [b c h w].
        G_inv: [b 3 3], from output to input pixels. On the CPU, where the margins are read off it
            without waiting for the device of the images.
    """
    # mirrored border, twice the resolution
    h, w = images.shape[-2:]
    left, right, top, bottom = margins(G_inv, w, h)
    f = upload(setup_filter(SYM6), images.device)
    images = upsample2d(F.pad(images, [left, right, top, bottom], mode="reflect"), f)
    up_h, up_w = images.shape[-2:]
    out_h, out_w = 2 * (h + 2 * REACH), 2 * (w + 2 * REACH)

    # the map in the coordinates of the padded, upsampled image, then normalized to [-1, 1]
    one = G_inv.new_ones(())
    G_inv = translation(one * (left - right) / 2, one * (top - bottom) / 2) @ G_inv
    G_inv = scaling(2 * one, 2 * one) @ G_inv @ scaling(one / 2, one / 2)
    G_inv = translation(-one / 2, -one / 2) @ G_inv @ translation(one / 2, one / 2)
    G_inv = scaling(one * 2 / up_w, one * 2 / up_h) @ G_inv
    G_inv = G_inv @ scaling(one * out_w / 2, one * out_h / 2)

    # samples, back to the resolution of the image
    theta = upload(G_inv[:, :2].to(images.dtype), images.device)
    grid = F.affine_grid(theta, [len(images), 1, out_h, out_w], align_corners=False)
    images = grid_sample(images, grid)
    return downsample2d(images, f, padding=-2 * REACH, flip_filter=True)


def margins(G_inv: Tensor, width: int, height: int) -> tuple[int, int, int, int]:
    """Mirrored pixels (left, right, top, bottom) that the maps read, at most the image less one.

    unlike eg3d: the corners include all pixels that the filters read, not only the image's. The
    margins are as wide as any image of the batch needs; this does not affect the other images.
    """
    x, y = (width - 1) / 2, (height - 1) / 2
    reach = REACH + 1  # of the filter, plus one for bilinear interpolation

    # corners of the output, in input pixels
    signs = [(i, j) for i in (-1, 1) for j in (-1, 1)]
    corners = G_inv.new_tensor([[i * (x + reach), j * (y + reach), 1] for i, j in signs])
    seen = torch.einsum("bij,kj->bki", G_inv[:, :2], corners).flatten(0, 1)  # (b k) 2

    # distance to the border of the input
    farthest = torch.cat([-seen, seen], dim=1).amax(dim=0)  # -x -y x y
    need = farthest + reach - farthest.new_tensor([x, y, x, y])
    limit = need.new_tensor([width - 1, height - 1] * 2)
    need = need.clamp(min=torch.zeros_like(limit), max=limit).ceil()
    left, top, right, bottom = need.int().tolist()
    return left, right, top, bottom


def scaling(x: Tensor, y: Tensor) -> Tensor:
    """S(x, y), [b 3 3]."""
    o, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrix([[x, o, o], [o, y, o], [o, o, one]])


def translation(x: Tensor, y: Tensor) -> Tensor:
    """T(x, y), [b 3 3]."""
    o, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrix([[one, o, x], [o, one, y], [o, o, one]])


def rotation(angle: Tensor) -> Tensor:
    """Rot(angle), [b 3 3], radians."""
    sin, cos = angle.sin(), angle.cos()
    o, one = torch.zeros_like(angle), torch.ones_like(angle)
    return _matrix([[cos, -sin, o], [sin, cos, o], [o, o, one]])


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
