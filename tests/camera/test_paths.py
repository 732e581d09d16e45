"""Camera paths by name."""

from typing import get_args

import pytest
import torch

from gan3d.camera import PathName, camera_path, trajectories

VIEW = {"radius": 1.5, "fov": 14.0}


@pytest.mark.parametrize("name", get_args(PathName))
@pytest.mark.parametrize("num", [16, 30, 120])
def test_every_path_has_the_frames_that_are_asked_for_and_looks_at_the_scene(name, num):
    path = camera_path(name, num, **VIEW)
    assert (len(path), path.dtype) == (num, torch.float32)
    pixels, depth = path.project(torch.zeros(num, 1, 3))
    assert (depth > 0).all()
    assert ((pixels - 0.5).abs() < 0.35).all()  # the middle of the scene is in the picture
    assert path.fov.min() >= 11.9
    far = path.origins.norm(dim=-1)
    assert (far > 0.95 * 1.5).all()
    assert (far < 1.16 * 1.5).all()


def test_paths_of_the_papers_are_those_of_their_functions_at_their_own_distance():
    published = {
        "yaw_path": trajectories.yaw_path(120),
        "circle": trajectories.circle(120),
        "circle_near_far": trajectories.circle_near_far(60),
        "translate_circle_near_far": trajectories.translate_circle_near_far(32),
        "translate_rotate": trajectories.translate_rotate(64),
        "pigan_front": trajectories.pigan_front(120),
        "pigan_orbit": trajectories.pigan_orbit(120),
    }
    for name, expected in published.items():
        found = camera_path(name, 120, radius=1.0, fov=12.0)
        torch.testing.assert_close(found.label(), expected.label(), msg=name)
    eg3d = camera_path("eg3d_wiggle", 120, radius=2.7, fov=trajectories.eg3d_wiggle(1).fov.item())
    torch.testing.assert_close(eg3d.label(), trajectories.eg3d_wiggle(120).label())


def test_a_path_takes_the_angles_that_are_given():
    yaw, pitch = camera_path("still", 3, yaw=0.4, pitch=-0.1).yaw_pitch()
    torch.testing.assert_close(yaw, torch.full((3,), 0.4))
    torch.testing.assert_close(pitch, torch.full((3,), -0.1))
    yaw, pitch = camera_path("orbit", 4, yaw=0.3, pitch=0.2).yaw_pitch()
    torch.testing.assert_close(yaw, torch.tensor([0.0, 0.3, 0.0, -0.3]))
    torch.testing.assert_close(pitch, torch.full((4,), 0.2))
    yaw, pitch = camera_path("wiggle", 4, yaw=0.3, pitch=0.2).yaw_pitch()
    torch.testing.assert_close(yaw, torch.tensor([0.0, 0.3, 0.0, -0.3]))
    torch.testing.assert_close(pitch, torch.tensor([0.2, 0.0, -0.2, 0.0]))
    assert torch.equal(camera_path("orbit", 4, yaw=0.0).yaw_pitch()[0], torch.zeros(4))


def test_dolly_keeps_the_size_of_what_is_at_the_middle_and_comes_back():
    path = camera_path("dolly", 4, radius=2.0, fov=20.0, far=2.5)
    torch.testing.assert_close(path.origins[:, 2], torch.tensor([2.0, 2.25, 2.5, 2.25]))
    edge = torch.tensor([[0.1, 0.2, 0.0]]).expand(4, 1, 3)
    pixels, _ = path.project(edge)
    torch.testing.assert_close(pixels, pixels[:1].expand_as(pixels))
    nearer, _ = path.project(edge + torch.tensor([0.0, 0.0, 0.5]))
    assert (nearer[0] - 0.5).norm() > 1.05 * (nearer[2] - 0.5).norm()


@pytest.mark.parametrize(
    ("name", "num", "options", "said"),
    [
        ("spiral", 16, {}, "there is no path 'spiral'; paths: orbit, wiggle, dolly"),
        ("circle", 16, {"yaw": 0.3}, "path circle has angles of its own"),
        ("dolly", 16, {"pitch": 0.0}, "path dolly has angles of its own"),
        ("circle_near_far", 17, {}, "of 17 frames; give an even number of frames, 1 or more"),
        ("translate_rotate", 15, {}, "of 15 frames; give frames, 16 or more"),
    ],
)
def test_what_a_path_cannot_be_is_refused(name, num, options, said):
    with pytest.raises(ValueError, match=said):
        camera_path(name, num, **options)
