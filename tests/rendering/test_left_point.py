"""Left-point rule and hierarchical sampling: by hand, a reference, chunks, gradients, errors."""

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
    yaw = torch.linspace(-0.4, 0.4, b, dtype=dtype)
    return Camera.from_angles(yaw, 0.1, radius=2.0, fov=30).rays(side)


def constant(sigma: float, color: float = 0.5, channels: int = 2):
    """Constant density and color."""

    def field(points: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        density = torch.full_like(points[..., :1], sigma)
        return density, points.new_full((*points.shape[:-1], channels), color)

    return field


def slab(near: float, far: float, sigma: float):
    """Density between two distances from the first camera; features are the distance."""
    origin = rays().origins[:1, :1, None]

    def field(points: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        distance = torch.linalg.vector_norm(points - origin, dim=-1, keepdim=True)
        return torch.where((distance > near) & (distance < far), sigma, -1.0), distance

    return field


def waves(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """A smooth field of points and directions."""
    sigma = 3 * torch.sin(3 * points).sum(-1, keepdim=True)
    return sigma, torch.cat([torch.cos(points), directions.expand_as(points)], -1)


def pixels(seen: LeftPointRendering) -> Tensor:
    """Features, depth and opacity, [b r c+2]."""
    return torch.cat([seen.features, seen.depth, seen.opacity], -1)


# -- Hand-made answers -----------------------------------------------------------------------------


def test_coarse_samples_include_both_limits_and_jitter_moves_them_by_half_a_step():
    like = torch.zeros(1, 2, 3, dtype=DOUBLE)
    step = 2 / 8
    grid = 1 + step * torch.arange(9, dtype=DOUBLE)
    assert torch.allclose(coarse_depths(like, OPTIONS), grid.expand(1, 2, -1), atol=1e-15)
    jitter = torch.rand(1, 2, 9, dtype=DOUBLE)
    jittered = grid + (jitter - 0.5) * step
    assert torch.allclose(coarse_depths(like, OPTIONS, jitter), jittered, atol=1e-15)


def test_weights_of_a_constant_density_fall_off_geometrically():
    depths, sigma = torch.arange(5, dtype=DOUBLE) * 0.5, 1.2
    through = math.exp(-sigma * 0.5)
    expected = [(1 - through) * through**i for i in range(4)] + [through**4]
    weights = left_point_weights(torch.full((5,), sigma, dtype=DOUBLE), depths)
    assert torch.allclose(weights, torch.tensor(expected, dtype=DOUBLE), atol=1e-9)


def test_softplus_makes_negative_sigma_a_density_and_relu_does_not():
    sigma, depths = torch.full((4,), -1.0, dtype=DOUBLE), torch.arange(4, dtype=DOUBLE)
    assert left_point_weights(sigma, depths).count_nonzero() == 0
    first = 1 - math.exp(-math.log1p(math.exp(-1.0)))
    assert left_point_weights(sigma, depths, "softplus")[0].item() == pytest.approx(first)


def test_importance_samples_follow_a_piecewise_linear_distribution():
    depths = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0], dtype=DOUBLE)  # mid-points 0.5, 1.5, 2.5, 3.5
    weights = torch.tensor([9.0, 0.2, 0.6, 0.2, 9.0], dtype=DOUBLE)  # the outer ones are ignored
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
    # The only coarse sample inside is at 1.75.
    assert torch.allclose(coarse.depth, torch.full_like(coarse.depth, 1.75))
    assert fine.depths.shape[-1] == 18
    # All weight is in the bin of mid-points 1.625 .. 1.875, and u = 1/8 is the first inside it
    # (u = 0 stays at 1.125).
    assert torch.allclose(fine.depth, torch.full_like(fine.depth, 1.625 + 0.25 / 8), atol=1e-4)
    assert torch.allclose(fine.features, fine.depth)


def test_an_empty_ray_is_black_at_the_distance_of_its_last_sample():
    seen = render_left_point(constant(-1.0), rays(), OPTIONS)
    assert seen.features.count_nonzero() == 0
    assert seen.opacity.count_nonzero() == 0
    assert seen.depth.count_nonzero() == 0
    assert torch.allclose(seen.distance, torch.full_like(seen.distance, 3.0))


def test_last_back_gives_the_remaining_light_to_the_last_sample():
    depths, sigma = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.5, 0.25, -1.0])
    colors = torch.tensor([[1.0], [10.0], [100.0]])
    first = 1 - math.exp(-0.5)
    second = math.exp(-0.5) * (1 - math.exp(-0.5))
    options = LeftPointOptions(last_back=True)
    seen = composite_left_point(Samples(depths, sigma, colors), options=options)
    rest = 1 - first - second
    assert seen.features.item() == pytest.approx(first + 10 * second + 100 * rest, rel=1e-6)
    assert seen.depth.item() == pytest.approx(first + 2 * second + 4 * rest, rel=1e-6)
    assert seen.distance.item() == pytest.approx(seen.depth.item(), rel=1e-6)
    assert seen.opacity.item() == pytest.approx(first + second, rel=1e-6)


def test_white_background_fill_by_weight_and_debug():
    def features(channels=3, **options):
        field = constant(-1.0, channels=channels)
        return render_left_point(field, rays(), LeftPointOptions(1.0, 3.0, 4, **options)).features

    def filled(color):
        return torch.tensor(color, dtype=DOUBLE).expand(2, 9, 3)

    assert torch.equal(features(white_back=True), filled([1.0, 1.0, 1.0]))
    assert torch.equal(features(white_back=True, last_back=True), filled([1.5, 1.5, 1.5]))
    assert torch.equal(features(fill_mode="weight"), filled([0.0, 0.0, 0.0]))
    assert torch.equal(features(fill_mode="debug"), filled([1.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="'debug' needs 3 colors, got 2 features"):
        features(channels=2, fill_mode="debug")


def test_a_locked_view_changes_the_direction_of_the_field_and_no_point():
    options = LeftPointOptions(1.0, 3.0, 5)
    free = render_left_point(waves, rays(), options)
    locked = render_left_point(waves, rays(), options, lock_view=True)
    assert torch.equal(free.features[..., :3], locked.features[..., :3])
    direction = torch.tensor([0.0, 0.0, -1.0], dtype=DOUBLE) * locked.opacity
    assert torch.allclose(locked.features[..., 3:], direction, atol=1e-6)


# -- A reference, line by line ---------------------------------------------------------------------


def reference(
    field, views: Rays, options: LeftPointOptions, draws: dict[str, Tensor], noise: float
) -> Tensor:
    """specs/cips3d.md sections 3 and 6 line by line; sorts densities and features."""

    def query(depths):
        points = views.origins[:, :, None] + depths[..., None] * views.directions[:, :, None]
        return field(points, views.directions[:, :, None])

    def weigh(sigma, depths):
        last = torch.full_like(depths[..., :1], 1e10)
        deltas = torch.cat([depths[..., 1:] - depths[..., :-1], last], -1)
        alpha = 1 - torch.exp(-deltas * torch.relu(sigma))
        through = torch.cat([torch.ones_like(alpha[..., :1]), 1 - alpha + 1e-10], -1)
        return alpha * torch.cumprod(through, -1)[..., :-1]

    # Coarse samples.
    grid = torch.linspace(options.ray_start, options.ray_end, options.num_steps, dtype=DOUBLE)
    depths = grid + (draws["depth_jitter"] - 0.5) * (grid[1] - grid[0])
    sigma, rgb = query(depths)

    # Importance samples.
    weights = weigh(sigma[..., 0] + noise * draws["noise_coarse"], depths) + 1e-5
    pdf = weights[..., 1:-1] + 1e-5
    cdf = torch.nn.functional.pad((pdf / pdf.sum(-1, keepdim=True)).cumsum(-1), (1, 0))
    edges = (depths[..., 1:] + depths[..., :-1]) / 2
    u = draws["importance"]
    i = torch.searchsorted(cdf, u)
    low = (i - 1).clamp(min=0)
    high = i.clamp(max=cdf.shape[-1] - 1)
    width = cdf.gather(-1, high) - cdf.gather(-1, low)
    width = torch.where(width < 1e-5, 1.0, width)
    step = edges.gather(-1, high) - edges.gather(-1, low)
    fine = edges.gather(-1, low) + (u - cdf.gather(-1, low)) / width * step
    sigma_fine, rgb_fine = query(fine)

    # All samples in order of depth.
    depths, order = torch.cat([fine, depths], -1).sort(-1)
    sigma = torch.cat([sigma_fine, sigma], 2)[..., 0].gather(-1, order)
    rgb_order = order[..., None].expand(-1, -1, -1, rgb.shape[-1])
    rgb = torch.cat([rgb_fine, rgb], 2).gather(2, rgb_order)
    weights = weigh(sigma + noise * draws["noise_final"], depths)
    features = (weights[..., None] * rgb).sum(2)
    depth = (weights * depths).sum(-1, keepdim=True)
    return torch.cat([features, depth, weights.sum(-1, keepdim=True)], -1)


@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_rendering_agrees_with_the_published_procedure(noise):
    randomness, views = Randomness(3, range(2), dtype=DOUBLE), rays(side=5)
    draws = {
        "depth_jitter": randomness.uniform("depth_jitter", 25, 9),
        "importance": randomness.uniform("importance", 25, 9),
        "noise_coarse": randomness.normal("noise_coarse", 25, 9),
        "noise_final": randomness.normal("noise_final", 25, 18),
    }
    seen = render_left_point(waves, views, OPTIONS, randomness, density_noise=noise)
    assert torch.allclose(pixels(seen), reference(waves, views, OPTIONS, draws, noise), atol=1e-12)


def test_without_randomness_there_is_no_jitter_no_noise_and_equal_steps_of_probability():
    jitter = torch.full((2, 9, 9), 0.5, dtype=DOUBLE)
    steps = torch.linspace(0, 1, 9, dtype=DOUBLE).expand(2, 9, -1)
    draws = Recorded({"depth_jitter": jitter, "importance": steps})
    still = render_left_point(waves, rays(), OPTIONS, density_noise=5.0)
    recorded = render_left_point(waves, rays(), OPTIONS, draws)
    assert torch.equal(pixels(still), pixels(recorded))


def test_a_single_integration_has_the_noise_of_the_coarse_one():
    options = LeftPointOptions(1.0, 3.0, 9, hierarchical=False)
    jitter = torch.full((2, 9, 9), 0.5, dtype=DOUBLE)
    noise = torch.randn(2, 9, 9, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    draws = Recorded({"depth_jitter": jitter, "noise_coarse": noise})
    seen = render_left_point(constant(1.0), rays(), options, draws, density_noise=0.5)
    expected = left_point_weights(1 + 0.5 * noise, coarse_depths(rays().directions, options))
    assert torch.allclose(seen.weights, expected)


def test_blocks_of_samples_are_merged_in_order_of_depth():
    generator = torch.Generator().manual_seed(1)
    depths = torch.rand(4, 7, dtype=DOUBLE, generator=generator).sort(-1).values
    sigma, rgb = torch.randn(4, 7, dtype=DOUBLE), torch.randn(4, 7, 3, dtype=DOUBLE)
    together = composite_left_point(Samples(depths, sigma, rgb))
    parts = torch.tensor([5, 0, 2]), torch.tensor([6, 1, 4, 3])
    blocks = [Samples(depths[:, k], sigma[:, k], rgb[:, k]) for k in parts]
    apart = composite_left_point(*blocks)
    assert torch.allclose(pixels(together), pixels(apart), atol=1e-15)
    assert torch.equal(together.weights, apart.weights)


# -- Chunks and gradients --------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_make_no_difference(chunk):
    whole_options = LeftPointOptions(1.0, 3.0, 6)
    chunk_options = LeftPointOptions(1.0, 3.0, 6, ray_chunk=chunk)
    randomness = Randomness(1, range(2), dtype=DOUBLE)
    whole = render_left_point(waves, rays(), whole_options, randomness, density_noise=0.3)
    with torch.no_grad():
        chunked = render_left_point(waves, rays(), chunk_options, randomness, density_noise=0.3)
    for a, b in zip(whole, chunked):
        assert torch.allclose(a, b, atol=1e-14)


def test_zero_rays_give_zero_pixels():
    with torch.no_grad():
        views = Camera.from_angles(torch.zeros(2), 0.0).rays(4, torch.arange(0))
        assert render_left_point(waves, views, OPTIONS).features.shape == (2, 0, 6)


def test_coarse_and_fine_densities_have_gradients_and_depths_have_none():
    sigmas = []

    def field(points, directions):
        sigma, rgb = waves(points, directions)
        sigmas.append(sigma.requires_grad_())
        return sigma, rgb

    seen = render_left_point(field, rays(), OPTIONS)
    gradients = torch.autograd.grad(seen.features.sum(), sigmas)
    assert len(gradients) == 2
    assert all(g.count_nonzero() > 0 for g in gradients)
    assert not seen.depths.requires_grad


def test_gradient_reaches_the_camera_through_the_points():
    label = Camera.from_angles(torch.tensor([0.2], dtype=DOUBLE), 0.1, radius=2.0, fov=30).label()

    def picture(label):
        # Importance samples move with the camera but carry no gradient, so there are none here.
        options = LeftPointOptions(1.0, 3.0, 5, hierarchical=False, clamp_mode="softplus")
        return pixels(render_left_point(waves, Camera.from_label(label).rays(2), options))

    assert torch.autograd.gradcheck(picture, label.requires_grad_())


def test_the_left_point_rule_is_twice_differentiable():
    torch.manual_seed(0)
    depths = torch.rand(2, 5, dtype=DOUBLE)
    sigma, rgb = torch.randn(2, 5, dtype=DOUBLE) - 1, torch.randn(2, 5, 2, dtype=DOUBLE)
    # Finite differences fail on the last interval of 1e10, so the last samples have no density.
    sigma[torch.arange(2), depths.argmax(-1)] = -3.0

    for clamp, options in (("relu", {}), ("relu", {"last_back": True, "white_back": True})):
        chosen = LeftPointOptions(clamp_mode=clamp, **options)

        def rule(sigma, rgb, chosen=chosen):
            return pixels(composite_left_point(Samples(depths, sigma, rgb), options=chosen))

        inputs = (sigma.clone().requires_grad_(), rgb.clone().requires_grad_())
        assert torch.autograd.gradcheck(rule, inputs)
        assert torch.autograd.gradgradcheck(rule, inputs)


# -- Errors ----------------------------------------------------------------------------------------


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
def test_impossible_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        LeftPointOptions(**options)
