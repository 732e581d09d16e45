"""Hierarchical sampling and the left-point rule: hand-made answers, a naive reference, chunks,
gradients, errors.
"""

import math

import pytest
import torch
from torch import Tensor

from gan3d.camera import Camera, Rays
from gan3d.ops.composite import Samples
from gan3d.randomness import Randomness, Recorded
from gan3d.rendering.left_point import (
    LeftPointOptions,
    LeftPointRendering,
    coarse_depths,
    composite_left_point,
    left_point_weights,
    render_left_point,
    resampled_depths,
)

DOUBLE = torch.float64
OPTIONS = LeftPointOptions(ray_start=1.0, ray_end=3.0, num_steps=9)


def rays(b: int = 2, side: int = 3, dtype: torch.dtype = DOUBLE) -> Rays:
    return Camera.from_angles(
        torch.linspace(-0.4, 0.4, b, dtype=dtype), 0.1, radius=2.0, fov=30
    ).rays(side)


def constant(sigma: float, color: float = 0.5, channels: int = 2):
    """The same density and color everywhere."""
    return lambda points, _: (
        torch.full_like(points[..., :1], sigma),
        points.new_full((*points.shape[:-1], channels), color),
    )


def slab(near: float, far: float, sigma: float):
    """Density within a shell of distances from the first camera's center; features are that
    distance.
    """
    origin = rays().origins[:1, :1, None]

    def field(points: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        distance = torch.linalg.vector_norm(points - origin, dim=-1, keepdim=True)
        return torch.where((distance > near) & (distance < far), sigma, -1.0), distance

    return field


def waves(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """A smooth field that sees points and directions."""
    sigma = 3 * torch.sin(3 * points).sum(-1, keepdim=True)
    return sigma, torch.cat([torch.cos(points), directions.expand_as(points)], -1)


def some(seen: LeftPointRendering) -> Tensor:
    return torch.cat([seen.features, seen.depth, seen.opacity], -1)


# -------------------------------------------------------------------------------------------------
# hand-made answers


def test_coarse_samples_stand_on_both_limits_and_jitter_moves_them_by_half_a_step():
    like = torch.zeros(1, 2, 3, dtype=DOUBLE)
    step = 2 / 8
    grid = 1 + step * torch.arange(9, dtype=DOUBLE)
    assert torch.allclose(coarse_depths(like, OPTIONS), grid.expand(1, 2, -1), atol=1e-15)
    jitter = torch.rand(1, 2, 9, dtype=DOUBLE)
    assert torch.allclose(
        coarse_depths(like, OPTIONS, jitter), grid + (jitter - 0.5) * step, atol=1e-15
    )


def test_weights_of_a_constant_density_fall_off_geometrically():
    depths, sigma = torch.arange(5, dtype=DOUBLE) * 0.5, 1.2
    through = math.exp(-sigma * 0.5)
    expected = torch.tensor(
        [(1 - through) * through**i for i in range(4)] + [through**4], dtype=DOUBLE
    )
    assert torch.allclose(
        left_point_weights(torch.full((5,), sigma, dtype=DOUBLE), depths), expected, atol=1e-9
    )


def test_softplus_gives_matter_to_densities_that_relu_cuts_off():
    sigma, depths = torch.full((4,), -1.0, dtype=DOUBLE), torch.arange(4, dtype=DOUBLE)
    assert left_point_weights(sigma, depths).count_nonzero() == 0
    first = 1 - math.exp(-math.log1p(math.exp(-1.0)))
    assert left_point_weights(sigma, depths, "softplus")[0].item() == pytest.approx(first)


def test_importance_samples_follow_a_piecewise_linear_distribution():
    depths = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0], dtype=DOUBLE)  # mid-points 0.5, 1.5, 2.5, 3.5
    weights = torch.tensor(
        [9.0, 0.2, 0.6, 0.2, 9.0], dtype=DOUBLE
    )  # the outer ones count for nothing
    u = torch.tensor([0.0, 0.1, 0.2, 0.5, 1.0], dtype=DOUBLE)
    expected = torch.tensor([0.5, 1.0, 1.5, 2.0, 3.5], dtype=DOUBLE)
    assert torch.allclose(resampled_depths(depths, weights, u), expected, atol=1e-4)
    even = resampled_depths(depths, torch.zeros(5, dtype=DOUBLE))
    assert torch.allclose(even, torch.linspace(0.5, 3.5, 5, dtype=DOUBLE), atol=1e-12)


def test_an_opaque_field_shows_its_first_sample():
    seen = render_left_point(constant(1e6), rays(), OPTIONS)
    assert torch.allclose(seen.depth, torch.ones_like(seen.depth))
    assert torch.allclose(seen.opacity, torch.ones_like(seen.depth))
    assert torch.allclose(seen.features, torch.full_like(seen.features, 0.5))


def test_importance_samples_find_the_front_of_a_slab():
    field = slab(1.6, 1.9, 1e6)
    coarse = render_left_point(field, rays(1), LeftPointOptions(1.0, 3.0, 9, hierarchical=False))
    fine = render_left_point(field, rays(1), LeftPointOptions(1.0, 3.0, 9))
    assert torch.allclose(
        coarse.depth, torch.full_like(coarse.depth, 1.75)
    )  # its only sample within
    assert fine.depths.shape[-1] == 18
    # All weight is in the bin of mid-points 1.625 .. 1.875, and u = 1/8 is the first inside (u = 0
    # stays at 1.125).
    assert torch.allclose(fine.depth, torch.full_like(fine.depth, 1.625 + 0.25 / 8), atol=1e-4)
    assert torch.allclose(fine.features, fine.depth)


def test_a_ray_that_meets_nothing_shows_nothing_at_its_last_sample():
    seen = render_left_point(constant(-1.0), rays(), OPTIONS)
    assert seen.features.count_nonzero() == 0
    assert seen.opacity.count_nonzero() == 0
    assert seen.depth.count_nonzero() == 0
    assert torch.allclose(seen.distance, torch.full_like(seen.distance, 3.0))


def test_the_last_sample_may_take_the_light_that_is_left():
    depths, sigma = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.5, 0.25, -1.0])
    colors = torch.tensor([[1.0], [10.0], [100.0]])
    first = 1 - math.exp(-0.5)
    second = math.exp(-0.5) * (1 - math.exp(-0.5))
    seen = composite_left_point(
        Samples(depths, sigma, colors), options=LeftPointOptions(last_back=True)
    )
    left = 1 - first - second
    assert seen.features.item() == pytest.approx(first + 10 * second + 100 * left, rel=1e-6)
    assert seen.depth.item() == pytest.approx(first + 2 * second + 4 * left, rel=1e-6)
    assert seen.distance.item() == pytest.approx(seen.depth.item(), rel=1e-6)
    assert seen.opacity.item() == pytest.approx(first + second, rel=1e-6)


def test_white_background_fill_by_weight_and_debug():
    def seen(channels=3, **options):
        return render_left_point(
            constant(-1.0, channels=channels), rays(), LeftPointOptions(1.0, 3.0, 4, **options)
        ).features

    assert torch.equal(seen(white_back=True), torch.ones(2, 9, 3, dtype=DOUBLE))
    assert torch.equal(
        seen(white_back=True, last_back=True), torch.full((2, 9, 3), 1.5, dtype=DOUBLE)
    )
    assert torch.equal(seen(fill_mode="weight"), torch.zeros(2, 9, 3, dtype=DOUBLE))
    assert torch.equal(
        seen(fill_mode="debug"), torch.tensor([1.0, 0, 0], dtype=DOUBLE).expand(2, 9, 3)
    )
    with pytest.raises(ValueError, match="'debug' paints colors, got 2 features"):
        seen(channels=2, fill_mode="debug")


def test_a_locked_view_is_told_to_the_field_and_moves_no_point():
    options = LeftPointOptions(1.0, 3.0, 5)
    free, locked = (
        render_left_point(waves, rays(), options, lock_view=lock) for lock in (False, True)
    )
    assert torch.equal(free.features[..., :3], locked.features[..., :3])
    towards = torch.tensor([0.0, 0.0, -1.0], dtype=DOUBLE) * locked.opacity
    assert torch.allclose(locked.features[..., 3:], towards, atol=1e-6)


# ------------------------------------------------------------ a reference, line by line


def reference(
    field, views: Rays, options: LeftPointOptions, draws: dict[str, Tensor], noise: float
) -> Tensor:
    """specs/cips3d.md sections 3 and 6 with everything moved and sorted."""

    def query(depths):
        points = views.origins[:, :, None] + depths[..., None] * views.directions[:, :, None]
        return field(points, views.directions[:, :, None])

    def weigh(sigma, depths):
        deltas = torch.cat(
            [depths[..., 1:] - depths[..., :-1], torch.full_like(depths[..., :1], 1e10)], -1
        )
        alpha = 1 - torch.exp(-deltas * torch.relu(sigma))
        through = torch.cat([torch.ones_like(alpha[..., :1]), 1 - alpha + 1e-10], -1)
        return alpha * torch.cumprod(through, -1)[..., :-1]

    grid = torch.linspace(options.ray_start, options.ray_end, options.num_steps, dtype=DOUBLE)
    depths = grid + (draws["depth_jitter"] - 0.5) * (grid[1] - grid[0])
    sigma, rgb = query(depths)
    weights = weigh(sigma[..., 0] + noise * draws["noise_coarse"], depths) + 1e-5
    pdf = weights[..., 1:-1] + 1e-5
    cdf = torch.nn.functional.pad((pdf / pdf.sum(-1, keepdim=True)).cumsum(-1), (1, 0))
    edges, u = (depths[..., 1:] + depths[..., :-1]) / 2, draws["importance"]
    i = torch.searchsorted(cdf, u)
    low, high = (i - 1).clamp(min=0), i.clamp(max=cdf.shape[-1] - 1)
    width = cdf.gather(-1, high) - cdf.gather(-1, low)
    width = torch.where(width < 1e-5, 1.0, width)
    step = edges.gather(-1, high) - edges.gather(-1, low)
    fine = edges.gather(-1, low) + (u - cdf.gather(-1, low)) / width * step
    sigma_fine, rgb_fine = query(fine)
    depths, order = torch.cat([fine, depths], -1).sort(-1)
    sigma = torch.cat([sigma_fine, sigma], 2)[..., 0].gather(-1, order)
    rgb = torch.cat([rgb_fine, rgb], 2).gather(
        2, order[..., None].expand(-1, -1, -1, rgb.shape[-1])
    )
    weights = weigh(sigma + noise * draws["noise_final"], depths)
    sums = (
        (weights[..., None] * rgb).sum(2),
        (weights * depths).sum(-1, keepdim=True),
        weights.sum(-1, keepdim=True),
    )
    return torch.cat(sums, -1)


@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_rendering_is_the_published_procedure(noise):
    randomness, views = Randomness(3, range(2), dtype=DOUBLE), rays(side=5)
    draws = {
        "depth_jitter": randomness.uniform("depth_jitter", 25, 9),
        "importance": randomness.uniform("importance", 25, 9),
        "noise_coarse": randomness.normal("noise_coarse", 25, 9),
        "noise_final": randomness.normal("noise_final", 25, 18),
    }
    seen = render_left_point(waves, views, OPTIONS, randomness, density_noise=noise)
    assert torch.allclose(some(seen), reference(waves, views, OPTIONS, draws, noise), atol=1e-12)


def test_no_randomness_is_no_jitter_even_probabilities_and_no_noise():
    steps = torch.linspace(0, 1, 9, dtype=DOUBLE).expand(2, 9, -1)
    recorded = Recorded(
        {"depth_jitter": torch.full((2, 9, 9), 0.5, dtype=DOUBLE), "importance": steps}
    )
    still = render_left_point(waves, rays(), OPTIONS, density_noise=5.0)
    assert torch.equal(some(still), some(render_left_point(waves, rays(), OPTIONS, recorded)))


def test_one_integration_has_the_noise_of_the_coarse_one():
    options = LeftPointOptions(1.0, 3.0, 9, hierarchical=False)
    noise = torch.randn(2, 9, 9, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    recorded = Recorded(
        {"depth_jitter": torch.full((2, 9, 9), 0.5, dtype=DOUBLE), "noise_coarse": noise}
    )
    seen = render_left_point(constant(1.0), rays(), options, recorded, density_noise=0.5)
    expected = left_point_weights(1 + 0.5 * noise, coarse_depths(rays().directions, options))
    assert torch.allclose(seen.weights, expected)


def test_blocks_of_samples_are_merged_in_order_of_depth():
    depths = (
        torch.rand(4, 7, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)).sort(-1).values
    )
    sigma, rgb = torch.randn(4, 7, dtype=DOUBLE), torch.randn(4, 7, 3, dtype=DOUBLE)
    together = composite_left_point(Samples(depths, sigma, rgb))
    one, other = torch.tensor([5, 0, 2]), torch.tensor([6, 1, 4, 3])
    apart = composite_left_point(
        *(Samples(depths[:, k], sigma[:, k], rgb[:, k]) for k in (one, other))
    )
    assert torch.allclose(some(together), some(apart), atol=1e-15)
    assert torch.equal(together.weights, apart.weights)


# ---------------------------------------------------------------------------------------------
# chunks and gradients


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_make_no_difference(chunk):
    options = LeftPointOptions(1.0, 3.0, 6, ray_chunk=chunk)
    randomness = Randomness(1, range(2), dtype=DOUBLE)
    whole = render_left_point(
        waves, rays(), LeftPointOptions(1.0, 3.0, 6), randomness, density_noise=0.3
    )
    with torch.no_grad():
        parts = render_left_point(waves, rays(), options, randomness, density_noise=0.3)
    for a, b in zip(whole, parts):
        assert torch.allclose(a, b, atol=1e-14)


def test_no_rays_are_no_pixels():
    with torch.no_grad():
        views = Camera.from_angles(torch.zeros(2), 0.0).rays(4, torch.arange(0))
        assert render_left_point(waves, views, OPTIONS).features.shape == (2, 0, 6)


def test_coarse_and_fine_densities_have_gradients_and_depths_have_none():
    seen_sigmas = []

    def field(points, directions):
        sigma, rgb = waves(points, directions)
        seen_sigmas.append(sigma.requires_grad_())
        return sigma, rgb

    seen = render_left_point(field, rays(), OPTIONS)
    gradients = torch.autograd.grad(seen.features.sum(), seen_sigmas)
    assert len(gradients) == 2
    assert all(g.count_nonzero() > 0 for g in gradients)
    assert not seen.depths.requires_grad


def test_gradient_reaches_the_camera_through_the_points():
    label = Camera.from_angles(torch.tensor([0.2], dtype=DOUBLE), 0.1, radius=2.0, fov=30).label()

    def picture(label):
        # Depths of importance samples move with the camera without a gradient: left out here.
        options = LeftPointOptions(1.0, 3.0, 5, hierarchical=False, clamp_mode="softplus")
        return some(render_left_point(waves, Camera.from_label(label).rays(2), options))

    assert torch.autograd.gradcheck(picture, label.requires_grad_())


def test_the_left_point_rule_can_be_differentiated_twice():
    torch.manual_seed(0)
    depths = torch.rand(2, 5, dtype=DOUBLE)
    sigma, rgb = torch.randn(2, 5, dtype=DOUBLE) - 1, torch.randn(2, 5, 2, dtype=DOUBLE)
    # The last interval of 1e10 has no finite difference: last samples without density.
    sigma[torch.arange(2), depths.argmax(-1)] = -3.0

    for clamp, options in (("relu", {}), ("relu", {"last_back": True, "white_back": True})):
        chosen = LeftPointOptions(clamp_mode=clamp, **options)

        def rule(sigma, rgb, chosen=chosen):
            return some(composite_left_point(Samples(depths, sigma, rgb), options=chosen))

        inputs = (sigma.clone().requires_grad_(), rgb.clone().requires_grad_())
        assert torch.autograd.gradcheck(rule, inputs)
        assert torch.autograd.gradgradcheck(rule, inputs)


# --------------------------------------------------------------------------------------------------
# errors


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_steps": 2}, "num_steps 2 is less than 3"),
        ({"num_steps": 1, "hierarchical": False}, "num_steps 1 is less than 2"),
        ({"ray_start": 1.2, "ray_end": 1.2}, "expected 0 <= start < end"),
        ({"clamp_mode": "exp"}, "clamp_mode 'exp' is unknown"),
        ({"fill_mode": "red"}, "fill_mode 'red' is unknown"),
        ({"ray_chunk": 0}, "ray_chunk 0 is not positive"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        LeftPointOptions(**options)
