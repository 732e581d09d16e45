"""Radiance manifolds: surfaces of constant s(x), met by rays, colored and composited (GRAM section
3, GRAM-HD 3.1).

    rays -> N samples -> s(x) -> first falling crossing of each level -> points (+ a plane behind)
         -> sigma, rgb -> alpha = 1 - exp(-delta sigma) -> in order of distance: w_i = alpha_i T_i,
         C = sum_i w_i c_i

and what GRAM-HD needs to look the surfaces up in images: their points on a regular grid, positions
in those images, and points between the rays of a coarse view.

Convention: the scene is a cube of side `scene_extent` about the origin, seen from +z; near to far
means *falling* s. Rays [b r 3] have unit directions; surfaces are [b r k ..] in the order of their
levels, the background plane last; distances are Euclidean. Colors are in about [0, 1]: an image is
2 C - 1. The order along a ray and what is hit carry no gradient; everything else does, once and
twice (looking maps up: once).
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
from gan3d.layers.precision import full_precision
from gan3d.ops.composite import alpha_weights

# s(x): points [.. 3] -> [..].
Predictor = Callable[[Tensor], Tensor]
# Points and unit view directions [b p 3] -> density sigma >= 0 [b p 1], color [b p 3].
Radiance = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# An interval over which s changes by no more than this is not interpolated.
FLAT = 0.05
# Thickness of the last surface: any density is opaque.
OPAQUE_DELTA = 1e10
# Rays rendered at once when no gradient is kept: few on a CPU, whose cache they should fit, many on
# a GPU.
CPU_CHUNK, GPU_CHUNK = 256, 16384


@dataclass(frozen=True)
class ManifoldOptions:
    """Which surfaces there are and how rays meet them; the defaults are GRAM's for faces, cameras
    at distance 1.

    Attributes:
        scene_extent: side of the cube that holds the scene; the background plane is z =
            -scene_extent / 2.
        ray_start: distance of the first sample on a ray.
        ray_end: distance of the last one.
        num_samples: N, samples on a ray, at equal steps, both ends included.
        num_manifolds: M, surfaces, the background plane included.
        levels_start: s of the first (nearest) surface.
        levels_end: s of the last one; levels are at equal steps.
        background: whether the last surface is the plane instead of a level.
        delta_alpha: delta of alpha = 1 - exp(-delta sigma); the background, and whatever lies last,
            is opaque.
        white_back: white behind everything.
        last_back: the farthest surface takes what light is left.
        shared_origin: distances are those to the origin of the first view, as published for GRAM-HD
            (its Q1).
        ray_chunk: rays (of all views together) rendered at once. None: 256 on a CPU and 16384 on a
            GPU without gradient, all with gradient. With gradient an explicit number recomputes
            each chunk in the backward pass.
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
                f"ray_start {self.ray_start} and ray_end {self.ray_end}; expected 0 <= start < end"
            )
        if self.num_samples < 2 or self.num_levels < 1:
            raise ValueError(
                f"num_samples {self.num_samples} and num_manifolds {self.num_manifolds} (with "
                f"background {self.background}); needs at least 2 samples and one surface besides "
                "the background"
            )
        if self.delta_alpha <= 0:
            raise ValueError(
                f"delta_alpha {self.delta_alpha} is not positive: nothing would be seen"
            )
        if self.ray_chunk is not None and self.ray_chunk < 1:
            raise ValueError(
                f"ray_chunk {self.ray_chunk} is not positive; None lets the renderer choose"
            )

    @property
    def num_levels(self) -> int:
        """K, surfaces of constant s."""
        return self.num_manifolds - 1 if self.background else self.num_manifolds

    @property
    def background_z(self) -> float:
        return -self.scene_extent / 2

    def levels(self, like: Tensor) -> Tensor:
        """[k], of the dtype and on the device of `like`."""
        return torch.linspace(
            self.levels_start,
            self.levels_end,
            self.num_levels,
            dtype=like.dtype,
            device=like.device,
        )


class Surfaces(NamedTuple):
    """Where rays meet surfaces.

    Attributes:
        points: [b r k 3].
        valid: whether the ray meets the surface, [b r k], bool.
    """

    points: Tensor
    valid: Tensor


class ManifoldRendering(NamedTuple):
    """What rays see.

    Attributes:
        rgb: C, [b r c].
        depth: sum_i w_i times distance (not divided by the opacity), [b r 1].
        opacity: sum_i w_i, [b r 1].
        weights: w_i in the order of the surfaces, [b r k].
    """

    rgb: Tensor
    depth: Tensor
    opacity: Tensor
    weights: Tensor


# -- a view
# --------------------------------------------------------------------------------------------------


def render_manifolds(
    predictor: Predictor, radiance: Radiance, rays: Rays, options: ManifoldOptions
) -> ManifoldRendering:
    """Rays of b views through the surfaces of s, colored by the radiance of b scenes; in chunks of
    rays.
    """

    def render(origins: Tensor, directions: Tensor, cosines: Tensor) -> ManifoldRendering:
        some = Rays(origins, directions, cosines)
        return _shade(radiance, _surfaces(predictor, some, options), some, options)

    return ManifoldRendering(
        *by_chunks(render, (rays.origins, rays.directions, rays.cosines), options.ray_chunk)
    )


def trace_surfaces(predictor: Predictor, rays: Rays, options: ManifoldOptions) -> Surfaces:
    """The points of `render_manifolds` alone: K levels, then the background plane if there is
    one.
    """

    def trace(origins: Tensor, directions: Tensor, cosines: Tensor) -> Surfaces:
        return _surfaces(predictor, Rays(origins, directions, cosines), options)

    return Surfaces(
        *by_chunks(trace, (rays.origins, rays.directions, rays.cosines), options.ray_chunk)
    )


def shade_surfaces(
    radiance: Radiance, surfaces: Surfaces, rays: Rays, options: ManifoldOptions
) -> ManifoldRendering:
    """The colors of `render_manifolds` for points already traced."""

    def shade(
        points: Tensor, valid: Tensor, origins: Tensor, directions: Tensor, cosines: Tensor
    ) -> ManifoldRendering:
        return _shade(
            radiance, Surfaces(points, valid), Rays(origins, directions, cosines), options
        )

    tensors = (*surfaces, rays.origins, rays.directions, rays.cosines)
    return ManifoldRendering(*by_chunks(shade, tensors, options.ray_chunk))


def by_chunks(
    function: Callable[..., Sequence[Tensor]], tensors: Sequence[Tensor], chunk: int | None
) -> tuple[Tensor, ...]:
    """function(*tensors) on slices of the rays, its results put together; see
    `ManifoldOptions.ray_chunk`.

    Args:
        function: takes and returns tensors [b r ..].
        tensors: [b r ..], one b and r.
        chunk: rays of all b together.
    """
    batch, count = tensors[0].shape[:2]
    keeps_gradient = torch.is_grad_enabled()
    default = (
        batch * count
        if keeps_gradient
        else CPU_CHUNK
        if tensors[0].device.type == "cpu"
        else GPU_CHUNK
    )
    size = max(1, (chunk or default) // batch)
    if size >= count:
        return tuple(function(*tensors))
    parts = []
    for start in range(0, count, size):
        piece = [tensor[:, start : start + size] for tensor in tensors]
        parts.append(
            checkpoint(function, *piece, use_reentrant=False)
            if keeps_gradient
            else function(*piece)
        )
    return tuple(torch.cat(part, 1) for part in zip(*parts))


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
    surface_count = surfaces.valid.shape[-1]
    points = rearrange(surfaces.points, "b r k c -> b (r k) c")
    directions = repeat(rays.directions, "b r c -> b (r k) c", k=surface_count)
    with full_precision(points):
        sigma, rgb = (
            rearrange(values.to(points.dtype), "b (r k) c -> b r k c", k=surface_count)
            for values in radiance(points, directions)
        )
        origins = rays.origins[:1] if options.shared_origin else rays.origins
        distances = distances_to(surfaces.points, origins)
        alpha = alphas(sigma[..., 0], surfaces.valid, distances, options)
        return composite(
            alpha, rgb, distances, white_back=options.white_back, last_back=options.last_back
        )


# -- rays meet surfaces
# ------------------------------------------------------------------------------------------------


def samples_along(rays: Rays, options: ManifoldOptions) -> Tensor:
    """N points at equal steps of distance from ray_start to ray_end, [b r s 3]."""
    depths = torch.linspace(
        options.ray_start,
        options.ray_end,
        options.num_samples,
        dtype=rays.directions.dtype,
        device=rays.directions.device,
    )
    return torch.addcmul(rays.origins[:, :, None], depths[:, None], rays.directions[:, :, None])


def intersections(samples: Tensor, s: Tensor, levels: Tensor) -> Surfaces:
    """Where s first falls through each level l: the smallest k with s_{k+1} <= l <= s_k, and in
    that interval

        x = ((s_{k+1} - l) x_k + (l - s_k) x_{k+1}) / (s_{k+1} - s_k)

    Where s changes by at most 0.05 over the interval, x = x_{k+1}, without gradient to s. A ray
    without such an interval misses the surface: x is its last sample, not valid. Rising s is never
    a hit.

    Args:
        samples: x_k in order from the camera, [b r s 3].
        s: at the samples, [b r s].
        levels: l, [k].
    """
    hit = (s[..., 1:, None] <= levels) & (levels <= s[..., :-1, None])  # b r s-1 k
    valid = hit.any(-2)
    k = torch.where(valid, hit.to(torch.uint8).argmax(-2), s.shape[-1] - 2)
    s_k, s_next = s.gather(-1, k), s.gather(-1, k + 1)
    steep = valid & ((s_next - s_k).abs() > FLAT)
    fraction = torch.where(steep, (s_k - levels) / torch.where(steep, s_k - s_next, 1), 1)
    x_k, x_next = (
        samples.gather(-2, repeat(index, "b r k -> b r k c", c=3)) for index in (k, k + 1)
    )
    return Surfaces(torch.lerp(x_k, x_next, fraction[..., None]), valid)


def plane_intersections(origins: Tensor, directions: Tensor, z: float) -> Surfaces:
    """Where rays [b r 3] meet the plane of this z: x = o + t d, t = (z - o_z) / d_z, as one
    surface, [b r 1 ..].

    A ray that looks away from the plane, or along it, misses it; x is then its origin.
    """
    ahead, slope = z - origins[..., 2:], directions[..., 2:]
    # unlike gram: t must be positive, because what lies behind a camera (far to the side) cannot be
    # seen.
    valid = ahead * slope > 0
    t = torch.where(valid, ahead / torch.where(valid, slope, 1), 0)
    return Surfaces((origins + t * directions)[:, :, None], valid)


# -- compositing
# --------------------------------------------------------------------------------------------------


def distances_to(points: Tensor, origins: Tensor) -> Tensor:
    """Of points [b r k 3] to origins [b r 3] (or with 1 for b and r), [b r k]."""
    return torch.linalg.vector_norm(points - origins[:, :, None], dim=-1)


def view_directions(points: Tensor, origins: Tensor) -> Tensor:
    """Unit vectors to points [b r k 3] from the origin [b 3] of each view, [b r k 3]."""
    return F.normalize(points - origins[:, None, None], dim=-1)


def alphas(sigma: Tensor, valid: Tensor, distances: Tensor, options: ManifoldOptions) -> Tensor:
    """alpha = 1 - exp(-delta sigma) where a surface is hit, else 0; with a background plane it, and
    the farthest surface of the ray, have delta = 1e10: any density is opaque.

    unlike the paper, as published: occupancy is no output of the network.

    Args:
        sigma: density, not negative, [b r k].
        valid: [b r k].
        distances: [b r k].
        options: delta_alpha and whether the last surface is the background.
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
        alpha: [b r k], 0 where a surface is missed; surfaces in any order.
        rgb: colors or anything else, [b r k c].
        distances: their order along the ray (without gradient) and what `depth` averages, [b r k].
        white_back: add 1 - sum_i w_i to all channels.
        last_back: add it to the weight of the farthest surface (first, if both).
    """
    order = distances.detach().argsort(-1)
    sorted_weights = alpha_weights(alpha.gather(-1, order))
    if last_back:
        rest = 1 - sorted_weights.sum(-1, keepdim=True)
        sorted_weights = torch.cat([sorted_weights[..., :-1], sorted_weights[..., -1:] + rest], -1)
    weights = torch.zeros_like(sorted_weights).scatter(-1, order, sorted_weights)
    seen = (weights[..., None] * rgb).sum(-2)
    opacity = weights.sum(-1, keepdim=True)
    if white_back:
        seen = seen + 1 - opacity
    return ManifoldRendering(seen, (weights * distances).sum(-1, keepdim=True), opacity, weights)


# -- surfaces as images (GRAM-HD section 3.2)
# --------------------------------------------------------------------------


def foreground_grid(
    predictor: Predictor,
    resolution: int,
    options: ManifoldOptions,
    like: Tensor,
    *,
    half_extent: float | None = None,
    heights: tuple[float, float] | None = None,
) -> Surfaces:
    """The K levels met along -z on a regular grid whose outer points lie on the border; row 0 has
    the *smallest* y.

    Args:
        predictor: s.
        resolution: L, points on a side.
        options: levels, number of samples and the size of the scene.
        like: a tensor of the dtype and device wanted.
        half_extent: e, x and y are linspace(-e, e, L); None is half the scene (published: fov /
            100).
        heights: z of the first and last sample; None is the front and back of the scene (published:
            1 - ray limits).

    Returns:
        points [1 (L L) k 3] and valid [1 (L L) k], those of all instances.
    """
    half = options.scene_extent / 2
    e, (top, bottom) = half if half_extent is None else half_extent, heights or (half, -half)
    axis = torch.linspace(-e, e, resolution, dtype=like.dtype, device=like.device)
    z = torch.linspace(top, bottom, options.num_samples, dtype=like.dtype, device=like.device)
    y, x, z = (
        rearrange(g, "i j s -> 1 (i j) s") for g in torch.meshgrid(axis, axis, z, indexing="ij")
    )

    def trace(samples: Tensor) -> Surfaces:
        with full_precision(samples):
            return intersections(samples, predictor(samples), options.levels(samples))

    return Surfaces(*by_chunks(trace, (torch.stack([x, y, z], -1),), options.ray_chunk))


def background_grid(resolution: int, options: ManifoldOptions, like: Tensor) -> Tensor:
    """Points of the background plane at map coordinates u = linspace(-1, 1, L) per axis, x = g(u):
    [1 (L L) 3].

    Rows as in `foreground_grid`: row 0 has the smallest y.
    """
    u = torch.linspace(-1, 1, resolution, dtype=like.dtype, device=like.device)
    axis = background_position(u, options.scene_extent)
    y, x = (g.reshape(1, -1) for g in torch.meshgrid(axis, axis, indexing="ij"))
    return torch.stack([x, y, torch.full_like(x, options.background_z)], -1)


def background_position(u: Tensor, extent: float) -> Tensor:
    """g(u) = E u for |u| <= 1/2, sign(u) (E tan(|u| - 1/2) + E / 2) beyond: any tensor of map
    coordinates.

    Half of the texels of an axis show the scene (of side E), the others a wide surrounding.
    """
    beyond = u.abs() - 0.5
    return torch.where(
        beyond <= 0, extent * u, u.sign() * extent * (beyond.clamp(min=0).tan() + 0.5)
    )


def background_coordinate(x: Tensor, extent: float) -> Tensor:
    """The inverse of `background_position`: x / E within the scene, sign(x) (atan((|x| - E/2) / E)
    + 1/2) beyond.
    """
    beyond = x.abs() / extent - 0.5
    return torch.where(beyond <= 0, x / extent, x.sign() * (beyond.clamp(min=0).atan() + 0.5))


def upsample_surfaces(surfaces: Surfaces, resolution: int) -> Surfaces:
    """Points between the rays of a square view, bilinear from corner to corner (rays include the
    border).

    A point is valid where validity, interpolated alike, is above 0.99: next to no miss.

    Args:
        surfaces: points [b (h h) k 3] and valid [b (h h) k] of h x h rays, row by row.
        resolution: H.

    Returns:
        points [b (H H) k 3] and valid [b (H H) k].
    """
    count, k = surfaces.valid.shape[1:]
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(
            f"surfaces of {count} rays are no square view; give all the rays of "
            "Camera.rays(resolution)"
        )

    def larger(values: Tensor) -> Tensor:
        image = rearrange(values, "b (h w) k c -> b (k c) h w", h=side)
        image = F.interpolate(
            image, size=(resolution, resolution), mode="bilinear", align_corners=True
        )
        return rearrange(
            image, "b (k c) h w -> b (h w) k c", k=k
        ).contiguous()  # lengths of planar vectors are slow

    with full_precision(surfaces.points):
        valid = larger(surfaces.valid.to(surfaces.points.dtype)[..., None])
        return Surfaces(larger(surfaces.points), valid[..., 0] > 0.99)


def look_up_foreground(
    maps: Tensor, points: Tensor, half_extent: float, *, aligned: bool = False
) -> Tensor:
    """Values of each surface's map at its points: bilinear at (x, y) / e, 0 outside. Differentiable
    once.

    Args:
        maps: [b k c H W], rows from the smallest y as in `foreground_grid`.
        points: [b r k 3].
        half_extent: e of the grid.
        aligned: whether -e and e are the centers of the border texels, as in the grid that the maps
            are made from, or (False, as published) their outer edges.

    Returns:
        [b r k c].
    """
    grid = rearrange(points[..., :2] / half_extent, "b r k c -> (b k) 1 r c")
    images = rearrange(maps, "b k c h w -> (b k) c h w")
    values = F.grid_sample(
        images, grid, mode="bilinear", padding_mode="zeros", align_corners=aligned
    )
    return rearrange(values, "(b k) c 1 r -> b r k c", b=len(maps))


def look_up_background(
    maps: Tensor, points: Tensor, extent: float, *, aligned: bool = False
) -> Tensor:
    """Values of background maps at points of the plane: bilinear at g^-1 of (x, y), reflected
    outside.

    Args:
        maps: [b c H W], rows from the smallest y as in `background_grid`.
        points: [b r 3].
        extent: E, side of the scene.
        aligned: as in `look_up_foreground`.

    Returns:
        [b r c]. Differentiable once.
    """
    grid = rearrange(background_coordinate(points[..., :2], extent), "b r c -> b 1 r c")
    values = F.grid_sample(
        maps, grid, mode="bilinear", padding_mode="reflection", align_corners=aligned
    )
    return rearrange(values, "b c 1 r -> b r c")
