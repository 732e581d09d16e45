"""Camera paths for videos.

    orbit, wiggle,
    dolly               closed paths of this package
    eg3d_wiggle         the path of EG3D's videos (specs/eg3d.md 16)
    the others          the paths of CIPS-3D's and pi-GAN's videos, frame by frame
                        (specs/cips3d.md 16). CIPS-3D's segments include both ends, so frames
                        repeat where segments join; pi-GAN's closed paths omit the last frame,
                        which equals the first.

Convention: theta = yaw and phi = pitch of the published code: (pi/2, pi/2) is frontal, theta > pi/2
is at *-x*. `fov` is the full angle in degrees, from edge to edge of the image or, if `resolution`
is given, from center to center of the outer pixels, as in the published pixel grid (the intrinsics
are then valid at this resolution only). Paths are computed in float64 and returned in float32.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from gan3d.camera.camera import Camera
from gan3d.camera.pinhole import (
    DEFAULT_FOV,
    Vector,
    focal_length,
    intrinsics_from_focal,
    intrinsics_from_fov,
    look_at,
)

ALPHA = math.pi / 15  # half the opening angle of the cone of the circle, radians
MAX_FOV = 20.0  # degrees


def orbit(
    num: int,
    *,
    yaw: float = 0.5,
    pitch: float = 0.0,
    full_circle: bool = False,
    radius: float = 2.7,
    fov: float | None = None,
    focal: float | None = None,
    target: Vector = (0.0, 0.0, 0.0),
) -> Camera:
    """A closed path of `num` frames at constant pitch: yaw(t) = yaw sin 2 pi t, t = k / num.

    With `full_circle`, yaw(t) = 2 pi t: once around the target, from the front towards +x. The
    other arguments are those of `Camera.from_angles`.
    """
    phase = _phases(num)
    yaws = phase if full_circle else yaw * phase.sin()
    camera = Camera.from_angles(yaws, pitch, radius=radius, fov=fov, focal=focal, target=target)
    return camera.to(torch.float32)


def wiggle(
    num: int,
    *,
    yaw: float = 0.35,
    pitch: float = 0.15,
    pitch_mean: float = 0.0,
    radius: float = 2.7,
    fov: float | None = None,
    focal: float | None = None,
    target: Vector = (0.0, 0.0, 0.0),
) -> Camera:
    """A closed ellipse of `num` frames, t = k / num.

        yaw(t) = yaw sin 2 pi t,   pitch(t) = pitch_mean + pitch cos 2 pi t

    The other arguments are those of `Camera.from_angles`.
    """
    phase = _phases(num)
    yaws = yaw * phase.sin()
    pitches = pitch_mean + pitch * phase.cos()
    camera = Camera.from_angles(yaws, pitches, radius=radius, fov=fov, focal=focal, target=target)
    return camera.to(torch.float32)


def dolly(
    num: int,
    *,
    radius: float = 2.7,
    far: float | None = None,
    fov: float = DEFAULT_FOV,
) -> Camera:
    """A frontal camera that moves away and back while its lens keeps the head's size (the dolly
    zoom), a closed path of `num` frames, t = k / num.

        r(t) = radius + (far - radius) (1 - cos 2 pi t) / 2,   f(t) = f(0) r(t) / radius

    Args:
        num: frames.
        radius: distance from the origin at the start.
        far: largest distance; None is 1.15 times the radius.
        fov: degrees at the start, from edge to edge.
    """
    most = 1.15 * radius if far is None else far
    distance = radius + (most - radius) * (1 - _phases(num).cos()) / 2
    focal = focal_length(fov, None) * distance / radius
    return Camera.from_angles(0.0, 0.0, radius=distance, focal=focal).to(torch.float32)


def eg3d_wiggle(
    num: int,
    *,
    radius: float = 2.7,
    target: Vector = (0.0, 0.0, 0.2),
    intrinsics: Tensor | None = None,
) -> Camera:
    """EG3D's video path (specs/eg3d.md 16), with its rounded pi.

        h = 3.14/2 + 0.35 sin x,   v = 3.14/2 - 0.05 + 0.25 cos x,   x = 2 * 3.14 k / num

    The path has a gap of 0.003 in x. The focal length is FFHQ's 4.2647 unless `intrinsics` are
    given.
    """
    x = 2 * 3.14 * torch.arange(num, dtype=torch.float64) / num
    h = 3.14 / 2 + 0.35 * x.sin()
    v = 3.14 / 2 - 0.05 + 0.25 * x.cos()
    lens = intrinsics_from_focal(4.2647) if intrinsics is None else intrinsics
    camera = Camera.from_eg3d_angles(h, v, radius=radius, target=target, intrinsics=lens)
    return camera.to(torch.float32)


def yaw_path(
    num: int, *, radius: float = 1.0, fov: float = 12.0, resolution: int | None = None
) -> Camera:
    """`num` frames from right to left, looking at the origin.

    position = radius (cos theta, 0, sin theta),   theta from 1 to pi - 1
    """
    theta = torch.linspace(1.0, math.pi - 1.0, num, dtype=torch.float64)
    position = radius * torch.stack([theta.cos(), torch.zeros_like(theta), theta.sin()], dim=-1)
    return _cameras(position, -position, fov, resolution)


def frontal(cameras: Camera) -> Camera:
    """A frontal camera (yaw = pitch = 0) with the mean radius and focal length of other cameras."""
    radius, focal = cameras.origins.norm(dim=-1).mean(), cameras.focal.mean()
    camera = Camera.from_angles(0.0, 0.0, radius=float(radius), focal=float(focal))
    return camera.to(cameras.cam2world)


def circle(
    num: int,
    *,
    alpha: float = ALPHA,
    periods: int = 1,
    radius: float = 1.0,
    fov: float = 12.0,
    resolution: int | None = None,
) -> Camera:
    """Circles around the frontal view, looking at the origin, num * periods frames.

    position = radius (sin alpha cos beta, sin alpha sin beta, cos alpha)
    beta = 2 pi periods t,   t from 1 to 0
    """
    position = _circle_positions(num, alpha, periods, radius)
    return _cameras(position, -position, fov, resolution)


def circle_near_far(
    num: int,
    *,
    alpha: float = ALPHA,
    radius: float = 1.0,
    fov: float = 12.0,
    max_fov: float = MAX_FOV,
    resolution: int | None = None,
) -> Camera:
    """Two circles, 2 num frames: the field of view goes from `fov` to `max_fov`, then back."""
    position = _circle_positions(num, alpha, 2, radius)
    return _cameras(position, -position, _near_far(num, fov, max_fov), resolution)


def translate_circle_near_far(
    num: int,
    *,
    num_translate: int = 30,
    translate_dist: float = 0.04,
    alpha: float = ALPHA,
    radius: float = 1.0,
    fov: float = 12.0,
    max_fov: float = MAX_FOV,
    resolution: int | None = None,
) -> Camera:
    """Translations along x, then along y, looking along -z; then `circle_near_far`.

        offset: 0 -> d -> 0 -> -d -> 0, each quarter floor(num_translate / 4) frames

    Translations start at (0, 0, radius cos alpha), in the plane of the circle, and have a constant
    field of view.
    """
    shifts, ahead = _translations(num_translate, translate_dist, radius * math.cos(alpha))
    around = _circle_positions(num, alpha, 2, radius)
    constant = torch.full((len(shifts),), fov, dtype=torch.float64)
    fovs = torch.cat([constant, _near_far(num, fov, max_fov)])
    return _cameras(torch.cat([shifts, around]), torch.cat([ahead, -around]), fovs, resolution)


def translate_rotate(
    num: int,
    *,
    num_translate: int = 30,
    translate_dist: float = 0.04,
    alpha: float = ALPHA,
    radius: float = 1.0,
    fov: float = 12.0,
    resolution: int | None = None,
) -> Camera:
    """Translations as in `translate_circle_near_far`, then `num` frames of roll.

    up = (-sin beta, cos beta, 0),   beta from 0 to 2 pi
    """
    shifts, ahead = _translations(num_translate, translate_dist, radius * math.cos(alpha))
    upright = shifts.new_tensor([0.0, 1.0, 0.0]).expand_as(shifts)

    beta = torch.linspace(0, 2 * math.pi, num, dtype=torch.float64)
    roll = torch.stack([-beta.sin(), beta.cos(), torch.zeros_like(beta)], dim=-1)
    still = shifts.new_tensor([0.0, 0.0, radius * math.cos(alpha)]).expand(num, 3)

    position = torch.cat([shifts, still])
    direction = torch.cat([ahead, -still])
    return _cameras(position, direction, fov, resolution, up=torch.cat([upright, roll]))


def pigan_front(num: int, *, radius: float = 1.0, resolution: int | None = None) -> Camera:
    """pi-GAN's frontal video: a closed ellipse with zoom, t = k / num.

    phi = pi/2 + 0.2 cos 2 pi t,   theta = pi/2 + 0.4 sin 2 pi t
    fov = 17 + 5 sin 2 pi t degrees
    """
    phase = _phases(num)
    phi = math.pi / 2 + 0.2 * phase.cos()
    theta = math.pi / 2 + 0.4 * phase.sin()
    return _sphere(phi, theta, 17 + 5 * phase.sin(), radius, resolution)


def pigan_orbit(
    num: int,
    *,
    pitch_swing: float = 0.0,
    radius: float = 1.0,
    fov: float | None = None,
    resolution: int | None = None,
) -> Camera:
    """pi-GAN's orbit: phi = pi/4 + pitch_swing cos 2 pi t, theta = 2 pi t, t = k / num.

    Args:
        num: frames.
        pitch_swing: radians; 0.2 in the published interpolation script.
        radius: distance from the origin.
        fov: degrees; None is 30 (CARLA).
        resolution: see the module's Convention.
    """
    phase = _phases(num)
    phi = math.pi / 4 + pitch_swing * phase.cos()
    fovs = torch.full_like(phase, 30.0 if fov is None else fov)
    return _sphere(phi, phase, fovs, radius, resolution)


def _circle_positions(num: int, alpha: float, periods: int, radius: float) -> Tensor:
    """Positions on circles, [num * periods 3]."""
    beta = 2 * math.pi * periods * torch.linspace(1, 0, num * periods, dtype=torch.float64)
    x = math.sin(alpha) * beta.cos()
    y = math.sin(alpha) * beta.sin()
    z = torch.full_like(beta, math.cos(alpha))
    return radius * torch.stack([x, y, z], dim=-1)


def _near_far(num: int, fov: float, max_fov: float) -> Tensor:
    """Fields of view from `fov` to `max_fov` and back, [2 num]."""
    there = torch.linspace(fov, max_fov, num, dtype=torch.float64)
    back = torch.linspace(max_fov, fov, num, dtype=torch.float64)
    return torch.cat([there, back])


def _translations(num: int, distance: float, z: float) -> tuple[Tensor, Tensor]:
    """Positions and viewing directions of the translations, [8 floor(num / 4) 3] each."""
    if num < 4:
        raise ValueError(f"num_translate {num} is less than one frame per quarter; use 4 or more")
    corners = (0.0, distance, 0.0, -distance, 0.0)
    quarters = [torch.linspace(a, b, num // 4, dtype=torch.float64) for a, b in pairwise(corners)]
    offset = torch.cat(quarters)
    zero = torch.zeros_like(offset)
    height = torch.full_like(offset, z)
    along_x = torch.stack([offset, zero, height], -1)
    along_y = torch.stack([zero, offset, height], -1)
    position = torch.cat([along_x, along_y])
    return position, position.new_tensor([0.0, 0.0, -1.0]).expand_as(position)


def _phases(num: int) -> Tensor:
    """2 pi k / num for k = 0 .. num - 1."""
    return 2 * math.pi * torch.arange(num, dtype=torch.float64) / num


def _sphere(
    phi: Tensor, theta: Tensor, fov: Tensor, radius: float, resolution: int | None
) -> Camera:
    """Cameras at published angles, looking at the origin."""
    if resolution is None:
        yaw, pitch = math.pi / 2 - theta, math.pi / 2 - phi
        camera = Camera.from_angles(yaw, pitch, radius=radius, fov=fov)
    else:
        camera = Camera.from_sphere(phi, theta, fov, resolution=resolution, radius=radius)
    return camera.to(torch.float32)


def _cameras(
    position: Tensor,
    direction: Tensor,
    fov: Tensor | float,
    resolution: int | None,
    up: Tensor | None = None,
) -> Camera:
    """Cameras at positions [b 3] with viewing directions [b 3], both float64."""
    upwards = position.new_tensor([0.0, 1.0, 0.0]) if up is None else up
    degrees = torch.as_tensor(fov, dtype=torch.float64).expand(len(position))
    if resolution is None:
        lens = intrinsics_from_fov(degrees)
    else:
        front = torch.full_like(degrees, math.pi / 2)
        lens = Camera.from_sphere(front, front, degrees, resolution=resolution).intrinsics
    return Camera(look_at(position, position + direction, upwards), lens).to(torch.float32)
