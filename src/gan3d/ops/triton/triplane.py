"""Kernels of the features of points from planes (`gan3d.ops.triplane`).

A program takes a tile of points: it finds their texels, reads each as one row of the table, and
sums them. Nothing is written but the features; indices and weights stay in registers. Backward, it
finds them again, adds to the rows of the table by atomic additions, and gives the points their
gradients. The order of the additions varies from run to run, and with it their last bits, so that
under `torch.use_deterministic_algorithms` the fast form is taken.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gan3d.ops.second_order import recorded
from gan3d.ops.triplane import PlaneTable
from gan3d.ops.triton.launches import accumulator

POINTS = 16  # of a tile: a warp reads 16 bytes per thread of 32 channels


@triton.jit
def texel_of(c, scale, size):
    """First texel around a coordinate, and the weight of the second one."""
    position = ((c * scale + 1) * size - 1) / 2
    low = tl.minimum(tl.maximum(tl.floor(position), -2.0), size)
    fraction = tl.minimum(tl.maximum(position - low, 0.0), 1.0)
    return low.to(tl.int32), fraction


@triton.jit
def tap_of(x, x_weight, y, y_weight, TAP: tl.constexpr, height, width):
    """One of the four texels of points: the number of its pixel, whether it is there, and its
    weights across and down.
    """
    i, j = y + TAP // 2, x + TAP % 2
    inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
    across = x_weight if TAP % 2 == 1 else 1 - x_weight
    down = y_weight if TAP // 2 == 1 else 1 - y_weight
    return i * width + j, inside, across, down


@triton.jit
def _along(x, y, z, AXIS: tl.constexpr):
    """One of three coordinates."""
    chosen = z
    if AXIS == 0:
        chosen = x
    elif AXIS == 1:
        chosen = y
    return chosen


@triton.jit
def _added(x, y, z, more, AXIS: tl.constexpr):
    """Three coordinates, with more of one of them."""
    if AXIS == 0:
        x += more
    elif AXIS == 1:
        y += more
    else:
        z += more
    return x, y, z


@triton.jit
def features_of(
    rows, first, x, y, z, on_point, channel, height, width, scale,
    C: tl.constexpr, PLANES: tl.constexpr, AXES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Features [points channels] of points, from the rows from `first` on.

    AXES has four bits for each plane: the axis along its width, and along its height.
    """
    total = tl.zeros([x.shape[0], channel.shape[0]], ACC)
    for k in tl.static_range(PLANES):
        i_x, x_weight = texel_of(_along(x, y, z, (AXES >> (4 * k)) & 3), scale, width)
        i_y, y_weight = texel_of(_along(x, y, z, (AXES >> (4 * k + 2)) & 3), scale, height)
        for tap in tl.static_range(4):
            pixel, inside, across, down = tap_of(i_x, x_weight, i_y, y_weight, tap, height, width)
            row = first + k * height * width + pixel
            mask = (on_point & inside)[:, None] & (channel < C)[None, :]
            texel = tl.load(rows + row[:, None] * C + channel[None, :], mask=mask, other=0.0)
            total += (across * down / 3)[:, None] * texel.to(ACC)
    return total


@triton.jit
def features_backward(
    rows, of_rows, first, x, y, z, g, on_point, channel, height, width, scale,
    C: tl.constexpr, PLANES: tl.constexpr, AXES: tl.constexpr,
    OF_ROWS: tl.constexpr, OF_POINTS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Adds gradients g of features to those of rows; gradients of points, 0 if not asked for."""
    of_x, of_y, of_z = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
    for k in tl.static_range(PLANES):
        i_x, x_weight = texel_of(_along(x, y, z, (AXES >> (4 * k)) & 3), scale, width)
        i_y, y_weight = texel_of(_along(x, y, z, (AXES >> (4 * k + 2)) & 3), scale, height)
        of_across, of_down = tl.zeros_like(x), tl.zeros_like(x)
        for tap in tl.static_range(4):
            pixel, inside, across, down = tap_of(i_x, x_weight, i_y, y_weight, tap, height, width)
            row = first + k * height * width + pixel
            place = row[:, None] * C + channel[None, :]
            there = (on_point & inside)[:, None] & (channel < C)[None, :]
            if OF_ROWS:
                share = (across * down / 3)[:, None] * g
                tl.atomic_add(of_rows + place, share, mask=there, sem="relaxed")
            if OF_POINTS:
                texel = tl.load(rows + place, mask=there, other=0.0).to(ACC)
                along = tl.sum(texel * g, 1) / 3
                of_across += down * (along if tap % 2 == 1 else -along)
                of_down += across * (along if tap // 2 == 1 else -along)
        if OF_POINTS:
            of_across *= width * scale / 2
            of_down *= height * scale / 2
            of_x, of_y, of_z = _added(of_x, of_y, of_z, of_across, (AXES >> (4 * k)) & 3)
            of_x, of_y, of_z = _added(of_x, of_y, of_z, of_down, (AXES >> (4 * k + 2)) & 3)
    return of_x, of_y, of_z


@triton.jit
def triple(vectors, at, mask, ACC: tl.constexpr):
    """x, y and z of vectors in memory."""
    x = tl.load(vectors + at * 3, mask=mask, other=0.0).to(ACC)
    y = tl.load(vectors + at * 3 + 1, mask=mask, other=0.0).to(ACC)
    z = tl.load(vectors + at * 3 + 2, mask=mask, other=0.0).to(ACC)
    return x, y, z


@triton.jit
def store_triple(vectors, at, x, y, z, mask):
    """Writes x, y and z of vectors."""
    tl.store(vectors + at * 3, x, mask=mask)
    tl.store(vectors + at * 3 + 1, y, mask=mask)
    tl.store(vectors + at * 3 + 2, z, mask=mask)


@triton.jit
def plane_features_kernel(
    rows, points, out_features, P, height, width, scale,
    C: tl.constexpr, PLANES: tl.constexpr, AXES: tl.constexpr, ONE_TABLE: tl.constexpr,
    POINTS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    p = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    scene = tl.program_id(1).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    on_point = p < P
    first = tl.zeros_like(scene) if ONE_TABLE else scene * PLANES * height * width
    x, y, z = triple(points, scene * P + p, on_point, ACC)
    features = features_of(
        rows, first, x, y, z, on_point, channel, height, width, scale, C, PLANES, AXES, ACC
    )
    at = (scene * P + p)[:, None] * C + channel[None, :]
    tl.store(out_features + at, features, mask=on_point[:, None] & (channel < C)[None, :])


@triton.jit
def plane_features_backward_kernel(
    rows, points, grad, of_rows, of_points, P, height, width, scale,
    C: tl.constexpr, PLANES: tl.constexpr, AXES: tl.constexpr, ONE_TABLE: tl.constexpr,
    OF_ROWS: tl.constexpr, OF_POINTS: tl.constexpr,
    POINTS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    p = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    scene = tl.program_id(1).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    on_point = p < P
    first = tl.zeros_like(scene) if ONE_TABLE else scene * PLANES * height * width
    x, y, z = triple(points, scene * P + p, on_point, ACC)
    at = (scene * P + p)[:, None] * C + channel[None, :]
    g = tl.load(grad + at, mask=on_point[:, None] & (channel < C)[None, :], other=0.0).to(ACC)
    of_x, of_y, of_z = features_backward(
        rows, of_rows, first, x, y, z, g, on_point, channel, height, width, scale,
        C, PLANES, AXES, OF_ROWS, OF_POINTS, ACC,
    )  # fmt: skip
    if OF_POINTS:
        store_triple(of_points, scene * P + p, of_x, of_y, of_z, on_point)


@torch.library.custom_op("gan3d::plane_features", mutates_args=())
def plane_features(
    rows: Tensor, points: Tensor, batch: int, height: int, width: int, axes: list[int], scale: float
) -> Tensor:
    """Features [b p c] of points [b p 3].

    Args:
        rows: of a `PlaneTable`, [(batch k h w) c].
        points: world coordinates.
        batch: scenes of the table, 1 or b.
        height, width: of a plane.
        axes: along the width and along the height of each plane, one after the other.
        scale: 2 / box_warp.
    """
    b, p, _ = points.shape
    features = rows.new_empty(b, p, rows.shape[1])
    plane_features_kernel[_grid(points)](
        rows.contiguous(), points.contiguous(), features, p, height, width, scale,
        rows.shape[1], len(axes) // 2, packed(axes), batch < b, POINTS,
        triton.next_power_of_2(rows.shape[1]), accumulator(rows),
    )  # fmt: skip
    return features


@plane_features.register_fake
def _(rows, points, batch, height, width, axes, scale):
    return rows.new_empty(*points.shape[:2], rows.shape[1])


@torch.library.custom_op("gan3d::plane_features_backward", mutates_args=())
def plane_features_backward(
    grad: Tensor,
    rows: Tensor,
    points: Tensor,
    batch: int,
    height: int,
    width: int,
    axes: list[int],
    scale: float,
    of_rows: bool,
    of_points: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of rows (in float32 at least) and points; empty ones that are not asked for."""
    b, p, _ = points.shape
    exact = torch.float64 if rows.dtype == torch.float64 else torch.float32
    found = rows.new_zeros(rows.shape if of_rows else 0, dtype=exact)
    moved = points.new_empty(points.shape if of_points else 0)
    plane_features_backward_kernel[_grid(points)](
        rows.contiguous(), points.contiguous(), grad.contiguous(), found, moved,
        p, height, width, scale,
        rows.shape[1], len(axes) // 2, packed(axes), batch < b, of_rows, of_points, POINTS,
        triton.next_power_of_2(rows.shape[1]), accumulator(rows),
    )  # fmt: skip
    return found.to(rows.dtype), moved


@plane_features_backward.register_fake
def _(grad, rows, points, batch, height, width, axes, scale, of_rows, of_points):
    return (
        rows.new_empty(rows.shape if of_rows else 0),
        points.new_empty(points.shape if of_points else 0),
    )


def plane_features_form(
    rows: Tensor, points: Tensor, batch: int, height: int, width: int, axes: list[int], scale: float
) -> Tensor:
    """What the kernel computes, in torch, for its derivatives of higher order."""
    projections = tuple(zip(axes[::2], axes[1::2], strict=True))
    table = PlaneTable(rows, batch, height, width, projections)
    return table.features(points, box_warp=2 / scale, backend="fast")


def _keep(ctx, inputs, output) -> None:
    rows, points, *ctx.options = inputs
    ctx.save_for_backward(rows, points)


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    rows, points = ctx.saved_tensors
    needed = ctx.needs_input_grad[:2]
    nothing = [None] * len(ctx.options)
    if torch.is_grad_enabled():
        return *recorded(
            plane_features_form, [rows, points], needed, [grad], *ctx.options
        ), *nothing
    found = plane_features_backward(grad, rows, points, *ctx.options, *needed)
    return *(g if is_needed else None for g, is_needed in zip(found, needed)), *nothing


plane_features.register_autograd(_differentiate, setup_context=_keep)


def _grid(points: Tensor) -> tuple[int, int]:
    return triton.cdiv(points.shape[1], POINTS), len(points)


def packed(axes: list[int]) -> int:
    """Two bits per axis."""
    return sum(axis << (2 * i) for i, axis in enumerate(axes))
