"""The kernel of the leaky ReLU on a finer grid (`gan3d.ops.filtered_lrelu`), separable filters.

Resampling is a product with banded matrices, y = P act(U x U^T) P^T, and so is each derivative:

    value        y  = D act(U x U^T) D^T
    linear       dy = D (m U dx U^T) D^T
    transposed   dx = U^T (m D^T dy D) U

with m = act'(U x U^T), which is computed again from x. All three are one form,

    out = P (m V v V^T) P^T,

the middle of which exists for a tile only. A program makes its part of the bands from the taps, and
multiplies on the tensor cores. Value apart, the form is linear in v, and its derivative is the form
itself with U and D exchanged: so there are derivatives of any order.

Precision. Float32 is multiplied as torch's products are: exactly, or in tf32 if
`torch.set_float32_matmul_precision` allows it. Lower precision is multiplied in tf32, and sums are
float32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gan3d.ops.triton.launches import accumulator, widened_precision

FINE = 64  # side of a tile of the fine grid
COLUMNS = 16  # of it at a time
LEAST = 16  # side of a product
WARPS = 8  # of a program


@triton.jit
def _band(taps, o, i, size, before, UP: tl.constexpr, DOWN: tl.constexpr, TAPS: tl.constexpr,
          REVERSED: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """g[i up + before - o down], 0 beyond the inputs; o and i are vectors that broadcast."""
    tap = i * UP + before - o * DOWN
    mask = (tap >= 0) & (tap < TAPS) & (i >= 0) & (i < size)
    at = TAPS - 1 - tap if REVERSED else tap
    return tl.load(taps + at, mask=mask, other=0.0).to(ACC)


@triton.jit
def _along_y(
    x, bias, taps, top, left, height, width, before_y, before_x, shift_y, shift_x,
    HAS_BIAS: tl.constexpr, UP: tl.constexpr, TAPS: tl.constexpr, REVERSED: tl.constexpr,
    INPUTS: tl.constexpr, FINE: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """U (x + b) from row `top` of the fine grid on, at the inputs from its column `left` on, and
    these; the shifts keep quotients positive.
    """
    i = tl.arange(0, INPUTS)
    y = (top - before_y + shift_y * UP) // UP - shift_y + i
    z = (left - before_x + shift_x * UP) // UP - shift_x + i
    mask = ((y >= 0) & (y < height))[:, None] & ((z >= 0) & (z < width))[None, :]
    piece = tl.load(x + y[:, None] * width + z[None, :], mask=mask, other=0.0).to(ACC)
    if HAS_BIAS:
        piece = tl.where(mask, piece + bias, 0.0)
    row = top + tl.arange(0, FINE)[:, None]
    down = _band(taps, row, y[None, :], height, before_y, UP, 1, TAPS, REVERSED, ACC)
    return tl.dot(down, piece, input_precision=PRECISION, out_dtype=ACC), z


@triton.jit
def filtered_lrelu_kernel(
    x, bias, v, taps_u, taps_v, taps_p, out_y,
    C, height_x, width_x, height_v, width_v, height_fine, width_fine, height, width,
    before_uy, before_ux, before_vy, before_vx, before_py, before_px, shift_y, shift_x,
    gain_up, gain_v, gain_out, gain, slope, clamp,
    UP_U: tl.constexpr, TAPS_U: tl.constexpr, UP_V: tl.constexpr, TAPS_V: tl.constexpr,
    DOWN: tl.constexpr, TAPS_P: tl.constexpr,
    REVERSED_U: tl.constexpr, REVERSED_V: tl.constexpr, REVERSED_P: tl.constexpr,
    LINEAR: tl.constexpr, INPUTS_U: tl.constexpr, INPUTS_V: tl.constexpr,
    OUTPUTS: tl.constexpr, PADDED: tl.constexpr, FINE: tl.constexpr, COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    # A tile of outputs of one map, and of the fine grid that it needs.
    tiles_x, tiles_y = tl.cdiv(width, OUTPUTS), tl.cdiv(height, OUTPUTS)
    tile = tl.program_id(0)
    n = (tile // (tiles_x * tiles_y)).to(tl.int64)
    start_y = (tile // tiles_x) % tiles_y * OUTPUTS
    start_x = tile % tiles_x * OUTPUTS
    top, left = start_y * DOWN - before_py, start_x * DOWN - before_px

    b = tl.load(bias + n % C).to(ACC)
    upward, z = _along_y(
        x + n * height_x * width_x, b, taps_u, top, left, height_x, width_x,
        before_uy, before_ux, shift_y, shift_x,
        True, UP_U, TAPS_U, REVERSED_U, INPUTS_U, FINE, PRECISION, ACC,
    )  # fmt: skip
    if LINEAR:
        upward_v, z_v = _along_y(
            v + n * height_v * width_v, b, taps_v, top, left, height_v, width_v,
            before_vy, before_vx, shift_y, shift_x,
            False, UP_V, TAPS_V, REVERSED_V, INPUTS_V, FINE, PRECISION, ACC,
        )  # fmt: skip

    # Some columns of the fine grid at a time. The last bands are 0 beyond it.
    o = tl.arange(0, PADDED)
    o_y, o_x = start_y + o, start_x + o
    row = top + tl.arange(0, FINE)[None, :]
    down = _band(
        taps_p, o_y[:, None], row, height_fine, before_py, 1, DOWN, TAPS_P, REVERSED_P, ACC
    )
    total = tl.zeros([PADDED, PADDED], ACC)
    for start in range(0, FINE, COLUMNS):
        column = left + start + tl.arange(0, COLUMNS)
        across = _band(
            taps_u, column[None, :], z[:, None], width_x, before_ux, UP_U, 1, TAPS_U, REVERSED_U,
            ACC,
        )  # fmt: skip
        fine = tl.dot(upward, across, input_precision=PRECISION, out_dtype=ACC)
        active = tl.where(fine > 0, fine, fine * slope) * (gain * gain_up)
        if LINEAR:
            across = _band(
                taps_v, column[None, :], z_v[:, None], width_v, before_vx, UP_V, 1, TAPS_V,
                REVERSED_V, ACC,
            )  # fmt: skip
            values = tl.dot(upward_v, across, input_precision=PRECISION, out_dtype=ACC)
            values = tl.where(fine > 0, values, values * slope) * (gain * gain_v)
            values = tl.where((active > -clamp) & (active < clamp), values, 0.0)
        else:
            values = tl.minimum(tl.maximum(active, -clamp), clamp)
            values = tl.where(active == active, values, active)  # NaN stays
        across = _band(
            taps_p, o_x[None, :], column[:, None], width_fine, before_px, 1, DOWN, TAPS_P,
            REVERSED_P, ACC,
        )  # fmt: skip
        values = tl.dot(down, values, input_precision=PRECISION, out_dtype=ACC)
        total = tl.dot(values, across, total, input_precision=PRECISION, out_dtype=ACC)
    within = o < OUTPUTS
    mask = (within & (o_y < height))[:, None] & (within & (o_x < width))[None, :]
    at = (n * height + o_y)[:, None] * width + o_x[None, :]
    tl.store(out_y + at, total * gain_out, mask=mask)


@torch.library.custom_op("gan3d::filtered_lrelu", mutates_args=())
def filtered_lrelu_maps(
    v: Tensor | None,
    x: Tensor,
    bias: Tensor,
    fu: Tensor,
    fd: Tensor,
    up: int,
    down: int,
    padding: list[int],
    gain: float,
    slope: float,
    clamp: float,
    flip: bool,
    transposed: bool,
) -> Tensor:
    """The value, or a derivative at x + b along v.

    Args:
        v: None for the value; for the derivative [b c h w], for its transpose [b c H W].
        x: [b c h w].
        bias: [c].
        fu, fd: filters of the upsampling and of the downsampling, [k].
        up, down: factors.
        padding: left, right, top, bottom, of the upsampling.
        gain, slope, clamp: of the activation; clamp inf is none.
        flip: whether the filters are correlated with, not convolved.
        transposed: whether the transpose of the derivative is taken.

    Returns:
        [b c H W], transposed [b c h w].
    """
    sizes = Sizes.of(x, fu, fd, up, down, padding)
    y = _result(x, sizes, transposed)
    left, top = padding[0], padding[2]
    ku, kd = len(fu), len(fd)
    upward = Resampling(fu, up, left, top, not flip)
    downward = Resampling(fd, down, 0, 0, not flip)
    by, to = upward, downward
    if transposed:
        by = Resampling(fd, down, kd - 1, kd - 1, flip)
        to = Resampling(fu, up, ku - 1 - left, ku - 1 - top, flip)
    outputs = outputs_of(len(to.taps), to.factor)
    maps, (height, width) = y.shape[0] * y.shape[1], y.shape[2:]
    grid = (maps * triton.cdiv(height, outputs) * triton.cdiv(width, outputs),)
    first = x.contiguous()
    second = first if v is None else v.contiguous()
    shifts = [max(to.top + max(upward.top, by.top), 0), max(to.left + max(upward.left, by.left), 0)]
    filtered_lrelu_kernel[grid](
        first, bias.contiguous(), second, upward.taps, by.taps, to.taps, y,
        x.shape[1], *x.shape[2:], *second.shape[2:], *sizes.fine, height, width,
        upward.top, upward.left, by.top, by.left, to.top, to.left, *shifts,
        up**2, 1.0 if transposed else up**2, up**2 if transposed else 1.0, gain, slope, clamp,
        up, ku, by.factor, len(by.taps), to.factor, len(to.taps),
        upward.is_reversed, by.is_reversed, to.is_reversed, v is not None,
        inputs_of(ku, up), inputs_of(len(by.taps), by.factor),
        outputs, max(triton.next_power_of_2(outputs), LEAST), FINE, COLUMNS,
        widened_precision(x), accumulator(x), num_warps=WARPS,
    )  # fmt: skip
    return y


@filtered_lrelu_maps.register_fake
def _(v, x, bias, fu, fd, up, down, padding, gain, slope, clamp, flip, transposed):
    return _result(x, Sizes.of(x, fu, fd, up, down, padding), transposed)


class Resampling(NamedTuple):
    """Taps, factor and padding of a resampling, and whether the taps are reversed."""

    taps: Tensor
    factor: int
    left: int
    top: int
    is_reversed: bool


class Sizes(NamedTuple):
    """Heights and widths of the fine grid and of the result."""

    fine: tuple[int, int]
    out: tuple[int, int]

    @classmethod
    def of(cls, x: Tensor, fu: Tensor, fd: Tensor, up: int, down: int, padding: list[int]) -> Sizes:
        """Of maps x [b c h w]."""
        left, right, top, bottom = padding
        height = x.shape[2] * up + top + bottom - len(fu) + 1
        width = x.shape[3] * up + left + right - len(fu) + 1
        out = ((height - len(fd)) // down + 1, (width - len(fd)) // down + 1)
        return cls((height, width), out)


def outputs_of(taps: int, factor: int) -> int:
    """Outputs of a tile along an axis, whose taps lie within its part of the fine grid."""
    return (FINE - taps) // factor + 1


def inputs_of(taps: int, factor: int) -> int:
    """Inputs that a tile of the fine grid may need along an axis, for a product."""
    return max(triton.next_power_of_2((FINE + taps - 2) // factor + 2), LEAST)


def _result(x: Tensor, sizes: Sizes, transposed: bool) -> Tensor:
    return x.new_empty(*x.shape[:2], *(x.shape[2:] if transposed else sizes.out))


def _keep(ctx, inputs, output) -> None:
    v, *tensors, up, down, padding, gain, slope, clamp, flip, transposed = inputs
    ctx.options = (up, down, padding, gain, slope, clamp, flip)
    ctx.is_value, ctx.transposed = v is None, transposed
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    tensors = ctx.saved_tensors
    transposed = ctx.is_value or not ctx.transposed
    found = filtered_lrelu_maps(grad, *tensors, *ctx.options, transposed)
    nothing = [None] * (2 + len(ctx.options) + 1)
    if not ctx.is_value:
        return found, None, None, *nothing
    of_bias = found.sum([0, 2, 3]).to(tensors[1].dtype) if ctx.needs_input_grad[2] else None
    return None, found, of_bias, *nothing


filtered_lrelu_maps.register_autograd(_differentiate, setup_context=_keep)
