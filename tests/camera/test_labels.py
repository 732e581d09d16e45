"""Checks of labels: what is no camera, and cameras that look away from the scene."""

import math

import pytest
import torch

from gan3d.camera import (
    Camera,
    check_labels,
    check_views,
    flip_camera_axes,
    intrinsics_from_eg3d_fov,
    intrinsics_from_pixels,
)

# -- What is no camera -----------------------------------------------------------------------------


def corrupted(entry: int, value: float) -> torch.Tensor:
    """Three labels, of which the second has one wrong entry."""
    labels = Camera.from_angles(torch.tensor([0.0, 0.5, -0.5]), 0.1).label()
    labels[1, entry] = value
    return labels


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (corrupted(3, math.nan), "NaN"),
        (corrupted(20, math.inf), "NaN"),
        (corrupted(0, 0.5), "orthonormal"),
        (corrupted(12, 1.0), "last row is not \\(0, 0, 0, 1\\)"),
        (corrupted(22, 0.5), "last row is not \\(0, 0, 1\\)"),
        (corrupted(16, 0.0), "focal"),
        (corrupted(20, -1.0), "focal"),
    ],
)
def test_a_bad_label_is_named(labels, message):
    with pytest.raises(ValueError, match=f"'b.png'.*{message}"):
        check_labels(labels, ["a.png", "b.png", "c.png"])
    with pytest.raises(ValueError, match="number 1"):
        check_labels(labels)


def test_a_left_handed_label_is_named():
    camera = Camera.from_angles(torch.tensor([0.0, 0.5]), 0.1)
    mirrored_once = camera.cam2world * torch.tensor([-1.0, 1, 1, 1])
    with pytest.raises(ValueError, match="number 0 has a left-handed"):
        check_labels(Camera(mirrored_once, camera.intrinsics).label())


def test_good_labels_pass_after_rounding_to_half_a_thousandth():
    labels = Camera.from_angles(torch.linspace(-1, 1, 63), 0.3).label()
    check_labels(labels)
    check_labels((labels * 2e3).round() / 2e3)


# -- What looks away -------------------------------------------------------------------------------

YAW = torch.linspace(-0.6, 0.6, 7)
GOOD = Camera.from_angles(YAW, 0.2)


def lens(scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    """The intrinsics of GOOD, scaled, and with a principal point that is moved."""
    intrinsics = GOOD.intrinsics.clone()
    intrinsics[:, :2] *= scale
    intrinsics[:, :2, 2] += shift
    return intrinsics


WORLD2CAM = torch.linalg.inv(GOOD.cam2world)
OTHERS = {
    "OpenGL axes": (flip_camera_axes(GOOD.cam2world), lens(), "Camera.from_opengl"),
    "world2cam": (WORLD2CAM, lens(), "Camera.from_world2cam"),
    "world2cam with OpenGL axes": (
        torch.linalg.inv(flip_camera_axes(GOOD.cam2world)),
        lens(),
        "from_opengl.torch.linalg.inv",
    ),
    "in pixels": (GOOD.cam2world, lens(512.0), "intrinsics_from_pixels"),
    "counted from the image's center": (GOOD.cam2world, lens(shift=-0.5), "adding 0.5"),
}


@pytest.mark.parametrize("convention", OTHERS)
def test_labels_of_another_convention_are_refused_with_its_name_and_the_cure(convention):
    poses, intrinsics, cure = OTHERS[convention]
    labels = Camera(poses, intrinsics).label()
    check_labels(labels)  # they are cameras
    with pytest.raises(ValueError, match=f"does not see the scene.*{convention}.*{cure}"):
        check_views(labels, [f"{k}.png" for k in range(7)])


def test_the_classmethods_undo_other_conventions():
    opengl = Camera.from_opengl(flip_camera_axes(GOOD.cam2world), lens())
    assert torch.equal(opengl.label(), GOOD.label())
    inverted = Camera.from_world2cam(WORLD2CAM, intrinsics_from_pixels(lens(512.0), 512))
    torch.testing.assert_close(inverted.label(), GOOD.label(), rtol=1e-6, atol=1e-6)


def test_intrinsics_in_pixels_are_divided_by_width_and_height():
    pixels = torch.tensor([[400.0, 8.0, 200.0], [0.0, 300.0, 75.0], [0.0, 0.0, 1.0]])
    expected = torch.tensor([[1.0, 0.02, 0.5], [0.0, 2.0, 0.5], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(intrinsics_from_pixels(pixels, (400, 150)), expected)


def test_one_camera_that_looks_past_the_scene_is_named():
    looking_past = Camera.from_angles(0.1, 0.0, target=(0.0, 1.0, 0.0))
    labels = Camera.cat([GOOD, looking_past]).label()
    with pytest.raises(ValueError, match=r"'7.png'.*outside the image \(1 such of 8\)"):
        check_views(labels, [f"{k}.png" for k in range(8)])
    with pytest.raises(ValueError, match=r"number 7.*around a scene at the world origin"):
        check_views(labels)


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        (
            Camera.from_angles(YAW, 0.2, radius=270.0),
            "from radius 270 .*far away or small.*Camera.scale",
        ),
        (Camera.from_angles(YAW, 0.2, radius=0.027), "radius 0.027 .*near or magnified"),
        (Camera.from_angles(YAW, 0.2, focal=1500.0), "near or magnified.*intrinsics_from_pixels"),
    ],
)
def test_a_scene_of_absurd_size_is_refused_with_the_cure(camera, message):
    with pytest.raises(ValueError, match=message):
        check_views(camera.label())


EG3D_LENS = intrinsics_from_eg3d_fov(18.837)
PITCH = torch.linspace(-0.4, 0.4, 7)
LEGITIMATE = {
    "EG3D FFHQ": Camera.from_eg3d_angles(
        math.pi / 2 + YAW, math.pi / 2, target=(0.0, 0.0, 0.2), intrinsics=EG3D_LENS
    ),
    "EG3D ShapeNet": Camera.from_angles(torch.linspace(-3, 3, 7), 0.5, radius=1.3, focal=1.025),
    "GRAM, CIPS-3D": Camera.from_sphere(math.pi / 2, math.pi / 2 - YAW, 12.0, resolution=64),
    "CARLA": Camera.from_angles(torch.linspace(-3, 3, 7), PITCH.abs(), radius=1.0, fov=30.0),
    "Blender": Camera.from_angles(torch.linspace(-3, 3, 7), 1.2, radius=4.03, focal=1.39),
    "wide": Camera.from_angles(YAW, PITCH, radius=1.5, fov=100.0),
    "off-center": Camera(GOOD.cam2world, lens(shift=0.3)),
}


@pytest.mark.parametrize("name", LEGITIMATE)
def test_published_wide_off_center_and_mirrored_cameras_pass(name):
    camera = LEGITIMATE[name]
    check_views(camera.label())
    check_views(camera.mirror().label())
