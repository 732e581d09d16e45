"""Published camera paths: number of frames, positions, viewing directions, zoom."""

import math

import pytest
import torch

from gan3d.camera import trajectories

PATHS = {
    "yaw_path": (trajectories.yaw_path(7), 7),
    "circle": (trajectories.circle(5, periods=3), 15),
    "circle_near_far": (trajectories.circle_near_far(5), 10),
    "translate_circle_near_far": (trajectories.translate_circle_near_far(5), 28 * 2 + 10),
    "translate_rotate": (trajectories.translate_rotate(5), 28 * 2 + 5),
    "pigan_front": (trajectories.pigan_front(8), 8),
    "pigan_orbit": (trajectories.pigan_orbit(8), 8),
}


def near(got: torch.Tensor, expected: list | torch.Tensor, tolerance: float = 2e-6) -> None:
    expected = torch.as_tensor(expected, dtype=got.dtype)
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", PATHS)
def test_a_path_has_the_frames_of_its_parts_and_is_rigid(name):
    """The default 30 translations are 4 x 7 frames along x, then along y (specs/cips3d.md 16)."""
    camera, frames = PATHS[name]
    assert (len(camera), camera.dtype) == (frames, torch.float32)
    rotation = camera.cam2world[:, :3, :3]
    near(rotation.mT @ rotation, torch.eye(3).expand(frames, 3, 3))
    near(torch.linalg.det(rotation), torch.ones(frames))


def test_the_yaw_path_goes_from_one_side_to_the_other_in_equal_steps():
    yaw, pitch = trajectories.yaw_path(5).yaw_pitch()
    half = math.pi / 2 - 1  # theta = 1 is this far to +x
    near(yaw, [half, half / 2, 0, -half / 2, -half])
    near(pitch, [0.0] * 5)


def test_the_circle_has_constant_distance_and_angle_to_the_front_and_looks_at_the_origin():
    camera = trajectories.circle(9, alpha=0.3, radius=2.0)
    near(camera.origins.norm(dim=-1), [2.0] * 9)
    near(camera.origins[:, 2], [2 * math.cos(0.3)] * 9)
    near(camera.forward, -camera.origins / 2)
    # t goes from 1 to 0: beta = 2 pi, 3/2 pi, pi, pi/2, 0 at every second frame.
    expected = 2 * math.sin(0.3) * torch.tensor([[1.0, 0], [0, -1], [-1, 0], [0, 1], [1, 0]])
    near(camera.origins[::2, :2], expected)


def test_near_far_zooms_out_and_back_while_circling():
    camera = trajectories.circle_near_far(3, fov=12, max_fov=20)
    near(camera.fov, [12, 16, 20, 20, 16, 12], 1e-4)
    near(camera.cam2world, trajectories.circle(3, periods=2).cam2world)


def test_translations_visit_both_ends_of_both_axes_looking_straight_ahead():
    options = {"num_translate": 9, "translate_dist": 0.04, "alpha": 0.2}
    camera = trajectories.translate_circle_near_far(4, **options)
    sideways, upwards, around = camera[:8], camera[8:16], camera[16:]
    visits = [0, 0.04, 0.04, 0, 0, -0.04, -0.04, 0]
    near(sideways.origins, [[d, 0, math.cos(0.2)] for d in visits])
    near(upwards.origins, [[0, d, math.cos(0.2)] for d in visits])
    near(camera[:16].forward, torch.tensor([0.0, 0.0, -1.0]).expand(16, 3))
    near(camera[:16].fov, [12.0] * 16, 1e-4)
    near(around.cam2world, trajectories.circle(4, alpha=0.2, periods=2).cam2world)
    near(around.fov, [12, 12 + 8 / 3, 12 + 16 / 3, 20, 20, 12 + 16 / 3, 12 + 8 / 3, 12], 1e-4)


def test_translate_rotate_ends_with_one_turn_around_the_viewing_axis():
    camera = trajectories.translate_rotate(5, num_translate=4)[8:]
    near(camera.forward, torch.tensor([0.0, 0.0, -1.0]).expand(5, 3))
    near(-camera.down[:, :2], [[0, 1], [-1, 0], [0, -1], [1, 0], [0, 1]])


def test_too_few_frames_for_the_translations_are_refused():
    with pytest.raises(ValueError, match="num_translate 3 is less than one frame per quarter"):
        trajectories.translate_rotate(5, num_translate=3)


def test_pigan_paths_are_closed_ellipse_with_zoom_and_full_turn():
    front = trajectories.pigan_front(4)
    offsets = torch.tensor([[0.2, 0], [0, 0.4], [-0.2, 0], [0, -0.4]])
    near(front.sphere_pose(), math.pi / 2 + offsets)
    near(front.fov, [17, 22, 17, 12], 1e-4)

    orbit = trajectories.pigan_orbit(4, pitch_swing=0.2)
    pitch, yaw = orbit.sphere_pose().unbind(-1)
    near(pitch, [math.pi / 4 + swing for swing in (0.2, 0, -0.2, 0)])
    turned = torch.remainder(yaw + 0.1, 2 * math.pi)  # yaws around 0 stay on one side of 2 pi
    near(turned, [0.1 + math.pi / 2 * k for k in range(4)])
    near(orbit.fov, [30.0] * 4, 1e-4)


@pytest.mark.parametrize(
    "path", [trajectories.circle, trajectories.yaw_path, trajectories.pigan_orbit]
)
def test_with_a_resolution_the_field_of_view_ends_at_pixel_centers(path):
    camera = path(3, fov=12.0, resolution=9)
    middle_row_ends = torch.tensor([4 * 9, 4 * 9 + 8])
    left, right = camera.rays(9, middle_row_ends).directions.unbind(1)
    near(torch.rad2deg(torch.acos((left * right).sum(-1))), [12.0] * 3, 1e-3)
    near(path(3, fov=12.0).fov, [12.0] * 3, 1e-4)
