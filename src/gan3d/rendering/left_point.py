"""pi-GAN's hierarchical volume rendering by the left-point rule, as pi-GAN and CIPS-3D share it
(specs/cips3d.md 3, 6).

    s coarse depths -> field -> left-point weights -> s importance depths -> field -> left-point
    rule over the 2 s

`rendering` is the same plan with EG3D's rules (mid-points, smoothed weights, no interval behind the
last sample).

Convention: rays [b r 3] with unit directions, depths are distances along them, [b r s]. Depths
carry no gradient; densities, features and (through the points) cameras do, in the coarse evaluation
as well as in the fine one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.camera import Rays
from gan3d.ops.composite import Samples, alpha_weights, left_alphas
from gan3d.randomness import Randomness
from gan3d.rendering.volume import Field, inverse_cdf

Clamp = Literal["relu", "softplus"]
Fill = Literal["weight", "debug"]


@dataclass(frozen=True)
class LeftPointOptions:
    """How rays are sampled and composited.

    Attributes:
        ray_start: distance of the first coarse sample along the ray.
        ray_end: distance of the last coarse sample.
        num_steps: coarse samples s; with `hierarchical` 2 s samples are composited.
        hierarchical: whether s importance samples are added.
        last_back: the last sample takes all the light that is left.
        white_back: features + (1 - opacity): a white background of colors in [0, 1]; meaningless
            for other features.
        fill_mode: "weight" shows the opacity in every channel; "debug" paints rays of opacity < 0.9
            red (3 channels).
        clamp_mode: density = relu or softplus of the field's sigma (plus noise).
        ray_chunk: rays (of all images together) rendered at once when no gradient is kept; None
            fits the device.
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
                f"num_steps {self.num_steps} is less than {least}: steps have a length, and the "
                "importance distribution is made of num_steps - 2 weights"
            )
        if not 0 <= self.ray_start < self.ray_end:
            raise ValueError(
                f"ray_start {self.ray_start} and ray_end {self.ray_end}; expected 0 <= start < end"
            )
        for name, value, known in (
            ("clamp_mode", self.clamp_mode, ("relu", "softplus")),
            ("fill_mode", self.fill_mode, (None, "weight", "debug")),
        ):
            if value not in known:
                raise ValueError(f"{name} {value!r} is unknown; choose one of {known}")
        if self.ray_chunk is not None and self.ray_chunk < 1:
            raise ValueError(
                f"ray_chunk {self.ray_chunk} is not positive; None lets the renderer choose"
            )


class LeftPointRendering(NamedTuple):
    """What rays see; t is 2 s samples, s without hierarchical sampling.

    Attributes:
        features: sum_i w_i c_i (with the background or fill of the options), [b r c].
        depth: sum_i w_i t_i, distance along the ray, not divided by the sum of weights, [b r 1].
        opacity: sum_i w_i before `last_back`, [b r 1].
        depths: of all samples, in order, [b r t].
        weights: w_i of these samples, [b r t].
    """

    features: Tensor
    depth: Tensor
    opacity: Tensor
    depths: Tensor
    weights: Tensor

    @property
    def distance(self) -> Tensor:
        """sum_i w_i t_i + (1 - sum_i w_i) t_last, [b r 1]: a ray that meets nothing shows its last
        sample.
        """
        left = 1 - self.weights.sum(-1, keepdim=True)
        return self.depth + left * self.depths[..., -1:]


def render_left_point(
    field: Field,
    rays: Rays,
    options: LeftPointOptions,
    randomness: Randomness | None = None,
    *,
    density_noise: float = 0.0,
    lock_view: bool = False,
) -> LeftPointRendering:
    """Renders a field along rays; when no gradient is kept, in chunks of rays.

    Args:
        field: (points [b r s 3], directions [b r 1 3]) -> (sigma [b r s 1] before the clamp,
            features [b r s c]).
        rays: b views of r rays.
        options: sampling and compositing.
        randomness: draws "depth_jitter" [r s] and "importance" [r s], both U[0, 1), and where there
            is density noise "noise_coarse" [r s] and "noise_final" [r 2s], both N(0, 1). None is
            deterministic: samples on their grid, importance at equal steps of probability, no
            noise.
        density_noise: standard deviation nu of the noise on sigma; the two integrations have noise
            of their own.
        lock_view: the field is told the direction (0, 0, -1) everywhere.
    """
    batch, count = rays.origins.shape[:2]
    directions = rays.directions.new_tensor([0.0, 0.0, -1.0]) if lock_view else rays.directions
    draws = Draws.of(count, options, randomness, density_noise)
    chunk = (
        batch * count
        if torch.is_grad_enabled()
        else options.ray_chunk or free_chunk(rays.origins.device)
    )
    per_image = max(1, chunk // batch)

    parts = []
    for start in range(0, max(1, count), per_image):
        some = slice(start, start + per_image)
        piece = (
            rays.origins[:, some],
            rays.directions[:, some],
            directions.expand_as(rays.directions)[:, some],
        )
        parts.append(_render_chunk(field, options, *piece, draws.part(some)))
    return (
        parts[0]
        if len(parts) == 1
        else LeftPointRendering(*(torch.cat(part, 1) for part in zip(*parts)))
    )


def free_chunk(device: torch.device) -> int:
    """Rays rendered at once when no gradient is kept: few enough for a CPU's cache, many enough to
    fill a GPU.
    """
    return 512 if device.type == "cpu" else 16384


def coarse_depths(like: Tensor, options: LeftPointOptions, jitter: Tensor | None = None) -> Tensor:
    """t_i = linspace(start, end, s)_i + (u_i - 1/2) (t_1 - t_0), [b r s] for rays like `like` [b r
    3].

    Args:
        like: gives b, r, device and dtype.
        options: start, end and s.
        jitter: u in [0, 1), [b r s]; None is 1/2.
    """
    steps = torch.linspace(
        options.ray_start, options.ray_end, options.num_steps, device=like.device, dtype=like.dtype
    ).expand(*like.shape[:-1], -1)
    return steps if jitter is None else steps + (jitter - 0.5) * (steps[..., 1:2] - steps[..., :1])


def resampled_depths(depths: Tensor, weights: Tensor, u: Tensor | None = None) -> Tensor:
    """s depths drawn where the coarse weights are (NeRF eq. 5): the first and last weight are left
    out, 1e-5 added.

    Mid-points of neighboring samples are the s - 1 edges of s - 2 bins, bin i carrying weight i +
    1.

    Args:
        depths: coarse depths in order, [b r s].
        weights: of these samples, [b r s].
        u: uniform draws, [b r s]; None is linspace(0, 1, s), both ends included.

    Returns:
        [b r s], without gradient.
    """
    with torch.no_grad():
        edges = (depths[..., :-1] + depths[..., 1:]) / 2
        if u is None:
            steps = depths.shape[-1]
            u = torch.linspace(0, 1, steps, device=depths.device, dtype=depths.dtype).expand_as(
                depths
            )
        # inverse_cdf adds 1e-5 a second time, as the published code does. It searches from the
        # other side, which makes a difference only in bins of probability < 1e-5, and these 2e-5
        # leave none.
        return inverse_cdf(edges, weights[..., 1:-1] + 1e-5, u)


def left_point_weights(sigma: Tensor, depths: Tensor, clamp_mode: Clamp = "relu") -> Tensor:
    """w_i = alpha_i prod_{j<i} (1 - alpha_j + 1e-10), alpha_i = 1 - exp(-clamp(sigma_i) (t_{i+1} -
    t_i)).

    The interval behind the last sample is 1e10 long: it is opaque wherever its density is positive.

    Args:
        sigma: as the field gives it, of samples in order, [.. s].
        depths: [.. s].
        clamp_mode: relu or softplus.

    Returns:
        [.. s].
    """
    density = F.relu(sigma) if clamp_mode == "relu" else F.softplus(sigma)
    return alpha_weights(left_alphas(density, depths))


def composite_left_point(
    *blocks: Samples, options: LeftPointOptions = LeftPointOptions(), noise: Tensor | None = None
) -> LeftPointRendering:
    """The left-point rule over the union of blocks of samples; features = sum_i w_i c_i.

    Only the scalars are sorted: weights go back to their blocks, and features are never moved.

    Args:
        blocks: samples, in any order; of equal depths the earlier block's comes first.
        options: how they are composited.
        noise: added to sigma *in order of depth*, [b r t].
    """
    depths, order = torch.cat([block.depths for block in blocks], -1).sort(dim=-1, stable=True)
    sigma = torch.cat([block.sigma for block in blocks], -1).gather(-1, order)
    weights = left_point_weights(
        sigma if noise is None else sigma + noise, depths, options.clamp_mode
    )
    opacity = weights.sum(-1, keepdim=True)
    if options.last_back:
        weights = torch.cat([weights[..., :-1], weights[..., -1:] + 1 - opacity], -1)
    given_back = torch.zeros_like(weights).scatter(-1, order, weights)
    shares = given_back.split([block.depths.shape[-1] for block in blocks], -1)
    features = sum(
        (share[..., None, :] @ block.rgb).squeeze(-2) for share, block in zip(shares, blocks)
    )
    assert isinstance(features, Tensor)
    features = _background(features, opacity, options)
    return LeftPointRendering(
        features, (weights * depths).sum(-1, keepdim=True), opacity, depths, weights
    )


class Draws(NamedTuple):
    """Jitter u [b r s], importance u [b r s], noise of the coarse [b r s] and of the last [b r t]
    integration.
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
        """Those of `count` rays; where the deterministic choice is meant, None."""
        if randomness is None:
            return cls()
        steps, noisy = options.num_steps, density_noise > 0
        coarse = density_noise * randomness.normal("noise_coarse", count, steps) if noisy else None
        jitter = randomness.uniform("depth_jitter", count, steps)
        if not options.hierarchical:  # there is one integration
            return cls(jitter, noise_final=coarse)
        final = (
            density_noise * randomness.normal("noise_final", count, 2 * steps) if noisy else None
        )
        return cls(jitter, randomness.uniform("importance", count, steps), coarse, final)

    def part(self, some: slice) -> Draws:
        """The draws of some rays."""
        return Draws(*(None if draw is None else draw[:, some] for draw in self))


def _render_chunk(
    field: Field,
    options: LeftPointOptions,
    origins: Tensor,
    along: Tensor,
    told: Tensor,
    draws: Draws,
) -> LeftPointRendering:
    """Rays origins + t along; the field is told the directions `told`."""

    def query(depths: Tensor) -> Samples:
        points = origins[:, :, None] + depths[..., None] * along[:, :, None]  # b r s 3
        sigma, features = field(points, told[:, :, None])
        return Samples(depths, sigma[..., 0], features)

    coarse = query(coarse_depths(along, options, draws.jitter))
    if not options.hierarchical:
        return composite_left_point(coarse, options=options, noise=draws.noise_final)
    with torch.no_grad():
        sigma = coarse.sigma if draws.noise_coarse is None else coarse.sigma + draws.noise_coarse
        weights = left_point_weights(sigma, coarse.depths, options.clamp_mode)
    fine = query(resampled_depths(coarse.depths, weights, draws.importance))
    return composite_left_point(fine, coarse, options=options, noise=draws.noise_final)


def _background(features: Tensor, opacity: Tensor, options: LeftPointOptions) -> Tensor:
    """`white_back`, then `fill_mode`, of features [b r c]."""
    if options.white_back:
        features = features + 1 - opacity
    if options.fill_mode == "weight":
        return opacity.expand_as(features)
    if options.fill_mode == "debug":
        if features.shape[-1] != 3:
            raise ValueError(
                f"fill_mode 'debug' paints colors, got {features.shape[-1]} features; use 'weight'"
            )
        return torch.where(opacity < 0.9, features.new_tensor([1.0, 0.0, 0.0]), features)
    return features
