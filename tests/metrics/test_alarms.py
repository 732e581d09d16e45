"""Geometry alarms against analytic surfaces."""

import math

import pytest
import torch
from torch import Tensor

from gan3d.camera import Camera
from gan3d.metrics import bulge, camera_leak, flatness, opaque_share, z_sensitivity


def plane_depth(camera: Camera, normal: Tensor, offset: float, resolution: int = 32) -> Tensor:
    """Camera z of the plane normal . x = offset, [b 1 h w]."""
    rays = camera.rays(resolution)
    distance = (offset - rays.origins @ normal) / (rays.directions @ normal)
    return (distance[..., None] * rays.cosines).reshape(len(camera), 1, resolution, resolution)


def telephoto() -> Camera:
    """An almost orthographic camera that sees [-1.1, 1.1] at the origin."""
    return Camera.from_angles(0.0, 0.0, radius=1000.0, focal=1000.0 / 2.2)


def hemisphere(resolution: int = 200, relief: float = 1.0) -> tuple[Tensor, Tensor]:
    """Depth and opacity of a unit hemisphere, scaled by `relief` in depth, for `telephoto`."""
    position = ((torch.arange(resolution) + 0.5) / resolution - 0.5).double() * 2.2
    square = position[:, None] ** 2 + position[None] ** 2
    depth = 1000 - relief * (1 - square).clamp(min=0).sqrt()
    return depth[None, None], (square < 1).double()[None, None]


@pytest.mark.parametrize("normal", [(0.0, 0.0, 1.0), (0.5, -0.3, 1.0), (-1.0, 0.2, 0.8)])
def test_a_plane_is_flat_at_any_tilt_and_from_any_camera(normal):
    yaw, pitch = torch.tensor([0.0, 0.4, -0.3]), torch.tensor([0.0, -0.2, 0.1])
    camera = Camera.from_angles(yaw, pitch).to(torch.float64)
    depth = plane_depth(camera, torch.tensor(normal).double(), 0.05)
    assert depth.min() > 0
    relief = flatness(depth, None, camera)
    torch.testing.assert_close(relief, torch.zeros(3).double(), atol=1e-9, rtol=0)


def test_a_hemisphere_has_the_relief_of_its_radius_over_root_eighteen():
    """Over the unit disk E[sqrt(1 - r^2)] = 2/3 and E[1 - r^2] = 1/2, so the variance is 1/18.

    The best plane is frontal.
    """
    relief = flatness(*hemisphere(), telephoto()).item()
    assert relief == pytest.approx(math.sqrt(1 / 18), rel=0.01)


def test_relief_is_linear_in_the_depth_of_the_relief():
    whole = flatness(*hemisphere(relief=1.0), telephoto()).item()
    half = flatness(*hemisphere(relief=0.5), telephoto()).item()
    assert half == pytest.approx(whole / 2, rel=1e-3)


def test_relief_does_not_depend_on_the_background():
    depth, opacity = hemisphere()
    clean = flatness(depth, opacity, telephoto())
    for junk in (math.inf, math.nan, 0.0):
        dirty = torch.where(opacity > 0.5, depth, junk)
        torch.testing.assert_close(flatness(dirty, opacity, telephoto()), clean)
    dirty = torch.where(opacity > 0.5, depth, math.inf)
    torch.testing.assert_close(flatness(dirty, None, telephoto()), clean)


def test_fog_in_front_of_a_surface_is_no_part_of_it():
    depth, opacity = hemisphere(64)
    foggy = torch.where(opacity > 0.5, depth, 900.0)
    faint = torch.where(opacity > 0.5, opacity, 0.45)
    clean = bulge(depth, opacity, telephoto())
    torch.testing.assert_close(bulge(foggy, faint, telephoto()), clean)


def test_the_relief_is_that_of_opaque_pixels():
    depth, opacity = hemisphere()
    clean = flatness(depth, opacity, telephoto())
    mist = torch.where(opacity > 0.5, opacity, 0.5)  # the surface begins above 0.5
    torch.testing.assert_close(flatness(depth - 3 * (1 - opacity), mist, telephoto()), clean)


def test_each_view_of_a_batch_is_measured_on_its_own():
    depth, opacity = hemisphere(64)
    depths, opacities = torch.cat([depth, depth * 0 + 1000]), torch.cat([opacity, opacity])
    relief = flatness(depths, opacities, telephoto().select([0, 0]))
    assert relief[0] > 0.2
    assert relief[1] < 1e-6


def test_an_empty_view_is_flat():
    assert flatness(torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), telephoto()).item() == 0


def test_flatness_refuses_depth_without_its_channel():
    with pytest.raises(ValueError, match=r"expected depth \[b 1 h w\]"):
        flatness(torch.ones(1, 8, 8), None, telephoto())


def test_a_hemisphere_bulges_by_the_difference_of_its_outer_and_inner_quarter():
    """Mean of sqrt(1 - r^2) over a ring from a to b: 2/3 ((1 - a^2)^1.5 - (1 - b^2)^1.5) / (b^2 -
    a^2), here with a quarter of the area each: 2/3 (1 - 0.75^1.5) / 0.25 inside, 2/3 0.25^1.5 /
    0.25 outside.
    """
    inner = 2 / 3 * (1 - 0.75**1.5) / 0.25
    outer = 2 / 3 * 0.25**1.5 / 0.25
    depth, opacity = hemisphere()
    for opaque in (opacity, None):
        if opaque is None:
            depth = torch.where(opacity > 0.5, depth, math.inf)
        assert bulge(depth, opaque, telephoto()).item() == pytest.approx(inner - outer, rel=0.01)


def test_a_hollow_hemisphere_is_negative_wherever_it_is_in_the_image():
    depth, opacity = hemisphere(64, relief=-1.0)
    hollow = bulge(depth, opacity, telephoto()).item()
    assert hollow == pytest.approx(-0.601, rel=0.02)
    wide = torch.full((1, 1, 128, 128), 1000.0).double()
    seen = torch.zeros_like(wide)
    wide[..., 60:124, 2:66], seen[..., 60:124, 2:66] = depth, opacity
    camera = Camera.from_angles(0.0, 0.0, radius=1000.0, focal=1000.0 / 4.4)
    assert bulge(wide, seen, camera).item() == pytest.approx(hollow, rel=1e-2)


@pytest.mark.parametrize("normal", [(0.0, 0.0, 1.0), (0.5, -0.3, 1.0), (-1.0, 0.2, 0.8)])
def test_a_plane_does_not_bulge_at_any_tilt(normal):
    camera = Camera.from_angles(torch.tensor([0.0, 0.4]), torch.tensor([0.0, -0.2])).to(
        torch.float64
    )
    depth = plane_depth(camera, torch.tensor(normal).double(), 0.05)
    torch.testing.assert_close(
        bulge(depth, None, camera), torch.zeros(2).double(), atol=1e-9, rtol=0
    )


def test_an_empty_view_does_not_bulge_and_is_not_opaque():
    empty = torch.zeros(1, 1, 8, 8)
    assert bulge(torch.ones(1, 1, 8, 8), empty, telephoto()).item() == 0
    assert opaque_share(empty).item() == 0
    half = torch.tensor([0.5, 0.51]).repeat_interleave(32).view(1, 1, 8, 8)
    assert opaque_share(half).item() == 0.5


def test_z_sensitivity_is_the_deviation_over_z():
    stream = torch.Generator().manual_seed(0)
    images = 0.3 * torch.randn(500, 3, 8, 8, generator=stream)
    assert z_sensitivity(images).item() == pytest.approx(0.3, rel=0.01)
    two = torch.stack([torch.full((3, 4, 4), 0.2), torch.full((3, 4, 4), -0.2)])
    assert z_sensitivity(two).item() == pytest.approx(0.2 * math.sqrt(2), rel=1e-6)


def test_z_sensitivity_of_a_collapsed_generator_is_zero():
    assert z_sensitivity(torch.rand(1, 3, 8, 8).expand(5, -1, -1, -1)).item() == 0
    with pytest.raises(ValueError, match="at least 2"):
        z_sensitivity(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("by_camera", [0.0, 0.5, 1.0, 2.0])
def test_camera_leak_is_the_ratio_of_the_effects_of_camera_and_z(by_camera):
    offsets = torch.tensor([-1.0, 0.0, 1.0])
    values = 0.1 * (offsets[:, None] + by_camera * offsets)
    images = values[..., None, None, None].expand(3, 3, 3, 4, 4)
    assert camera_leak(images).item() == pytest.approx(by_camera, abs=1e-6)


def test_camera_leak_is_infinite_if_only_the_camera_matters_and_zero_for_a_constant_image():
    by_camera = torch.arange(3.0)[None, :, None, None, None].expand(4, 3, 3, 2, 2)
    assert camera_leak(by_camera).item() == math.inf
    assert camera_leak(torch.zeros(4, 3, 3, 2, 2)).item() == 0


def test_camera_leak_refuses_a_flat_batch():
    with pytest.raises(ValueError, match=r"expected \[z c 3 H W\]"):
        camera_leak(torch.zeros(4, 3, 8, 8))
