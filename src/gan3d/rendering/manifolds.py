"""Radiance manifolds: level sets of s(x), intersected by rays (GRAM section 3, GRAM-HD 3.1).

    rays -> N samples -> s(x) -> first falling crossing of each level -> points (+ background plane)
         -> sigma, rgb -> alpha = 1 - exp(-delta sigma)
         -> in order of distance: w_i = alpha_i T_i, C = sum_i w_i c_i

For GRAM-HD, which stores the radiance of the surfaces in images: the points of the surfaces on a
regular grid, image coordinates of points, and interpolation of intersections between rays.

Convention: the scene is a cube of side `scene_extent` around the origin, seen from +z; near to far
means *falling* s. Rays [b r 3] have unit directions; surfaces are [b r k ..] in the order of their
levels, the background plane last; distances are Euclidean. Colors are in about [0, 1]: an image is
2 C - 1. The order along a ray and the choice of intervals carry no gradient; everything else is
twice differentiable, lookups of the background once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gan3d.camera import Rays
from gan3d.host import kind_of
from gan3d.layers.precision import full_precision
from gan3d.ops.composite import composite_alphas

# s(x): points [.. 3] -> [..].
Predictor = Callable[[Tensor], Tensor]
# Points and unit view directions [b p 3] -> density sigma >= 0 [b p 1], color [b p 3].
Radiance = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# Intervals over which s changes by at most this much are not interpolated.
FLAT = 0.05
# Thickness of the last surface, with which any density is opaque.
OPAQUE_DELTA = 1e10
# Rays per chunk without gradient: few enough for the cache of a CPU, many for a GPU.
CPU_CHUNK = 256
GPU_CHUNK = 16384


@dataclass(frozen=True)
class ManifoldOptions:
    """Number and place of the surfaces, and sampling of rays.

    The defaults are GRAM's for faces, with cameras at distance 1.

    Attributes:
        scene_extent: side of the cube that contains the scene; the background plane is
            z = -scene_extent / 2.
        ray_start: distance of the first sample on a ray.
        ray_end: distance of the last sample.
        num_samples: N, number of samples on a ray, at equal steps including both ends.
        num_manifolds: M, number of surfaces, including the background plane.
        levels_start: s of the first (nearest) surface.
        levels_end: s of the last surface; levels are equally spaced.
        background: whether the last surface is a plane instead of a level set.
        delta_alpha: delta of alpha = 1 - exp(-delta sigma); the background, and the farthest
            surface of a ray, are opaque.
        white_back: whether the background is white.
        last_back: whether the farthest surface receives all remaining light.
        shared_origin: whether distances are measured from the origin of the first view, as
            published for GRAM-HD (its Q1).
        ray_chunk: number of rays (of all views together) rendered at once. None: without gradient
            256 on a CPU and 16384 on a GPU, all with gradient. With gradient, an explicit number
            recomputes each chunk in the backward pass.

    Raises:
        ValueError: a size, a number of samples or surfaces, or the limits are invalid.
    """

    scene_extent: float = 0.24
    ray_start: float = 0.88
    ray_end: float = 1.12
    num_samples: int = 64
    num_manifolds: int = 24
    levels_start: float = 23.0
    levels_end: float = 8.0
    background: bool = True
    delta_alpha: float = 0.04
    white_back: bool = False
    last_back: bool = False
    shared_origin: bool = False
    ray_chunk: int | None = None

    def __post_init__(self) -> None:
        if self.scene_extent <= 0:
            raise ValueError(
                f"scene_extent {self.scene_extent} is not positive; it is the side of the scene's "
                "cube"
            )
        if not 0 <= self.ray_start < self.ray_end:
            raise ValueError(
                f"got ray_start {self.ray_start} and ray_end {self.ray_end}; "
                "expected 0 <= start < end"
            )
        if self.num_samples < 2 or self.num_levels < 1:
            raise ValueError(
                f"got num_samples {self.num_samples} and num_manifolds {self.num_manifolds} (with "
                f"background {self.background}); needs at least 2 samples and one surface besides "
                "the background"
            )
        if self.delta_alpha <= 0:
            raise ValueError(
                f"delta_alpha {self.delta_alpha} is not positive, so all surfaces would be "
                "transparent; GRAM uses 0.04"
            )
        if self.ray_chunk is not None and self.ray_chunk < 1:
            raise ValueError(
                f"ray_chunk {self.ray_chunk} is not positive; use None for the default"
            )

    @property
    def num_levels(self) -> int:
        """K, number of level sets of s."""
        return self.num_manifolds - 1 if self.background else self.num_manifolds

    @property
    def background_z(self) -> float:
        """z of the background plane."""
        return -self.scene_extent / 2

    def levels(self, like: Tensor) -> Tensor:
        """s of the level sets, [k], with dtype and device of `like`."""
        start, end = self.levels_start, self.levels_end
        return torch.linspace(start, end, self.num_levels, dtype=like.dtype, device=like.device)


class Surfaces(NamedTuple):
    """Intersections of rays and surfaces.

    Attributes:
        points: [b r k 3].
        valid: whether the ray intersects the surface, [b r k], bool.
    """

    points: Tensor
    valid: Tensor


class ManifoldRendering(NamedTuple):
    """Rendered rays.

    Attributes:
        rgb: C, [b r c].
        depth: sum_i w_i d_i of distances d_i (not divided by the opacity), [b r 1].
        opacity: sum_i w_i, [b r 1].
        weights: w_i in the order of the surfaces, [b r k].
    """

    rgb: Tensor
    depth: Tensor
    opacity: Tensor
    weights: Tensor


# -- A view ----------------------------------------------------------------------------------------


def render_manifolds(
    predictor: Predictor, radiance: Radiance, rays: Rays, options: ManifoldOptions
) -> ManifoldRendering:
    """Renders rays of b views of b scenes, in chunks of rays.

    Args:
        predictor: s, whose level sets are the surfaces.
        radiance: density and color at points, for b scenes.
        rays: b views of r rays.
        options: surfaces and sampling.

    Returns:
        Color, depth, opacity and weights of all rays.
    """

    def render(origins: Tensor, directions: Tensor, cosines: Tensor) -> ManifoldRendering:
        some = Rays(origins, directions, cosines)
        return _shade(radiance, _surfaces(predictor, some, options), some, options)

    tensors = (rays.origins, rays.directions, rays.cosines)
    return ManifoldRendering(*in_chunks(render, tensors, options.ray_chunk))


def trace_surfaces(predictor: Predictor, rays: Rays, options: ManifoldOptions) -> Surfaces:
    """The first half of `render_manifolds`: intersections with K level sets and the background."""

    def trace(origins: Tensor, directions: Tensor, cosines: Tensor) -> Surfaces:
        return _surfaces(predictor, Rays(origins, directions, cosines), options)

    tensors = (rays.origins, rays.directions, rays.cosines)
    return Surfaces(*in_chunks(trace, tensors, options.ray_chunk))


def shade_surfaces(
    radiance: Radiance, surfaces: Surfaces, rays: Rays, options: ManifoldOptions
) -> ManifoldRendering:
    """The second half of `render_manifolds`: colors of given intersections."""

    def shade(
        points: Tensor, valid: Tensor, origins: Tensor, directions: Tensor, cosines: Tensor
    ) -> ManifoldRendering:
        some = Rays(origins, directions, cosines)
        return _shade(radiance, Surfaces(points, valid), some, options)

    tensors = (*surfaces, rays.origins, rays.directions, rays.cosines)
    return ManifoldRendering(*in_chunks(shade, tensors, options.ray_chunk))


def in_chunks(
    function: Callable[..., Sequence[Tensor]], tensors: Sequence[Tensor], chunk: int | None
) -> tuple[Tensor, ...]:
    """Calls function(*tensors) on slices of the rays and concatenates the results.

    With gradient and more than one chunk, each chunk is recomputed in the backward pass.

    Args:
        function: takes and returns tensors [b r ..].
        tensors: [b r ..], with the same b and r.
        chunk: number of rays of all b together; None as in `ManifoldOptions.ray_chunk`.
    """
    batch, count = tensors[0].shape[:2]
    with_gradient = torch.is_grad_enabled()
    default = batch * count
    if not with_gradient:
        default = CPU_CHUNK if kind_of(tensors[0]) == "cpu" else GPU_CHUNK
    size = max(1, (chunk or default) // batch)
    if size >= count:
        return tuple(function(*tensors))

    chunks = []
    for start in range(0, count, size):
        inputs = [tensor[:, start : start + size] for tensor in tensors]
        if with_gradient:
            chunks.append(checkpoint(function, *inputs, use_reentrant=False))
        else:
            chunks.append(function(*inputs))
    return tuple(torch.cat(parts, 1) for parts in zip(*chunks))


def _surfaces(predictor: Predictor, rays: Rays, options: ManifoldOptions) -> Surfaces:
    with full_precision(rays.origins):
        samples = samples_along(rays, options)
        surfaces = intersections(samples, predictor(samples), options.levels(samples))
        if not options.background:
            return surfaces
        plane = plane_intersections(rays.origins, rays.directions, options.background_z)
        return Surfaces(*(torch.cat(parts, 2) for parts in zip(surfaces, plane)))


def _shade(
    radiance: Radiance, surfaces: Surfaces, rays: Rays, options: ManifoldOptions
) -> ManifoldRendering:
    k = surfaces.valid.shape[-1]
    points = rearrange(surfaces.points, "b r k c -> b (r k) c")
    directions = repeat(rays.directions, "b r c -> b (r k) c", k=k)
    with full_precision(points):
        sigma, rgb = radiance(points, directions)
        sigma = rearrange(sigma.to(points.dtype), "b (r k) 1 -> b r k", k=k)
        rgb = rearrange(rgb.to(points.dtype), "b (r k) c -> b r k c", k=k)
        origins = rays.origins[:1] if options.shared_origin else rays.origins
        distances = distances_to(surfaces.points, origins)
        alpha = alphas(sigma, surfaces.valid, distances, options)
        return composite(
            alpha, rgb, distances, white_back=options.white_back, last_back=options.last_back
        )


# -- Intersections ---------------------------------------------------------------------------------


def samples_along(rays: Rays, options: ManifoldOptions) -> Tensor:
    """N points on each ray, equally spaced from ray_start to ray_end, [b r s 3]."""
    depths = torch.linspace(
        options.ray_start,
        options.ray_end,
        options.num_samples,
        dtype=rays.directions.dtype,
        device=rays.directions.device,
    )
    return torch.addcmul(rays.origins[:, :, None], depths[:, None], rays.directions[:, :, None])


def intersections(samples: Tensor, s: Tensor, levels: Tensor) -> Surfaces:
    """First points of rays where s falls through each level l.

    With the smallest k such that s_{k+1} <= l <= s_k,

        x = ((s_{k+1} - l) x_k + (l - s_k) x_{k+1}) / (s_{k+1} - s_k)

    If s changes by at most 0.05 over the interval, x = x_{k+1}, without gradient to s. A ray
    without such an interval misses the surface: x is its last sample, not valid. Crossings where s
    rises are ignored.

    Args:
        samples: x_k in order from the camera, [b r s 3].
        s: values at the samples, [b r s].
        levels: l, [k].

    Returns:
        Points [b r k 3] and valid [b r k].
    """
    # The first interval that contains the level.
    hit = (s[..., 1:, None] <= levels) & (levels <= s[..., :-1, None])  # b r s-1 k
    valid = hit.any(-2)
    k = hit.to(torch.uint8).argmax(-2).masked_fill(~valid, s.shape[-1] - 2)

    # Interpolation within it.
    s_k = s.gather(-1, k)
    s_next = s.gather(-1, k + 1)
    steep = valid & ((s_next - s_k).abs() > FLAT)
    fraction = (s_k - levels) / (s_k - s_next).masked_fill(~steep, 1)
    fraction = fraction.masked_fill(~steep, 1)
    x_k = samples.gather(-2, repeat(k, "b r k -> b r k c", c=3))
    x_next = samples.gather(-2, repeat(k + 1, "b r k -> b r k c", c=3))
    return Surfaces(torch.lerp(x_k, x_next, fraction[..., None]), valid)


def plane_intersections(origins: Tensor, directions: Tensor, z: float) -> Surfaces:
    """Intersections x = o + t d of rays with the plane of a given z, t = (z - o_z) / d_z.

    A ray that points away from the plane or is parallel to it misses it; x is then its origin.

    Args:
        origins: o, [b r 3].
        directions: d, [b r 3].
        z: of the plane.

    Returns:
        One surface: points [b r 1 3] and valid [b r 1].
    """
    ahead = z - origins[..., 2:]
    slope = directions[..., 2:]
    # unlike gram: t must be positive, because points behind a camera (far to the side) are not
    # visible.
    valid = ahead * slope > 0
    t = (ahead / slope.masked_fill(~valid, 1)).masked_fill(~valid, 0)
    return Surfaces((origins + t * directions)[:, :, None], valid)


# -- Compositing -----------------------------------------------------------------------------------


def distances_to(points: Tensor, origins: Tensor) -> Tensor:
    """Distances of points [b r k 3] from origins [b r 3] (b and r may be 1), [b r k]."""
    return torch.linalg.vector_norm(points - origins[:, :, None], dim=-1)


def view_directions(points: Tensor, origins: Tensor) -> Tensor:
    """Unit vectors from the origin [b 3] of each view to points [b r k 3], [b r k 3]."""
    return F.normalize(points - origins[:, None, None], dim=-1)


def alphas(sigma: Tensor, valid: Tensor, distances: Tensor, options: ManifoldOptions) -> Tensor:
    """alpha = 1 - exp(-delta sigma) at intersections, else 0.

    With a background plane, the plane and the farthest surface of a ray have delta = 1e10, so that
    any density is opaque.

    unlike the paper, as in the released code: the network predicts density, not occupancy.

    Args:
        sigma: density, not negative, [b r k].
        valid: whether the surface is hit, [b r k].
        distances: distance along the ray, [b r k].
        options: delta_alpha, and whether the last surface is the background.

    Returns:
        [b r k].
    """
    deltas = torch.full_like(sigma, options.delta_alpha)
    if options.background:
        deltas[..., -1] = OPAQUE_DELTA
        deltas.scatter_(-1, distances.argmax(-1, keepdim=True), OPAQUE_DELTA)
    return (1 - torch.exp(-deltas * sigma)) * valid


def composite(
    alpha: Tensor,
    rgb: Tensor,
    distances: Tensor,
    *,
    white_back: bool = False,
    last_back: bool = False,
) -> ManifoldRendering:
    """C = sum_i w_i c_i, w_i = alpha_i prod_{j nearer than i} (1 - alpha_j + 1e-10) (GRAM eq. 4).

    Args:
        alpha: 0 where a surface is missed; surfaces in any order, [b r k].
        rgb: colors or other values, [b r k c].
        distances: define the order along the ray (without gradient) and the depth, [b r k].
        white_back: whether to add 1 - sum_i w_i to all channels.
        last_back: whether to add it to the weight of the farthest surface; applied first.

    Returns:
        Color, depth, opacity and weights.
    """
    seen = composite_alphas(alpha, rgb, distances, last_back=last_back)
    return rendering_of(*seen, white_back=white_back)


def rendering_of(
    color: Tensor, depth: Tensor, opacity: Tensor, weights: Tensor, *, white_back: bool
) -> ManifoldRendering:
    """The rendering of composited surfaces: color [b r c], depth and opacity [b r], weights."""
    opacity = opacity[..., None]
    color = color + 1 - opacity if white_back else color
    return ManifoldRendering(color, depth[..., None], opacity, weights)


# -- Surfaces as images (GRAM-HD section 3.2) ------------------------------------------------------


def foreground_grid(
    predictor: Predictor,
    resolution: int,
    options: ManifoldOptions,
    like: Tensor,
    *,
    half_extent: float | None = None,
    heights: tuple[float, float] | None = None,
) -> Surfaces:
    """Intersections of the K level sets with lines along -z through a regular grid.

    Convention: the outer points of the grid lie on the border; row 0 has the *smallest* y.

    Args:
        predictor: s, whose level sets are the surfaces.
        resolution: L, points per side.
        options: levels, number of samples and size of the scene.
        like: a tensor with the dtype and device to use.
        half_extent: e; x and y are linspace(-e, e, L). None is half the scene (published:
            fov / 100).
        heights: z of the first and the last sample. None is the front and back of the scene
            (published: 1 - ray limits).

    Returns:
        Points [1 (L L) k 3] and valid [1 (L L) k], shared by all scenes.
    """
    half = options.scene_extent / 2
    e = half if half_extent is None else half_extent
    top, bottom = heights or (half, -half)
    axis = torch.linspace(-e, e, resolution, dtype=like.dtype, device=like.device)
    z = torch.linspace(top, bottom, options.num_samples, dtype=like.dtype, device=like.device)
    y, x, z = torch.meshgrid(axis, axis, z, indexing="ij")
    lines = rearrange(torch.stack([x, y, z], -1), "i j s c -> 1 (i j) s c")

    def trace(samples: Tensor) -> Surfaces:
        with full_precision(samples):
            return intersections(samples, predictor(samples), options.levels(samples))

    return Surfaces(*in_chunks(trace, (lines,), options.ray_chunk))


def background_grid(resolution: int, options: ManifoldOptions, like: Tensor) -> Tensor:
    """Points of the background plane at map coordinates u = linspace(-1, 1, L) per axis, x = g(u).

    Convention: row 0 has the smallest y, as in `foreground_grid`.

    Args:
        resolution: L, points per side.
        options: size of the scene.
        like: a tensor with the dtype and device to use.

    Returns:
        [1 (L L) 3].
    """
    u = torch.linspace(-1, 1, resolution, dtype=like.dtype, device=like.device)
    axis = background_position(u, options.scene_extent)
    y, x = (g.reshape(1, -1) for g in torch.meshgrid(axis, axis, indexing="ij"))
    return torch.stack([x, y, torch.full_like(x, options.background_z)], -1)


def background_position(u: Tensor, extent: float) -> Tensor:
    """Position x = g(u) on the background plane of a map coordinate u.

        g(u) = E u                                        for |u| <= 1/2
        g(u) = sign(u) (E tan(|u| - 1/2) + E / 2)         beyond

    Half of the texels of an axis cover the scene (of side E), the others wide surroundings.

    Args:
        u: map coordinates in [-1, 1], any shape.
        extent: E.
    """
    beyond = u.abs() - 0.5
    outside = u.sign() * extent * (beyond.clamp(min=0).tan() + 0.5)
    return torch.where(beyond <= 0, extent * u, outside)


def background_coordinate(x: Tensor, extent: float) -> Tensor:
    """The inverse of `background_position`.

    u = x / E                                         for |x| <= E / 2
    u = sign(x) (atan((|x| - E / 2) / E) + 1/2)       beyond
    """
    beyond = x.abs() / extent - 0.5
    return torch.where(beyond <= 0, x / extent, x.sign() * (beyond.clamp(min=0).atan() + 0.5))


def upsample_surfaces(surfaces: Surfaces, resolution: int) -> Surfaces:
    """Intersections at a higher resolution, by bilinear interpolation between the rays of a view.

    Corners are aligned, because rays include the border. A point is valid where the interpolated
    mask exceeds 0.99.

    Args:
        surfaces: points [b (h h) k 3] and valid [b (h h) k] of h x h rays, row by row.
        resolution: H.

    Returns:
        Points [b (H H) k 3] and valid [b (H H) k].

    Raises:
        ValueError: the number of rays is not a square.
    """
    count, k = surfaces.valid.shape[1:]
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(
            f"surfaces of {count} rays are not a square view; pass all the rays of "
            "Camera.rays(resolution)"
        )
    size = (resolution, resolution)

    def upsample(values: Tensor) -> Tensor:
        image = rearrange(values, "b (h w) k c -> b (k c) h w", h=side)
        image = F.interpolate(image, size=size, mode="bilinear", align_corners=True)
        # Contiguous, because norms of planar vectors are slow.
        return rearrange(image, "b (k c) h w -> b (h w) k c", k=k).contiguous()

    with full_precision(surfaces.points):
        mask = upsample(surfaces.valid.to(surfaces.points.dtype)[..., None])
        return Surfaces(upsample(surfaces.points), mask[..., 0] > 0.99)


def look_up_background(
    maps: Tensor, points: Tensor, extent: float, *, aligned: bool = False
) -> Tensor:
    """Values of background maps at points of the plane: bilinear at g^-1(x, y), reflected outside.

    Differentiable once.

    Args:
        maps: [b c H W], rows from the smallest y as in `background_grid`.
        points: [b r 3].
        extent: E, side of the scene.
        aligned: whether the centers of the border texels, or (False, as published) their outer
            edges are at the ends of the coordinate.

    Returns:
        [b r c].
    """
    grid = rearrange(background_coordinate(points[..., :2], extent), "b r c -> b 1 r c")
    values = F.grid_sample(
        maps, grid, mode="bilinear", padding_mode="reflection", align_corners=aligned
    )
    return rearrange(values, "b c 1 r -> b r c")


def with_background(foreground: Tensor, background: Tensor) -> Tensor:
    """Appends the background [b 3 h w] to the levels [b k 4 h w] with alpha 0, [b k+1 4 h w]."""
    return torch.cat([foreground, F.pad(background, (0, 0, 0, 0, 0, 1))[:, None]], 1)
