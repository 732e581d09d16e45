"""The camera paths of CIPS-3D's and pi-GAN's videos, by explicit positions and viewing directions
(specs/cips3d.md 16).

    camera.orbit, camera.wiggle     the package's own closed paths
    here                            the published ones, frame for frame; CIPS-3D's ends are inclusive, so that joint
                                    frames repeat; pi-GAN's closed paths leave out the last frame,
                                    which is the first

Convention: theta = yaw and phi = pitch of the published code: (pi/2, pi/2) is frontal, theta > pi/2
stands at *-x*. `fov` is in degrees, the full angle; it reaches from edge to edge of the picture,
or, with `resolution`, from center to center of the outer pixels, as the published pixel grid has it
(then the cameras are theirs at this resolution only). Everything is computed in float64 and given
in float32.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from gan3d.camera.camera import Camera
from gan3d.camera.pinhole import Vector, intrinsics_from_focal, intrinsics_from_fov, look_at

ALPHA = math.pi / 15  # half-opening of the cone that the circle draws, radians
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
    """A closed path of `num` frames at one elevation: yaw(t) = yaw sin 2 pi t, t = k / num.

    With `full_circle` yaw(t) = 2 pi t: all around the target, from the front to +x. The other
    arguments are those of `Camera.from_angles`.
    """
    phase = _phases(num)
    yaws = phase if full_circle else yaw * phase.sin()
    return Camera.from_angles(yaws, pitch, radius=radius, fov=fov, focal=focal, target=target).to(
        torch.float32
    )


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
    """A closed ellipse of `num` frames: yaw(t) = yaw sin 2 pi t, pitch(t) = pitch_mean + pitch cos
    2 pi t, t = k / num.

    The other arguments are those of `Camera.from_angles`.
    """
    phase = _phases(num)
    pitches = pitch_mean + pitch * phase.cos()
    camera = Camera.from_angles(
        yaw * phase.sin(), pitches, radius=radius, fov=fov, focal=focal, target=target
    )
    return camera.to(torch.float32)


def eg3d_wiggle(
    num: int,
    *,
    radius: float = 2.7,
    target: Vector = (0.0, 0.0, 0.2),
    intrinsics: Tensor | None = None,
) -> Camera:
    """EG3D's video path (specs/eg3d.md 16), with its 3.14: h = 3.14/2 + .35 sin x, v = 3.14/2 - .05
    + .25 cos x.

    x = 2 * 3.14 k / num, hence a gap of 0.003 in x; the focal length is FFHQ's 4.2647 unless
    `intrinsics` are given.
    """
    x = 2 * 3.14 * torch.arange(num, dtype=torch.float64) / num
    h, v = 3.14 / 2 + 0.35 * x.sin(), 3.14 / 2 - 0.05 + 0.25 * x.cos()
    lens = intrinsics_from_focal(4.2647) if intrinsics is None else intrinsics
    return Camera.from_eg3d_angles(h, v, radius=radius, target=target, intrinsics=lens).to(
        torch.float32
    )


def yaw_path(
    num: int, *, radius: float = 1.0, fov: float = 12.0, resolution: int | None = None
) -> Camera:
    """theta from 1 to pi - 1 in `num` frames: position radius (cos theta, 0, sin theta), looking at
    the origin.
    """
    theta = torch.linspace(1.0, math.pi - 1.0, num, dtype=torch.float64)
    position = radius * torch.stack([theta.cos(), torch.zeros_like(theta), theta.sin()], dim=-1)
    return _cameras(position, -position, fov, resolution)


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

    position = radius (sin alpha cos beta, sin alpha sin beta, cos alpha),   beta = 2 pi periods t,   t from 1 to 0
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
    """Two circles, 2 num frames: the field of view goes from `fov` to `max_fov` over the first, and
    back.
    """
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
    """Shifts sideways, then upwards, at one field of view and looking along -z; then
    `circle_near_far`.

        offset: 0 -> d -> 0 -> -d -> 0, each quarter floor(num_translate / 4) frames

    The frames start at (0, 0, radius cos alpha), where the circle's plane is.
    """
    shifts, ahead = _translations(num_translate, translate_dist, radius * math.cos(alpha))
    around = _circle_positions(num, alpha, 2, radius)
    lens = torch.cat(
        [torch.full((len(shifts),), fov, dtype=torch.float64), _near_far(num, fov, max_fov)]
    )
    return _cameras(torch.cat([shifts, around]), torch.cat([ahead, -around]), lens, resolution)


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
    """The shifts of `translate_circle_near_far`, then `num` frames of roll about the viewing axis.

    up = (-sin beta, cos beta, 0),   beta from 0 to 2 pi
    """
    shifts, ahead = _translations(num_translate, translate_dist, radius * math.cos(alpha))
    beta = torch.linspace(0, 2 * math.pi, num, dtype=torch.float64)
    roll = torch.stack([-beta.sin(), beta.cos(), torch.zeros_like(beta)], dim=-1)
    still = shifts.new_tensor([0.0, 0.0, radius * math.cos(alpha)]).expand(num, 3)
    upright = shifts.new_tensor([0.0, 1.0, 0.0]).expand_as(shifts)
    return _cameras(
        torch.cat([shifts, still]),
        torch.cat([ahead, -still]),
        fov,
        resolution,
        up=torch.cat([upright, roll]),
    )


def pigan_front(num: int, *, radius: float = 1.0, resolution: int | None = None) -> Camera:
    """pi-GAN's frontal video, t = k / num: phi = pi/2 + 0.2 cos 2 pi t, theta = pi/2 + 0.4 sin 2 pi
    t, and a zoom.

    fov = 17 + 5 sin 2 pi t degrees
    """
    phase = _phases(num)
    return _sphere(
        math.pi / 2 + 0.2 * phase.cos(),
        math.pi / 2 + 0.4 * phase.sin(),
        17 + 5 * phase.sin(),
        radius,
        resolution,
    )


def pigan_orbit(
    num: int,
    *,
    pitch_swing: float = 0.0,
    radius: float = 1.0,
    fov: float | None = None,
    resolution: int | None = None,
) -> Camera:
    """pi-GAN's orbit, t = k / num: phi = pi/4 + pitch_swing cos 2 pi t, theta = 2 pi t.

    `pitch_swing` is 0.2 in its interpolation script; `fov` is the data set's, 30 (CARLA) if not
    given.
    """
    phase = _phases(num)
    lens = torch.full_like(phase, 30.0 if fov is None else fov)
    return _sphere(math.pi / 4 + pitch_swing * phase.cos(), phase, lens, radius, resolution)


def _circle_positions(num: int, alpha: float, periods: int, radius: float) -> Tensor:
    beta = 2 * math.pi * periods * torch.linspace(1, 0, num * periods, dtype=torch.float64)
    height = torch.full_like(beta, math.cos(alpha))
    return radius * torch.stack(
        [math.sin(alpha) * beta.cos(), math.sin(alpha) * beta.sin(), height], dim=-1
    )


def _near_far(num: int, fov: float, max_fov: float) -> Tensor:
    return torch.cat(
        [
            torch.linspace(a, b, num, dtype=torch.float64)
            for a, b in ((fov, max_fov), (max_fov, fov))
        ]
    )


def _translations(num: int, distance: float, z: float) -> tuple[Tensor, Tensor]:
    """Positions and viewing directions of the shifts along x, then along y, [8 floor(num / 4) 3]
    each.
    """
    if num < 4:
        raise ValueError(
            f"num_translate {num} leaves no frame for a quarter of the way; use 4 or more"
        )
    corners = (0.0, distance, 0.0, -distance, 0.0)
    quarters = [torch.linspace(a, b, num // 4, dtype=torch.float64) for a, b in pairwise(corners)]
    offset = torch.cat(quarters)
    zero, height = torch.zeros_like(offset), torch.full_like(offset, z)
    position = torch.cat(
        [torch.stack([offset, zero, height], -1), torch.stack([zero, offset, height], -1)]
    )
    return position, position.new_tensor([0.0, 0.0, -1.0]).expand_as(position)


def _phases(num: int) -> Tensor:
    return 2 * math.pi * torch.arange(num, dtype=torch.float64) / num


def _sphere(
    phi: Tensor, theta: Tensor, fov: Tensor, radius: float, resolution: int | None
) -> Camera:
    if resolution is not None:
        return Camera.from_sphere(phi, theta, fov, resolution=resolution, radius=radius).to(
            torch.float32
        )
    return Camera.from_angles(math.pi / 2 - theta, math.pi / 2 - phi, radius=radius, fov=fov).to(
        torch.float32
    )


def _cameras(
    position: Tensor,
    direction: Tensor,
    fov: Tensor | float,
    resolution: int | None,
    up: Tensor | None = None,
) -> Camera:
    """Cameras at `position` looking along `direction`, [b 3] each, float64."""
    upwards = position.new_tensor([0.0, 1.0, 0.0]) if up is None else up
    degrees = torch.as_tensor(fov, dtype=torch.float64).expand(len(position))
    if resolution is None:
        lens = intrinsics_from_fov(degrees)
    else:
        front = torch.full_like(degrees, math.pi / 2)
        lens = Camera.from_sphere(front, front, degrees, resolution=resolution).intrinsics
    return Camera(look_at(position, position + direction, upwards), lens).to(torch.float32)
