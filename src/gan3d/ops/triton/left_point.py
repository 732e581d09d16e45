"""Kernels of the left-point rule (`gan3d.ops.left_point`), walks as in `ops.triton.composite`.

Backward. With p_s = dL/dw_s = g . c_s + g_W + g_D d_s + g_w,s (less that of the last sample, if it
receives the remaining light),

    dL/dtau_s = T_{s+1} p_s - sum_{j>s} w_j p_j,

whose sum is what is left of the total, known before the walk.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gan3d.ops.left_point import left_form
from gan3d.ops.second_order import recorded
from gan3d.ops.triton.composite import RAYS, color_of, softplus
from gan3d.ops.triton.launches import accumulator

LAST = tl.constexpr(1e10)  # length of the interval behind the last sample


@triton.jit
def _density(sigma, SOFTPLUS: tl.constexpr):
    return softplus(sigma) if SOFTPLUS else tl.maximum(sigma, 0.0)


@triton.jit
def _slope(sigma, SOFTPLUS: tl.constexpr):
    return tl.sigmoid(sigma) if SOFTPLUS else tl.where(sigma > 0, 1.0, 0.0)


@triton.jit
def left_point_kernel(
    depths, sigma, order, first, second, out_color, out_depth, out_opacity, out_weights,
    R, S: tl.constexpr, S0: tl.constexpr, C: tl.constexpr,
    SOFTPLUS: tl.constexpr, LAST_BACK: tl.constexpr,
    RAYS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    ray = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    channel = tl.arange(0, CHANNELS)
    on_ray = ray < R
    mask = on_ray[:, None] & (channel < C)[None, :]
    row = ray * S

    color = tl.zeros([RAYS, CHANNELS], ACC)
    depth = tl.zeros([RAYS], ACC)
    opacity = tl.zeros([RAYS], ACC)
    passed = tl.zeros([RAYS], ACC)  # minus the logarithm of the transmittance
    d = tl.load(depths + row, mask=on_ray, other=0.0).to(ACC)
    for s in range(0, S):
        more = on_ray & (tl.zeros_like(ray) + s + 1 < S)
        d_next = tl.load(depths + row + s + 1, mask=more, other=0.0).to(ACC)
        density = _density(tl.load(sigma + row + s, mask=on_ray, other=0.0).to(ACC), SOFTPLUS)
        tau = density * tl.where(more, d_next - d, LAST)
        weight = tl.exp(-passed) * (1 - tl.exp(-tau))
        opacity += weight
        if LAST_BACK:
            weight = tl.where(more, weight, weight + 1 - opacity)
        c, _, _, _ = color_of(first, second, order, ray, s, channel, on_ray, mask, S, S0, C, True)
        color += weight[:, None] * c.to(ACC)
        depth += weight * d
        tl.store(out_weights + row + s, weight, mask=on_ray)
        passed += tau
        d = d_next
    tl.store(out_color + ray[:, None] * C + channel[None, :], color, mask=mask)
    tl.store(out_depth + ray, depth, mask=on_ray)
    tl.store(out_opacity + ray, opacity, mask=on_ray)


@triton.jit
def left_point_backward_kernel(
    depths, sigma, order, first, second, color, depth, opacity, weights,
    g_color, g_depth, g_opacity, g_weights, of_depths, of_sigma, of_first, of_second,
    R, S: tl.constexpr, S0: tl.constexpr, C: tl.constexpr,
    SOFTPLUS: tl.constexpr, LAST_BACK: tl.constexpr,
    RAYS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    ray = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    channel = tl.arange(0, CHANNELS)
    on_ray = ray < R
    mask = on_ray[:, None] & (channel < C)[None, :]
    row = ray * S

    # Gradients of a ray, and the sum over its weights.
    at = ray[:, None] * C + channel[None, :]
    g = tl.load(g_color + at, mask=mask, other=0.0).to(ACC)
    of_depth = tl.load(g_depth + ray, mask=on_ray, other=0.0).to(ACC)
    of_opacity = tl.load(g_opacity + ray, mask=on_ray, other=0.0).to(ACC)
    left = tl.sum(g * tl.load(color + at, mask=mask, other=0.0).to(ACC), 1)
    left += of_depth * tl.load(depth + ray, mask=on_ray, other=0.0).to(ACC)
    left += of_opacity * tl.load(opacity + ray, mask=on_ray, other=0.0).to(ACC)
    for s in range(0, S):
        weight = tl.load(weights + row + s, mask=on_ray, other=0.0).to(ACC)
        left += weight * tl.load(g_weights + row + s, mask=on_ray, other=0.0).to(ACC)
    base = of_opacity
    if LAST_BACK:
        c, _, _, _ = color_of(
            first, second, order, ray, S - 1, channel, on_ray, mask, S, S0, C, True
        )
        p_last = tl.sum(g * c.to(ACC), 1)
        p_last += of_depth * tl.load(depths + row + S - 1, mask=on_ray, other=0.0).to(ACC)
        p_last += tl.load(g_weights + row + S - 1, mask=on_ray, other=0.0).to(ACC)
        left -= p_last
        base -= p_last

    passed = tl.zeros([RAYS], ACC)
    of_length = tl.zeros([RAYS], ACC)  # of the interval before the sample
    d = tl.load(depths + row, mask=on_ray, other=0.0).to(ACC)
    for s in range(0, S):
        more = on_ray & (tl.zeros_like(ray) + s + 1 < S)
        d_next = tl.load(depths + row + s + 1, mask=more, other=0.0).to(ACC)
        raw = tl.load(sigma + row + s, mask=on_ray, other=0.0).to(ACC)
        density = _density(raw, SOFTPLUS)
        length = tl.where(more, d_next - d, LAST)
        tau = density * length
        weight = tl.exp(-passed) * (1 - tl.exp(-tau))
        c, at_first, at_second, in_first = color_of(
            first, second, order, ray, s, channel, on_ray, mask, S, S0, C, True
        )
        p = tl.sum(g * c.to(ACC), 1) + base + of_depth * d
        p += tl.load(g_weights + row + s, mask=on_ray, other=0.0).to(ACC)
        left -= weight * p
        passed += tau
        # Behind the last sample nothing is left; rounding would be multiplied by its length.
        of_tau = tl.exp(-passed) * p - tl.where(more, left, 0.0)
        tl.store(of_sigma + row + s, of_tau * length * _slope(raw, SOFTPLUS), mask=on_ray)

        shown = tl.load(weights + row + s, mask=on_ray, other=0.0).to(ACC)
        of_d = of_length + of_depth * shown
        of_length = tl.where(more, of_tau * density, 0.0)
        tl.store(of_depths + row + s, of_d - of_length, mask=on_ray)
        colors = shown[:, None] * g
        tl.store(of_first + at_first, colors, mask=mask & in_first[:, None])
        tl.store(of_second + at_second, colors, mask=mask & (in_first == 0)[:, None])
        d = d_next


@torch.library.custom_op("gan3d::composite_left", mutates_args=())
def composite_left_sorted(
    depths: Tensor,
    sigma: Tensor,
    order: Tensor,
    first: Tensor,
    second: Tensor | None,
    is_softplus: bool,
    last_back: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Color [r c], depth [r], opacity [r] and weights [r s] of rays.

    Args:
        depths, sigma: of the samples in order of depth, [r s].
        order: place of each of them in the blocks, one after the other, [r s].
        first, second: colors of the blocks, [r s0 c] and [r s-s0 c].
        is_softplus: whether densities are softplus(sigma), not relu(sigma).
        last_back: whether the last sample receives the remaining light.
    """
    found = _results(depths, sigma, first)
    inputs = [depths, sigma, order, first, first if second is None else second]
    left_point_kernel[_grid(depths)](
        *(x.contiguous() for x in inputs), *found, *_shape(depths, first), is_softplus, last_back,
        RAYS, triton.next_power_of_2(first.shape[2]), accumulator(first),
    )  # fmt: skip
    return found


@composite_left_sorted.register_fake
def _(depths, sigma, order, first, second, is_softplus, last_back):
    return _results(depths, sigma, first)


@torch.library.custom_op("gan3d::composite_left_backward", mutates_args=())
def composite_left_backward(
    depths: Tensor,
    sigma: Tensor,
    order: Tensor,
    first: Tensor,
    second: Tensor | None,
    is_softplus: bool,
    last_back: bool,
    color: Tensor,
    depth: Tensor,
    opacity: Tensor,
    weights: Tensor,
    g_color: Tensor,
    g_depth: Tensor,
    g_opacity: Tensor,
    g_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of depths and sigma (in order of depth), and of both blocks of colors."""
    found = [x.new_empty(x.shape) for x in (depths, sigma, first)]
    found += [first.new_empty(0 if second is None else second.shape)]
    inputs = [depths, sigma, order, first, first if second is None else second]
    inputs += [color, depth, opacity, weights, g_color, g_depth, g_opacity, g_weights]
    left_point_backward_kernel[_grid(depths)](
        *(x.contiguous() for x in inputs), *found, *_shape(depths, first), is_softplus, last_back,
        RAYS, triton.next_power_of_2(first.shape[2]), accumulator(first),
    )  # fmt: skip
    return found[0], found[1], found[2], found[3]


@composite_left_backward.register_fake
def _(depths, sigma, order, first, second, *others):
    found = [x.new_empty(x.shape) for x in (depths, sigma, first)]
    return *found, first.new_empty(0 if second is None else second.shape)


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.is_softplus, ctx.last_back = inputs
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
    inputs, results = ctx.saved_tensors[:5], ctx.saved_tensors[5:]
    options = (ctx.is_softplus, ctx.last_back)
    if torch.is_grad_enabled():
        needed = (True, True, False, True, True)
        return *recorded(left_form, inputs, needed, grads, *options), None, None
    found = composite_left_backward(*inputs, *options, *results, *grads)
    of_second = None if inputs[4] is None else found[3]
    return found[0], found[1], None, found[2], of_second, None, None


composite_left_sorted.register_autograd(_differentiate, setup_context=_keep)


def _results(depths: Tensor, sigma: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """New memory of the results."""
    rays, _, channels = first.shape
    color, depth = first.new_empty(rays, channels), depths.new_empty(rays)
    return color, depth, sigma.new_empty(rays), sigma.new_empty(sigma.shape)


def _shape(depths: Tensor, first: Tensor) -> tuple[int, int, int, int]:
    """Rays, samples, samples of the first block, channels."""
    return *depths.shape, first.shape[1], first.shape[2]


def _grid(depths: Tensor) -> tuple[int]:
    return (triton.cdiv(len(depths), RAYS),)
