"""Pictures of images and depth: tensors in, uint8 arrays [H W 3] out, ready for PIL, a logger or a
video.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gan3d.generators.contract import SURFACE_OPACITY, Rendering

PAPER, INK = 255, "black"  # the color of what is not there, and of labels


def to_uint8(images: Tensor) -> np.ndarray:
    """Images [b 3 H W] in [-1, 1] as uint8 [b H W 3]: round((x + 1) 127.5), clipped."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images have shape {list(images.shape)}, expected [b 3 H W]; one image needs "
            "image[None]"
        )
    scaled = (images.detach().float() + 1) * 127.5
    return (
        rearrange(scaled.round().clamp(0, 255).to(torch.uint8), "b c h w -> b h w c").cpu().numpy()
    )


def grid(pictures: np.ndarray, columns: int | None = None, *, gap: int = 2) -> np.ndarray:
    """Pictures [b H W 3] side by side, row by row, as one [h w 3].

    Args:
        pictures: uint8.
        columns: per row; None is about square, without empty places where possible.
        gap: white pixels between neighbors.
    """
    num, height, width, _ = pictures.shape
    square = math.ceil(math.sqrt(num))
    columns = columns or next((n for n in range(square, 2 * square) if num % n == 0), square)
    rows = math.ceil(num / columns)
    sheet = np.full(
        (rows * (height + gap) - gap, columns * (width + gap) - gap, 3), PAPER, dtype=np.uint8
    )
    for i, picture in enumerate(pictures):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def enlarge(pictures: np.ndarray, side: int) -> np.ndarray:
    """Pictures [b H W 3] repeated pixel by pixel (nearest) until the shorter side has at least
    `side` pixels.
    """
    factor = max(1, math.ceil(side / min(pictures.shape[1:3])))
    return repeat(pictures, "b h w c -> b (h y) (w x) c", y=factor, x=factor)


def sheet(
    rows: Sequence[np.ndarray],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    *,
    side: int = 128,
    gap: int = 2,
) -> np.ndarray:
    """Rows of pictures with labels, uint8 [h w 3].

    Args:
        rows: uint8 [b H W 3] each, all of one shape.
        row_labels: at the left of each row.
        column_labels: above each column, b of them.
        side: smaller pictures are enlarged (`enlarge`).
        gap: white pixels between neighbors.
    """
    large = [enlarge(row, side) for row in rows]
    num, height, width, _ = large[0].shape
    body = grid(np.concatenate(large), columns=num, gap=gap)
    font = ImageFont.load_default()
    line = math.ceil(font.getbbox("Ag")[3]) + 2 * gap
    margin = math.ceil(max(font.getlength(label) for label in row_labels)) + 2 * gap
    canvas = Image.new("RGB", (margin + body.shape[1], line + body.shape[0]), (PAPER, PAPER, PAPER))
    canvas.paste(Image.fromarray(body), (margin, line))
    pen = ImageDraw.Draw(canvas)
    for k, label in enumerate(row_labels):
        pen.text((gap, line + k * (height + gap) + height / 2), label, INK, font, anchor="lm")
    for k, label in enumerate(column_labels):
        pen.text((margin + k * (width + gap) + width / 2, line / 2), label, INK, font, anchor="mm")
    return np.asarray(canvas)


@dataclass(frozen=True)
class DepthRange:
    """The depths that the color map spans, world units."""

    near: float
    far: float


def depth_range(depth: Tensor, opacity: Tensor | None = None) -> DepthRange:
    """The range from the 2nd to the 98th percentile of the visible depth, all images together.

    Args:
        depth: camera z [b 1 h w].
        opacity: [b 1 h w]; None: everything is visible.
    """
    seen = depth[_surface(depth, opacity)].float()
    if len(seen) == 0:
        return DepthRange(0.0, 1.0)
    seen = seen[
        :: max(1, len(seen) // 100_000)
    ].cpu()  # torch.quantile takes no more than 16 million
    near, far = torch.quantile(seen, torch.tensor([0.02, 0.98])).tolist()
    return DepthRange(near, max(far, near + 1e-6))


def depth_colors(
    depth: Tensor, opacity: Tensor | None = None, span: DepthRange | None = None
) -> np.ndarray:
    """Depth [b 1 h w] in colors, uint8 [b h w 3]: near is bright, far is dark, background white.

    Args:
        depth: camera z, world units.
        opacity: [b 1 h w]; background where it is at most 0.5.
        span: shared by what is to be compared; None is the range of these images.
    """
    from matplotlib import colormaps  # half a second that only pictures of depth need

    span = span or depth_range(depth, opacity)
    nearness = (span.far - depth.detach().float()) / (span.far - span.near)
    seen = _surface(depth, opacity)[:, 0].cpu().numpy()
    shade = 0.08 + 0.87 * torch.nan_to_num(nearness).clamp(0, 1)[:, 0].cpu().numpy()
    colors = np.round(np.asarray(colormaps["magma"](shade))[..., :3] * 255).astype(np.uint8)
    return np.where(seen[..., None], colors, np.uint8(PAPER))


def _surface(depth: Tensor, opacity: Tensor | None) -> Tensor:
    seen = depth.isfinite()
    return seen if opacity is None else seen & (opacity > SURFACE_OPACITY)


def layers(rendering: Rendering, span: DepthRange | None = None) -> list[np.ndarray]:
    """What a rendering has of raw, image and depth: pictures of equal size, each uint8 [b H W 3].

    Smaller ones are repeated pixel by pixel to the image's size, so that they show how fine they
    really are.

    Args:
        rendering: b views.
        span: of the depth colors; None is the range of these views.
    """
    side = rendering.image.shape[-2]
    parts = [] if rendering.raw is None else [to_uint8(_resized(rendering.raw, side))]
    parts.append(to_uint8(rendering.image))
    if rendering.depth is not None:
        span = span or depth_range(rendering.depth, rendering.opacity)
        opacity = None if rendering.opacity is None else _resized(rendering.opacity, side)
        parts.append(depth_colors(_resized(rendering.depth, side), opacity, span))
    return parts


def side_by_side(
    rendering: Rendering, span: DepthRange | None = None, *, gap: int = 2
) -> np.ndarray:
    """What a rendering has of raw | image | depth beside each other, uint8 [b H w 3]. Arguments as
    of `layers`.
    """
    parts = layers(rendering, span)
    paper = np.full((*parts[0].shape[:2], gap, 3), PAPER, dtype=np.uint8)
    return np.concatenate([piece for part in parts for piece in (part, paper)][:-1], axis=2)


def _resized(x: Tensor, side: int) -> Tensor:
    return x if x.shape[-2] == side else F.interpolate(x, size=(side, side), mode="nearest-exact")
