"""Pinhole cameras, their rays, and conversions to and from other conventions of the field.

Convention (docs/conventions.md has a table of the others, which are converted here):

    world       right-handed, y up; a head looks towards +z, and a frontal camera is on +z.
    camera      OpenCV axes: x right, y down, z forward (right x down = forward). `cam2world`
                [b 4 4] maps camera to world coordinates; its columns are right, down, forward and
                the camera's center.
    intrinsics  [[fx, s, cx], [0, fy, cy], [0, 0, 1]] in units of the image size: the image spans
                [0, 1] x [0, 1].
    pixels      row i, column j of R x R pixels is at u = (j + 1/2) / R, v = (i + 1/2) / R; its
                index is i R + j; row 0 is at the top.
    angles      yaw and pitch in radians, spherical angles of the camera's position as seen from its
                target: yaw > 0 moves the camera to +x, pitch > 0 upwards, (0, 0) is frontal; pitch
                in [-pi/2, pi/2].
    fov         degrees, the full angle from edge to edge of the image: f = 0.5 / tan(fov / 2).
                EG3D's "fov" is a different angle, close to the diagonal one:
                f = 1 / (1.414 tan(deg 3.14159 / 360)), see `intrinsics_from_eg3d_fov`. Its 18.837
                is f = 4.263, which is a fov of 13.4 degrees here.
    depth       "z" is measured along the forward axis, "distance" along the unit ray:
                z = distance * cosine.
    dtype       float32 or better; all arithmetic is elementwise, so autocast does not lower it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from gan3d.camera.pinhole import (
    Number,
    Vector,
    broadcast,
    field_of_view,
    flip_camera_axes,
    focal_length,
    intrinsics_from_eg3d_fov,
    intrinsics_from_focal,
    look_at,
    rigid,
    vectors,
)
from gan3d.host import constant, upload

LABEL_DIM = 25


@dataclass(frozen=True, eq=False)
class Rays:
    """Rays of a camera in world coordinates.

    Attributes:
        origins: starting points, [b r 3].
        directions: unit vectors, [b r 3].
        cosines: cosines of the angles to the forward axis, [b r 1]; camera z = distance * cosine.
    """

    origins: Tensor
    directions: Tensor
    cosines: Tensor


@dataclass(frozen=True, eq=False)
class Camera:
    """b pinhole cameras (see the module's Convention).

    Everything except `to_sphere` is differentiable.

    Attributes:
        cam2world: [b 4 4], OpenCV axes.
        intrinsics: [b 3 3], normalized by the image size.

    Raises:
        ValueError: the shapes do not match.
    """

    cam2world: Tensor
    intrinsics: Tensor

    def __post_init__(self) -> None:
        pose = tuple(self.cam2world.shape)
        lens = tuple(self.intrinsics.shape)
        if pose[1:] != (4, 4) or lens[1:] != (3, 3) or pose[0] != lens[0]:
            raise ValueError(
                f"cam2world {pose} and intrinsics {lens} are not [b 4 4] and [b 3 3] with one b; "
                "add the batch axis with [None], repeat shared intrinsics with expand"
            )

    # -- Conversions -------------------------------------------------------------------------------

    @classmethod
    def from_label(cls, label: Tensor) -> Camera:
        """Cameras of EG3D labels [b 25]: cam2world row by row, then intrinsics row by row.

        Raises:
            ValueError: the labels have another shape.
        """
        if label.ndim != 2 or label.shape[1] != LABEL_DIM:
            raise ValueError(
                f"label has shape {tuple(label.shape)}; expected [b 25], for a single label "
                "label[None]"
            )
        cam2world, intrinsics = label.split([16, 9], dim=1)
        return cls(cam2world.unflatten(1, (4, 4)), intrinsics.unflatten(1, (3, 3)))

    @classmethod
    def from_opengl(cls, cam2world: Tensor, intrinsics: Tensor) -> Camera:
        """Cameras of poses with OpenGL axes (right, up, backward): Blender, NeRF, pyrender.

        Args:
            cam2world: [b 4 4].
            intrinsics: [b 3 3], normalized by the image size (see `intrinsics_from_pixels`).
        """
        return cls(flip_camera_axes(cam2world), intrinsics)

    @classmethod
    def from_world2cam(cls, world2cam: Tensor, intrinsics: Tensor) -> Camera:
        """Cameras of extrinsics with OpenCV axes: COLMAP, OpenCV.

            cam2world = [R^T | -R^T t] of world2cam = [R | t]

        Args:
            world2cam: [b 4 4], rigid.
            intrinsics: [b 3 3], normalized by the image size (see `intrinsics_from_pixels`).
        """
        right, down, forward = world2cam[:, :3, :3].unbind(dim=1)
        t = world2cam[:, :3, 3, None]
        position = -(right * t[:, 0] + down * t[:, 1] + forward * t[:, 2])
        return cls(rigid(right, down, forward, position), intrinsics)

    def label(self) -> Tensor:
        """EG3D labels [b 25], the inverse of `from_label`."""
        return torch.cat([self.cam2world.flatten(1), self.intrinsics.flatten(1)], dim=1)

    @classmethod
    def from_angles(
        cls,
        yaw: Number,
        pitch: Number,
        *,
        radius: Number = 2.7,
        fov: Number | None = None,
        focal: Number | None = None,
        target: Vector = (0.0, 0.0, 0.0),
    ) -> Camera:
        """Cameras on a sphere around `target`, looking at it, without roll.

            position = target + radius (cos p sin y, sin p, cos p cos y)
            right    = (cos y, 0, -sin y)

        The rotation is computed from the angles, so that it is exact and smooth also at the poles.

        Args:
            yaw: radians, [b] or a number; > 0 moves to +x.
            pitch: radians, [b] or a number; > 0 moves upwards.
            radius: distance from the target, [b] or a number.
            fov: degrees, [b] or a number; 18.83 if neither `fov` nor `focal` is given.
            focal: focal length in image widths, instead of `fov`.
            target: [3] or [b 3].

        Raises:
            ValueError: both `fov` and `focal` are given, or the shapes do not match.
        """
        yaw, pitch, radius, focal = broadcast(yaw, pitch, radius, focal_length(fov, focal))
        sin_y, cos_y = yaw.sin(), yaw.cos()
        sin_p, cos_p = pitch.sin(), pitch.cos()
        right = torch.stack([cos_y, torch.zeros_like(yaw), -sin_y], dim=-1)
        down = torch.stack([sin_p * sin_y, -cos_p, sin_p * cos_y], dim=-1)
        forward = torch.stack([-cos_p * sin_y, -sin_p, -cos_p * cos_y], dim=-1)
        position = vectors(target, forward) - radius[:, None] * forward
        return cls(rigid(right, down, forward, position), intrinsics_from_focal(focal))

    @classmethod
    def from_eg3d_angles(
        cls,
        h: Number,
        v: Number,
        *,
        radius: Number = 2.7,
        target: Vector = (0.0, 0.0, 0.0),
        intrinsics: Tensor | None = None,
    ) -> Camera:
        """Cameras in the coordinates of EG3D's pose samplers (specs/eg3d.md 1.3).

            phi = arccos(1 - 2 v / pi)
            position = radius (sin phi cos(pi - h), cos phi, sin phi sin(pi - h))

        Convention: h is an angle, v is not: uniform v is uniform by area. h = v = pi/2 is frontal;
        h > pi/2 moves to +x, v < pi/2 upwards. The sphere is around the *world origin*, for any
        target.

        Args:
            h: horizontal coordinate, [b] or a number.
            v: vertical coordinate, [b] or a number; clamped to [1e-5, pi - 1e-5].
            radius: [b] or a number.
            target: point to look at, [3] or [b 3].
            intrinsics: [3 3] or [b 3 3]; None is `intrinsics_from_eg3d_fov(18.837)`.
        """
        h, v, radius = broadcast(h, v, radius)
        phi = torch.arccos(1 - 2 * v.clamp(1e-5, math.pi - 1e-5) / math.pi)
        azimuth = math.pi - h
        x = phi.sin() * azimuth.cos()
        z = phi.sin() * azimuth.sin()
        position = radius[:, None] * torch.stack([x, phi.cos(), z], dim=-1)
        if intrinsics is None:
            intrinsics = intrinsics_from_eg3d_fov(18.837)
        return cls(look_at(position, target), intrinsics.to(position).expand(len(position), 3, 3))

    def to_eg3d_angles(self) -> tuple[Tensor, Tensor]:
        """(h [b], v [b]) of the positions: h = pi/2 + yaw, v = pi/2 (1 - sin pitch)."""
        yaw, pitch = self.yaw_pitch()
        return math.pi / 2 + yaw, math.pi / 2 * (1 - pitch.sin())

    @classmethod
    def from_sphere(
        cls, pitch: Number, yaw: Number, fov: Number, *, resolution: int, radius: Number = 1.0
    ) -> Camera:
        """Cameras of the poses of CIPS-3D, pi-GAN and GRAM (specs/cips3d.md 2, specs/gramhd.md 1).

            position = radius (sin phi cos theta, cos phi, sin phi sin theta)

        with phi = pitch, theta = yaw.

        Convention: cameras look at the world origin, up is +y; phi = theta = pi/2 is frontal,
        theta > pi/2 moves to *-x*, phi < pi/2 upwards. The published pixel grid puts the *centers*
        of the outer pixels on the edge of the field of view, so f = (W - 1) / (2 W tan(fov / 2)):
        the intrinsics are valid at this resolution only.

        Args:
            pitch: phi in radians, [b] or a number; clamped to [1e-5, pi - 1e-5].
            yaw: theta in radians, [b] or a number.
            fov: degrees, [b] or a number.
            resolution: W, pixels per side.
            radius: [b] or a number.
        """
        pitch, yaw, radius, focal = broadcast(pitch, yaw, radius, focal_length(fov, None))
        colatitude = pitch.clamp(1e-5, math.pi - 1e-5)
        focal = focal * _edge_factor(resolution)
        yaw, pitch = math.pi / 2 - yaw, math.pi / 2 - colatitude
        return cls.from_angles(yaw, pitch, radius=radius, focal=focal)

    def sphere_pose(self) -> Tensor:
        """(pitch, yaw) [b 2] of the positions in the convention of `from_sphere`, pitch first.

        Defined for any viewing direction, unlike `to_sphere`.
        """
        yaw, pitch = self.yaw_pitch()
        return torch.stack([math.pi / 2 - pitch, math.pi / 2 - yaw], dim=-1)

    def to_sphere(
        self, *, resolution: int, tolerance: float = 1e-3
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(pitch [b], yaw [b], fov [b] in degrees), the inverse of `from_sphere`.

        The radius is |origins|.

        Args:
            resolution: W, pixels per side.
            tolerance: largest deviation of a camera from its sphere pose.

        Raises:
            ValueError: a camera does not look at the world origin, is rolled, or has an off-center
                principal point, so that it has no sphere pose.
        """
        level = self.right[:, 1].abs() < tolerance
        aimed = (F.normalize(self.origins, dim=-1) + self.forward).abs().amax(dim=-1) < tolerance
        plain = intrinsics_from_focal(self.focal)
        centered = (self.intrinsics - plain).abs().amax(dim=(1, 2)) < tolerance
        for good, what in (
            (aimed, "looks past the world origin"),
            (level, "is rolled"),
            (centered, "is off-center"),
        ):
            if not bool(good.all()):
                raise ValueError(
                    f"camera {int((~good).nonzero()[0])} {what}, so it has no (pitch, yaw, fov); "
                    "use sphere_pose() or yaw_pitch() if only the position matters"
                )
        pitch, yaw = self.sphere_pose().unbind(dim=-1)
        return pitch, yaw, field_of_view(self.focal / _edge_factor(resolution))

    # -- Batches -----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.cam2world)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Camera:
        """Cameras by number, slice, indices or mask; a single number keeps the batch axis."""
        single = isinstance(index, Integral) or (isinstance(index, Tensor) and index.ndim == 0)
        indices = [int(index)] if single else index  # type: ignore[arg-type]
        return Camera(self.cam2world[indices], self.intrinsics[indices])

    def __iter__(self) -> Iterator[Camera]:
        return (self[i] for i in range(len(self)))

    def select(self, indices: Sequence[int] | Tensor) -> Camera:
        """Cameras by indices [n], in this order; `camera.select([0] * n)` repeats the first."""
        if not isinstance(indices, Tensor):
            indices = torch.tensor(indices)
        indices = upload(indices, self.device)
        cam2world = self.cam2world.index_select(0, indices)
        return Camera(cam2world, self.intrinsics.index_select(0, indices))

    @staticmethod
    def cat(cameras: Sequence[Camera]) -> Camera:
        """Concatenates batches of cameras."""
        cam2world = torch.cat([camera.cam2world for camera in cameras])
        return Camera(cam2world, torch.cat([camera.intrinsics for camera in cameras]))

    def to(self, *args: Any, **kwargs: Any) -> Camera:
        """Changes device, dtype or both; arguments as for `Tensor.to`."""
        return Camera(self.cam2world.to(*args, **kwargs), self.intrinsics.to(*args, **kwargs))

    def detach(self) -> Camera:
        """The cameras without gradient."""
        return Camera(self.cam2world.detach(), self.intrinsics.detach())

    def pin_memory(self) -> Camera:
        """The cameras in pinned memory; called by `DataLoader(pin_memory=True)`."""
        return Camera(self.cam2world.pin_memory(), self.intrinsics.pin_memory())

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.cam2world.device

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the poses."""
        return self.cam2world.dtype

    # -- Geometry ----------------------------------------------------------------------------------

    @property
    def origins(self) -> Tensor:
        """Centers in world coordinates, [b 3]."""
        return self.cam2world[:, :3, 3]

    @property
    def right(self) -> Tensor:
        """Unit vectors to the right of the image, [b 3]."""
        return self.cam2world[:, :3, 0]

    @property
    def down(self) -> Tensor:
        """Unit vectors to the bottom of the image, [b 3]."""
        return self.cam2world[:, :3, 1]

    @property
    def forward(self) -> Tensor:
        """Unit viewing directions, [b 3]."""
        return self.cam2world[:, :3, 2]

    @property
    def focal(self) -> Tensor:
        """fx in image widths, [b]."""
        return self.intrinsics[:, 0, 0]

    @property
    def fov(self) -> Tensor:
        """Horizontal field of view from edge to edge, degrees, [b]."""
        return field_of_view(self.focal)

    def yaw_pitch(self, target: Vector = (0.0, 0.0, 0.0)) -> tuple[Tensor, Tensor]:
        """(yaw [b], pitch [b]) of the positions around `target`, the inverse of `from_angles`.

        Exactly above or below the target, yaw is 0 and the gradient is undefined.
        """
        x, y, z = (self.origins - vectors(target, self.origins)).unbind(dim=-1)
        return torch.atan2(x, z), torch.atan2(y, torch.hypot(x, z))

    def mirror(self) -> Camera:
        """The camera whose image of the world mirrored at x = 0 is this camera's image flipped.

        With F = diag(-1, 1, 1, 1): cam2world' = F cam2world F, cx' = 1 - cx, s' = -s. EG3D
        (specs/eg3d.md 1.4) does not change the intrinsics, which is the same if cx = 1/2 and s = 0.
        """
        sign = constant((-1.0, 1.0, 1.0, 1.0), self.cam2world)
        flip = constant((1.0, -1.0, -1.0), self.intrinsics)
        shift = constant((0.0, 0.0, 1.0), self.intrinsics)
        first, others = self.intrinsics.split([1, 2], dim=1)
        intrinsics = torch.cat([first * flip + shift, others], dim=1)
        return Camera(self.cam2world * sign[:, None] * sign, intrinsics)

    def scale(self, factor: Number) -> Camera:
        """The camera with the same image of the world scaled by `factor` ([b] or a number)."""
        factors = torch.as_tensor(factor, dtype=self.dtype, device=self.device).reshape(-1, 1)
        position = self.origins * factors
        return Camera(rigid(self.right, self.down, self.forward, position), self.intrinsics)

    def rays(self, resolution: int, indices: Tensor | None = None) -> Rays:
        """Rays through pixel centers (specs/eg3d.md 1.2).

            y = (v - cy) / fy
            d = right (u - cx - s y) / fx + down y + forward,   direction = d / |d|

        Args:
            resolution: R, pixels per side.
            indices: pixels i R + j, [r] for all cameras or [b r] for each, on any device; None is
                all R R pixels.

        Raises:
            ValueError: the indices have another shape.
        """
        if indices is None:
            indices = torch.arange(resolution * resolution, device=self.device)
        indices = upload(indices, self.device)
        if indices.ndim not in (1, 2) or (indices.ndim == 2 and len(indices) != len(self)):
            raise ValueError(
                f"indices {tuple(indices.shape)} are not [r] or [b r] with b = {len(self)} cameras"
            )
        u = (indices % resolution + 0.5).to(self.dtype) / resolution
        v = (indices.div(resolution, rounding_mode="floor") + 0.5).to(self.dtype) / resolution
        fx, skew, cx = rearrange(self.intrinsics[:, 0], "b k -> k b 1")
        fy = self.intrinsics[:, 1, 1, None]
        cy = self.intrinsics[:, 1, 2, None]
        y = (v - cy) / fy  # b r
        x = (u - cx - skew * y) / fx

        right, down, forward = self.right[:, None], self.down[:, None], self.forward[:, None]
        d = right * x[..., None] + down * y[..., None] + forward
        length = torch.linalg.vector_norm(d, dim=-1, keepdim=True)  # b r 1
        return Rays(self.origins[:, None].expand_as(d), d / length, 1 / length)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Projects world points into the image.

        Args:
            points: [b p 3].

        Returns:
            (u, v) in image sizes, [b p 2], and camera z, [b p 1]. Points with z <= 0 are behind the
            camera; their (u, v) are meaningless.
        """
        offsets = points - self.origins[:, None]
        x = (offsets * self.right[:, None]).sum(dim=-1)
        y = (offsets * self.down[:, None]).sum(dim=-1)
        z = (offsets * self.forward[:, None]).sum(dim=-1)

        fx, skew, cx = rearrange(self.intrinsics[:, 0], "b k -> k b 1")
        fy = self.intrinsics[:, 1, 1, None]
        cy = self.intrinsics[:, 1, 2, None]
        pixels = torch.stack([(fx * x + skew * y) / z + cx, fy * y / z + cy], dim=-1)
        return pixels, z[..., None]


def spanning_camera(camera: Camera, fine: int, coarse: int) -> Camera:
    """The camera whose coarse x coarse rays have the corners of the fine x fine rays of `camera`.

    A fine image coordinate u is a u' + (1 - a) / 2 of the coarse u', a = (1 - 1 / F) / (1 - 1 / C),
    around the same center.
    """
    a = (1 - 1 / fine) / (1 - 1 / coarse)
    shift = (a - 1) / (2 * a)
    # Elementwise: autocast would make a matrix product bfloat16, which bends the rays.
    first, last = camera.intrinsics.split([2, 1], dim=1)
    return Camera(camera.cam2world, torch.cat([first / a + shift * last, last], dim=1))


def _edge_factor(resolution: int) -> float:
    """(W - 1) / W: converts f if the field of view spans pixel centers instead of pixel edges."""
    if resolution < 2:
        raise ValueError(
            f"resolution {resolution} has fewer than two pixel centers, which span no field of "
            "view; use 2 or more"
        )
    return (resolution - 1) / resolution
