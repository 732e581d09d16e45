"""pi-GAN's and CIPS-3D's hierarchical volume rendering by the left-point rule.

    s coarse depths -> field -> left-point weights
                    -> s importance depths -> field
                    -> left-point rule over all 2 s samples

(specs/cips3d.md 3, 6.) `rendering.volume` is the same algorithm with EG3D's rules: mid-points,
smoothed weights, no interval behind the last sample.

Convention: rays [b r 3] have unit directions, depths [b r s] are distances along them. Depths carry
no gradient; densities, features and (through the points) cameras do, for coarse and fine samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gan3d.camera import Rays
from gan3d.host import constant
from gan3d.ops.composite import Samples
from gan3d.ops.left_point import Clamp, composite_left, left_point_weights
from gan3d.randomness import Randomness
from gan3d.rendering.volume import Field, free_chunk, inverse_cdf

Fill = Literal["weight", "debug"]


@dataclass(frozen=True)
class LeftPointOptions:
    """How rays are sampled and composited.

    Attributes:
        ray_start: distance of the first coarse sample along the ray.
        ray_end: distance of the last coarse sample.
        num_steps: s, number of coarse samples; with `hierarchical` 2 s samples are composited.
        hierarchical: whether to add s importance samples.
        last_back: whether the last sample receives all remaining light.
        white_back: whether to add 1 - opacity to the features: a white background for colors in
            [0, 1], meaningless for other features.
        fill_mode: "weight" shows the opacity in every channel; "debug" shows rays of opacity < 0.9
            in red (3 channels).
        clamp_mode: density is relu or softplus of the field's sigma (plus noise).
        ray_chunk: number of rays (of all images together) rendered at once without gradient; None
            chooses by device.

    Raises:
        ValueError: the number of samples, the limits, a mode or the chunk is invalid.
    """

    ray_start: float = 0.88
    ray_end: float = 1.12
    num_steps: int = 12
    hierarchical: bool = True
    last_back: bool = False
    white_back: bool = False
    fill_mode: Fill | None = None
    clamp_mode: Clamp = "relu"
    ray_chunk: int | None = None

    def __post_init__(self) -> None:
        least = 3 if self.hierarchical else 2
        if self.num_steps < least:
            raise ValueError(
                f"num_steps {self.num_steps} is less than {least}: a step has a length, and the "
                f"importance distribution has num_steps - 2 weights; use {least} or more"
            )
        if not 0 <= self.ray_start < self.ray_end:
            raise ValueError(
                f"got ray_start {self.ray_start} and ray_end {self.ray_end}; "
                "expected 0 <= start < end"
            )
        for name, value, known in (
            ("clamp_mode", self.clamp_mode, ("relu", "softplus")),
            ("fill_mode", self.fill_mode, (None, "weight", "debug")),
        ):
            if value not in known:
                raise ValueError(f"{name} {value!r} is unknown; choose one of {known}")
        if self.ray_chunk is not None and self.ray_chunk < 1:
            raise ValueError(
                f"ray_chunk {self.ray_chunk} is not positive; use None for the default"
            )


class LeftPointRendering(NamedTuple):
    """Rendered rays of t samples each: 2 s, or s without hierarchical sampling.

    Attributes:
        features: sum_i w_i c_i (with the background or fill of the options), [b r c].
        depth: sum_i w_i t_i, distance along the ray, not divided by the sum of weights, [b r 1].
        opacity: sum_i w_i before `last_back`, [b r 1].
        depths: depths of all samples in increasing order, [b r t].
        weights: w_i of these samples, [b r t].
    """

    features: Tensor
    depth: Tensor
    opacity: Tensor
    depths: Tensor
    weights: Tensor

    @property
    def distance(self) -> Tensor:
        """sum_i w_i t_i + (1 - sum_i w_i) t_last, [b r 1]; t_last on an empty ray."""
        remaining = 1 - self.weights.sum(-1, keepdim=True)
        return self.depth + remaining * self.depths[..., -1:]


def render_left_point(
    field: Field,
    rays: Rays,
    options: LeftPointOptions,
    randomness: Randomness | None = None,
    *,
    density_noise: float = 0.0,
    lock_view: bool = False,
) -> LeftPointRendering:
    """Renders a field along rays; without gradient, in chunks of rays.

    Args:
        field: (points [b r s 3], directions [b r 1 3]) -> (sigma [b r s 1] before the clamp,
            features [b r s c]).
        rays: b views of r rays.
        options: sampling and compositing.
        randomness: draws "depth_jitter" [r s] and "importance" [r s], both U[0, 1), and with
            density noise "noise_coarse" [r s] and "noise_final" [r 2s], both N(0, 1). None is
            deterministic: samples on their grid, importance at equal steps of probability, no
            noise.
        density_noise: standard deviation nu of the noise on sigma, which is independent in the two
            integrations.
        lock_view: whether the field receives view direction (0, 0, -1) everywhere.

    Returns:
        Features, depth, opacity, depths and weights of all rays.
    """
    batch, count = rays.origins.shape[:2]
    directions = constant((0.0, 0.0, -1.0), rays.directions) if lock_view else rays.directions
    directions = directions.expand_as(rays.directions)
    draws = Draws.of(count, options, randomness, density_noise)

    # Size of the chunks.
    chunk = batch * count
    if not torch.is_grad_enabled():
        chunk = options.ray_chunk or free_chunk(rays.origins.device)
    per_image = max(1, chunk // batch)

    # Render chunk by chunk.
    chunks = []
    for start in range(0, max(1, count), per_image):
        part = slice(start, start + per_image)
        some = Rays(rays.origins[:, part], rays.directions[:, part], rays.cosines[:, part])
        chunks.append(_render_chunk(field, options, some, directions[:, part], draws.part(part)))
    if len(chunks) == 1:
        return chunks[0]
    return LeftPointRendering(*(torch.cat(parts, 1) for parts in zip(*chunks)))


def coarse_depths(like: Tensor, options: LeftPointOptions, jitter: Tensor | None = None) -> Tensor:
    """t_i = linspace(start, end, s)_i + (u_i - 1/2) (t_1 - t_0).

    Args:
        like: rays [b r 3] with the device and dtype to use.
        options: start, end and s.
        jitter: u in [0, 1), [b r s]; None is 1/2.

    Returns:
        [b r s].
    """
    steps = torch.linspace(
        options.ray_start, options.ray_end, options.num_steps, device=like.device, dtype=like.dtype
    )
    steps = steps.expand(*like.shape[:-1], -1)
    return steps if jitter is None else steps + (jitter - 0.5) * (steps[..., 1:2] - steps[..., :1])


def resampled_depths(depths: Tensor, weights: Tensor, u: Tensor | None = None) -> Tensor:
    """Samples s depths from the distribution of the coarse weights (NeRF eq. 5).

    The mid-points of neighboring samples are the s - 1 edges of s - 2 bins; bin i has weight i + 1,
    plus 1e-5. The first and the last weight are not used.

    Args:
        depths: coarse depths in increasing order, [b r s].
        weights: weights of these samples, [b r s].
        u: uniform draws, [b r s]; None is linspace(0, 1, s), both ends included.

    Returns:
        [b r s], without gradient.
    """
    with torch.no_grad():
        edges = (depths[..., :-1] + depths[..., 1:]) / 2
        if u is None:
            steps = depths.shape[-1]
            u = torch.linspace(0, 1, steps, device=depths.device, dtype=depths.dtype)
            u = u.expand_as(depths)
        # inverse_cdf adds 1e-5 a second time, as the published code does. The two search from
        # different sides, which matters only in bins of probability < 1e-5; the 2e-5 exclude them.
        return inverse_cdf(edges, weights[..., 1:-1] + 1e-5, u)


def composite_left_point(
    *blocks: Samples, options: LeftPointOptions = LeftPointOptions(), noise: Tensor | None = None
) -> LeftPointRendering:
    """The left-point rule over the union of blocks of samples (`ops.left_point`).

    Args:
        blocks: samples, in any order; at equal depths the samples of earlier blocks come first.
        options: how to composite them.
        noise: added to sigma *in order of depth*, [b r t].

    Returns:
        Features, depth, opacity, depths and weights.
    """
    features, depth, opacity, depths, weights = composite_left(
        *blocks, noise=noise, clamp=options.clamp_mode, last_back=options.last_back
    )
    depth, opacity = depth[..., None], opacity[..., None]
    features = _background(features, opacity, options)
    return LeftPointRendering(features, depth, opacity, depths, weights)


class Draws(NamedTuple):
    """Random numbers of rays; None is deterministic.

    Attributes:
        jitter: u of the coarse depths, [b r s].
        importance: u of the importance samples, [b r s].
        noise_coarse: noise on sigma in the coarse integration, [b r s].
        noise_final: noise on sigma in the final integration, [b r t].
    """

    jitter: Tensor | None = None
    importance: Tensor | None = None
    noise_coarse: Tensor | None = None
    noise_final: Tensor | None = None

    @classmethod
    def of(
        cls,
        count: int,
        options: LeftPointOptions,
        randomness: Randomness | None,
        density_noise: float,
    ) -> Draws:
        """The draws of `count` rays."""
        if randomness is None:
            return cls()

        def noise(name: str, samples: int) -> Tensor | None:
            if density_noise > 0:
                return density_noise * randomness.normal(name, count, samples)
            return None

        steps = options.num_steps
        coarse = noise("noise_coarse", steps)
        jitter = randomness.uniform("depth_jitter", count, steps)
        if not options.hierarchical:  # the coarse integration is the final one
            return cls(jitter, noise_final=coarse)
        final = noise("noise_final", 2 * steps)
        return cls(jitter, randomness.uniform("importance", count, steps), coarse, final)

    def part(self, part: slice) -> Draws:
        """The draws of a range of rays."""
        return Draws(*(None if draw is None else draw[:, part] for draw in self))


def _render_chunk(
    field: Field, options: LeftPointOptions, rays: Rays, view_directions: Tensor, draws: Draws
) -> LeftPointRendering:
    """Renders a chunk of rays; the field receives `view_directions` [b r 3]."""

    def query(depths: Tensor) -> Samples:
        points = rays.origins[:, :, None] + depths[..., None] * rays.directions[:, :, None]
        sigma, features = field(points, view_directions[:, :, None])
        return Samples(depths, sigma[..., 0], features)

    # Coarse samples.
    coarse = query(coarse_depths(rays.directions, options, draws.jitter))
    if not options.hierarchical:
        return composite_left_point(coarse, options=options, noise=draws.noise_final)

    # Importance samples.
    with torch.no_grad():
        sigma = coarse.sigma if draws.noise_coarse is None else coarse.sigma + draws.noise_coarse
        weights = left_point_weights(sigma, coarse.depths, options.clamp_mode)
    fine = query(resampled_depths(coarse.depths, weights, draws.importance))
    return composite_left_point(fine, coarse, options=options, noise=draws.noise_final)


def _background(features: Tensor, opacity: Tensor, options: LeftPointOptions) -> Tensor:
    """Applies `white_back`, then `fill_mode`, to features [b r c]."""
    if options.white_back:
        features = features + 1 - opacity
    if options.fill_mode == "weight":
        return opacity.expand_as(features)
    if options.fill_mode == "debug":
        if features.shape[-1] != 3:
            raise ValueError(
                f"fill_mode 'debug' needs 3 colors, got {features.shape[-1]} features; use 'weight'"
            )
        return torch.where(opacity < 0.9, constant((1.0, 0.0, 0.0), features), features)
    return features
