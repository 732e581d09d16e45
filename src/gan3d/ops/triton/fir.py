"""The kernel of up- and downsampling with a FIR filter (`gan3d.ops.resample`).

With the taps g in the order of correlation, along each axis

    y_o = gain sum_i g[i up + before - o down] x_i.

A program takes a tile of outputs, pixels by channels, and reads the inputs that meet a tap: no zero
is inserted, and none is read. The sum is linear, and its transpose is of the same form: up and down
change places, and the taps are reversed. So the kernel is its own derivative, of any order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gan3d.ops.triton.launches import accumulator, dense, new_image

PIXELS = 8  # at least, of a tile of an image in channels-last order
CHANNELS = 64  # at most
PIXELS_FIRST = 256  # of a tile of an image in channels-first order


@triton.jit
def _first(o, skipped, rest, UP: tl.constexpr, DOWN: tl.constexpr):
    """The first input of output o, and its tap; before = skipped UP - rest."""
    i = (o * DOWN + rest + UP - 1) // UP - skipped
    return i, (i + skipped) * UP - rest - o * DOWN


@triton.jit
def fir_kernel(
    x, taps, out_y, C, height_in, width_in, height, width,
    skipped_x, rest_x, skipped_y, rest_y, gain,
    UP_X: tl.constexpr, UP_Y: tl.constexpr, DOWN_X: tl.constexpr, DOWN_Y: tl.constexpr,
    TAPS_X: tl.constexpr, TAPS_Y: tl.constexpr, REVERSED: tl.constexpr, LAST: tl.constexpr,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    # A tile of pixels of some channels; channels first, these are images of a single one.
    tiles = tl.cdiv(height * width, PIXELS)
    pixel = (tl.program_id(0) % tiles) * PIXELS + tl.arange(0, PIXELS)
    group = (tl.program_id(0) // tiles).to(tl.int64)
    groups = tl.cdiv(C, CHANNELS) if LAST else 1
    channel = (group % groups) * CHANNELS + tl.arange(0, CHANNELS)
    image = group // groups
    channels = C if LAST else 1
    mask = (pixel < height * width)[:, None] & (channel < channels)[None, :]

    i_x, tap_x = _first(pixel % width, skipped_x, rest_x, UP_X, DOWN_X)
    i_y, tap_y = _first(pixel // width, skipped_y, rest_y, UP_Y, DOWN_Y)
    total = tl.zeros([PIXELS, CHANNELS], ACC)
    for y_step in tl.static_range((TAPS_Y + UP_Y - 1) // UP_Y):
        for x_step in tl.static_range((TAPS_X + UP_X - 1) // UP_X):
            row, column = i_y + y_step, i_x + x_step
            t_y, t_x = tap_y + y_step * UP_Y, tap_x + x_step * UP_X
            inside = (row >= 0) & (row < height_in) & (column >= 0) & (column < width_in)
            inside = inside & (t_y < TAPS_Y) & (t_x < TAPS_X)
            at_tap = t_y * TAPS_X + t_x
            if REVERSED:
                at_tap = TAPS_X * TAPS_Y - 1 - at_tap
            tap = tl.load(taps + at_tap, mask=inside, other=0.0).to(ACC)
            at = ((image * height_in + row) * width_in + column)[:, None] * channels
            numbers = tl.load(x + at + channel[None, :], mask=mask & inside[:, None], other=0.0)
            total += tap[:, None] * numbers.to(ACC)
    at = (image * height * width + pixel)[:, None] * channels + channel[None, :]
    tl.store(out_y + at, total * gain, mask=mask)


@torch.library.custom_op("gan3d::fir", mutates_args=())
def fir(
    x: Tensor,
    taps: Tensor,
    up: list[int],
    down: list[int],
    before: list[int],
    size: list[int],
    is_reversed: bool,
    gain: float,
) -> Tensor:
    """The sum above along both axes, in the memory order of x.

    Args:
        x: [b c h w].
        taps: [ky kx].
        up, down: factors (y, x).
        before: zeros before the zero-inserted signal (y, x); negative numbers crop.
        size: of the result (H, W).
        is_reversed: whether g are the taps reversed.
        gain: factor of the result.

    Returns:
        [b c H W].
    """
    x = dense(x)
    last = not x.is_contiguous()
    b, c, h, w = x.shape
    y = new_image(x, b, c, *size)
    channels = min(triton.next_power_of_2(c), CHANNELS) if last else 1
    pixels = PIXELS * CHANNELS // channels if last else PIXELS_FIRST
    images = b * triton.cdiv(c, channels) if last else b * c
    grid = (triton.cdiv(size[0] * size[1], pixels) * images,)
    skipped = [-(-left // factor) for left, factor in zip(before, up)]
    rest = [n * factor - left for n, factor, left in zip(skipped, up, before)]
    fir_kernel[grid](
        x, taps.contiguous(), y, c, h, w, *size, skipped[1], rest[1], skipped[0], rest[0], gain,
        up[1], up[0], down[1], down[0], taps.shape[1], taps.shape[0], is_reversed, last,
        pixels, channels, accumulator(x),
    )  # fmt: skip
    return y


@fir.register_fake
def _(x, taps, up, down, before, size, is_reversed, gain):
    return new_image(dense(x), *x.shape[:2], *size)


def _keep(ctx, inputs, output) -> None:
    x, taps, ctx.up, ctx.down, ctx.before, _, ctx.is_reversed, ctx.gain = inputs
    ctx.size = list(x.shape[2:])
    ctx.save_for_backward(taps)


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    (taps,) = ctx.saved_tensors
    before = [k - 1 - n for k, n in zip(taps.shape, ctx.before)]
    found = fir(grad, taps, ctx.down, ctx.up, before, ctx.size, not ctx.is_reversed, ctx.gain)
    return found, *[None] * 7


fir.register_autograd(_differentiate, setup_context=_keep)
