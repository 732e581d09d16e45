"""Kernels of the mid-point rule (`gan3d.ops.composite`).

A program takes a tile of rays and walks along them once, sample by sample, with all channels of a
sample at a time: every color is read once, and the forward pass writes nothing of size [s c].

Backward. With p_i = dL/dw_i = (q_i + q_{i+1}) / 2 + g_W + g_D ((d_i + d_{i+1}) / 2 - D) / W, where
q_s = g . c_s (and g_W without the background's part),

    dL/dtau_i = T_{i+1} p_i - sum_{j>i} w_j p_j,

whose sum is what is left of sum_j w_j p_j = g . C + g_W W, known before the walk: so one pass from
the front to the back suffices, which keeps no transmittance and divides by none.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gan3d.ops.composite import sorted_form
from gan3d.ops.second_order import recorded
from gan3d.ops.triton.launches import accumulator

RAYS = 16  # of a tile: a warp reads 16 bytes per thread of 32 channels


@triton.jit
def softplus(x):
    return tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def color_of(first, second, order, ray, s, channel, on_ray, mask, S, S0, C, ORDERED: tl.constexpr):
    """Colors [rays channels] of sample s of the sorted rays, and where they stand in the blocks."""
    place = tl.zeros_like(ray) + s
    if ORDERED:
        place = tl.load(order + ray * S + s, mask=on_ray, other=0).to(tl.int64)
    in_first = place < S0
    at_first = (ray * S0 + place)[:, None] * C + channel[None, :]
    at_second = (ray * (S - S0) + place - S0)[:, None] * C + channel[None, :]
    color = tl.load(first + at_first, mask=mask & in_first[:, None], other=0.0)
    if ORDERED:
        more = tl.load(second + at_second, mask=mask & (place >= S0)[:, None], other=0.0)
        color = tl.where(in_first[:, None], color, more)
    return color, at_first, at_second, in_first


@triton.jit
def composite_kernel(
    depths, sigma, order, first, second, out_color, out_depth, out_opacity, background,
    R, S: tl.constexpr, S0: tl.constexpr, C: tl.constexpr,
    ORDERED: tl.constexpr, RAYS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
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
    before = tl.zeros([RAYS], ACC)  # weight of the interval before the sample
    d = tl.load(depths + row, mask=on_ray, other=0.0).to(ACC)
    density = tl.load(sigma + row, mask=on_ray, other=0.0).to(ACC)
    for s in range(0, S):
        more = on_ray & (tl.zeros_like(ray) + s + 1 < S)
        d_next = tl.load(depths + row + s + 1, mask=more, other=0.0).to(ACC)
        density_next = tl.load(sigma + row + s + 1, mask=more, other=0.0).to(ACC)
        tau = softplus((density + density_next) / 2 - 1) * (d_next - d)
        tau = tl.where(more, tau, 0.0)
        weight = tl.exp(-passed) * (1 - tl.exp(-tau))
        share = (before + weight) / 2
        c, _, _, _ = color_of(
            first, second, order, ray, s, channel, on_ray, mask, S, S0, C, ORDERED
        )
        color += share[:, None] * c.to(ACC)
        depth += share * d
        opacity += weight
        passed += tau
        before = weight
        d = tl.where(more, d_next, d)
        density = density_next

    empty = opacity <= 0
    expected = tl.where(empty, d, depth / tl.where(empty, 1.0, opacity))
    color += background * (1 - opacity)[:, None]
    tl.store(out_color + ray[:, None] * C + channel[None, :], color, mask=mask)
    tl.store(out_depth + ray, expected, mask=on_ray)
    tl.store(out_opacity + ray, opacity, mask=on_ray)


@triton.jit
def composite_backward_kernel(
    depths, sigma, order, first, second, color, depth, opacity, g_color, g_depth, g_opacity,
    of_depths, of_sigma, of_first, of_second, background,
    R, S: tl.constexpr, S0: tl.constexpr, C: tl.constexpr,
    ORDERED: tl.constexpr, RAYS: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    ray = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    channel = tl.arange(0, CHANNELS)
    on_ray = ray < R
    mask = on_ray[:, None] & (channel < C)[None, :]
    row = ray * S

    # Gradients of a ray; what the background adds is part of that of the opacity.
    at = ray[:, None] * C + channel[None, :]
    g = tl.load(g_color + at, mask=mask, other=0.0).to(ACC)
    of_opacity = tl.load(g_opacity + ray, mask=on_ray, other=0.0).to(ACC)
    total_opacity = tl.load(opacity + ray, mask=on_ray, other=0.0).to(ACC)
    expected = tl.load(depth + ray, mask=on_ray, other=0.0).to(ACC)
    empty = total_opacity <= 0
    of_depth = tl.load(g_depth + ray, mask=on_ray, other=0.0).to(ACC)
    of_empty = tl.where(empty, of_depth, 0.0)  # an empty ray has the depth of its last sample
    of_depth = tl.where(empty, 0.0, of_depth / tl.where(empty, 1.0, total_opacity))
    seen = tl.load(color + at, mask=mask, other=0.0).to(ACC)
    left = tl.sum(g * seen, 1) - background * tl.sum(g, 1) + of_opacity * total_opacity
    of_opacity -= background * tl.sum(g, 1)

    passed = tl.zeros([RAYS], ACC)
    before = tl.zeros([RAYS], ACC)
    d = tl.load(depths + row, mask=on_ray, other=0.0).to(ACC)
    density = tl.load(sigma + row, mask=on_ray, other=0.0).to(ACC)
    c, at_first, at_second, in_first = color_of(
        first, second, order, ray, 0, channel, on_ray, mask, S, S0, C, ORDERED
    )
    q = tl.sum(g * c.to(ACC), 1)
    d_grad = tl.zeros([RAYS], ACC)  # of the sample's distance and density, by the interval before
    density_grad = tl.zeros([RAYS], ACC)
    for s in range(0, S):
        more = on_ray & (tl.zeros_like(ray) + s + 1 < S)
        d_next = tl.load(depths + row + s + 1, mask=more, other=0.0).to(ACC)
        density_next = tl.load(sigma + row + s + 1, mask=more, other=0.0).to(ACC)
        following = tl.minimum(s + 1, S - 1)
        c, next_first, next_second, next_in_first = color_of(
            first, second, order, ray, following, channel, on_ray, mask, S, S0, C, ORDERED
        )
        q_next = tl.sum(g * c.to(ACC), 1)

        # The interval from s to s + 1.
        middle = (density + density_next) / 2 - 1
        length = tl.where(more, d_next - d, 0.0)
        rate = softplus(middle)
        tau = rate * length
        weight = tl.exp(-passed) * (1 - tl.exp(-tau))
        p = (q + q_next) / 2 + of_opacity + of_depth * ((d + d_next) / 2 - expected)
        left -= weight * p
        passed += tau
        of_tau = tl.where(more, tl.exp(-passed) * p - left, 0.0)
        half = of_tau * length * tl.sigmoid(middle) / 2
        of_length = of_tau * rate

        # Sample s is complete.
        share = (before + weight) / 2
        colors = share[:, None] * g
        tl.store(of_first + at_first, colors, mask=mask & in_first[:, None])
        if ORDERED:
            tl.store(of_second + at_second, colors, mask=mask & (in_first == 0)[:, None])
        tl.store(of_sigma + row + s, density_grad + half, mask=on_ray)
        of_d = d_grad - of_length + of_depth * share
        tl.store(of_depths + row + s, tl.where(more, of_d, of_d + of_empty), mask=on_ray)

        at_first, at_second, in_first = next_first, next_second, next_in_first
        d_grad, density_grad, before = of_length, half, weight
        d, density, q = d_next, density_next, q_next


@torch.library.custom_op("gan3d::composite", mutates_args=())
def composite_sorted(
    depths: Tensor,
    sigma: Tensor,
    order: Tensor | None,
    first: Tensor,
    second: Tensor | None,
    background: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Color [r c], depth [r] and opacity [r] of rays.

    Args:
        depths, sigma: of the samples in order of depth, [r s].
        order: place of each of them in the blocks, one after the other, [r s]; None: as they are.
        first, second: colors of the blocks, [r s0 c] and [r s-s0 c].
        background: color behind everything.
    """
    rays, samples, channels = _shape(depths, first)
    color = first.new_empty(rays, channels)
    depth, opacity = depths.new_empty(rays), sigma.new_empty(rays)
    inputs = [depths, sigma, depths if order is None else order, first]
    inputs.append(first if second is None else second)
    composite_kernel[_grid(rays)](
        *(tensor.contiguous() for tensor in inputs), color, depth, opacity, background,
        rays, samples, first.shape[1], channels, order is not None, RAYS,
        triton.next_power_of_2(channels), accumulator(first),
    )  # fmt: skip
    return color, depth, opacity


@composite_sorted.register_fake
def _(depths, sigma, order, first, second, background):
    rays, _, channels = _shape(depths, first)
    return first.new_empty(rays, channels), depths.new_empty(rays), sigma.new_empty(rays)


@torch.library.custom_op("gan3d::composite_backward", mutates_args=())
def composite_sorted_backward(
    depths: Tensor,
    sigma: Tensor,
    order: Tensor | None,
    first: Tensor,
    second: Tensor | None,
    background: float,
    color: Tensor,
    depth: Tensor,
    opacity: Tensor,
    g_color: Tensor,
    g_depth: Tensor,
    g_opacity: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of depths and sigma (in order of depth), and of both blocks of colors."""
    rays, samples, channels = _shape(depths, first)
    found = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (depths, sigma)]
    found += [torch.empty_like(first, memory_format=torch.contiguous_format)]
    found += [first.new_empty(0) if second is None else second.new_empty(second.shape)]
    inputs = [depths, sigma, depths if order is None else order, first]
    inputs += [first if second is None else second, color, depth, opacity]
    inputs += [g_color, g_depth, g_opacity]
    composite_backward_kernel[_grid(rays)](
        *(tensor.contiguous() for tensor in inputs), *found, background,
        rays, samples, first.shape[1], channels, order is not None, RAYS,
        triton.next_power_of_2(channels), accumulator(first),
    )  # fmt: skip
    return found[0], found[1], found[2], found[3]


@composite_sorted_backward.register_fake
def _(depths, sigma, order, first, second, background, *rest):
    empty = first.new_empty(0) if second is None else second.new_empty(second.shape)
    return (
        depths.new_empty(depths.shape),
        sigma.new_empty(sigma.shape),
        first.new_empty(first.shape),
        empty,
    )


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.background = inputs
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, color, depth, opacity = ctx.saved_tensors
    if torch.is_grad_enabled():
        needed = (True, True, False, True, ctx.saved_tensors[4] is not None)
        return *recorded(sorted_form, inputs, needed, grads, ctx.background), None
    of_depths, of_sigma, of_first, of_second = composite_sorted_backward(
        *inputs, ctx.background, color, depth, opacity, *grads
    )
    return of_depths, of_sigma, None, of_first, None if inputs[4] is None else of_second, None


composite_sorted.register_autograd(_differentiate, setup_context=_keep)


def _shape(depths: Tensor, first: Tensor) -> tuple[int, int, int]:
    """Rays, samples, channels."""
    return depths.shape[0], depths.shape[1], first.shape[2]


def _grid(rays: int) -> tuple[int]:
    return (triton.cdiv(rays, RAYS),)
