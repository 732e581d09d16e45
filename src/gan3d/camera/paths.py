"""Camera paths by name, for the command line: those of `gan3d.camera.trajectories`, with any number
of frames and seen as a model is seen.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch

from gan3d.camera.camera import Camera
from gan3d.camera.pinhole import intrinsics_from_fov
from gan3d.camera.trajectories import (
    circle,
    circle_near_far,
    dolly,
    eg3d_wiggle,
    orbit,
    pigan_front,
    pigan_orbit,
    translate_circle_near_far,
    translate_rotate,
    wiggle,
    yaw_path,
)

PathName = Literal[
    "orbit",
    "wiggle",
    "dolly",
    "full_circle",
    "still",
    "eg3d_wiggle",
    "yaw_path",
    "circle",
    "circle_near_far",
    "translate_circle_near_far",
    "translate_rotate",
    "pigan_front",
    "pigan_orbit",
]
ANGLES = ("orbit", "wiggle", "still")  # paths whose yaw and pitch may be chosen
LEAST = {"translate_circle_near_far": 16, "translate_rotate": 16}  # frames
EVEN = ("circle_near_far", "translate_circle_near_far")  # paths whose second half mirrors the first


def camera_path(
    name: PathName,
    num: int,
    *,
    radius: float = 2.7,
    fov: float = 18.83,
    yaw: float | None = None,
    pitch: float | None = None,
    far: float | None = None,
) -> Camera:
    """A path of `num` cameras.

    pigan_front and pigan_orbit keep their published fields of view, of 12 to 22 and of 30 degrees.
    Lengths of the published paths are relative to their published radius: what eg3d_wiggle looks at
    (2.7), and how far translations go (1).

    Args:
        name: of the path.
        num: frames; paths that zoom have an even number of them, paths that translate at least 16.
        radius: distance of the cameras from the origin; of dolly, at its start.
        fov: degrees, from edge to edge; of paths that zoom, the smaller one.
        yaw: of orbit and wiggle, the outer one, of still the constant one, radians; None is the
            path's own.
        pitch: of orbit and still the constant one, of wiggle the outer one, radians; None is the
            path's own.
        far: largest distance of dolly; None is its own.

    Raises:
        ValueError: there is no such path, it has angles of its own, or the number does not fit.
    """
    least, odd = LEAST.get(name, 1), name in EVEN and num % 2 == 1
    if num < least or odd:
        kind = "an even number of frames" if name in EVEN else "frames"
        raise ValueError(f"path {name} of {num} frames; give {kind}, {least} or more")
    if (yaw, pitch) != (None, None) and name not in ANGLES:
        raise ValueError(
            f"path {name} has angles of its own; leave out yaw and pitch, or take one of "
            f"{', '.join(ANGLES)}"
        )
    shifted = num // 4 // 4 * 8  # frames of the translations
    step, wide = 0.04 * radius, fov * 5 / 3
    match name:
        case "orbit":
            yaw, pitch = 0.5 if yaw is None else yaw, pitch or 0.0
            return orbit(num, yaw=yaw, pitch=pitch, radius=radius, fov=fov)
        case "wiggle":
            yaw, pitch = 0.35 if yaw is None else yaw, 0.15 if pitch is None else pitch
            return wiggle(num, yaw=yaw, pitch=pitch, radius=radius, fov=fov)
        case "still":
            yaws = torch.full((num,), yaw or 0.0)
            return Camera.from_angles(yaws, pitch or 0.0, radius=radius, fov=fov)
        case "dolly":
            return dolly(num, radius=radius, far=far, fov=fov)
        case "full_circle":
            return orbit(num, full_circle=True, radius=radius, fov=fov)
        case "eg3d_wiggle":
            lens = intrinsics_from_fov(torch.tensor(fov, dtype=torch.float64))
            target = (0.0, 0.0, 0.2 * radius / 2.7)
            return eg3d_wiggle(num, radius=radius, target=target, intrinsics=lens)
        case "yaw_path":
            return yaw_path(num, radius=radius, fov=fov)
        case "circle":
            return circle(num, radius=radius, fov=fov)
        case "circle_near_far":
            return circle_near_far(num // 2, radius=radius, fov=fov, max_fov=wide)
        case "translate_circle_near_far":
            return translate_circle_near_far(
                (num - shifted) // 2,
                num_translate=num // 4,
                translate_dist=step,
                radius=radius,
                fov=fov,
                max_fov=wide,
            )
        case "translate_rotate":
            return translate_rotate(
                num - shifted,
                num_translate=num // 4,
                translate_dist=step,
                radius=radius,
                fov=fov,
            )
        case "pigan_front":
            return pigan_front(num, radius=radius)
        case "pigan_orbit":
            return pigan_orbit(num, radius=radius)
    raise ValueError(f"there is no path {name!r}; paths: {', '.join(get_args(PathName))}")
