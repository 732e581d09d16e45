"""Fuses the depth maps of many views into a signed distance field and extracts a colored mesh.

    D(p) = sum_i w_i clip((d_i(p) - z_i(p)) / tau, -1, 1) / sum_i w_i

over the views i with d_i - z_i > -tau (Curless and Levoy 1996; GRAM-HD extracts the shapes of its
figure 3 by fusion). z_i is the camera z of the voxel p in view i, d_i the depth of the view there,
w_i its opacity; positive is outside. This works for any generator with depth and reconstructs the
surface that it *renders*. The depth must be that of the surface, not scaled by the opacity.

Convention: the volume is a cube of side `extent` about the origin, arrays [x y z], world y up;
voxels are cells with their values at the centers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from tqdm.auto import tqdm

from gan3d.apps.glb import Mesh
from gan3d.apps.isosurface import marching_cubes
from gan3d.apps.views import evaluating, pick
from gan3d.camera import Camera
from gan3d.generators.contract import SURFACE_OPACITY, Generator, Rendering
from gan3d.ops.grid_sample import grid_sample
from gan3d.results import write_whole

_CHUNK = 2**18  # voxels projected at once


def view_grid(
    num_yaw: int = 9,
    num_pitch: int = 3,
    *,
    yaw: float = 0.5,
    pitch: float = 0.25,
    radius: float = 2.7,
    fov: float | None = None,
    focal: float | None = None,
) -> Camera:
    """num_yaw x num_pitch cameras at equal steps, looking at the origin.

    Args:
        num_yaw: number of yaws; 1 is yaw 0 only.
        num_pitch: number of pitches; 1 is pitch 0 only.
        yaw: yaws run from -yaw to yaw, radians; pi (1 - 1 / num_yaw) for a full circle.
        pitch: pitches run from -pitch to pitch, radians.
        radius: distance from the origin, world units.
        fov, focal: lens, see `Camera.from_angles`.
    """

    def steps(span: float, num: int) -> Tensor:
        if num <= 1:
            return torch.zeros(1, dtype=torch.float64)
        return torch.linspace(-span, span, num, dtype=torch.float64)

    pitches, yaws = torch.cartesian_prod(steps(pitch, num_pitch), steps(yaw, num_yaw)).unbind(1)
    cameras = Camera.from_angles(yaws, pitches, radius=radius, fov=fov, focal=focal)
    return cameras.to(torch.float32)


def fuse(
    generator: Generator,
    representation: Any,
    cameras: Camera,
    *,
    extent: float | None = None,
    voxels: int = 128,
    truncation: float = 4.0,
    resolution: int | None = None,
    progress: bool = False,
) -> Mesh:
    """The surface of a scene, fused from rendered views.

    Args:
        generator: a generator with depth.
        representation: one scene, from `generator.represent`.
        cameras: cameras of the views, which are rendered one by one.
        extent: side of the fused cube, world units; None is the generator's `scene_extent`.
        voxels: voxels along a side.
        truncation: tau, voxels.
        resolution: resolution of `generator.render`.
        progress: show a progress bar.

    Raises:
        ValueError: the views have no depth, or no surface lies in the cube.
    """
    extent = generator.scene_extent if extent is None else extent
    volume = Volume(extent, voxels, truncation, device=cameras.device)
    with evaluating(generator):
        for camera in tqdm(cameras, desc="fuse", unit="view", leave=False, disable=not progress):
            view = generator.render(representation, camera, resolution=resolution, raw=False)
            volume.integrate(view, camera)
    return volume.mesh()


def fuse_views(
    views: Rendering,
    cameras: Camera,
    *,
    extent: float,
    voxels: int = 128,
    truncation: float = 4.0,
) -> Mesh:
    """`fuse` of v views [v c h w] that are there already, and their v cameras."""
    volume = Volume(extent, voxels, truncation, device=cameras.device)
    for k, camera in enumerate(cameras):
        volume.integrate(pick(views, k), camera)
    return volume.mesh()


class Volume:
    """A truncated signed distance field with color, integrated view by view.

    Args:
        extent: side of the cube, world units.
        voxels: n, voxels along a side.
        truncation: tau, voxels.
        device: device of the arrays, the same as of the views.

    Attributes:
        distance: [n n n], D of the module's equation; 1 where nothing was seen.
        weight: [n n n], sum of w_i; 0 where nothing was seen.
        color: [n n n 3] in [-1, 1], mean color of the views within tau of the surface.
    """

    def __init__(
        self,
        extent: float,
        voxels: int = 128,
        truncation: float = 4.0,
        *,
        device: torch.device | str = "cpu",
    ):
        if voxels < 2 or not extent > 0 or not truncation >= 1:
            raise ValueError(
                f"extent {extent}, voxels {voxels}, truncation {truncation}; expected extent > 0, "
                "at least 2 voxels and a truncation of at least 1 voxel; use for example 1.0, 128 "
                "and 4"
            )
        self.extent = extent
        self.voxels = voxels
        self.tau = truncation * extent / voxels  # world units
        self.distance = torch.ones((voxels,) * 3, device=device)
        self.weight = torch.zeros_like(self.distance)
        self.color = torch.zeros((*self.distance.shape, 3), device=device)
        self._color_weight = torch.zeros_like(self.distance)

    def integrate(self, view: Rendering, camera: Camera) -> None:
        """Adds one view (b = 1) of the scene.

        Raises:
            ValueError: the view has no depth, or there are several.
        """
        if view.depth is None or len(view.image) != 1 or len(camera) != 1:
            got = f"{len(view.image)} images and {len(camera)} cameras"
            raise ValueError(
                f"got {'no depth' if view.depth is None else got}, expected one view with depth; "
                "split a batch, use a 3D generator"
            )

        # opacity 0 where there is no surface
        depth = view.depth[0, 0].float()
        opacity = torch.ones_like(depth) if view.opacity is None else view.opacity[0, 0].float()
        seen = (opacity > SURFACE_OPACITY) & depth.isfinite() & (depth > 0)
        opacity = torch.where(seen, opacity, 0.0)
        depth = depth.nan_to_num(0.0, 0.0, 0.0)
        image = view.image.float()
        camera = camera.to(torch.float32)
        size = depth.new_tensor([depth.shape[1], depth.shape[0]])

        # chunks of voxels
        distance, weights = self.distance.reshape(-1), self.weight.reshape(-1)
        color, color_weights = self.color.reshape(-1, 3), self._color_weight.reshape(-1)
        for start in range(0, self.voxels**3, _CHUNK):
            chunk = torch.arange(start, min(start + _CHUNK, self.voxels**3), device=depth.device)
            uv, z = (x[0] for x in camera.project(self._centers(chunk)[None]))  # p 2, p 1
            chunk, uv, z = _where(((uv >= 0) & (uv < 1)).all(-1) & (z[:, 0] > 0), chunk, uv, z)

            # the nearest pixel says enough of voxels that are far from its surface
            nearest, weight = _at(depth, opacity, (uv * size - 0.5).round())
            in_front = nearest - z[:, 0]
            known = (weight > 0) & (in_front > -2 * self.tau)
            chunk, uv, z, in_front, weight = _where(known, chunk, uv, z, in_front, weight)
            close = (in_front < 2 * self.tau).nonzero()[:, 0]
            surface, _ = sample_depth(depth, opacity, uv[close], self.tau)
            in_front[close] = surface - z[close, 0]

            known = in_front > -self.tau
            chunk, uv, in_front, weight = _where(known, chunk, uv, in_front, weight)
            _average(distance, weights, chunk, (in_front / self.tau).clamp(-1, 1), weight)
            chunk, uv, weight = _where(in_front < self.tau, chunk, uv, weight)
            rgb = rearrange(grid_sample(image, (2 * uv - 1)[None, None]), "1 c 1 p -> p c")
            _average(color, color_weights, chunk, rgb, weight)

    def _centers(self, index: Tensor) -> Tensor:
        """World coordinates [p 3] of voxels by their index in the flattened volume."""
        n = self.voxels
        x = index.div(n * n, rounding_mode="floor")
        y = index.div(n, rounding_mode="floor") % n
        position = torch.stack([x, y, index % n], dim=-1)
        return (position + 0.5) * (self.extent / n) - self.extent / 2

    def mesh(self) -> Mesh:
        """The surface D = 0 with the colors of the views, open where nothing was seen.

        Raises:
            ValueError: no surface lies in the cube.
        """
        values = self.distance.cpu().numpy()
        points, faces = marching_cubes(values, (self.weight > 0).cpu().numpy())
        if len(faces) == 0:
            seen = float((self.weight > 0).float().mean())
            raise ValueError(
                f"no surface in the cube of side {self.extent} ({seen:.0%} of it was seen); give "
                "an extent that contains the object, and cameras that look at it"
            )

        # vertices between the centers of two voxels each
        ends = np.stack([np.floor(points), np.ceil(points)], axis=1).astype(np.int64)  # v 2 3
        edges = np.ravel_multi_index(tuple(np.moveaxis(ends, -1, 0)), values.shape)  # v 2
        share = (points - ends[:, 0]).sum(axis=1)
        vertices = (points + 0.5) * (self.extent / self.voxels) - self.extent / 2

        # their colors; a voxel without color gets the color of the other one
        color = self.color.reshape(-1, 3).cpu().numpy()[edges]
        known = self._color_weight.reshape(-1, 1).cpu().numpy()[edges] > 0
        color = _between(np.where(known, color, color[:, ::-1]), share)
        rgb = np.clip(np.round((color + 1) * 127.5), 0, 255).astype(np.uint8)
        return Mesh(vertices.astype(np.float32), faces, colors=rgb, name="fused")


def _where(mask: Tensor, *values: Tensor) -> list[Tensor]:
    """The entries of some values [p ..] where a mask [p] is true."""
    chosen = mask.nonzero()[:, 0]
    return [value[chosen] for value in values]


def _average(mean: Tensor, total: Tensor, chunk: Tensor, values: Tensor, weight: Tensor) -> None:
    """Adds values to weighted means [n c] or [n], and weights to their sums [n], in place."""
    sums = total[chunk] + weight
    step = weight / sums.clamp(min=1e-12)
    mean[chunk] += (step if values.ndim == 1 else step[:, None]) * (values - mean[chunk])
    total[chunk] = sums


def _between(pair: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Interpolates pairs (a, b) [v 2 c] by t [v]: (1 - t) a + t b."""
    return pair[:, 0] + share[:, None] * (pair[:, 1] - pair[:, 0])


def sample_depth(depth: Tensor, opacity: Tensor, uv: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """Samples depth bilinearly within one surface.

    Only neighbors whose depth is within `reach` of the nearest pixel contribute: across a
    silhouette, plain bilinear depth would lie on neither surface.

    Args:
        depth: [h w].
        opacity: [h w], 0 where there is no surface.
        uv: [p 2], positions in image sizes.
        reach: world units.

    Returns:
        (depth [p], opacity of the nearest pixel [p]); the opacity is 0 outside of the picture.
    """
    size = depth.new_tensor([depth.shape[1], depth.shape[0]])
    inside = ((uv >= 0) & (uv < 1)).all(dim=-1)
    position = torch.where(inside[:, None], uv, 0.5) * size - 0.5  # in pixels, 0 at a center
    low = position.floor()
    nearest, opacity_there = _at(depth, opacity, position.round())

    total = torch.zeros_like(nearest)
    weights = torch.zeros_like(nearest)
    for offset in ((0, 0), (0, 1), (1, 0), (1, 1)):
        corner = low + low.new_tensor(offset)
        d, seen = _at(depth, opacity, corner)
        same_surface = (seen > 0) * ((d - nearest).abs() <= reach)
        weight = (1 - (position - corner).abs()).prod(dim=-1) * same_surface
        total = total + weight * d
        weights = weights + weight
    return total / weights.clamp(min=1e-12), torch.where(inside, opacity_there, 0.0)


def _at(depth: Tensor, opacity: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Depth and opacity [p] at pixels (column, row) [p 2]; the border is repeated outside."""
    column = position[:, 0].long().clamp(0, depth.shape[1] - 1)
    row = position[:, 1].long().clamp(0, depth.shape[0] - 1)
    return depth[row, column], opacity[row, column]


def write_ply(path: str | Path, mesh: Mesh) -> Path:
    """Writes a mesh, with the colors of its vertices if it has any, as a binary PLY, atomically.

    Raises:
        ValueError: the mesh has a texture, which a PLY cannot store.
    """
    if mesh.texture is not None:
        raise ValueError(f"mesh {mesh.name!r} has a texture, which a PLY cannot hold; write a .glb")

    # arrays
    position = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
    color = [] if mesh.colors is None else [("red", "u1"), ("green", "u1"), ("blue", "u1")]
    vertices = np.empty(len(mesh.vertices), dtype=position + color)
    for k, (name, _) in enumerate(position):
        vertices[name] = mesh.vertices[:, k]
    for k, (name, _) in enumerate(color):
        vertices[name] = mesh.colors[:, k]  # type: ignore[index]
    faces = np.empty(len(mesh.faces), dtype=[("count", "u1"), ("corners", "<i4", 3)])
    faces["count"] = 3
    faces["corners"] = mesh.faces

    # header
    kinds = {"<f4": "float", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0"]
    header += [f"element vertex {len(vertices)}"]
    header += [f"property {kinds[kind]} {name}" for name, kind in position + color]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    header += ["end_header", ""]

    content = "\n".join(header).encode() + vertices.tobytes() + faces.tobytes()
    return write_whole(Path(path), lambda partial: partial.write_bytes(content))
