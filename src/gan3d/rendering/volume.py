"""EG3D's volume rendering with coarse and importance samples (NeRF, section 5.2).

    limits near..far -> S stratified depths -> field -> mid-point weights
                     -> F importance depths -> field
                     -> composite the union (ops.composite): features, depth, opacity

Convention: rays [b r 3] have unit directions, depths [b r s] are distances along them. A `Field` is
any callable that takes points [b r s 3] and directions [b r 1 3] and returns (sigma [b r s 1] raw,
rgb [b r s c]). A `TriplaneField` on a GPU renders whole rays by one kernel, and only densities of
the coarse samples are made before. Depths carry no gradient; colors, densities and (through the
points) cameras do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gan3d.camera import Rays
from gan3d.host import free_memory, kind_of
from gan3d.ops.composite import Samples, composite, interval_weights, optical_depths
from gan3d.randomness import Randomness
from gan3d.rendering.triplane_field import TriplaneField

Background = Literal["black", "white", "random"]
BackgroundOrLearned = Literal[Background, "learned"]
FULL_RAY = 48  # coarse samples of the rays that `free_chunk` counts
# Bytes of such a ray while it is rendered: 96 samples of a point, 32 features, 64 hidden units and
# 33 results, the hidden units twice; and the share of the free memory that a chunk may take.
RAY_BYTES, FREE_SHARE = 4 * 96 * (3 + 32 + 2 * 64 + 2 * 33), 1 / 8
Field = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def free_chunk(device: torch.device) -> int:
    """Rays per chunk without gradient: few enough for a CPU's cache, many enough to fill a GPU, and
    where there is memory, so many that a batch is few chunks: each is as many launches as all.
    """
    if kind_of(device) == "cpu":
        return 512
    free = free_memory(device) or 0
    return max(16384, int(free * FREE_SHARE) // RAY_BYTES)


@dataclass(frozen=True)
class RenderOptions:
    """How rays are sampled and composited.

    Attributes:
        depth_samples: S, number of stratified samples per ray.
        importance_samples: F, number of importance samples per ray; 0 renders the stratified
            samples only.
        ray_start: distance of the near limit, or "auto" (with ray_end "auto") for the point where
            the ray enters the box.
        ray_end: distance of the far limit, or "auto".
        box_warp: side of the cube around the origin that contains the scene; used by "auto".
        disparity: whether samples are equally spaced in 1 / depth instead of depth.
        background: features behind everything: 0 (black), 1 (white), or for "random" a color per
            scene in the first three channels, by the draw "background" (gray without draws),
            which the generator adds. "learned" is a backdrop that the generator makes of the
            scene's latent and adds (`layers.backdrop`).
        density_noise: standard deviation of noise on the raw density; needs a `randomness`.
        depth_clamp: depth of an empty ray: its own last sample ("ray"), or the farthest sample of
            the whole batch ("batch", as published; images then depend on their batch).
        auto_limits: limits under "auto". "clipped" starts at the camera, and rays that miss the box
            are empty. "official" is what the published weights were trained with: samples behind a
            camera that is inside the box, and rays that miss are sampled from the smallest to the
            largest *near* limit of the whole batch.
        ray_chunk: number of rays (of all images together) rendered at once. None: without gradient
            512 on a CPU and 16,384 or more on a GPU, as many as fit into an eighth of its free
            memory, more if there are fewer than 48 samples; with gradient all. With gradient, an
            explicit number recomputes each chunk in the backward pass: less memory, more time.

    Raises:
        ValueError: the numbers of samples, the limits or the chunk are invalid.
    """

    depth_samples: int = 48
    importance_samples: int = 48
    ray_start: float | Literal["auto"] = 2.25
    ray_end: float | Literal["auto"] = 3.3
    box_warp: float = 1.0
    disparity: bool = False
    background: BackgroundOrLearned = "black"
    density_noise: float = 0.0
    depth_clamp: Literal["batch", "ray"] = "ray"
    auto_limits: Literal["clipped", "official"] = "clipped"
    ray_chunk: int | None = None

    def __post_init__(self) -> None:
        least = 4 if self.importance_samples else 2
        if self.depth_samples < least or self.importance_samples < 0:
            raise ValueError(
                f"got depth_samples {self.depth_samples} and importance_samples "
                f"{self.importance_samples}; needs at least {least} and 0: the importance "
                "distribution has depth_samples - 3 intervals"
            )
        if (self.ray_start == "auto") != (self.ray_end == "auto"):
            raise ValueError(
                f"got ray_start {self.ray_start} and ray_end {self.ray_end}; set both to 'auto' or "
                "neither"
            )
        if not self.automatic and not 0 <= float(self.ray_start) < float(self.ray_end):
            raise ValueError(
                f"got ray_start {self.ray_start} and ray_end {self.ray_end}; "
                "expected 0 <= start < end"
            )
        if self.disparity and (self.automatic or not float(self.ray_start) > 0):
            raise ValueError(
                "disparity needs numbers 0 < ray_start < ray_end; 'auto' limits may start at 0"
            )
        if self.background not in get_args(BackgroundOrLearned):
            raise ValueError(
                f"background {self.background!r} is unknown; choose one of "
                f"{', '.join(get_args(BackgroundOrLearned))}"
            )
        if self.box_warp <= 0:
            raise ValueError(
                f"box_warp {self.box_warp} is not positive; it is the side of the scene's cube"
            )
        if self.ray_chunk is not None and self.ray_chunk < 1:
            raise ValueError(
                f"ray_chunk {self.ray_chunk} is not positive; use None for the default"
            )

    @property
    def automatic(self) -> bool:
        """Whether the limits are computed from the box."""
        return self.ray_start == "auto"


class RayRendering(NamedTuple):
    """Rendered rays.

    Attributes:
        features: [b r c].
        depth: distance along the ray, [b r 1].
        opacity: [b r 1].
    """

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
        options: sampling and compositing.
        randomness: draws "depth_jitter" [r S], "importance" [r F] and "density_noise" [r S+F]. None
            is deterministic: jitter 1/2, importance samples at equal steps of probability, no
            noise.

    Returns:
        Features, depth and opacity of all rays.
    """
    batch, count = rays.origins.shape[:2]
    near, far = ray_limits(rays, options)
    inputs = [rays.origins, rays.directions, near, far, *_draws(count, near, options, randomness)]

    # Size of the chunks.
    with_gradient = torch.is_grad_enabled()
    chunk = options.ray_chunk
    if not chunk:
        # Rays of fewer samples: more of them at once.
        free = free_chunk(rays.origins.device) * max(1, FULL_RAY // options.depth_samples)
        chunk = batch * count if with_gradient else free
    per_image = max(1, chunk // batch)
    recompute = with_gradient and per_image < count

    def render(*chunk_inputs: Tensor) -> tuple[Tensor, ...]:
        return _render_chunk(field, options, *chunk_inputs)

    # Render chunk by chunk.
    chunks = []
    for start in range(0, count, per_image):
        chunk_inputs = [tensor[:, start : start + per_image] for tensor in inputs]
        if recompute:
            chunks.append(checkpoint(render, *chunk_inputs, use_reentrant=False))
        else:
            chunks.append(render(*chunk_inputs))
    features, depth, opacity, last = (torch.cat(parts, 1) for parts in zip(*chunks))

    # unlike eg3d: by default an empty ray has the depth of its own last sample, because a depth map
    # must not depend on its batch.
    if options.depth_clamp == "batch":
        depth = torch.where(opacity > 0, depth, last.amax())
    return RayRendering(features, depth[..., None], opacity[..., None])


def ray_limits(rays: Rays, options: RenderOptions) -> tuple[Tensor, Tensor]:
    """Near and far limits of rays, [b r 1] each, without gradient."""
    if not options.automatic:
        ones = torch.ones_like(rays.origins[..., :1])
        return ones * float(options.ray_start), ones * float(options.ray_end)
    origins = rays.origins.detach()
    directions = rays.directions.detach()
    near, far = ray_box(origins, directions, options.box_warp)
    if options.auto_limits == "official":
        # Limits of the rays that miss, if any ray hits: the published code takes the smallest and
        # the largest near limit, not the largest far limit.
        hit = far > near
        known = hit | ~hit.any()
        smallest = near.masked_fill(~hit, torch.inf).amin()
        largest = near.masked_fill(~hit, -torch.inf).amax()
        return torch.where(known, near, smallest), torch.where(known, far, largest)

    # unlike eg3d: samples start at the camera, and a ray that misses the box has an interval of
    # length 0 at its point closest to the origin, so opacity 0, because rays must not depend on the
    # other rays of the batch.
    near = near.clamp(min=0)
    closest = (-origins * directions).sum(-1, keepdim=True).clamp(min=0)
    hit = far > near
    return torch.where(hit, near, closest), torch.where(hit, far, closest)


def ray_box(origins: Tensor, directions: Tensor, side: float) -> tuple[Tensor, Tensor]:
    """Slab test of rays against the cube of a given side around the origin.

    near = max over axes of entry, far = min over axes of exit; boxes behind the origin of the ray
    count as hits.

    Args:
        origins: [.. 3].
        directions: [.. 3]; components may be 0.
        side: side of the cube.

    Returns:
        near and far [.. 1] in units of the directions; a miss has near -1 and far -2.
    """
    inverse = 1 / directions
    low = (-side / 2 - origins) * inverse
    high = (side / 2 - origins) * inverse
    # unlike eg3d: a ray within a face is inside that slab, because 0 * inf is NaN.
    enters = torch.minimum(low, high).nan_to_num(-torch.inf, torch.inf, -torch.inf)
    leaves = torch.maximum(low, high).nan_to_num(torch.inf, torch.inf, -torch.inf)
    near = enters.amax(-1, keepdim=True)
    far = leaves.amin(-1, keepdim=True)
    missed = near > far
    return near.masked_fill(missed, -1.0), far.masked_fill(missed, -2.0)


def stratified_depths(
    near: Tensor,
    far: Tensor,
    samples: int,
    *,
    jitter: Tensor | None = None,
    disparity: bool = False,
) -> Tensor:
    """Stratified samples, one per step (NeRF eq. 2), with t'_i = (i + xi_i) / (S - 1):

        d_i = near + t'_i (far - near)                    in depth
        d_i = 1 / ((1 - t'_i) / near + t'_i / far)        in disparity

    As published, a sample lies up to a whole step behind its grid point, so the last one may lie
    beyond `far`.

    Args:
        near: [b r 1].
        far: [b r 1].
        samples: S.
        jitter: xi in [0, 1), [b r s]; None is 1/2.
        disparity: whether steps are equal in 1 / depth.

    Returns:
        [b r s].
    """
    steps = torch.arange(samples, device=near.device, dtype=near.dtype)
    fractions = (steps + (0.5 if jitter is None else jitter)) / (samples - 1)
    if not disparity:
        return near + fractions * (far - near)
    # With few samples and wide limits, jitter beyond `far` could pass infinity; the bound keeps
    # depths finite and in front of the camera.
    return 1 / torch.maximum((1 - fractions) / near + fractions / far, 1e-3 / far)


def importance_depths(
    depths: Tensor, weights: Tensor, samples: int, *, u: Tensor | None = None
) -> Tensor:
    """Samples F depths from the distribution of the coarse weights (NeRF eq. 5).

    Weights are smoothed as in Mip-NeRF: maximum of neighbors, mean of neighbors, + 0.01.

    As published, S - 1 mid-points are used with S - 3 probabilities: every weight is assigned half
    an interval too close to the camera, and the last mid-point is never reached. The official
    weights are trained with this.

    Args:
        depths: coarse depths in increasing order, [.. s].
        weights: weights of the intervals between them, [.. s-1].
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
            u = torch.linspace(0, 1, samples, device=depths.device, dtype=depths.dtype)
            u = u.expand(*depths.shape[:-1], -1)
        return inverse_cdf(mid, smooth[..., 1:-1], u)


def inverse_cdf(bins: Tensor, weights: Tensor, u: Tensor, eps: float = 1e-5) -> Tensor:
    """The inverse of a piecewise-linear distribution function.

    Args:
        bins: edges [.. n+1]; further edges are ignored.
        weights: weights of the n intervals, not negative, [.. n]; eps is added to them.
        u: probabilities [.. f].
        eps: intervals of lower probability are not interpolated.

    Returns:
        [.. f].
    """
    pdf = weights + eps
    cdf = F.pad((pdf / pdf.sum(-1, keepdim=True)).cumsum(-1), (1, 0))
    k = torch.searchsorted(cdf, u.contiguous(), right=True)
    below = (k - 1).clamp(min=0)
    above = k.clamp(max=weights.shape[-1])
    cdf_below = cdf.gather(-1, below)
    bins_below = bins.gather(-1, below)
    width = cdf.gather(-1, above) - cdf_below
    fraction = (u - cdf_below) / torch.where(width < eps, torch.ones_like(width), width)
    return bins_below + fraction * (bins.gather(-1, above) - bins_below)


def _draws(
    count: int, near: Tensor, options: RenderOptions, randomness: Randomness | None
) -> list[Tensor]:
    """Jitter [b r S], importance u [b r F] and, if there is any, density noise [b r S+F]."""
    coarse, fine = options.depth_samples, options.importance_samples
    if randomness is None:
        jitter = near.new_full((1, 1, 1), 0.5).expand(len(near), count, coarse)
        u = torch.linspace(0, 1, fine, device=near.device, dtype=near.dtype)
        return [jitter, u.expand(len(near), count, fine)]
    jitter = randomness.uniform("depth_jitter", count, coarse)
    u = randomness.uniform("importance", count, fine)
    if options.density_noise <= 0:
        return [jitter, u]
    noise = randomness.normal("density_noise", count, coarse + fine)
    return [jitter, u, options.density_noise * noise]


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
    """Features [b r c], depth, opacity and farthest sample [b r] of a chunk of rays."""

    def query(depths: Tensor, noise: Tensor | None) -> Samples:
        points = origins[:, :, None] + depths[..., None] * directions[:, :, None]  # b r s 3
        sigma, rgb = field(points, directions[:, :, None])
        return Samples(depths, sigma[..., 0] if noise is None else sigma[..., 0] + noise, rgb)

    # Coarse samples.
    split = options.depth_samples
    depths = stratified_depths(near, far, split, jitter=jitter, disparity=options.disparity)
    background = 1.0 if options.background == "white" else None
    if isinstance(field, TriplaneField) and field.is_fused:
        rays = (origins, directions)
        seen = field.composite(
            *rays, *_in_order(field, options, *rays, depths, u, noise), background
        )
        return seen.rgb, seen.depth, seen.opacity, depths.amax(-1)
    blocks = [query(depths, None if noise is None else noise[..., :split])]

    # Importance samples.
    if options.importance_samples:
        weights = interval_weights(optical_depths(blocks[0].sigma.detach(), depths))
        fine = importance_depths(depths, weights, options.importance_samples, u=u)
        blocks.append(query(fine, None if noise is None else noise[..., split:]))

    seen = composite(*blocks, background=background)
    # Importance depths lie between coarse ones, so the farthest sample is a coarse one.
    return seen.rgb, seen.depth, seen.opacity, depths.amax(-1)


def _in_order(
    field: TriplaneField,
    options: RenderOptions,
    origins: Tensor,
    directions: Tensor,
    depths: Tensor,
    u: Tensor,
    noise: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Coarse and importance depths in increasing order, and their noise, [b r S+F]."""
    if not options.importance_samples:
        return depths, noise
    coarse_noise = None if noise is None else noise[..., : depths.shape[-1]]
    sigma = field.densities(origins, directions, depths, coarse_noise)
    weights = interval_weights(optical_depths(sigma, depths))
    fine = importance_depths(depths, weights, options.importance_samples, u=u)
    depths, order = torch.cat([depths, fine], -1).sort(-1)
    return depths, None if noise is None else noise.gather(-1, order)
