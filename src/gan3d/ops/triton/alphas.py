"""Kernels of surfaces with opacities, in any order (`gan3d.ops.composite.composite_alphas`).

A program takes a tile of rays, all surfaces at once, and needs no sort: surface j stands before
surface i if it is nearer, or as near and first in order, and

    log T_i = sum_{j before i} log(1 - alpha_j + 1e-10)

is a sum over pairs, which costs less than moving anything. Backward, with p_i = dL/dw_i,

    dL/dalpha_i = T_i p_i - sum_{j behind i} alpha_j p_j T_j / (1 - alpha_i + 1e-10),

whose quotient is a product over the other surfaces, at most 1.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gan3d.ops.composite import alphas_form
from gan3d.ops.second_order import recorded
from gan3d.ops.triton.launches import accumulator

NUMBERS = 512  # of a tile


@triton.jit
def _passed(alpha, distances, first, d, i, on_ray, K: tl.constexpr, ACC: tl.constexpr):
    """log T_i and how many surfaces stand before i, [rays surfaces]."""
    passed = tl.zeros_like(d)
    rank = tl.zeros_like(d)
    for j in range(0, K):
        a_j = tl.load(alpha + first + j, mask=on_ray, other=0.0).to(ACC)
        d_j = tl.load(distances + first + j, mask=on_ray, other=0.0).to(ACC)[:, None]
        before = (d_j < d) | ((d_j == d) & (i > j)[None, :])
        passed += tl.where(before, tl.log(1 - a_j + 1e-10)[:, None], 0.0)
        rank += tl.where(before, 1.0, 0.0)
    return passed, rank


@triton.jit
def alphas_kernel(
    alpha, rgb, distances, out_color, out_depth, out_opacity, out_weights,
    R, C, K: tl.constexpr, LAST_BACK: tl.constexpr,
    RAYS: tl.constexpr, SURFACES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    ray = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    i = tl.arange(0, SURFACES)
    on_ray = ray < R
    mask = on_ray[:, None] & (i < K)[None, :]
    at = ray[:, None] * K + i[None, :]
    a = tl.load(alpha + at, mask=mask, other=0.0).to(ACC)
    d = tl.load(distances + at, mask=mask, other=0.0).to(ACC)
    passed, rank = _passed(alpha, distances, ray * K, d, i, on_ray, K, ACC)
    weights = tl.where(mask, a * tl.exp(passed), 0.0)
    if LAST_BACK:
        rest = 1 - tl.sum(weights, 1)
        weights += tl.where(mask & (rank == K - 1), rest[:, None], 0.0)
    tl.store(out_weights + at, weights, mask=mask)
    tl.store(out_depth + ray, tl.sum(weights * d, 1), mask=on_ray)
    tl.store(out_opacity + ray, tl.sum(weights, 1), mask=on_ray)
    for c in range(0, C):
        values = tl.load(rgb + at * C + c, mask=mask, other=0.0).to(ACC)
        tl.store(out_color + ray * C + c, tl.sum(weights * values, 1), mask=on_ray)


@triton.jit
def alphas_backward_kernel(
    alpha, rgb, distances, g_color, g_depth, g_opacity, g_weights,
    of_alpha, of_rgb, of_distances,
    R, C, K: tl.constexpr, LAST_BACK: tl.constexpr,
    RAYS: tl.constexpr, SURFACES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    ray = tl.program_id(0).to(tl.int64) * RAYS + tl.arange(0, RAYS)
    i = tl.arange(0, SURFACES)
    on_ray = ray < R
    mask = on_ray[:, None] & (i < K)[None, :]
    at = ray[:, None] * K + i[None, :]
    a = tl.load(alpha + at, mask=mask, other=0.0).to(ACC)
    d = tl.load(distances + at, mask=mask, other=0.0).to(ACC)
    passed, rank = _passed(alpha, distances, ray * K, d, i, on_ray, K, ACC)
    weights = tl.where(mask, a * tl.exp(passed), 0.0)
    last = mask & (rank == K - 1)
    if LAST_BACK:
        rest = 1 - tl.sum(weights, 1)
        weights += tl.where(last, rest[:, None], 0.0)

    # Gradients of the weights, colors and distances.
    of_depth = tl.load(g_depth + ray, mask=on_ray, other=0.0).to(ACC)[:, None]
    p = tl.load(g_weights + at, mask=mask, other=0.0).to(ACC) + of_depth * d
    p += tl.load(g_opacity + ray, mask=on_ray, other=0.0).to(ACC)[:, None]
    for c in range(0, C):
        g = tl.load(g_color + ray * C + c, mask=on_ray, other=0.0).to(ACC)[:, None]
        p += g * tl.load(rgb + at * C + c, mask=mask, other=0.0).to(ACC)
        tl.store(of_rgb + at * C + c, weights * g, mask=mask)
    tl.store(of_distances + at, weights * of_depth, mask=mask)
    if LAST_BACK:
        p -= tl.sum(tl.where(last, p, 0.0), 1)[:, None]

    # Opacities: what they let through to the surfaces behind.
    light = tl.where(mask, a * p, 0.0)
    own = tl.log(1 - a + 1e-10)
    found = tl.exp(passed) * p
    for j in range(0, K):
        chosen = (i == j)[None, :]
        light_j = tl.sum(tl.where(chosen, light, 0.0), 1)[:, None]
        passed_j = tl.sum(tl.where(chosen, passed, 0.0), 1)[:, None]
        rank_j = tl.sum(tl.where(chosen, rank, 0.0), 1)[:, None]
        found -= tl.where(rank < rank_j, light_j * tl.exp(passed_j - own), 0.0)
    tl.store(of_alpha + at, found, mask=mask)


@torch.library.custom_op("gan3d::composite_alphas", mutates_args=())
def composite_surfaces(
    alpha: Tensor, rgb: Tensor, distances: Tensor, last_back: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Color [r c], depth [r], opacity [r] and weights [r k] of alpha, distances [r k], rgb
    [r k c].
    """
    rays, surfaces, channels = rgb.shape
    found = _results(alpha, rgb, distances)
    grid, tile = _tiles(rays, surfaces)
    alphas_kernel[grid](
        alpha.contiguous(), rgb.contiguous(), distances.contiguous(), *found,
        rays, channels, surfaces, last_back, *tile, accumulator(alpha),
    )  # fmt: skip
    return found


@composite_surfaces.register_fake
def _(alpha, rgb, distances, last_back):
    return _results(alpha, rgb, distances)


@torch.library.custom_op("gan3d::composite_alphas_backward", mutates_args=())
def composite_surfaces_backward(
    alpha: Tensor,
    rgb: Tensor,
    distances: Tensor,
    last_back: bool,
    g_color: Tensor,
    g_depth: Tensor,
    g_opacity: Tensor,
    g_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of alpha, rgb and distances."""
    rays, surfaces, channels = rgb.shape
    inputs = [x.contiguous() for x in (alpha, rgb, distances)]
    grads = [x.contiguous() for x in (g_color, g_depth, g_opacity, g_weights)]
    found = [torch.empty_like(x) for x in inputs]
    grid, tile = _tiles(rays, surfaces)
    alphas_backward_kernel[grid](
        *inputs, *grads, *found, rays, channels, surfaces, last_back, *tile, accumulator(alpha)
    )
    return found[0], found[1], found[2]


@composite_surfaces_backward.register_fake
def _(alpha, rgb, distances, last_back, g_color, g_depth, g_opacity, g_weights):
    return tuple(x.new_empty(x.shape) for x in (alpha, rgb, distances))


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.last_back = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
    inputs = list(ctx.saved_tensors)
    if torch.is_grad_enabled():
        return *recorded(alphas_form, inputs, [True] * 3, grads, ctx.last_back), None
    return *composite_surfaces_backward(*inputs, ctx.last_back, *grads), None


composite_surfaces.register_autograd(_differentiate, setup_context=_keep)


def _results(
    alpha: Tensor, rgb: Tensor, distances: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """New memory of the results."""
    rays, surfaces, channels = rgb.shape
    color, depth = rgb.new_empty(rays, channels), distances.new_empty(rays)
    return color, depth, alpha.new_empty(rays), alpha.new_empty(rays, surfaces)


def _tiles(rays: int, surfaces: int) -> tuple[tuple[int], tuple[int, int]]:
    """The grid; rays and surfaces of a tile."""
    columns = triton.next_power_of_2(surfaces)
    rows = max(NUMBERS // columns, 1)
    return (triton.cdiv(rays, rows),), (rows, columns)
