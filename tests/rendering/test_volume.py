"""Volume rendering: closed-form fields, limits, samples, chunks, independence of images."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from gan3d.camera import Camera, Rays
from gan3d.randomness import Randomness, Recorded
from gan3d.rendering import (
    RenderOptions,
    importance_depths,
    inverse_cdf,
    ray_box,
    ray_limits,
    render_rays,
    stratified_depths,
    volume,
)
from gan3d.rendering.volume import free_chunk


def rays_of(num: int = 1, resolution: int = 8, radius: float = 2.7, fov: float = 18.83) -> Rays:
    yaw = torch.linspace(-0.6, 0.6, num) if num > 1 else torch.zeros(1)
    return Camera.from_angles(yaw, 0.3 * yaw, radius=radius, fov=fov).rays(resolution)


def raw_density(density: float) -> float:
    return 1 + math.log(math.expm1(density))


def fog(density: float, color: float = 0.25):
    """Constant density and color."""

    def field(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        sigma = torch.full_like(points[..., :1], raw_density(density))
        return sigma, torch.full_like(points, color)

    return field


def blob(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """A soft colored ball around the origin."""
    return 12 - 60 * points.norm(dim=-1, keepdim=True), torch.sigmoid(4 * points)


def wall(z: float):
    """Opaque behind the world plane at height z; the camera looks along -z."""

    def field(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        return 1e4 * (z - points[..., 2:]).sign(), points

    return field


# -- Options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depth_samples": 3}, "needs at least 4"),
        ({"depth_samples": 1, "importance_samples": 0}, "needs at least 2"),
        ({"ray_start": "auto"}, "set both to 'auto' or neither"),
        ({"ray_start": 3.0, "ray_end": 2.0}, "expected 0 <= start < end"),
        ({"ray_start": "auto", "ray_end": "auto", "disparity": True}, "disparity needs numbers"),
        ({"ray_start": 0.0, "disparity": True}, "disparity needs numbers"),
        ({"box_warp": 0.0}, "not positive"),
        ({"ray_chunk": 0}, "not positive"),
    ],
)
def test_impossible_options_are_refused_with_the_requirement(wrong, message):
    with pytest.raises(ValueError, match=message):
        RenderOptions(**wrong)


# -- Analytic scenes -------------------------------------------------------------------------------


@pytest.mark.parametrize("importance_samples", [0, 16])
@pytest.mark.parametrize("disparity", [False, True])
def test_homogeneous_medium_has_the_opacity_of_beers_law(importance_samples, disparity):
    options = RenderOptions(
        depth_samples=16, importance_samples=importance_samples, disparity=disparity
    )
    rays = rays_of(2)
    depths = stratified_depths(*ray_limits(rays, options), 16, disparity=disparity)
    expected = 1 - torch.exp(-0.8 * (depths[..., -1:] - depths[..., :1]))
    seen = render_rays(fog(0.8), rays, options)
    assert torch.allclose(seen.opacity, expected, atol=1e-6)
    assert torch.allclose(seen.features, 0.25 * expected.expand(-1, -1, 3), atol=1e-6)


@pytest.mark.parametrize(
    "limits", [{"ray_start": 2.0, "ray_end": 3.5}, {"ray_start": "auto", "ray_end": "auto"}]
)
def test_opaque_plane_renders_its_own_depth(limits):
    options = RenderOptions(depth_samples=64, importance_samples=64, box_warp=1.2, **limits)
    rays = rays_of(1, 16)
    seen = render_rays(wall(0.1), rays, options)
    assert torch.allclose(seen.opacity, torch.ones_like(seen.opacity), atol=1e-6)
    # The plane z = 0.1 has the same camera z in all pixels of a frontal camera.
    camera_z = seen.depth * rays.cosines
    assert (camera_z - 2.6).abs().max() < 0.015
    world = rays.origins + seen.depth * rays.directions
    assert (world[..., 2] - 0.1).abs().max() < 0.015


def test_importance_samples_sharpen_the_depth_of_a_surface():
    rays = rays_of(1, 16)
    coarse = render_rays(wall(0.1), rays, RenderOptions(depth_samples=12, importance_samples=0))
    fine = render_rays(wall(0.1), rays, RenderOptions(depth_samples=12, importance_samples=12))
    error = lambda seen: (seen.depth * rays.cosines - 2.6).abs().mean()  # noqa: E731
    assert error(fine) < 0.5 * error(coarse)


def test_white_background_is_weighted_by_transparency():
    rays = rays_of(2)
    options = RenderOptions(depth_samples=8, importance_samples=8)
    black = render_rays(blob, rays, options)
    white = render_rays(blob, rays, replace(options, background="white"))
    difference = white.features - black.features
    assert torch.allclose(difference, (1 - black.opacity).expand(-1, -1, 3), atol=1e-6)


def test_a_field_may_depend_on_directions():
    def field(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(points[..., :1], 1e4), directions.expand_as(points)

    rays = rays_of(2)
    seen = render_rays(field, rays, RenderOptions(depth_samples=4, importance_samples=4))
    assert torch.allclose(seen.features, rays.directions, atol=1e-5)


# -- Limits ----------------------------------------------------------------------------------------


def test_box_limits_of_hand_made_rays():
    # In front, inside, box behind, miss, along a face, not of unit length.
    origins = [[0.0, 0, 3], [0, 0, 0], [0, 0, -3], [2, 0, 3], [0.5, 0, 3], [0.2, 0.1, 3]]
    directions = [[0.0, 0, -1], [0, 0, -1], [0, 0, -1], [0, 0, -1], [0, 0, -1], [0, 0, -2]]
    near, far = ray_box(torch.tensor(origins), torch.tensor(directions), 1.0)
    assert near[:, 0].tolist() == [2.5, -0.5, -3.5, -1.0, 2.5, 1.25]
    assert far[:, 0].tolist() == [3.5, 0.5, -2.5, -2.0, 3.5, 1.75]


def test_auto_limits_lie_on_the_box_for_cameras_all_around_a_sphere():
    generator = torch.Generator().manual_seed(0)
    yaw, pitch = (2 * torch.rand(2, 20, generator=generator) - 1) * torch.tensor([[math.pi], [1.5]])
    rays = Camera.from_angles(yaw, pitch, radius=2.0, fov=60.0).rays(9)
    options = RenderOptions(ray_start="auto", ray_end="auto", box_warp=1.4)
    near, far = ray_limits(rays, options)
    hit = (far > near)[..., 0]
    assert 0.1 < hit.float().mean() < 0.9
    for limit in (near, far):
        points = rays.origins + limit * rays.directions
        assert torch.allclose(points[hit].abs().amax(-1), torch.tensor(0.7), atol=1e-5)
    along = torch.linspace(0, 6, 600)[:, None]
    missed = (rays.origins[~hit][:, None] + along * rays.directions[~hit][:, None]).abs().amax(-1)
    assert missed.min() > 0.7 - 1e-5  # no point of a missing ray is inside the box


def test_rays_that_miss_the_box_are_empty_under_auto():
    rays = rays_of(2, 12, fov=60.0)
    options = RenderOptions(
        depth_samples=6, importance_samples=6, ray_start="auto", ray_end="auto", box_warp=1.0
    )
    near, far = ray_box(rays.origins, rays.directions, 1.0)
    seen = render_rays(fog(3.0), rays, options)
    missed = (far <= near)[..., 0]
    assert missed.any()
    assert (~missed).any()
    assert (seen.opacity[missed] == 0).all()
    assert (seen.opacity[~missed] > 0).all()
    assert seen.depth.isfinite().all()


def test_a_camera_inside_the_box_samples_nothing_behind_it():
    rays = rays_of(1, 4, radius=0.2)
    options = RenderOptions(ray_start="auto", ray_end="auto")
    near, _ = ray_limits(rays, options)
    assert (near == 0).all()
    near, _ = ray_limits(rays, replace(options, auto_limits="official"))
    assert (near < 0).all()


def test_official_limits_of_missed_rays_are_the_range_of_near_limits_of_the_batch():
    rays = rays_of(2, 12, fov=60.0)
    near, far = ray_box(rays.origins, rays.directions, 1.0)
    hit = far > near
    options = RenderOptions(ray_start="auto", ray_end="auto", auto_limits="official")
    filled_near, filled_far = ray_limits(rays, options)
    assert (filled_near[~hit] == near[hit].min()).all()
    assert (filled_far[~hit] == near[hit].max()).all()
    assert torch.equal(filled_near[hit], near[hit])
    assert torch.equal(filled_far[hit], far[hit])


# -- Samples ---------------------------------------------------------------------------------------


def test_every_step_has_one_stratified_sample():
    near, far = torch.full((2, 5, 1), 1.0), torch.full((2, 5, 1), 3.0)
    jitter = torch.rand(2, 5, 9, generator=torch.Generator().manual_seed(0))
    steps = (stratified_depths(near, far, 9, jitter=jitter) - 1.0) / 0.25
    assert torch.equal(steps.floor(), torch.arange(9.0).expand(2, 5, 9))
    centers = (torch.arange(9.0) + 0.5).expand(2, 5, 9) * 0.25 + 1
    assert torch.allclose(stratified_depths(near, far, 9), centers)


def test_disparity_samples_are_equally_spaced_in_inverse_depth():
    near, far = torch.full((1, 1, 1), 0.5), torch.full((1, 1, 1), 4.0)
    inverse = 1 / stratified_depths(near, far, 10, disparity=True)
    step = inverse.new_tensor(-(2 - 0.25) / 9)
    assert torch.allclose(inverse.diff(), step.expand(1, 1, 9), atol=1e-5)


def test_disparity_with_few_samples_and_late_jitter_stays_in_front_of_the_camera():
    near, far = torch.full((1, 1, 1), 0.1), torch.full((1, 1, 1), 10.0)
    depths = stratified_depths(near, far, 4, jitter=torch.full((1, 1, 4), 0.999), disparity=True)
    assert depths.isfinite().all()
    assert (depths.diff() >= 0).all()


def test_inverse_cdf_of_equal_weights_is_a_straight_line():
    bins = torch.linspace(2, 4, 9)
    u = torch.rand(100, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(inverse_cdf(bins, torch.ones(8), u), 2 + 2 * u, atol=1e-5)


def test_inverse_cdf_of_one_weight_falls_into_its_interval():
    weights = torch.zeros(8, dtype=torch.float64)
    weights[5] = 1
    u = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    samples = inverse_cdf(torch.arange(9.0, dtype=torch.float64), weights, u)
    assert torch.allclose(samples, 5 + u, atol=1e-3)


def test_importance_samples_gather_half_an_interval_before_the_weight():
    """As published: the weight of interval i goes between mid-points i-1 and i, not around i."""
    depths = torch.linspace(0, 20, 21, dtype=torch.float64)
    weights = torch.zeros(20, dtype=torch.float64)
    weights[10] = 1  # between depths 10 and 11
    samples = importance_depths(depths, weights, 200)
    inside = samples[(samples > 8) & (samples < 12)]
    assert len(inside) > 150
    assert abs(inside.mean() - 10.0) < 0.15


def test_importance_weights_are_smoothed_and_a_hundredth_is_added():
    depths = torch.arange(9.0, dtype=torch.float64)
    weights = torch.zeros(8, dtype=torch.float64)
    weights[4] = 0.5
    # Of intervals 1 .. 6: the mean over both sides of the larger of two neighbors.
    smooth = torch.tensor([0, 0, 0.25, 0.5, 0.25, 0], dtype=torch.float64) + 0.01
    u = smooth.cumsum(0) / smooth.sum()
    samples = importance_depths(depths, weights, 5, u=u[:-1])
    torch.testing.assert_close(samples, depths[1:6] + 0.5, atol=5e-3, rtol=0)


# -- Independence ----------------------------------------------------------------------------------

JITTERED = RenderOptions(depth_samples=8, importance_samples=7, density_noise=0.5)


@pytest.mark.parametrize("chunk", [1, 7, 30, 64, 1000])
@pytest.mark.parametrize("auto_limits", ["clipped", "official"])
@pytest.mark.parametrize("depth_clamp", ["ray", "batch"])
def test_chunks_of_rays_change_nothing(chunk, auto_limits, depth_clamp):
    rays, randomness = rays_of(2, 8, fov=50.0), Randomness(3, [0, 1])
    options = {
        "depth_samples": 8,
        "importance_samples": 7,
        "density_noise": 0.5,
        "ray_start": "auto",
        "ray_end": "auto",
        "auto_limits": auto_limits,
        "depth_clamp": depth_clamp,
    }
    with torch.no_grad():
        whole = render_rays(blob, rays, RenderOptions(**options, ray_chunk=10**6), randomness)
        chunked = render_rays(blob, rays, RenderOptions(**options, ray_chunk=chunk), randomness)
    for got, want in zip(chunked, whole):
        assert torch.allclose(got, want, atol=1e-6)


def test_recomputed_chunks_have_the_gradient_of_the_whole():
    rays, randomness = rays_of(2, 6), Randomness(3, [0, 1])
    scale = torch.tensor(1.3, requires_grad=True)

    def field(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        sigma, rgb = blob(scale * points, directions)
        return sigma, scale * rgb

    def gradient(chunk: int | None) -> Tensor:
        seen = render_rays(field, rays, replace(JITTERED, ray_chunk=chunk), randomness)
        loss = seen.features.square().sum() + seen.depth.sum() + seen.opacity.sum()
        return torch.autograd.grad(loss, scale)[0]

    assert torch.allclose(gradient(10), gradient(None), rtol=1e-4)


def test_an_image_does_not_depend_on_the_others_of_its_batch():
    rays, randomness = rays_of(3, 8, fov=50.0), Randomness(3, [5, 6, 7])
    options = RenderOptions(depth_samples=8, importance_samples=7, ray_start="auto", ray_end="auto")
    together = render_rays(blob, rays, options, randomness)
    one = Rays(rays.origins[1:2], rays.directions[1:2], rays.cosines[1:2])
    alone = render_rays(blob, one, options, Randomness(3, [6]))
    for got, want in zip(alone, together):
        assert torch.allclose(got, want[1:2], atol=1e-6)


def test_without_randomness_jitter_is_centered_and_probabilities_have_equal_steps():
    rays = rays_of(2, 4)
    draws = {
        "depth_jitter": torch.full((2, 16, 8), 0.5),
        "importance": torch.linspace(0, 1, 7).expand(2, 16, 7),
        "density_noise": torch.zeros(2, 16, 15),
    }
    recorded = render_rays(blob, rays, JITTERED, Recorded(draws))
    for got, want in zip(recorded, render_rays(blob, rays, JITTERED)):
        assert torch.equal(got, want)


def test_density_noise_needs_a_randomness_and_changes_the_density():
    rays, quiet = rays_of(1, 4), RenderOptions(depth_samples=8, importance_samples=7)
    without = render_rays(blob, rays, JITTERED)
    assert torch.equal(without.opacity, render_rays(blob, rays, quiet).opacity)
    draws = Randomness(0, [0])
    noisy = render_rays(blob, rays, JITTERED, draws)
    still = render_rays(blob, rays, quiet, draws)
    assert (noisy.opacity - still.opacity).abs().max() > 1e-3


def test_cameras_receive_a_gradient_through_the_points():
    camera = Camera.from_angles(torch.zeros(1), 0.1)
    pose = camera.cam2world.clone().requires_grad_()
    rays = Camera(pose, camera.intrinsics).rays(4)
    seen = render_rays(blob, rays, RenderOptions(depth_samples=6))
    seen.features.sum().backward()
    assert pose.grad is not None
    assert pose.grad[0, :3, 3].abs().min() > 0


@pytest.mark.parametrize(("gigabytes", "taken", "rays"), [(4, 3, 16384), (80, 0, None)])
def test_chunks_without_gradient_grow_with_the_free_memory_of_a_card(
    monkeypatch, gigabytes, taken, rays
):
    properties = SimpleNamespace(total_memory=gigabytes * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: taken * 10**9)
    found = free_chunk(torch.device("cuda:0"))
    # A chunk takes an eighth of what is free.
    assert found == (rays or 10**10 // volume.RAY_BYTES)
    assert found >= free_chunk(torch.device("meta")) == 16384 > free_chunk(torch.device("cpu"))
