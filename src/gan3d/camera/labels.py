"""Checks of camera labels: that they are cameras, and that these see the scene.

A label in another convention is mostly a valid camera, too; but it looks elsewhere. So the scene,
which is around the world origin, must be in the image of every camera; if it is not, the error
names the convention in which it would be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gan3d.camera.camera import Camera
from gan3d.camera.pinhole import flip_camera_axes

# The origin is in the image if it is this far from its edges, in image sizes.
MARGIN = 0.01
# Width of the world in the image at the origin's depth. Published sets: 0.2 to 1.3.
SMALLEST_VIEW, LARGEST_VIEW = 0.05, 10.0


def check_labels(
    labels: Tensor, names: Sequence[str] | None = None, *, tolerance: float = 1e-3
) -> None:
    """Checks that EG3D labels are cameras in the convention of `gan3d.camera.camera`.

    Args:
        labels: [n 25].
        names: a name per label for the error; by default labels are numbered.
        tolerance: largest deviation of a rotation or a constant row.

    Raises:
        ValueError: names the first label that is not finite, whose rotation is not orthonormal or
            is left-handed, whose last rows are not constant, or whose focal length is not positive.
    """
    camera = Camera.from_label(labels.double())
    rotation = camera.cam2world[:, :3, :3]
    product = (rotation[:, :, :, None] * rotation[:, :, None, :]).sum(dim=1)  # n 3 3
    identity = torch.eye(3, dtype=product.dtype, device=product.device)
    pose_row = camera.cam2world[:, 3] - camera.cam2world.new_tensor([0.0, 0.0, 0.0, 1.0])
    lens_row = camera.intrinsics[:, 2] - camera.intrinsics.new_tensor([0.0, 0.0, 1.0])
    focal = torch.minimum(camera.intrinsics[:, 0, 0], camera.intrinsics[:, 1, 1])

    infinite = ~labels.isfinite().all(dim=1)
    bad_pose_row = pose_row.abs().amax(dim=1) > tolerance
    skewed = (product - identity).abs().amax(dim=(1, 2)) > tolerance
    left_handed = torch.linalg.det(rotation.nan_to_num()) < 0
    bad_lens_row = lens_row.abs().amax(dim=1) > tolerance
    bad_focal = ~(focal > 0)
    for bad, what in (
        (infinite, "has NaN or infinite entries"),
        (bad_pose_row, "has a cam2world whose last row is not (0, 0, 0, 1)"),
        (skewed, f"has a rotation that is not orthonormal within {tolerance}"),
        (left_handed, "has a left-handed rotation (determinant -1)"),
        (bad_lens_row, "has intrinsics whose last row is not (0, 0, 1)"),
        (bad_focal, "has a focal length that is not positive"),
    ):
        if bool(bad.any()):
            raise ValueError(
                f"camera label {_first(bad, names)} {what} ({_count(bad)}); expected 25 numbers: "
                "cam2world 4x4 row by row in OpenCV axes (right, down, forward), then intrinsics "
                "3x3 in image sizes"
            )


def check_views(labels: Tensor, names: Sequence[str] | None = None) -> None:
    """Checks that the cameras of EG3D labels see a scene of about unit size at the world origin.

    The origin must be in front of a camera and in its image, and the image must be 0.05 to 10 world
    units wide at its depth.

    Args:
        labels: [n 25], cameras (see `check_labels`).
        names: a name per label for the error; by default labels are numbered.

    Raises:
        ValueError: names the first camera that does not see the scene, and the convention in which
            the labels would see it, if there is one.
    """
    camera = Camera.from_label(labels.double())
    uv, z = _origin(camera)
    outside = (uv < MARGIN).any(dim=1) | (uv > 1 - MARGIN).any(dim=1)
    width = z / torch.minimum(camera.intrinsics[:, 0, 0], camera.intrinsics[:, 1, 1])
    for bad, what in (
        (z <= 0, "is behind the camera"),
        (outside, "is outside the image"),
    ):
        if bool(bad.any()):
            raise ValueError(
                f"camera label {_first(bad, names)} does not see the scene: the world origin "
                f"{what} ({_count(bad)}); {_cure(camera)}"
            )
    for bad, what in (
        (width > LARGEST_VIEW, "far away or small"),
        (width < SMALLEST_VIEW, "near or magnified"),
    ):
        if bool(bad.any()):
            k = int(bad.nonzero()[0])
            radius = float(torch.linalg.vector_norm(camera.origins[k]))
            raise ValueError(
                f"camera label {_first(bad, names)} shows {float(width[k]):.3g} world units at the "
                f"world origin, from radius {radius:.3g} ({_count(bad)}): the scene is too {what}; "
                f"expected {SMALLEST_VIEW} to {LARGEST_VIEW:g}, for a scene of about unit size: "
                "scale the poses, Camera.scale(factor), or if the focal length is in pixels, "
                "convert it with intrinsics_from_pixels(intrinsics, size)"
            )


def _origin(camera: Camera) -> tuple[Tensor, Tensor]:
    """Where the cameras see the world origin: (u, v) [n 2], camera z [n]."""
    uv, z = camera.project(camera.origins.new_zeros(len(camera), 1, 3))
    return uv[:, 0], z[:, 0, 0]


def _cure(camera: Camera) -> str:
    """What to do about cameras that do not see the origin: the first convention that explains
    them all.
    """
    poses, lens = camera.cam2world, camera.intrinsics
    centered = lens.clone()
    centered[:, :2, 2] += 0.5
    size = 2 * lens[:, :2, 2].clamp(min=0.5)  # if the principal point is about the image's center
    in_sizes = lens.clone()
    in_sizes[:, :2] /= size[:, :, None]
    by_pixels = "intrinsics_from_pixels(intrinsics, size)"
    conventions: list[tuple[str, Callable[[], Camera], str]] = [
        (
            "OpenGL axes (right, up, backward)",
            lambda: Camera(flip_camera_axes(poses), lens),
            "Camera.from_opengl(cam2world, intrinsics)",
        ),
        (
            "world2cam in place of cam2world",
            lambda: Camera.from_world2cam(poses, lens),
            "Camera.from_world2cam(world2cam, intrinsics)",
        ),
        (
            "world2cam with OpenGL axes (right, up, backward)",
            lambda: Camera(flip_camera_axes(Camera.from_world2cam(poses, lens).cam2world), lens),
            "Camera.from_opengl(torch.linalg.inv(world2cam), intrinsics)",
        ),
        ("intrinsics in pixels", lambda: Camera(poses, in_sizes), by_pixels),
        (
            "a principal point counted from the image's center",
            lambda: Camera(poses, centered),
            "adding 0.5 to cx and cy",
        ),
    ]
    for name, converted, cure in conventions:
        uv, z = _origin(converted())
        if bool(((z > 0) & (uv > MARGIN).all(1) & (uv < 1 - MARGIN).all(1)).all()):
            return f"these look like labels with {name}: convert them by {cure}"
    return (
        "expected cameras around a scene at the world origin: move the poses so that the object is "
        "there, or take the image out of the set; docs/conventions.md lists other conventions"
    )


def _first(bad: Tensor, names: Sequence[str] | None) -> str:
    number = int(bad.nonzero()[0])
    return f"number {number}" if names is None else repr(names[number])


def _count(bad: Tensor) -> str:
    return f"{int(bad.sum())} such of {len(bad)}"
