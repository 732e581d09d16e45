"""Pinhole geometry in plain tensors: rotations and intrinsics of a `gan3d.camera.Camera`.

Convention: as in `gan3d.camera.camera` (OpenCV axes, world y up, intrinsics in image sizes, fields
of view in degrees).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.host import constant, upload

DEFAULT_FOV = 18.83
Number = Tensor | float
Vector = Sequence[float] | Tensor


def look_at(
    position: Tensor, target: Vector = (0.0, 0.0, 0.0), up: Vector = (0.0, 1.0, 0.0)
) -> Tensor:
    """cam2world of cameras that look at a target.

        forward = n(target - position),   right = n(forward x up),   down = forward x right

    where n normalizes. If a camera looks along `up` (within 1e-6 rad), the roll is undefined: right
    is then the part of +x orthogonal to the view (of +z if the view is along x), which continues
    `from_angles` at yaw 0.

    Args:
        position: [b 3].
        target: [3] or [b 3].
        up: direction that is up in the image, [3] or [b 3].

    Returns:
        [b 4 4].

    Raises:
        ValueError: the position of a camera is its target.
    """
    towards = vectors(target, position) - position
    if not bool((towards != 0).any(dim=-1).all()):
        raise ValueError(
            "the position of a camera is its target, so it has no viewing direction; move one of "
            "them"
        )
    forward = F.normalize(towards, dim=-1)
    sideways = torch.linalg.cross(forward, F.normalize(vectors(up, position), dim=-1))

    # Replacement for cameras that look along `up`.
    x_axis = constant((1.0, 0.0, 0.0), forward)
    z_axis = constant((0.0, 0.0, 1.0), forward)
    axis = torch.where(forward[:, :1].abs() < 0.9, x_axis, z_axis)
    orthogonal = axis - (axis * forward).sum(dim=-1, keepdim=True) * forward
    parallel = torch.linalg.vector_norm(sideways.detach(), dim=-1, keepdim=True) < 1e-6

    right = F.normalize(torch.where(parallel, orthogonal, sideways), dim=-1)
    return rigid(right, torch.linalg.cross(forward, right), forward, position)


def intrinsics_from_focal(focal: Number) -> Tensor:
    """Intrinsics [* 3 3] of focal lengths [*] in image widths; the principal point is centered."""
    if isinstance(focal, Tensor) and focal.is_floating_point():
        f = focal
    else:
        f = torch.as_tensor(focal).float()
    zero, half, one = torch.zeros_like(f), torch.full_like(f, 0.5), torch.ones_like(f)
    entries = torch.stack([f, zero, half, zero, f, half, zero, zero, one], dim=-1)
    return entries.unflatten(-1, (3, 3))


def intrinsics_from_fov(degrees: Number) -> Tensor:
    """Intrinsics [* 3 3] of fields of view [*] in degrees: f = 0.5 / tan(fov / 2)."""
    return intrinsics_from_focal(focal_length(degrees, None))


def intrinsics_from_eg3d_fov(degrees: float) -> Tensor:
    """EG3D's FOV_to_intrinsics [3 3] with its rounded constants.

    f = 1 / (1.414 tan(deg 3.14159 / 360))
    """
    return intrinsics_from_focal(1 / (1.414 * math.tan(degrees * 3.14159 / 360)))


def intrinsics_from_pixels(intrinsics: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Intrinsics in units of the image size of those in pixels: fx, s, cx by the width, fy, cy by
    the height.

    Convention: pixel centers at half-integers (COLMAP). For centers at integers (OpenCV) add 0.5 to
    cx and cy before.

    Args:
        intrinsics: [* 3 3], pixels.
        size: of the images in pixels: width and height, or one number for both.
    """
    width, height = size if isinstance(size, tuple) else (size, size)
    return intrinsics / intrinsics.new_tensor([[width] * 3, [height] * 3, [1.0] * 3])


def flip_camera_axes(cam2world: Tensor) -> Tensor:
    """Converts OpenCV axes (right, down, forward) to OpenGL (right, up, backward), or back.

    [b 4 4] -> [b 4 4].
    """
    return cam2world * constant((1.0, -1.0, -1.0, 1.0), cam2world)


def focal_length(fov: Number | None = None, focal: Number | None = None) -> Number:
    """f in image widths: `focal` itself, or 0.5 / tan(fov / 2) of `fov` (default 18.83 degrees).

    Raises:
        ValueError: both are given, or a number is out of range (tensors are not checked).
    """
    if fov is not None and focal is not None:
        raise ValueError(f"got both fov {fov} and focal {focal}; give one of them")
    if fov is not None and not isinstance(fov, Tensor) and not 0 < fov < 180:
        raise ValueError(f"fov is {fov}; expected an angle between 0 and 180 degrees")
    if focal is not None and not isinstance(focal, Tensor) and not 0 < focal < math.inf:
        raise ValueError(f"focal is {focal}; expected a positive length in image widths")
    if focal is not None:
        return focal
    if isinstance(fov, Tensor):
        return 0.5 / torch.tan(torch.deg2rad(fov) / 2)
    return 0.5 / math.tan(math.radians(DEFAULT_FOV if fov is None else fov) / 2)


def field_of_view(focal: Tensor) -> Tensor:
    """Field of view in degrees from edge to edge, fov = 2 atan(0.5 / f)."""
    return torch.rad2deg(2 * torch.atan(0.5 / focal))


def rigid(right: Tensor, down: Tensor, forward: Tensor, position: Tensor) -> Tensor:
    """cam2world [b 4 4] from its columns [b 3]."""
    top = torch.stack([right, down, forward, position], dim=-1)
    bottom = constant((0.0, 0.0, 0.0, 1.0), top).expand(len(top), 1, 4)
    return torch.cat([top, bottom], dim=1)


def broadcast(*values: Number) -> tuple[Tensor, ...]:
    """Broadcasts numbers and tensors [b] to tensors [b] of one dtype and device.

    The dtype is the promoted one of the tensors, at least float32.

    Raises:
        ValueError: a tensor has more than one dimension.
    """
    tensors = [value for value in values if isinstance(value, Tensor)]
    if any(tensor.ndim > 1 for tensor in tensors):
        raise ValueError(
            f"got shapes {[tuple(t.shape) for t in tensors]}; expected numbers or [b], use "
            "flatten()"
        )
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
    device = max(tensors, key=Tensor.dim).device if tensors else torch.device("cpu")

    def vector(value: Number) -> Tensor:
        if isinstance(value, Tensor):
            return value.to(dtype=dtype, device=device).reshape(-1)
        return torch.full((1,), value, dtype=dtype, device=device)

    return torch.broadcast_tensors(*map(vector, values))


def vectors(value: Vector, like: Tensor) -> Tensor:
    """Expands a vector [3] or vectors [b 3] to the shape, dtype and device of `like` [b 3].

    Raises:
        ValueError: the shapes do not match.
    """
    vector = upload(torch.as_tensor(value, dtype=like.dtype), like.device)
    if vector.shape not in (like.shape, like.shape[1:]):
        raise ValueError(
            f"got a vector of shape {tuple(vector.shape)}; expected [3] or {list(like.shape)}"
        )
    return vector.expand_as(like)
