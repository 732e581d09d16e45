"""Pictures of images and depth: tensors to uint8 arrays [H W 3] for PIL, loggers and videos."""

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

from gan3d.apps.normals import surface_normals
from gan3d.camera import Camera
from gan3d.generators.contract import SURFACE_OPACITY, Rendering

LAYERS = ("image", "raw", "depth", "normals", "opacity")
PAPER = 255  # background: white
INK = "black"  # labels


def to_uint8(images: Tensor) -> np.ndarray:
    """Images [b 3 H W] in [-1, 1] as uint8 [b H W 3]: round((x + 1) 127.5), clipped."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images have shape {list(images.shape)}, expected [b 3 H W]; one image needs "
            "image[None]"
        )
    scaled = (images.detach().float() + 1) * 127.5
    pixels = scaled.round().clamp(0, 255).to(torch.uint8)
    return rearrange(pixels, "b c h w -> b h w c").cpu().numpy()


def grid(pictures: np.ndarray, columns: int | None = None, *, gap: int = 2) -> np.ndarray:
    """Arranges pictures [b H W 3] row by row in one picture [h w 3].

    Args:
        pictures: uint8.
        columns: pictures per row; None makes the grid about square, without empty cells if
            possible.
        gap: white pixels between neighbors.
    """
    num, height, width, _ = pictures.shape
    square = math.ceil(math.sqrt(num))
    columns = columns or next((n for n in range(square, 2 * square) if num % n == 0), square)
    rows = math.ceil(num / columns)
    size = (rows * (height + gap) - gap, columns * (width + gap) - gap)
    sheet = np.full((*size, 3), PAPER, dtype=np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def enlarge(pictures: np.ndarray, side: int) -> np.ndarray:
    """Enlarges pictures [b H W 3] by an integer factor until the shorter side has `side` pixels."""
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
    """Arranges rows of pictures with labels, uint8 [h w 3].

    Args:
        rows: uint8 [b H W 3] each, all of the same shape.
        row_labels: label to the left of each row.
        column_labels: label above each of the b columns.
        side: smaller pictures are enlarged to this side (`enlarge`).
        gap: white pixels between neighbors.
    """
    # pictures
    large = [enlarge(row, side) for row in rows]
    num, height, width, _ = large[0].shape
    body = grid(np.concatenate(large), columns=num, gap=gap)

    # canvas with margins for the labels
    font = ImageFont.load_default()
    line = math.ceil(font.getbbox("Ag")[3]) + 2 * gap
    margin = math.ceil(max(font.getlength(label) for label in row_labels)) + 2 * gap
    canvas = Image.new("RGB", (margin + body.shape[1], line + body.shape[0]), (PAPER, PAPER, PAPER))
    canvas.paste(Image.fromarray(body), (margin, line))

    # labels
    pen = ImageDraw.Draw(canvas)
    for k, label in enumerate(row_labels):
        pen.text((gap, line + k * (height + gap) + height / 2), label, INK, font, anchor="lm")
    for k, label in enumerate(column_labels):
        pen.text((margin + k * (width + gap) + width / 2, line / 2), label, INK, font, anchor="mm")
    return np.asarray(canvas)


def contact_sheet(
    rows: Sequence[np.ndarray],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    *,
    columns: int,
    side: int = 128,
) -> np.ndarray:
    """A `sheet` whose long rows are broken into lines of some columns, uint8 [h w 3].

    The last line is padded with white pictures.

    Args:
        rows: uint8 [b H W 3] each, all of the same shape.
        row_labels: label to the left of each row, in every line.
        column_labels: label above each of the b columns.
        columns: of a line, at most.
        side: smaller pictures are enlarged to this side (`enlarge`).
    """
    num = len(column_labels)
    columns = min(num, columns)
    lines = []
    for start in range(0, num, columns):
        part = slice(start, start + columns)
        missing = columns - len(column_labels[part])
        blank = ((0, missing), (0, 0), (0, 0), (0, 0))
        padded = [np.pad(row[part], blank, constant_values=PAPER) for row in rows]
        labels = [*column_labels[part], *[""] * missing]
        lines.append(sheet(padded, row_labels, labels, side=side))
    return np.concatenate(lines)


@dataclass(frozen=True)
class DepthRange:
    """The range of depths of a color map, world units."""

    near: float
    far: float


def depth_range(depth: Tensor, opacity: Tensor | None = None) -> DepthRange:
    """The range from the 2nd to the 98th percentile of visible depth, over all images together.

    Args:
        depth: camera z [b 1 h w].
        opacity: [b 1 h w]; None: everything is visible.
    """
    seen = depth[_surface(depth, opacity)].float()
    if len(seen) == 0:
        return DepthRange(0.0, 1.0)
    # thinned out: torch.quantile is limited to 16 million values
    seen = seen[:: max(1, len(seen) // 100_000)].cpu()
    near, far = torch.quantile(seen, torch.tensor([0.02, 0.98])).tolist()
    return DepthRange(near, max(far, near + 1e-6))


def depth_colors(
    depth: Tensor, opacity: Tensor | None = None, span: DepthRange | None = None
) -> np.ndarray:
    """Depth in colors, uint8 [b h w 3]: near is bright, far is dark, background is white.

    Args:
        depth: camera z [b 1 h w], world units.
        opacity: [b 1 h w]; background where it is at most 0.5.
        span: range of the colors, shared by pictures to be compared; None is the range of these.
    """
    from matplotlib import colormaps  # slow to import (0.5 s), and needed only here

    span = span or depth_range(depth, opacity)
    nearness = (span.far - depth.detach().float()) / (span.far - span.near)
    seen = _surface(depth, opacity)[:, 0].cpu().numpy()
    shade = 0.08 + 0.87 * torch.nan_to_num(nearness).clamp(0, 1)[:, 0].cpu().numpy()
    colors = np.round(np.asarray(colormaps["magma"](shade))[..., :3] * 255).astype(np.uint8)
    return np.where(seen[..., None], colors, np.uint8(PAPER))


def _surface(depth: Tensor, opacity: Tensor | None) -> Tensor:
    seen = depth.isfinite()
    return seen if opacity is None else seen & (opacity > SURFACE_OPACITY)


def draw(
    rendering: Rendering,
    layer: str,
    camera: Camera | None = None,
    span: DepthRange | None = None,
) -> np.ndarray:
    """One layer of views as pictures of the image's size, uint8 [b H W 3].

    Layers of lower resolution are enlarged by nearest-neighbor interpolation, which shows their
    true resolution.

        image     the final image
        raw       the volume-rendered image before super-resolution
        depth     near is bright, far is dark
        normals   of the surface that the depth describes (gan3d.apps.normals)
        opacity   0 is black, 1 is white

    Depth and normals are white where nothing is opaque.

    Args:
        rendering: b views.
        layer: one of LAYERS.
        camera: the b cameras of the views, for normals.
        span: range of the depth colors; None is the range of these views.

    Raises:
        ValueError: the rendering has no such layer.
    """
    side = rendering.image.shape[-2]
    opacity = None if rendering.opacity is None else _resized(rendering.opacity, side)
    if layer == "image":
        return to_uint8(rendering.image)
    if layer == "raw" and rendering.raw is not None:
        return to_uint8(_resized(rendering.raw, side))
    if layer == "opacity" and opacity is not None:
        return to_uint8(repeat(2 * opacity - 1, "b 1 h w -> b c h w", c=3))
    if layer == "depth" and rendering.depth is not None:
        span = span or depth_range(rendering.depth, rendering.opacity)
        return depth_colors(_resized(rendering.depth, side), opacity, span)
    if layer == "normals" and rendering.depth is not None and camera is not None:
        colors = to_uint8(_resized(surface_normals(rendering.depth, camera), side))
        seen = _surface(_resized(rendering.depth, side), opacity)[:, 0].cpu().numpy()
        return np.where(seen[..., None], colors, np.uint8(PAPER))
    raise ValueError(
        f"the views have no layer {layer!r}; they have {', '.join(layers_of(rendering, camera))}"
    )


def layers_of(rendering: Rendering, camera: Camera | None = None) -> tuple[str, ...]:
    """The layers that views have, of LAYERS; with the cameras also normals."""
    there = {
        "image": True,
        "raw": rendering.raw is not None,
        "depth": rendering.depth is not None,
        "normals": rendering.depth is not None and camera is not None,
        "opacity": rendering.opacity is not None,
    }
    return tuple(layer for layer in LAYERS if there[layer])


def layers(rendering: Rendering, span: DepthRange | None = None) -> list[np.ndarray]:
    """Pictures of raw image, image and depth, as far as a rendering has them: `draw` of each.

    Args:
        rendering: b views.
        span: range of the depth colors; None is the range of these views.
    """
    there = layers_of(rendering)
    names = [name for name in ("raw", "image", "depth") if name in there]
    return [draw(rendering, name, span=span) for name in names]


def side_by_side(
    rendering: Rendering, span: DepthRange | None = None, *, gap: int = 2
) -> np.ndarray:
    """The pictures of `layers` beside each other, raw | image | depth, uint8 [b H w 3]."""
    parts = layers(rendering, span)
    paper = np.full((*parts[0].shape[:2], gap, 3), PAPER, dtype=np.uint8)
    return np.concatenate([piece for part in parts for piece in (part, paper)][:-1], axis=2)


def _resized(x: Tensor, side: int) -> Tensor:
    return x if x.shape[-2] == side else F.interpolate(x, size=(side, side), mode="nearest-exact")
