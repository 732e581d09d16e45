"""Normals of depth maps, against surfaces whose normals are known."""

import math

import pytest
import torch

from gan3d.apps.normals import surface_normals
from gan3d.apps.pictures import draw
from gan3d.camera import Camera
from gan3d.generators import Rendering

SIDE = 63


def plane_depth(camera: Camera, normal: torch.Tensor, side: int = SIDE) -> torch.Tensor:
    """Depth of the plane through the world's origin with a normal [3]."""
    rays = camera.rays(side)
    along = -(rays.origins @ normal) / (rays.directions @ normal)
    return (along[..., None] * rays.cosines).reshape(1, 1, side, side)


def seen_from(camera: Camera, normal: torch.Tensor) -> torch.Tensor:
    """A world direction along the picture's axes: right, up, towards the camera."""
    right, down, forward = normal @ camera.cam2world[0, :3, :3]
    return torch.stack([right, -down, -forward])


@pytest.mark.parametrize(("yaw", "pitch"), [(0.0, 0.0), (0.5, 0.2), (-0.7, -0.3)])
def test_a_plane_has_its_own_normal_everywhere(yaw, pitch):
    camera = Camera.from_angles(yaw, pitch, fov=20.0)
    world = torch.nn.functional.normalize(torch.tensor([0.2, 0.3, 1.0]), dim=0)
    found = surface_normals(plane_depth(camera, world), camera)
    expected = seen_from(camera, world)[None, :, None, None].expand_as(found)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


def test_a_surface_in_front_of_another_is_not_bent_at_its_edge():
    camera = Camera.from_angles(0.0, 0.0)
    depth = torch.full((1, 1, SIDE, SIDE), 3.0)
    depth[..., 20:40, 20:40] = 2.5
    found = surface_normals(depth, camera)
    torch.testing.assert_close(found[:, 2], torch.ones_like(found[:, 2]), atol=1e-4, rtol=0)


def test_colors_are_red_to_the_right_green_upwards_and_blue_towards_the_camera(balls):
    camera = Camera.from_angles(0.3, 0.1)
    with torch.no_grad():
        view = balls.render(torch.zeros(1, 3), camera, resolution=64)
    colors = draw(view, "normals", camera)[0].astype(int)
    rows, columns = (view.opacity[0, 0] > 0.5).nonzero().float().mean(0).round().int().tolist()
    middle = (2 * rows, 2 * columns)
    reach = 2 * round(64 * 0.25 * 0.9 / (2.7 * 2 * math.tan(math.radians(18.83 / 2))))
    assert abs(colors[middle] - [128, 128, 255]).max() < 12
    assert colors[middle[0], middle[1] + reach][0] > 220
    assert colors[middle[0], middle[1] - reach][0] < 35
    assert colors[middle[0] - reach, middle[1]][1] > 220
    assert colors[0, 0].tolist() == [255, 255, 255]  # nothing is there


def test_a_layer_that_views_do_not_have_is_refused_with_those_they_have():
    flat = Rendering(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"no layer 'depth'; they have image$"):
        draw(flat, "depth")


def test_opacity_is_shown_from_black_to_white():
    opacity = torch.tensor([0.0, 0.5, 1.0, 1.0]).reshape(1, 1, 2, 2)
    view = Rendering(torch.zeros(1, 3, 4, 4), opacity=opacity)
    assert draw(view, "opacity")[0, ::2, ::2, 0].tolist() == [[0, 128], [255, 255]]
