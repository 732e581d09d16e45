"""Kernels of rays through tri-planes (`gan3d.ops.render_triplane`).

A program takes a tile of rays and walks along them sample by sample. It looks up the features of a
tile of samples, multiplies them by the decoder's matrices, and adds the interval behind the sample
before: only depths, densities of coarse samples and results of rays are ever in memory.

Backward, the walk is repeated. What is left of sum_j w_j p_j gives the gradient of an interval, as
in `ops.triton.composite`; a sample is complete one step after it was seen, and then goes back
through the decoder, whose activations are still in registers, to the texels (by atomic additions)
and to its ray. Gradients of the matrices are summed in registers, and written once per program to
one of a few buckets.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gan3d.ops.field_decoder import SHIFT, WIDEN
from gan3d.ops.render_triplane import render_form
from gan3d.ops.second_order import recorded
from gan3d.ops.triton.composite import softplus
from gan3d.ops.triton.launches import accumulator, widened_precision
from gan3d.ops.triton.triplane import (
    features_backward,
    features_of,
    packed,
    store_triple,
    triple,
)

RAYS = 16  # of a tile
POINTS = 64  # of a tile of densities
BUCKETS = 64  # of gradients of the decoder
WARPS_BACKWARD = 8  # of a program; with fewer, registers are spilled
WIDENING, SHIFTING = tl.constexpr(WIDEN), tl.constexpr(SHIFT)


@triton.jit
def _matrix(w, rows, columns, R, C, ACC: tl.constexpr):
    """w [R C] at rows [r 1] and columns [1 c], or turned; 0 beyond it."""
    return tl.load(w + rows * C + columns, mask=(rows < R) & (columns < C), other=0.0).to(ACC)


@triton.jit
def _decoder(
    w1, b1, w2, b2, channel, unit, tone,
    C: tl.constexpr, HIDDEN: tl.constexpr, F: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Weights and biases of the first layer, of densities, and of colors."""
    first_layer = _matrix(w1, unit[None, :], channel[:, None], HIDDEN, C, ACC)  # channels units
    first_bias = tl.load(b1 + unit, mask=unit < HIDDEN, other=0.0).to(ACC)
    to_sigma = tl.load(w2 + unit, mask=unit < HIDDEN, other=0.0).to(ACC)
    sigma_bias = tl.load(b2).to(ACC)
    to_color = _matrix(w2 + HIDDEN, tone[None, :], unit[:, None], F, HIDDEN, ACC)  # units colors
    color_bias = tl.load(b2 + 1 + tone, mask=tone < F, other=0.0).to(ACC)
    return first_layer, first_bias, to_sigma, sigma_bias, to_color, color_bias


@triton.jit
def densities_kernel(
    rows, w1, b1, w2, b2, origins, directions, depths, offset, out_sigma,
    P, S, height, width, scale,
    C: tl.constexpr, HIDDEN: tl.constexpr, PLANES: tl.constexpr, AXES: tl.constexpr,
    ONE_TABLE: tl.constexpr, HAS_OFFSET: tl.constexpr, POINTS: tl.constexpr,
    CHANNELS: tl.constexpr, UNITS: tl.constexpr, PRECISION: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    p = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    scene = tl.program_id(1).to(tl.int64)
    channel, unit = tl.arange(0, CHANNELS), tl.arange(0, UNITS)
    on_point = p < P
    sample = scene * P + p
    ray = scene * (P // S) + p // S
    first = tl.zeros_like(scene) if ONE_TABLE else scene * PLANES * height * width

    d = tl.load(depths + sample, mask=on_point, other=0.0).to(ACC)
    o_x, o_y, o_z = triple(origins, ray, on_point, ACC)
    v_x, v_y, v_z = triple(directions, ray, on_point, ACC)
    features = features_of(
        rows, first, o_x + d * v_x, o_y + d * v_y, o_z + d * v_z, on_point, channel,
        height, width, scale, C, PLANES, AXES, ACC,
    )  # fmt: skip
    first_layer = _matrix(w1, unit[None, :], channel[:, None], HIDDEN, C, ACC)
    bias = tl.load(b1 + unit, mask=unit < HIDDEN, other=0.0).to(ACC)
    before = tl.dot(features, first_layer, input_precision=PRECISION, out_dtype=ACC) + bias[None, :]
    to_sigma = tl.load(w2 + unit, mask=unit < HIDDEN, other=0.0).to(ACC)
    sigma = tl.sum(softplus(before) * to_sigma[None, :], 1) + tl.load(b2).to(ACC)
    if HAS_OFFSET:
        sigma += tl.load(offset + sample, mask=on_point, other=0.0).to(ACC)
    tl.store(out_sigma + sample, sigma, mask=on_point)


@triton.jit
def rays_kernel(
    rows, w1, b1, w2, b2, origins, directions, depths, offset, out_color, out_depth, out_opacity,
    R, S, height, width, scale, background,
    C: tl.constexpr, HIDDEN: tl.constexpr, F: tl.constexpr, PLANES: tl.constexpr,
    AXES: tl.constexpr, ONE_TABLE: tl.constexpr, HAS_OFFSET: tl.constexpr, RAYS: tl.constexpr,
    CHANNELS: tl.constexpr, UNITS: tl.constexpr, COLORS: tl.constexpr,
    PRECISION: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    scene = tl.program_id(1).to(tl.int64)
    channel, unit, tone = tl.arange(0, CHANNELS), tl.arange(0, UNITS), tl.arange(0, COLORS)
    on_ray = r < R
    ray = scene * R + r
    first = tl.zeros_like(scene) if ONE_TABLE else scene * PLANES * height * width

    # The decoder, and the rays.
    first_layer, first_bias, to_sigma, sigma_bias, to_color, color_bias = _decoder(
        w1, b1, w2, b2, channel, unit, tone, C, HIDDEN, F, ACC
    )
    o_x, o_y, o_z = triple(origins, ray, on_ray, ACC)
    v_x, v_y, v_z = triple(directions, ray, on_ray, ACC)

    color = tl.zeros([RAYS, COLORS], ACC)
    depth = tl.zeros([RAYS], ACC)
    opacity = tl.zeros([RAYS], ACC)
    passed = tl.zeros([RAYS], ACC)  # minus the logarithm of the transmittance
    d_before = tl.load(depths + ray * S, mask=on_ray, other=0.0).to(ACC)
    sigma_before = tl.zeros([RAYS], ACC)
    c_before = tl.zeros([RAYS, COLORS], ACC)
    for s in range(0, S):
        d = tl.load(depths + ray * S + s, mask=on_ray, other=0.0).to(ACC)
        features = features_of(
            rows, first, o_x + d * v_x, o_y + d * v_y, o_z + d * v_z, on_ray, channel,
            height, width, scale, C, PLANES, AXES, ACC,
        )  # fmt: skip
        hidden = tl.dot(features, first_layer, input_precision=PRECISION, out_dtype=ACC)
        hidden = softplus(hidden + first_bias[None, :])
        sigma = tl.sum(hidden * to_sigma[None, :], 1) + sigma_bias
        if HAS_OFFSET:
            sigma += tl.load(offset + ray * S + s, mask=on_ray, other=0.0).to(ACC)
        c = tl.dot(hidden, to_color, input_precision=PRECISION, out_dtype=ACC)
        c = WIDENING * tl.sigmoid(c + color_bias[None, :]) - SHIFTING

        # The interval before the sample; that before the first one has no length.
        tau = softplus((sigma_before + sigma) / 2 - 1) * (d - d_before)
        weight = tl.exp(-passed) * (1 - tl.exp(-tau))
        color += (weight / 2)[:, None] * (c_before + c)
        depth += weight * (d_before + d) / 2
        opacity += weight
        passed += tau
        d_before, sigma_before, c_before = d, sigma, c

    empty = opacity <= 0
    expected = tl.where(empty, d_before, depth / tl.where(empty, 1.0, opacity))
    color += background * (1 - opacity)[:, None]
    at = ray[:, None] * F + tone[None, :]
    tl.store(out_color + at, color, mask=on_ray[:, None] & (tone < F)[None, :])
    tl.store(out_depth + ray, expected, mask=on_ray)
    tl.store(out_opacity + ray, opacity, mask=on_ray)


@triton.jit
def rays_backward_kernel(
    rows, w1, b1, w2, b2, origins, directions, depths, offset,
    color, depth, opacity, g_color, g_depth, g_opacity,
    of_rows, of_w1, of_b1, of_w2, of_b2, of_origins, of_directions, of_offset,
    R, S, height, width, scale, background,
    C: tl.constexpr, HIDDEN: tl.constexpr, F: tl.constexpr, PLANES: tl.constexpr,
    AXES: tl.constexpr, ONE_TABLE: tl.constexpr, HAS_OFFSET: tl.constexpr,
    OF_ROWS: tl.constexpr, OF_DECODER: tl.constexpr, OF_RAYS: tl.constexpr,
    RAYS: tl.constexpr, BUCKETS: tl.constexpr,
    CHANNELS: tl.constexpr, UNITS: tl.constexpr, COLORS: tl.constexpr,
    PRECISION: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    scene = tl.program_id(1).to(tl.int64)
    channel, unit, tone = tl.arange(0, CHANNELS), tl.arange(0, UNITS), tl.arange(0, COLORS)
    on_ray = r < R
    ray = scene * R + r
    first = tl.zeros_like(scene) if ONE_TABLE else scene * PLANES * height * width

    # The decoder, and the rays.
    first_layer, first_bias, to_sigma, sigma_bias, to_color, color_bias = _decoder(
        w1, b1, w2, b2, channel, unit, tone, C, HIDDEN, F, ACC
    )
    o_x, o_y, o_z = triple(origins, ray, on_ray, ACC)
    v_x, v_y, v_z = triple(directions, ray, on_ray, ACC)

    # Gradients of a ray; what the background adds is part of that of the opacity.
    at = ray[:, None] * F + tone[None, :]
    of_tones = on_ray[:, None] & (tone < F)[None, :]
    g = tl.load(g_color + at, mask=of_tones, other=0.0).to(ACC)
    of_opacity = tl.load(g_opacity + ray, mask=on_ray, other=0.0).to(ACC)
    total_opacity = tl.load(opacity + ray, mask=on_ray, other=0.0).to(ACC)
    expected = tl.load(depth + ray, mask=on_ray, other=0.0).to(ACC)
    empty = total_opacity <= 0
    of_depth = tl.load(g_depth + ray, mask=on_ray, other=0.0).to(ACC)
    of_depth = tl.where(empty, 0.0, of_depth / tl.where(empty, 1.0, total_opacity))
    seen = tl.load(color + at, mask=of_tones, other=0.0).to(ACC)
    left = tl.sum(g * seen, 1) - background * tl.sum(g, 1) + of_opacity * total_opacity
    of_opacity -= background * tl.sum(g, 1)

    # What the walk carries: the sample before, its share of color and its gradient so far.
    passed = tl.zeros([RAYS], ACC)
    d_before = tl.load(depths + ray * S, mask=on_ray, other=0.0).to(ACC)
    sigma_before = tl.zeros([RAYS], ACC)
    q_before = tl.zeros([RAYS], ACC)
    share = tl.zeros([RAYS], ACC)
    of_sigma = tl.zeros([RAYS], ACC)
    features_before = tl.zeros([RAYS, CHANNELS], ACC)
    linear_before = tl.zeros([RAYS, UNITS], ACC)
    bright_before = tl.zeros([RAYS, COLORS], ACC)
    sum_w1 = tl.zeros([CHANNELS, UNITS], ACC)
    sum_b1 = tl.zeros([UNITS], ACC)
    sum_sigma = tl.zeros([UNITS], ACC)
    sum_w2 = tl.zeros([UNITS, COLORS], ACC)
    sum_b2 = tl.zeros([COLORS], ACC)
    sum_bias = tl.zeros([RAYS], ACC)
    of_ox = tl.zeros([RAYS], ACC)
    of_oy = tl.zeros([RAYS], ACC)
    of_oz = tl.zeros([RAYS], ACC)
    of_vx = tl.zeros([RAYS], ACC)
    of_vy = tl.zeros([RAYS], ACC)
    of_vz = tl.zeros([RAYS], ACC)
    for s in range(0, S + 1):
        # Sample s; after the last one, it once more.
        on = on_ray & (tl.zeros_like(r) + s < S)
        at_sample = ray * S + tl.minimum(s, S - 1)
        d = tl.load(depths + at_sample, mask=on_ray, other=0.0).to(ACC)
        features = features_of(
            rows, first, o_x + d * v_x, o_y + d * v_y, o_z + d * v_z, on_ray, channel,
            height, width, scale, C, PLANES, AXES, ACC,
        )  # fmt: skip
        linear = tl.dot(features, first_layer, input_precision=PRECISION, out_dtype=ACC)
        linear += first_bias[None, :]
        hidden = softplus(linear)
        sigma = tl.sum(hidden * to_sigma[None, :], 1) + sigma_bias
        if HAS_OFFSET:
            sigma += tl.load(offset + at_sample, mask=on_ray, other=0.0).to(ACC)
        bright = tl.dot(hidden, to_color, input_precision=PRECISION, out_dtype=ACC)
        bright = tl.sigmoid(bright + color_bias[None, :])
        q = tl.sum(g * (WIDENING * bright - SHIFTING), 1)

        # The interval before it.
        middle = (sigma_before + sigma) / 2 - 1
        length = d - d_before
        tau = softplus(middle) * length
        weight = tl.exp(-passed) * (1 - tl.exp(-tau))
        p = (q_before + q) / 2 + of_opacity + of_depth * ((d_before + d) / 2 - expected)
        left -= weight * p
        passed += tau
        half = (tl.exp(-passed) * p - left) * length * tl.sigmoid(middle) / 2
        half = tl.where(on & (s > 0), half, 0.0)
        weight = tl.where(on & (s > 0), weight, 0.0)

        # The sample before is complete: through the decoder.
        share += weight / 2
        of_sigma += half
        done = on_ray & (tl.zeros_like(r) + s > 0)
        if HAS_OFFSET:
            tl.store(of_offset + ray * S + s - 1, of_sigma, mask=done)
        of_bright = share[:, None] * g * (WIDENING * bright_before * (1 - bright_before))
        of_hidden = tl.dot(of_bright, tl.trans(to_color), input_precision=PRECISION, out_dtype=ACC)
        of_hidden += of_sigma[:, None] * to_sigma[None, :]
        of_linear = of_hidden * tl.sigmoid(linear_before)
        if OF_DECODER:
            active = softplus(linear_before)
            sum_w1 = tl.dot(
                tl.trans(features_before), of_linear, sum_w1,
                input_precision=PRECISION, out_dtype=ACC,
            )  # fmt: skip
            sum_w2 = tl.dot(
                tl.trans(active), of_bright, sum_w2, input_precision=PRECISION, out_dtype=ACC
            )
            sum_b1 += tl.sum(of_linear, 0)
            sum_sigma += tl.sum(of_sigma[:, None] * active, 0)
            sum_b2 += tl.sum(of_bright, 0)
            sum_bias += of_sigma

        # From its features to the texels, and to the ray.
        of_features = tl.dot(
            of_linear, tl.trans(first_layer), input_precision=PRECISION, out_dtype=ACC
        )
        of_x, of_y, of_z = features_backward(
            rows, of_rows, first, o_x + d_before * v_x, o_y + d_before * v_y, o_z + d_before * v_z,
            of_features, done, channel, height, width, scale,
            C, PLANES, AXES, OF_ROWS, OF_RAYS, ACC,
        )  # fmt: skip
        of_ox += of_x
        of_oy += of_y
        of_oz += of_z
        of_vx += d_before * of_x
        of_vy += d_before * of_y
        of_vz += d_before * of_z

        share, of_sigma = weight / 2, half
        d_before, sigma_before, q_before = d, sigma, q
        features_before, linear_before, bright_before = features, linear, bright

    if OF_RAYS:
        store_triple(of_origins, ray, of_ox, of_oy, of_oz, on_ray)
        store_triple(of_directions, ray, of_vx, of_vy, of_vz, on_ray)
    if OF_DECODER:
        bucket = (tl.program_id(0) + tl.program_id(1)) % BUCKETS
        on_unit, on_tone = unit < HIDDEN, tone < F
        on_channel = channel < C
        tl.atomic_add(
            of_w1 + (bucket * HIDDEN + unit[None, :]) * C + channel[:, None], sum_w1,
            mask=on_channel[:, None] & on_unit[None, :], sem="relaxed",
        )  # fmt: skip
        tl.atomic_add(of_b1 + bucket * HIDDEN + unit, sum_b1, mask=on_unit, sem="relaxed")
        second = of_w2 + bucket * (1 + F) * HIDDEN
        tl.atomic_add(second + unit, sum_sigma, mask=on_unit, sem="relaxed")
        tl.atomic_add(
            second + (1 + tone[None, :]) * HIDDEN + unit[:, None], sum_w2,
            mask=on_unit[:, None] & on_tone[None, :], sem="relaxed",
        )  # fmt: skip
        biases = of_b2 + bucket * (1 + F)
        tl.atomic_add(biases, tl.sum(sum_bias, 0), sem="relaxed")
        tl.atomic_add(biases + 1 + tone, sum_b2, mask=on_tone, sem="relaxed")


@torch.library.custom_op("gan3d::triplane_densities", mutates_args=())
def densities(
    rows: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    origins: Tensor,
    directions: Tensor,
    depths: Tensor,
    offset: Tensor | None,
    batch: int,
    height: int,
    width: int,
    axes: list[int],
    scale: float,
) -> Tensor:
    """Raw densities [b r s]; arguments as for `render_rays`. Not differentiable."""
    b, r, s = depths.shape
    sigma = depths.new_empty(depths.shape)
    tensors = [rows, w1, b1, w2, b2, origins, directions, depths]
    tensors += [depths if offset is None else offset]
    hidden, channels = w1.shape
    grid = (triton.cdiv(r * s, POINTS), b)
    densities_kernel[grid](
        *(x.contiguous() for x in tensors), sigma, r * s, s, height, width, scale,
        channels, hidden, len(axes) // 2, packed(axes), batch < b, offset is not None, POINTS,
        padded(channels), padded(hidden), widened_precision(rows), accumulator(rows),
    )  # fmt: skip
    return sigma


@densities.register_fake
def _(rows, w1, b1, w2, b2, origins, directions, depths, offset, batch, height, width, axes, scale):
    return depths.new_empty(depths.shape)


@torch.library.custom_op("gan3d::render_triplane", mutates_args=())
def render_rays(
    rows: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    origins: Tensor,
    directions: Tensor,
    depths: Tensor,
    offset: Tensor | None,
    batch: int,
    height: int,
    width: int,
    axes: list[int],
    scale: float,
    background: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Color [b r f], depth [b r] and opacity [b r] of rays.

    Args:
        rows: of a `PlaneTable`, [(batch k h w) c].
        w1, b1, w2, b2: of the decoder.
        origins, directions: of rays, [b r 3].
        depths: of their samples in increasing order, [b r s].
        offset: added to raw densities, [b r s].
        batch: scenes of the table, 1 or b.
        height, width: of a plane.
        axes: along the width and along the height of each plane, one after the other.
        scale: 2 / box_warp.
        background: color behind everything.
    """
    b, r, s = depths.shape
    found = _results(rows, w2, depths)
    tensors = [rows, w1, b1, w2, b2, origins, directions, depths]
    tensors += [depths if offset is None else offset]
    rays_kernel[_grid(depths)](
        *(x.contiguous() for x in tensors), *found, r, s, height, width, scale, background,
        *_sizes(w1, w2), len(axes) // 2, packed(axes), batch < b, offset is not None, RAYS,
        *map(padded, _sizes(w1, w2)), widened_precision(rows), accumulator(rows), num_stages=1,
    )  # fmt: skip
    return found


@render_rays.register_fake
def _(rows, w1, b1, w2, b2, origins, directions, depths, *options):
    return _results(rows, w2, depths)


@torch.library.custom_op("gan3d::render_triplane_backward", mutates_args=())
def render_rays_backward(
    rows: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    origins: Tensor,
    directions: Tensor,
    depths: Tensor,
    offset: Tensor | None,
    batch: int,
    height: int,
    width: int,
    axes: list[int],
    scale: float,
    background: float,
    color: Tensor,
    depth: Tensor,
    opacity: Tensor,
    g_color: Tensor,
    g_depth: Tensor,
    g_opacity: Tensor,
    of_rows: bool,
    of_decoder: bool,
    of_rays: bool,
) -> list[Tensor]:
    """Gradients of rows and decoder, summed in float32 at least, of origins, directions and offset;
    empty ones that are not asked for.
    """
    b, r, s = depths.shape
    exact = torch.float64 if rows.dtype == torch.float64 else torch.float32
    decoder = (w1, b1, w2, b2)
    sums = [rows.new_zeros(rows.shape if of_rows else 0, dtype=exact)]
    sums += [w.new_zeros((BUCKETS, *w.shape) if of_decoder else 0, dtype=exact) for w in decoder]
    moved = [x.new_empty(x.shape if of_rays else 0) for x in (origins, directions)]
    moved += [depths.new_empty(depths.shape if offset is not None else 0)]
    tensors = [rows, w1, b1, w2, b2, origins, directions, depths]
    tensors += [depths if offset is None else offset, color, depth, opacity]
    tensors += [g_color, g_depth, g_opacity]
    rays_backward_kernel[_grid(depths)](
        *(x.contiguous() for x in tensors), *sums, *moved,
        r, s, height, width, scale, background,
        *_sizes(w1, w2), len(axes) // 2, packed(axes), batch < b, offset is not None,
        of_rows, of_decoder, of_rays, RAYS, BUCKETS,
        *map(padded, _sizes(w1, w2)), widened_precision(rows), accumulator(rows),
        num_warps=WARPS_BACKWARD, num_stages=1,
    )  # fmt: skip
    found = [sums[0].to(rows.dtype)]
    found += [
        total.sum(0).to(w.dtype) if of_decoder else total for total, w in zip(sums[1:], decoder)
    ]
    return [*found, *moved]


@render_rays_backward.register_fake
def _(rows, w1, b1, w2, b2, origins, directions, depths, offset, *options):
    of_rows, of_decoder, of_rays = options[-3:]
    asked = [(rows, of_rows), *((w, of_decoder) for w in (w1, b1, w2, b2))]
    asked += [(origins, of_rays), (directions, of_rays), (depths, offset is not None)]
    return [x.new_empty(x.shape if is_asked else 0) for x, is_asked in asked]


def _keep(ctx, inputs, output) -> None:
    ctx.options = inputs[9:]
    ctx.save_for_backward(*inputs[:9], *output)


def _differentiate(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
    inputs, results = ctx.saved_tensors[:9], ctx.saved_tensors[9:]
    needed = [*ctx.needs_input_grad[:9]]
    needed[7] = False  # depths
    nothing = [None] * len(ctx.options)
    if torch.is_grad_enabled():
        return *recorded(render_form, inputs, needed, grads, *ctx.options), *nothing
    asked = (needed[0], any(needed[1:5]), any(needed[5:7]))
    found = render_rays_backward(*inputs, *ctx.options, *results, *grads, *asked)
    found = [*found[:7], None, found[7]]
    return *(g if is_needed else None for g, is_needed in zip(found, needed)), *nothing


render_rays.register_autograd(_differentiate, setup_context=_keep)


def padded(size: int) -> int:
    """Size of a side of a product."""
    return max(triton.next_power_of_2(size), 16)


def _results(rows: Tensor, w2: Tensor, depths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """New memory of the results."""
    color = rows.new_empty(*depths.shape[:2], len(w2) - 1)
    return color, depths.new_empty(depths.shape[:2]), depths.new_empty(depths.shape[:2])


def _sizes(w1: Tensor, w2: Tensor) -> tuple[int, int, int]:
    """Channels of the planes, hidden units, colors."""
    return w1.shape[1], w1.shape[0], len(w2) - 1


def _grid(depths: Tensor) -> tuple[int, int]:
    return triton.cdiv(depths.shape[1], RAYS), len(depths)
