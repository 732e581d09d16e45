"""Rendering a radiance field along rays with coarse and importance samples (NeRF section 5.2, as
EG3D does it).

    limits near..far -> S stratified depths -> field -> mid-point weights -> F importance depths ->
                     field -> composite the union (ops.composite): features, depth, opacity

Convention: rays [b r 3] with unit directions, depths are distances along them, [b r s]. A `Field`
is any callable that takes points [b r s 3] and directions [b r 1 3] and returns (sigma [b r s 1]
raw, rgb [b r s c]). Depths carry no gradient; colors, densities and (through the points) cameras
do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gan3d.camera import Rays
from gan3d.ops.composite import Samples, composite, interval_weights, optical_depths
from gan3d.randomness import Randomness

Field = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# Rays rendered at once when no gradient is kept: 48 + 48 samples of 64 hidden units stay near a
# CPU's cache.
CHUNK_WITHOUT_GRADIENT = 512


@dataclass(frozen=True)
class RenderOptions:
    """How rays are sampled and composited.

    Attributes:
        depth_samples: stratified samples S per ray.
        importance_samples: importance samples F per ray; 0 renders the stratified samples alone.
        ray_start: distance of the near limit, or "auto" (with ray_end "auto"): where the ray enters
            the box.
        ray_end: distance of the far limit, or "auto".
        box_warp: side of the cube about the origin that holds the scene, used by "auto".
        disparity: samples are equally spaced in 1 / depth instead of depth.
        white_background: features 1 instead of 0 behind everything.
        density_noise: standard deviation of noise on the raw density; only with a `randomness`.
        depth_clamp: what a ray that meets nothing shows as its depth: the last sample of its own
            ("ray"), or the farthest sample of the whole batch ("batch", as published: then images
            depend on their batch).
        auto_limits: under "auto", "clipped" starts at the camera and leaves rays that miss the box
            empty; "official" keeps what the published weights were trained with: samples behind a
            camera inside the box, and rays that miss sampled from the smallest to the largest
            *near* limit of the whole batch.
        ray_chunk: rays (of all images together) rendered at once. None: 512 without gradient, all
            with gradient. With gradient, an explicit number recomputes each chunk in the backward
            pass: less memory, more time.
    """

    depth_samples: int = 48
    importance_samples: int = 48
    ray_start: float | Literal["auto"] = 2.25
    ray_end: float | Literal["auto"] = 3.3
    box_warp: float = 1.0
    disparity: bool = False
    white_background: bool = False
    density_noise: float = 0.0
    depth_clamp: Literal["batch", "ray"] = "ray"
    auto_limits: Literal["clipped", "official"] = "clipped"
    ray_chunk: int | None = None

    def __post_init__(self) -> None:
        least = 4 if self.importance_samples else 2
        if self.depth_samples < least or self.importance_samples < 0:
            raise ValueError(
                f"depth_samples {self.depth_samples} with importance_samples "
                f"{self.importance_samples}; needs at least {least} and 0: the importance "
                "distribution is made of depth_samples - 3 intervals"
            )
        if (self.ray_start == "auto") != (self.ray_end == "auto"):
            raise ValueError(
                f"ray_start {self.ray_start} with ray_end {self.ray_end}; set both to 'auto' or "
                "neither"
            )
        if not self.automatic and not 0 <= float(self.ray_start) < float(self.ray_end):
            raise ValueError(
                f"ray_start {self.ray_start} and ray_end {self.ray_end}; expected 0 <= start < end"
            )
        if self.disparity and (self.automatic or not float(self.ray_start) > 0):
            raise ValueError(
                "disparity needs numbers 0 < ray_start < ray_end; 'auto' limits may start at 0"
            )
        if self.box_warp <= 0:
            raise ValueError(
                f"box_warp {self.box_warp} is not positive; it is the side of the scene's cube"
            )
        if self.ray_chunk is not None and self.ray_chunk < 1:
            raise ValueError(
                f"ray_chunk {self.ray_chunk} is not positive; None lets the renderer choose"
            )

    @property
    def automatic(self) -> bool:
        """Whether the limits come from the box."""
        return self.ray_start == "auto"


class RayRendering(NamedTuple):
    """What rays see: features [b r c], depth [b r 1] (distance along the ray), opacity [b r 1]."""

    features: Tensor
    depth: Tensor
    opacity: Tensor


def render_rays(
    field: Field, rays: Rays, options: RenderOptions, randomness: Randomness | None = None
) -> RayRendering:
    """Renders a field along rays, in chunks of rays.

    Args:
        field: (points [b r s 3], directions [b r 1 3]) -> (sigma [b r s 1], rgb [b r s c]).
        rays: b views of r rays.
        options: sampling.
        randomness: draws "depth_jitter" [r S], "importance" [r F] and "density_noise" [r S+F]. None
            is deterministic: jitter 1/2, importance samples at equal steps of probability, no
            noise.
    """
    batch, count = rays.origins.shape[:2]
    near, far = ray_limits(rays, options)
    inputs = [rays.origins, rays.directions, near, far, *_draws(count, near, options, randomness)]

    keeps_gradient = torch.is_grad_enabled()
    chunk = options.ray_chunk or (batch * count if keeps_gradient else CHUNK_WITHOUT_GRADIENT)
    per_image = max(1, chunk // batch)
    recompute = keeps_gradient and per_image < count

    def render(*chunk_inputs: Tensor) -> tuple[Tensor, ...]:
        return _render_chunk(field, options, *chunk_inputs)

    parts = []
    for start in range(0, count, per_image):
        piece = [tensor[:, start : start + per_image] for tensor in inputs]
        parts.append(
            checkpoint(render, *piece, use_reentrant=False) if recompute else render(*piece)
        )
    features, depth, opacity, last = (torch.cat(part, 1) for part in zip(*parts))
    # unlike eg3d: by default an empty ray shows its own last sample, because a depth map must not
    # depend on its batch.
    if options.depth_clamp == "batch":
        depth = torch.where(opacity > 0, depth, last.amax())
    return RayRendering(features, depth[..., None], opacity[..., None])


def ray_limits(rays: Rays, options: RenderOptions) -> tuple[Tensor, Tensor]:
    """Near and far limit of every ray, [b r 1] each, without gradient."""
    if not options.automatic:
        ones = torch.ones_like(rays.origins[..., :1])
        return ones * float(options.ray_start), ones * float(options.ray_end)
    origins, directions = rays.origins.detach(), rays.directions.detach()
    near, far = ray_box(origins, directions, options.box_warp)
    if options.auto_limits == "official":
        hit = far > near
        if hit.any():
            near = torch.where(hit, near, near[hit].min())
            far = torch.where(
                hit, far, near[hit].max()
            )  # the published code's slip: not the largest far
        return near, far
    # unlike eg3d: nothing behind the camera is sampled, and a ray that misses gets an interval of
    # length 0 at its point closest to the origin, hence opacity 0, because then no ray depends on
    # the other rays of the batch.
    near = near.clamp(min=0)
    closest = (-origins * directions).sum(-1, keepdim=True).clamp(min=0)
    hit = far > near
    return torch.where(hit, near, closest), torch.where(hit, far, closest)


def ray_box(origins: Tensor, directions: Tensor, side: float) -> tuple[Tensor, Tensor]:
    """Slab test of rays against the cube of the given side about the origin.

    near = max over axes of entry, far = min over axes of exit; boxes behind the origin count as
    hits.

    Args:
        origins: [.. 3].
        directions: [.. 3], any of them may be parallel to an axis.
        side: of the cube.

    Returns:
        near and far [.. 1] in units of the directions; a miss has near -1 and far -2.
    """
    inverse = 1 / directions
    low, high = (-side / 2 - origins) * inverse, (side / 2 - origins) * inverse
    # unlike eg3d: a ray that runs within a face (0 * inf) is inside of that slab, because NaN would
    # be no answer.
    entry = (
        torch.minimum(low, high)
        .nan_to_num(-torch.inf, torch.inf, -torch.inf)
        .amax(-1, keepdim=True)
    )
    exit_ = (
        torch.maximum(low, high).nan_to_num(torch.inf, torch.inf, -torch.inf).amin(-1, keepdim=True)
    )
    missed = entry > exit_
    return torch.where(missed, -1.0, entry), torch.where(missed, -2.0, exit_)


def stratified_depths(
    near: Tensor,
    far: Tensor,
    samples: int,
    *,
    jitter: Tensor | None = None,
    disparity: bool = False,
) -> Tensor:
    """Stratified samples, one per step (NeRF eq. 2), with t'_i = (i + xi_i) / (S - 1):

        d_i = near + t'_i (far - near),   or in disparity   d_i = 1 / ((1 - t'_i) / near + t'_i / far)

    As published, a sample lies up to a whole step behind its grid point, so that the last may lie
    beyond `far`.

    Args:
        near: [b r 1].
        far: [b r 1].
        samples: S.
        jitter: xi in [0, 1), [b r s]; None is 1/2.
        disparity: equal steps in 1 / depth.

    Returns:
        [b r s].
    """
    steps = torch.arange(samples, device=near.device, dtype=near.dtype)
    fractions = (steps + (0.5 if jitter is None else jitter)) / (samples - 1)
    if not disparity:
        return near + fractions * (far - near)
    # Jitter beyond `far` can pass infinity if samples are few and limits wide: kept finite and in
    # front of the camera.
    return 1 / torch.maximum((1 - fractions) / near + fractions / far, 1e-3 / far)


def importance_depths(
    depths: Tensor, weights: Tensor, samples: int, *, u: Tensor | None = None
) -> Tensor:
    """F depths drawn where the coarse weights are (NeRF eq. 5, Mip-NeRF's smoothing: max of two,
    mean of two, + 0.01).

    As published, S - 1 mid-points carry S - 3 probabilities: every weight is assigned half an
    interval too close to the camera and the last mid-point is never reached. Official weights are
    trained with it.

    Args:
        depths: coarse depths in order, [.. s].
        weights: of the intervals between them, [.. s-1].
        samples: F.
        u: uniform draws, [.. F]; None is linspace(0, 1, F).

    Returns:
        [.. F], without gradient.
    """
    with torch.no_grad():
        padded = F.pad(weights, (1, 1), value=-torch.inf)
        largest = torch.maximum(padded[..., :-1], padded[..., 1:])
        smooth = (largest[..., :-1] + largest[..., 1:]) / 2 + 0.01
        mid = (depths[..., :-1] + depths[..., 1:]) / 2
        if u is None:
            u = torch.linspace(0, 1, samples, device=depths.device, dtype=depths.dtype).expand(
                *depths.shape[:-1], -1
            )
        return inverse_cdf(mid, smooth[..., 1:-1], u)


def inverse_cdf(bins: Tensor, weights: Tensor, u: Tensor, eps: float = 1e-5) -> Tensor:
    """Where a piecewise-linear distribution function reaches u.

    Args:
        bins: edges [.. n+1 or more]; those after the first n+1 are not used.
        weights: of the n intervals, not negative; eps is added.
        u: probabilities [.. f].
        eps: intervals of less probability are not interpolated in.

    Returns:
        [.. f].
    """
    pdf = weights + eps
    cdf = F.pad((pdf / pdf.sum(-1, keepdim=True)).cumsum(-1), (1, 0))
    k = torch.searchsorted(cdf, u.contiguous(), right=True)
    below, above = (k - 1).clamp(min=0), k.clamp(max=weights.shape[-1])
    cdf_below, bins_below = cdf.gather(-1, below), bins.gather(-1, below)
    width = cdf.gather(-1, above) - cdf_below
    fraction = (u - cdf_below) / torch.where(width < eps, torch.ones_like(width), width)
    return bins_below + fraction * (bins.gather(-1, above) - bins_below)


def _draws(
    count: int, near: Tensor, options: RenderOptions, randomness: Randomness | None
) -> list[Tensor]:
    """Jitter [b r S], importance u [b r F] and density noise [b r S+F]: random, or the
    deterministic ones.
    """
    coarse, fine = options.depth_samples, options.importance_samples
    if randomness is None:
        u = torch.linspace(0, 1, fine, device=near.device, dtype=near.dtype)
        return [
            near.new_full((1, 1, 1), 0.5).expand(len(near), count, coarse),
            u.expand(len(near), count, fine),
        ]
    draws = [
        randomness.uniform("depth_jitter", count, coarse),
        randomness.uniform("importance", count, fine),
    ]
    if options.density_noise > 0:
        draws.append(
            options.density_noise * randomness.normal("density_noise", count, coarse + fine)
        )
    return draws


def _render_chunk(
    field: Field,
    options: RenderOptions,
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    jitter: Tensor,
    u: Tensor,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features [b r c], depth, opacity and farthest sample [b r] of some rays."""

    def query(depths: Tensor, noise: Tensor | None) -> Samples:
        points = origins[:, :, None] + depths[..., None] * directions[:, :, None]  # b r s 3
        sigma, rgb = field(points, directions[:, :, None])
        return Samples(depths, sigma[..., 0] if noise is None else sigma[..., 0] + noise, rgb)

    split = options.depth_samples
    depths = stratified_depths(near, far, split, jitter=jitter, disparity=options.disparity)
    blocks = [query(depths, None if noise is None else noise[..., :split])]
    if options.importance_samples:
        weights = interval_weights(optical_depths(blocks[0].sigma.detach(), depths))
        fine = importance_depths(depths, weights, options.importance_samples, u=u)
        blocks.append(query(fine, None if noise is None else noise[..., split:]))
    seen = composite(*blocks, background=1.0 if options.white_background else None)
    # Importance depths lie between coarse ones.
    return seen.rgb, seen.depth, seen.opacity, depths.amax(-1)
