"""Kernels of bilinear samples of images (`gan3d.ops.grid_sample`).

A program takes a tile of samples of an image: it finds their four pixels once, and reads these
channels first as rows of neighboring samples, channels last as rows of channels; the result has the
order of the image. Backward, it adds to the pixels by atomic additions (in float32 at least, in
varying order), and gives the grid its gradient: each only if it is asked for.

The gradient of the image is linear in that of the result, and its own derivative is sampling again:
so these derivatives are kernels, of any order. A gradient of the grid that is itself differentiated
takes torch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gan3d.ops.grid_sample import grid_sample_reference
from gan3d.ops.second_order import recorded
from gan3d.ops.triton.launches import accumulator, dense, new_image, order_of
from gan3d.ops.triton.triplane import tap_of, texel_of

NUMBERS = 512  # of a tile
CHANNELS_LAST, CHANNELS_FIRST = 32, 4  # at most


@triton.jit
def _texels(grid, at, on_point, height, width, ACC: tl.constexpr):
    """`texel_of` both coordinates of samples."""
    x, x_weight = texel_of(tl.load(grid + at * 2, mask=on_point, other=0.0).to(ACC), 1.0, width)
    y, y_weight = texel_of(
        tl.load(grid + at * 2 + 1, mask=on_point, other=0.0).to(ACC), 1.0, height
    )
    return x, x_weight, y, y_weight


@triton.jit
def _by_point(x, LAST: tl.constexpr):
    """Numbers of points, along the first axis of a tile; channels first, along the second one."""
    return x[:, None] if LAST else x[None, :]


@triton.jit
def _by_channel(x, LAST: tl.constexpr):
    """Numbers of channels, along the other axis."""
    return x[None, :] if LAST else x[:, None]


@triton.jit
def _places(b, pixel, channel, pixels, C: tl.constexpr, LAST: tl.constexpr):
    """Where channels of pixels of image b stand in images of this number of pixels."""
    at, of = _by_point(pixel, LAST), _by_channel(channel, LAST)
    return (b * pixels + at) * C + of if LAST else (b * C + of) * pixels + at


@triton.jit
def grid_sample_kernel(
    image, grid, out_y, P, height, width,
    C: tl.constexpr, LAST: tl.constexpr,
    POINTS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    p = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    b = tl.program_id(1).to(tl.int64)
    on_point = p < P
    x, x_weight, y, y_weight = _texels(grid, b * P + p, on_point, height, width, ACC)
    for start in range(0, C, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        on_channel = _by_channel(channel < C, LAST)
        total = tl.zeros([POINTS, CHANNELS] if LAST else [CHANNELS, POINTS], ACC)
        for tap in tl.static_range(4):
            pixel, inside, across, down = tap_of(x, x_weight, y, y_weight, tap, height, width)
            texel = tl.load(
                image + _places(b, pixel, channel, height * width, C, LAST),
                mask=_by_point(on_point & inside, LAST) & on_channel,
                other=0.0,
            )
            total += _by_point(across * down, LAST) * texel.to(ACC)
        at_y = _places(b, p, channel, P, C, LAST)
        tl.store(out_y + at_y, total, mask=_by_point(on_point, LAST) & on_channel)


@triton.jit
def grid_sample_backward_kernel(
    grad, image, grid, of_image, of_grid, P, height, width,
    C: tl.constexpr, LAST: tl.constexpr, OF_IMAGE: tl.constexpr, OF_GRID: tl.constexpr,
    POINTS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    p = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    b = tl.program_id(1).to(tl.int64)
    on_point = p < P
    x, x_weight, y, y_weight = _texels(grid, b * P + p, on_point, height, width, ACC)
    of_x = tl.zeros([POINTS], ACC)
    of_y = tl.zeros([POINTS], ACC)
    for start in range(0, C, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        on_channel = _by_channel(channel < C, LAST)
        at_grad = _places(b, p, channel, P, C, LAST)
        mask = _by_point(on_point, LAST) & on_channel
        g = tl.load(grad + at_grad, mask=mask, other=0.0).to(ACC)
        for tap in tl.static_range(4):
            pixel, inside, across, down = tap_of(x, x_weight, y, y_weight, tap, height, width)
            place = _places(b, pixel, channel, height * width, C, LAST)
            there = _by_point(on_point & inside, LAST) & on_channel
            if OF_IMAGE:
                share = _by_point(across * down, LAST) * g
                tl.atomic_add(of_image + place, share, mask=there, sem="relaxed")
            if OF_GRID:
                texel = tl.load(image + place, mask=there, other=0.0).to(ACC)
                along = tl.sum(texel * g, 1 if LAST else 0)
                of_x += down * (along if tap % 2 == 1 else -along)
                of_y += across * (along if tap // 2 == 1 else -along)
    if OF_GRID:
        at_grid = (b * P + p) * 2
        tl.store(of_grid + at_grid, of_x * width / 2, mask=on_point)
        tl.store(of_grid + at_grid + 1, of_y * height / 2, mask=on_point)


@torch.library.custom_op("gan3d::grid_sample", mutates_args=())
def sample_image(image: Tensor, grid: Tensor) -> Tensor:
    """Samples [b c H W] of image [b c h w] at grid [b H W 2], in the memory order of image."""
    image = dense(image)
    y = new_image(image, *image.shape[:2], *grid.shape[1:3])
    launch_grid, *tile = _tiles(image, grid)
    grid_sample_kernel[launch_grid](
        image, grid.contiguous(), y, y.shape[2:].numel(), *image.shape[2:], *tile
    )
    return y


@sample_image.register_fake
def _(image, grid):
    return new_image(dense(image), *image.shape[:2], *grid.shape[1:3])


@torch.library.custom_op("gan3d::grid_sample_backward", mutates_args=())
def sample_image_backward(
    grad: Tensor, grid: Tensor, image: Tensor | None, height: int, width: int, of_image: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of image and grid.

    Args:
        grad: of the samples.
        grid: of the samples.
        image: None: the grid needs no gradient; the first result then has the order of grad.
        height, width: of the image.
        of_image: whether the image needs a gradient.

    Returns:
        gradients; empty ones of what needs none.
    """
    like = dense(grad if image is None else image)
    exact = torch.promote_types(like.dtype, torch.float32)
    size = (height, width)
    sums, moved = _gradients(like, grid, size, of_image, image is not None, exact)
    launch_grid, c, last, *tile = _tiles(like, grid)
    grid_sample_backward_kernel[launch_grid](
        grad.contiguous(memory_format=order_of(like)), like, grid.contiguous(), sums.zero_(), moved,
        grid.shape[1] * grid.shape[2], *size, c, last, of_image, image is not None, *tile,
    )  # fmt: skip
    return sums.to(like.dtype), moved


@sample_image_backward.register_fake
def _(grad, grid, image, height, width, of_image):
    like = dense(grad if image is None else image)
    return _gradients(like, grid, (height, width), of_image, image is not None, like.dtype)


def _keep(ctx, inputs, output) -> None:
    image, grid = inputs
    ctx.size = list(image.shape[2:])
    ctx.save_for_backward(grid, image if ctx.needs_input_grad[1] else None)


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    grid, image = ctx.saved_tensors
    needed = ctx.needs_input_grad
    if image is not None and torch.is_grad_enabled():
        of_image, of_grid = recorded(grid_sample_reference, [image, grid], needed, [grad])
        return of_image, of_grid
    found = sample_image_backward(grad, grid, image, *ctx.size, needed[0])
    return found[0] if needed[0] else None, found[1] if needed[1] else None


def _keep_grid(ctx, inputs, output) -> None:
    ctx.save_for_backward(inputs[1])


def _differentiate_backward(ctx, of_image: Tensor, of_grid: Tensor) -> tuple[Tensor | None, ...]:
    (grid,) = ctx.saved_tensors
    return sample_image(of_image, grid), None, None, None, None, None


sample_image.register_autograd(_differentiate, setup_context=_keep)
sample_image_backward.register_autograd(_differentiate_backward, setup_context=_keep_grid)


def _gradients(
    like: Tensor,
    grid: Tensor,
    size: tuple[int, int],
    of_image: bool,
    of_grid: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """New memory of the gradients of an image in the order of `like`, and of the grid."""
    b, c = like.shape[:2] if of_image else (0, 0)
    found = new_image(like, b, c, *size, dtype=dtype)
    return found, grid.new_empty(grid.shape if of_grid else 0)


def _tiles(image: Tensor, grid: Tensor) -> tuple[tuple[int, int], int, bool, int, int, tl.dtype]:
    """The launch; channels, whether they come last, points and channels of a tile, its sums."""
    b, c = image.shape[:2]
    last = not image.is_contiguous()
    channels = min(triton.next_power_of_2(c), CHANNELS_LAST if last else CHANNELS_FIRST)
    points = NUMBERS // channels
    launch_grid = (triton.cdiv(grid.shape[1] * grid.shape[2], points), b)
    return launch_grid, c, last, points, channels, accumulator(image)
