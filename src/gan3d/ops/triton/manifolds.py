"""Kernels of surfaces whose colors and opacities are images (`gan3d.ops.manifolds`).

A program takes a tile of rays and all surfaces, rays along the lanes of a warp, so that neighboring
rays read neighboring texels. It looks up the maps, and composites as in `ops.triton.alphas`, with
opacities and distances in registers. Backward, it does so again, and adds to the texels by atomic
additions (in float32 at least, in varying order). Maps may be channels first or last, and those of
one scene may be shared by several views.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gan3d.ops.manifolds import manifolds_form
from gan3d.ops.second_order import recorded
from gan3d.ops.triton.launches import accumulator
from gan3d.ops.triton.triplane import store_triple, tap_of, texel_of, triple

RAYS = 16  # of a tile
# Of a program, forward, backward, and backward with points; with fewer, registers are spilled.
WARPS, WARPS_BACKWARD, WARPS_OF_POINTS = 2, 4, 8


@triton.jit
def _look_up(
    maps, at_map, on, x, y, scale_x, scale_y, height, width, stride_c, stride_t, ACC: tl.constexpr
):  # fmt: skip
    """Red, green, blue and alpha [surfaces rays] at points."""
    column, x_weight = texel_of(x, scale_x, width)
    row, y_weight = texel_of(y, scale_y, height)
    red, green, blue, alpha = tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x), tl.zeros_like(x)
    for tap in tl.static_range(4):
        pixel, inside, across, down = tap_of(column, x_weight, row, y_weight, tap, height, width)
        texel = maps + at_map + pixel * stride_t
        share = across * down
        there = on & inside
        red += share * tl.load(texel, mask=there, other=0.0).to(ACC)
        green += share * tl.load(texel + stride_c, mask=there, other=0.0).to(ACC)
        blue += share * tl.load(texel + 2 * stride_c, mask=there, other=0.0).to(ACC)
        alpha += share * tl.load(texel + 3 * stride_c, mask=there, other=0.0).to(ACC)
    return red, green, blue, alpha


@triton.jit
def _of_surface(values, i, j):
    """Values [1 rays] of surface j, of values [surfaces rays]."""
    return tl.sum(tl.where((i == j)[:, None], values, 0.0), 0)[None, :]


@triton.jit
def _shade(
    maps, behind, points, valid, origins, b, r, i,
    R, height, width, scale_x, scale_y, stride_b, stride_k, stride_c, stride_t,
    K: tl.constexpr, LAST_BACK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Points, their distances, colors, opacities and weights, all [surfaces rays]."""
    ray = b * R + r
    on = (r < R)[None, :] & (i <= K)[:, None]
    at = ray[None, :] * (K + 1) + i[:, None]
    x, y, z = triple(points, at, on, ACC)
    dx = x - tl.load(origins + b * 3).to(ACC)
    dy = y - tl.load(origins + b * 3 + 1).to(ACC)
    dz = z - tl.load(origins + b * 3 + 2).to(ACC)
    d = tl.sqrt(dx * dx + dy * dy + dz * dz)

    # Colors and opacities: of maps, and of the plane behind them.
    at_map = (b * stride_b + i * stride_k)[:, None]
    red, green, blue, alpha = _look_up(
        maps, at_map, on & (i < K)[:, None], x, y, scale_x, scale_y, height, width,
        stride_c, stride_t, ACC,
    )  # fmt: skip
    back = on & (i == K)[:, None]
    r_behind, g_behind, b_behind = triple(behind, ray[None, :], back, ACC)
    red, green, blue = red + r_behind, green + g_behind, blue + b_behind
    hit = tl.load(valid + at, mask=on, other=0) != 0
    alpha = tl.where(hit, tl.where(back, 1.0, alpha), 0.0)

    # log T_i, and how many surfaces stand before i.
    own = tl.log(1 - alpha + 1e-10)
    passed = tl.zeros_like(d)
    rank = tl.zeros_like(d)
    for j in range(0, K + 1):
        d_j = _of_surface(d, i, j)
        before = (d_j < d) | ((d_j == d) & (i > j)[:, None])
        passed += tl.where(before, _of_surface(own, i, j), 0.0)
        rank += tl.where(before, 1.0, 0.0)
    weights = tl.where(on, alpha * tl.exp(passed), 0.0)
    if LAST_BACK:
        rest = 1 - tl.sum(weights, 0)
        weights += tl.where(on & (rank == K), rest[None, :], 0.0)
    return (
        x, y, z, dx, dy, dz, d, red, green, blue, alpha, hit, own, passed, rank, weights, at, at_map
    )  # fmt: skip


@triton.jit
def manifolds_kernel(
    maps, behind, points, valid, origins,
    out_color, out_depth, out_opacity, out_weights, out_position,
    R, height, width, scale_x, scale_y, stride_b, stride_k, stride_c, stride_t,
    K: tl.constexpr, LAST_BACK: tl.constexpr,
    RAYS: tl.constexpr, SURFACES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    b = tl.program_id(1).to(tl.int64)
    i = tl.arange(0, SURFACES)
    x, y, z, _, _, _, d, red, green, blue, _, _, _, _, _, weights, at, _ = _shade(
        maps, behind, points, valid, origins, b, r, i,
        R, height, width, scale_x, scale_y, stride_b, stride_k, stride_c, stride_t,
        K, LAST_BACK, ACC,
    )  # fmt: skip
    on_ray = r < R
    ray = b * R + r
    tl.store(out_weights + at, weights, mask=on_ray[None, :] & (i <= K)[:, None])
    red, green, blue = (
        tl.sum(weights * red, 0),
        tl.sum(weights * green, 0),
        tl.sum(weights * blue, 0),
    )
    store_triple(out_color, ray, red, green, blue, on_ray)
    tl.store(out_depth + ray, tl.sum(weights * d, 0), mask=on_ray)
    tl.store(out_opacity + ray, tl.sum(weights, 0), mask=on_ray)
    x, y, z = tl.sum(weights * x, 0), tl.sum(weights * y, 0), tl.sum(weights * z, 0)
    store_triple(out_position, ray, x, y, z, on_ray)


@triton.jit
def manifolds_backward_kernel(
    maps, behind, points, valid, origins, g_color, g_depth, g_opacity, g_weights, g_position,
    of_maps, of_behind, of_points, of_origins,
    R, height, width, scale_x, scale_y, stride_b, stride_k, stride_c, stride_t,
    K: tl.constexpr, LAST_BACK: tl.constexpr, OF_MAPS: tl.constexpr, OF_POINTS: tl.constexpr,
    RAYS: tl.constexpr, SURFACES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    b = tl.program_id(1).to(tl.int64)
    i = tl.arange(0, SURFACES)
    x, y, z, dx, dy, dz, d, red, green, blue, alpha, hit, own, passed, rank, weights, at, at_map = (
        _shade(
            maps, behind, points, valid, origins, b, r, i,
            R, height, width, scale_x, scale_y, stride_b, stride_k, stride_c, stride_t,
            K, LAST_BACK, ACC,
        )
    )  # fmt: skip
    on_ray = r < R
    ray = b * R + r
    on = on_ray[None, :] & (i <= K)[:, None]

    # Gradients of rays, and of the weights.
    line, on_line = ray[None, :], on_ray[None, :]
    g_red, g_green, g_blue = triple(g_color, line, on_line, ACC)
    g_x, g_y, g_z = triple(g_position, line, on_line, ACC)
    g_d = tl.load(g_depth + line, mask=on_line, other=0.0).to(ACC)
    p = tl.load(g_weights + at, mask=on, other=0.0).to(ACC)
    p += tl.load(g_opacity + line, mask=on_line, other=0.0).to(ACC)
    p += g_red * red + g_green * green + g_blue * blue + g_x * x + g_y * y + g_z * z + g_d * d
    if LAST_BACK:
        p -= tl.sum(tl.where(on & (rank == K), p, 0.0), 0)[None, :]

    # Of the opacities: what they let through to the surfaces behind.
    light = tl.where(on, alpha * p, 0.0)
    of_alpha = tl.exp(passed) * p
    for j in range(0, K + 1):
        behind_i = rank < _of_surface(rank, i, j)
        passes = tl.exp(_of_surface(passed, i, j) - own)
        of_alpha -= tl.where(behind_i, _of_surface(light, i, j) * passes, 0.0)
    of_alpha = tl.where(hit, of_alpha, 0.0)

    # Of colors: the plane's, and by four texels those of the maps.
    of_red, of_green, of_blue = weights * g_red, weights * g_green, weights * g_blue
    store_triple(
        of_behind, line, _of_surface(of_red, i, K), _of_surface(of_green, i, K),
        _of_surface(of_blue, i, K), on_line,
    )  # fmt: skip
    column, x_weight = texel_of(x, scale_x, width)
    row, y_weight = texel_of(y, scale_y, height)
    on_map = on & (i < K)[:, None] & (hit | (weights != 0))
    texels = height * width
    of_map = of_maps + ((b * K + i) * 4 * texels)[:, None]
    of_across = tl.zeros_like(x)
    of_down = tl.zeros_like(x)
    for tap in tl.static_range(4):
        pixel, inside, across, down = tap_of(column, x_weight, row, y_weight, tap, height, width)
        there = on_map & inside
        if OF_MAPS:
            share = across * down
            place = of_map + pixel
            tl.atomic_add(place, share * of_red, mask=there, sem="relaxed")
            tl.atomic_add(place + texels, share * of_green, mask=there, sem="relaxed")
            tl.atomic_add(place + 2 * texels, share * of_blue, mask=there, sem="relaxed")
            tl.atomic_add(place + 3 * texels, share * of_alpha, mask=there, sem="relaxed")
        if OF_POINTS:
            texel = maps + at_map + pixel * stride_t
            along = of_red * tl.load(texel, mask=there, other=0.0).to(ACC)
            along += of_green * tl.load(texel + stride_c, mask=there, other=0.0).to(ACC)
            along += of_blue * tl.load(texel + 2 * stride_c, mask=there, other=0.0).to(ACC)
            along += of_alpha * tl.load(texel + 3 * stride_c, mask=there, other=0.0).to(ACC)
            of_across += down * (along if tap % 2 == 1 else -along)
            of_down += across * (along if tap // 2 == 1 else -along)

    # Of points: by lookup, position and distance; the last one is also the origin's.
    if OF_POINTS:
        of_d = tl.where(d > 0, weights * g_d / tl.where(d > 0, d, 1.0), 0.0)
        of_x = of_across * (width * scale_x / 2) + weights * g_x + of_d * dx
        of_y = of_down * (height * scale_y / 2) + weights * g_y + of_d * dy
        store_triple(of_points, at, of_x, of_y, weights * g_z + of_d * dz, on)
        sums = tl.sum(of_d * dx, 0), tl.sum(of_d * dy, 0), tl.sum(of_d * dz, 0)
        store_triple(of_origins, ray, -sums[0], -sums[1], -sums[2], on_ray)


@torch.library.custom_op("gan3d::composite_manifolds", mutates_args=())
def composite_maps(
    maps: Tensor,
    behind: Tensor,
    points: Tensor,
    valid: Tensor,
    origins: Tensor,
    scales: list[float],
    last_back: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Color [b r 3], depth and opacity [b r], weights [b r k+1] and position [b r 3] of rays.

    Args:
        maps: [b k 4 h w].
        behind: [b r 3].
        points: [b r k+1 3].
        valid: bool, [b r k+1].
        origins: [b 3] or [1 3].
        scales: of x and y of points, see `ops.manifolds.scales_of`.
        last_back: whether the farthest surface receives the remaining light.
    """
    found = _results(points)
    maps = _strided(maps)
    launch_grid, sizes, tile = _launch(maps, points)
    manifolds_kernel[launch_grid](
        *_inputs(maps, behind, points, valid, origins), *found,
        *sizes[:3], *scales, *sizes[3:], maps.shape[1], last_back, *tile, num_warps=WARPS,
    )  # fmt: skip
    return found


@composite_maps.register_fake
def _(maps, behind, points, valid, origins, scales, last_back):
    return _results(points)


@torch.library.custom_op("gan3d::composite_manifolds_backward", mutates_args=())
def composite_maps_backward(
    maps: Tensor,
    behind: Tensor,
    points: Tensor,
    valid: Tensor,
    origins: Tensor,
    scales: list[float],
    last_back: bool,
    g_color: Tensor,
    g_depth: Tensor,
    g_opacity: Tensor,
    g_weights: Tensor,
    g_position: Tensor,
    of_maps: bool,
    of_points: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of maps, behind, points and origins; empty ones that are not asked for."""
    exact = torch.promote_types(maps.dtype, torch.float32)
    sums = maps.new_zeros(maps.shape if of_maps else 0, dtype=exact)
    of_behind = behind.new_empty(behind.shape)
    moved = points.new_empty(points.shape if of_points else 0)
    by_ray = origins.new_empty(behind.shape if of_points else 0)
    maps = _strided(maps)
    grads = (g_color, g_depth, g_opacity, g_weights, g_position)
    launch_grid, sizes, tile = _launch(maps, points)
    manifolds_backward_kernel[launch_grid](
        *_inputs(maps, behind, points, valid, origins), *(g.contiguous() for g in grads),
        sums, of_behind, moved, by_ray,
        *sizes[:3], *scales, *sizes[3:], maps.shape[1], last_back, of_maps, of_points, *tile,
        num_warps=WARPS_OF_POINTS if of_points else WARPS_BACKWARD,
    )  # fmt: skip
    of_origins = by_ray.sum(1).sum_to_size(origins.shape) if of_points else by_ray
    return sums.to(maps.dtype), of_behind, moved, of_origins


@composite_maps_backward.register_fake
def _(maps, behind, points, valid, origins, scales, last_back, *others):
    of_maps, of_points = others[-2:]
    asked = ((maps, of_maps), (behind, True), (points, of_points), (origins, of_points))
    return tuple(x.new_empty(x.shape if is_asked else 0) for x, is_asked in asked)


def _keep(ctx, inputs, output) -> None:
    *tensors, ctx.scales, ctx.last_back = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
    inputs = list(ctx.saved_tensors)
    options = (ctx.scales, ctx.last_back)
    needed = ctx.needs_input_grad[:5]
    if torch.is_grad_enabled():
        return *recorded(manifolds_form, inputs, needed, grads, *options), None, None
    found = composite_maps_backward(*inputs, *options, *grads, needed[0], needed[2] or needed[4])
    found = (*found[:3], None, found[3])
    return *(g if is_needed else None for g, is_needed in zip(found, needed)), None, None


composite_maps.register_autograd(_differentiate, setup_context=_keep)


def _results(points: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """New memory of the results."""
    b, r, surfaces, _ = points.shape
    shapes = ((b, r, 3), (b, r), (b, r), (b, r, surfaces), (b, r, 3))
    color, depth, opacity, weights, position = (points.new_empty(shape) for shape in shapes)
    return color, depth, opacity, weights, position


def _strided(maps: Tensor) -> Tensor:
    """Maps whose texels are equally far apart in memory, row after row."""
    if maps.stride(3) == maps.shape[4] * maps.stride(4):
        return maps
    return maps.clone(memory_format=torch.contiguous_format)


def _inputs(
    maps: Tensor, behind: Tensor, points: Tensor, valid: Tensor, origins: Tensor
) -> tuple[Tensor, ...]:
    """As the kernels take them: maps as they are, the others dense, one origin per view."""
    each = origins.expand(len(points), -1)
    return maps, *(x.contiguous() for x in (behind, points, valid.view(torch.uint8), each))


def _launch(
    maps: Tensor, points: Tensor
) -> tuple[tuple[int, int], tuple[int, ...], tuple[int, int, tl.dtype]]:
    """The grid; rays, sides and strides of the maps; rays and surfaces of a tile, and its sums."""
    b, r, surfaces, _ = points.shape
    b_stride, k_stride, c_stride, _, t_stride = maps.stride()
    sizes = (r, *maps.shape[3:], b_stride, k_stride, c_stride, t_stride)
    tile = (RAYS, triton.next_power_of_2(surfaces), accumulator(maps))
    return (triton.cdiv(r, RAYS), b), sizes, tile
