"""Kernels of bias, leaky ReLU, gain and clamp (`gan3d.ops.bias_act`), each a single pass.

A tile is a piece of a matrix whose rows are channels of images (channels first) or pixels (channels
last), so that the memory is walked in its order. The backward pass needs the result alone, and is
linear in the gradient: its own derivative is itself, so that both have derivatives of any order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gan3d.ops.triton.launches import accumulator, dense

NUMBERS = 2048  # of a tile


@triton.jit
def bias_act_kernel(
    x, bias, out_y, R, C, channels, slope, gain, clamp,
    HAS_BIAS: tl.constexpr, BY_ROW: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    on_row, on_column = row < R, column < C
    mask = on_row[:, None] & on_column[None, :]
    at = row[:, None] * C + column[None, :]
    y = tl.load(x + at, mask=mask, other=0.0).to(ACC)
    if HAS_BIAS:
        if BY_ROW:
            y += tl.load(bias + row % channels, mask=on_row, other=0.0).to(ACC)[:, None]
        else:
            y += tl.load(bias + column, mask=on_column, other=0.0).to(ACC)[None, :]
    y = tl.where(y > 0, y, y * slope) * gain
    y = tl.where(y != y, y, tl.minimum(tl.maximum(y, -clamp), clamp))  # NaN stays
    tl.store(out_y + at, y, mask=mask)


@triton.jit
def bias_act_grad_kernel(
    grad, y, out_grad, N, slope, gain, clamp, NUMBERS: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * NUMBERS + tl.arange(0, NUMBERS)
    mask = at < N
    result = tl.load(y + at, mask=mask, other=0.0).to(ACC)
    g = tl.load(grad + at, mask=mask, other=0.0).to(ACC)
    g = tl.where(result > 0, g, g * slope) * gain
    inside = (result > -clamp) & (result < clamp)
    tl.store(out_grad + at, tl.where(inside, g, 0.0), mask=mask)


@torch.library.custom_op("gan3d::bias_act", mutates_args=())
def fused_bias_act(
    x: Tensor, bias: Tensor | None, slope: float, gain: float, clamp: float
) -> Tensor:
    """clamp(gain lrelu(x + b)), in the memory order of x; slope 1 is linear, clamp inf is none."""
    x = dense(x)
    y = torch.empty_like(x)
    last = not x.is_contiguous()  # channels last
    channels = x.shape[1]
    columns = channels if last else x.shape[2:].numel()
    rows = x.numel() // max(columns, 1)
    width = min(triton.next_power_of_2(columns), NUMBERS)
    height = NUMBERS // width
    grid = (triton.cdiv(rows, height), triton.cdiv(columns, width))
    bias_act_kernel[grid](
        x, x if bias is None else bias.contiguous(), y, rows, columns, channels,
        slope, gain, clamp, bias is not None, not last, height, width, accumulator(x),
    )  # fmt: skip
    return y


@fused_bias_act.register_fake
def _(x, bias, slope, gain, clamp):
    return torch.empty_like(dense(x))


@torch.library.custom_op("gan3d::bias_act_grad", mutates_args=())
def bias_act_grad(grad: Tensor, y: Tensor, slope: float, gain: float, clamp: float) -> Tensor:
    """The gradient of x, in the memory order of y."""
    grad = torch.empty_like(y).copy_(grad) if grad.stride() != y.stride() else grad
    found = torch.empty_like(y)
    grid = (triton.cdiv(y.numel(), NUMBERS),)
    bias_act_grad_kernel[grid](
        grad, y, found, y.numel(), slope, gain, clamp, NUMBERS, accumulator(y)
    )
    return found


@bias_act_grad.register_fake
def _(grad, y, slope, gain, clamp):
    return torch.empty_like(y)


def _keep(ctx, inputs, output) -> None:
    _, y, *ctx.numbers = inputs
    ctx.save_for_backward(y)


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    (y,) = ctx.saved_tensors
    return bias_act_grad(grad, y, *ctx.numbers), None, None, None, None


bias_act_grad.register_autograd(_differentiate, setup_context=_keep)
