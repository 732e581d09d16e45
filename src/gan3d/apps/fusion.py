"""Proxy shapes: depth maps of many views fused into one signed distance field, and its surface as a
colored mesh.

    D(p) = sum_i w_i clip((d_i(p) - z_i(p)) / tau, -1, 1) / sum_i w_i            over the views i with d_i - z_i > -tau

(Curless and Levoy 1996; GRAM-HD extracts the shapes of its figure 3 by fusion): z_i is the camera z
of the voxel p in view i, d_i the depth that this view has there, w_i its opacity; positive is
outside. For any generator with depth: what counts is the surface that it *renders*. Depth must be
that of the surface, not faded by an opacity below 1.

Convention: the volume is a cube of side `extent` about the origin, arrays [x y z], world y up;
voxels are cells, values stand at their centers.
"""

from __future__ import annotations

import os
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from tqdm.auto import tqdm

from gan3d.apps.glb import Mesh
from gan3d.apps.views import evaluating
from gan3d.camera import Camera
from gan3d.generators.contract import SURFACE_OPACITY, Generator, Rendering
from gan3d.ops.grid_sample import grid_sample

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
    """num_yaw x num_pitch cameras at equal steps of yaw in -+yaw and pitch in -+pitch, radians; one
    step is the middle.

    A full circle is yaw = pi (1 - 1 / num_yaw). The other arguments are those of
    `Camera.from_angles`.
    """
    yaws, pitches = (
        torch.linspace(-span, span, num, dtype=torch.float64)
        if num > 1
        else torch.zeros(1, dtype=torch.float64)
        for span, num in ((yaw, num_yaw), (pitch, num_pitch))
    )
    grid = torch.cartesian_prod(pitches, yaws)
    return Camera.from_angles(grid[:, 1], grid[:, 0], radius=radius, fov=fov, focal=focal).to(
        torch.float32
    )


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
    """The surface of a scene as its views show it.

    Args:
        generator: with depth.
        representation: of one scene, from `generator.represent`.
        cameras: the views, rendered one after the other.
        extent: side of the fused cube, world units; None is the generator's `scene_extent`.
        voxels: along a side.
        truncation: tau, voxels.
        resolution: of `generator.render`.
        progress: whether to show a progress bar.
    """
    extent = generator.scene_extent if extent is None else extent
    volume = Volume(extent, voxels, truncation, device=cameras.device)
    with evaluating(generator):
        for camera in tqdm(cameras, desc="fuse", unit="view", leave=False, disable=not progress):
            volume.integrate(
                generator.render(representation, camera, resolution=resolution, raw=False), camera
            )
    return volume.mesh()


class Volume:
    """A truncated signed distance field, and the color near its surface, as they grow view by view.

    Args:
        extent: side of the cube, world units.
        voxels: n, along a side.
        truncation: tau, voxels.
        device: where it lies; that of the views.

    Attributes:
        distance: D of the module's equation, [n n n]; 1 where nothing was seen.
        weight: sum of w_i [n n n]; 0 where nothing was seen.
        color: mean color of the views within tau of the surface, [n n n 3] in [-1, 1].
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
        self.extent, self.voxels, self.tau = extent, voxels, truncation * extent / voxels
        self.distance = torch.ones((voxels,) * 3, device=device)
        self.weight = torch.zeros_like(self.distance)
        self.color = torch.zeros((*self.distance.shape, 3), device=device)
        self._color_weight = torch.zeros_like(self.distance)

    def integrate(self, view: Rendering, camera: Camera) -> None:
        """Adds one view (b = 1) of the scene.

        Raises:
            ValueError: it has no depth, or there are several.
        """
        if view.depth is None or len(view.image) != 1 or len(camera) != 1:
            got = (
                "no depth"
                if view.depth is None
                else f"{len(view.image)} images and {len(camera)} cameras"
            )
            raise ValueError(
                f"got {got}, expected one view with depth; split a batch, use a 3D generator"
            )
        depth = view.depth[0, 0].float()
        opacity = torch.ones_like(depth) if view.opacity is None else view.opacity[0, 0].float()
        opacity = torch.where(
            (opacity > SURFACE_OPACITY) & depth.isfinite() & (depth > 0), opacity, 0.0
        )
        depth, image, camera = (
            depth.nan_to_num(0.0, 0.0, 0.0),
            view.image.float(),
            camera.to(torch.float32),
        )
        fields = [
            x.reshape(-1, *x.shape[3:])
            for x in (self.distance, self.weight, self._color_weight, self.color)
        ]
        for start in range(0, self.voxels**3, _CHUNK):
            chunk = torch.arange(start, min(start + _CHUNK, self.voxels**3), device=depth.device)
            uv, z = (x[0] for x in camera.project(self._centers(chunk)[None]))  # p 2, p 1
            uv = torch.where(z > 0, uv, -1.0)  # what is behind the camera is not in the picture
            surface, weight = sample_depth(depth, opacity, uv, self.tau)
            away = surface - z[:, 0]
            weight = torch.where(away > -self.tau, weight, 0.0)
            near = torch.where(away < self.tau, weight, 0.0)
            rgb = rearrange(grid_sample(image, (2 * uv - 1)[None, None]), "1 c 1 p -> p c")
            _average(fields[0], fields[1], chunk, (away / self.tau).clamp(-1, 1), weight)
            _average(fields[3], fields[2], chunk, rgb, near)

    def _centers(self, index: Tensor) -> Tensor:
        """World coordinates [p 3] of voxels by their place in [x y z]."""
        n = self.voxels
        places = torch.stack([index.div(n * n, rounding_mode="floor"), index.div(n, rounding_mode="floor") % n,
                              index % n], dim=-1)  # fmt: skip
        return (places + 0.5) * (self.extent / n) - self.extent / 2

    def mesh(self) -> Mesh:
        """The surface D = 0 with the colors of the views, open where nothing was seen.

        Raises:
            ValueError: no surface lies in the cube.
        """
        values = self.distance.cpu().numpy()
        edges, share, faces = marching_tetrahedra(values, (self.weight > 0).cpu().numpy())
        if len(faces) == 0:
            seen = float((self.weight > 0).float().mean())
            raise ValueError(
                f"no surface in the cube of side {self.extent} ({seen:.0%} of it was seen); give "
                "the extent that holds the object, and cameras that look at it"
            )
        places = np.stack(np.unravel_index(edges, values.shape), axis=-1)  # v 2 3
        vertices = _between((places + 0.5) * (self.extent / self.voxels) - self.extent / 2, share)
        color, known = (
            self.color.reshape(-1, 3).cpu().numpy(),
            self._color_weight.reshape(-1, 1).cpu().numpy() > 0,
        )
        both = color[edges]  # of a voxel without color, the other one's
        both = np.where(known[edges], both, both[:, ::-1])
        shade = np.clip(np.round((_between(both, share) + 1) * 127.5), 0, 255).astype(np.uint8)
        return Mesh(vertices.astype(np.float32), faces, colors=shade, name="fused")


def _average(mean: Tensor, total: Tensor, chunk: Tensor, values: Tensor, weight: Tensor) -> None:
    """Moves weighted means [n c] or [n] at `chunk` in place, and adds to their total weights
    [n].
    """
    sums = total[chunk] + weight
    step = weight / sums.clamp(min=1e-12)
    mean[chunk] += (step if values.ndim == 1 else step[:, None]) * (values - mean[chunk])
    total[chunk] = sums


def _between(pair: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(1 - t) a + t b of pairs [v 2 c] and t [v]."""
    return pair[:, 0] + share[:, None] * (pair[:, 1] - pair[:, 0])


def sample_depth(depth: Tensor, opacity: Tensor, uv: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """Depth between the pixels of one surface: bilinear, over the neighbors within `reach` of the
    nearest one.

    Across a silhouette plain bilinear depth would lie on neither surface.

    Args:
        depth: [h w].
        opacity: [h w], 0 where there is no surface.
        uv: positions in image sizes [p 2].
        reach: world units.

    Returns:
        depth [p], opacity of the nearest pixel [p]: 0 outside the picture and where there is no
        surface.
    """
    size = depth.new_tensor([depth.shape[1], depth.shape[0]])
    inside = ((uv >= 0) & (uv < 1)).all(dim=-1)
    places = torch.where(inside[:, None], uv, 0.5) * size - 0.5  # in pixel centers
    low = places.floor()
    nearest = _at(depth, opacity, places.round())
    total = weights = torch.zeros_like(nearest[0])
    for offset in ((0, 0), (0, 1), (1, 0), (1, 1)):
        corner = low + low.new_tensor(offset)
        d, seen = _at(depth, opacity, corner)
        weight = (
            (1 - (places - corner).abs()).prod(dim=-1)
            * (seen > 0)
            * ((d - nearest[0]).abs() <= reach)
        )
        total, weights = total + weight * d, weights + weight
    return total / weights.clamp(min=1e-12), torch.where(inside, nearest[1], 0.0)


def _at(depth: Tensor, opacity: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Depth and opacity [p] of the pixels at (column, row) [p 2]; the border goes on for ever."""
    column = places[:, 0].long().clamp(0, depth.shape[1] - 1)
    row = places[:, 1].long().clamp(0, depth.shape[0] - 1)
    return depth[row, column], opacity[row, column]


def marching_tetrahedra(
    values: np.ndarray, valid: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The surface between values < 0 (inside) and >= 0, where a cell's eight corners are all valid.

    Every cell is cut into the six tetrahedra around its diagonal, alike in all cells: the mesh has
    no gaps, and no ambiguous cases. Vertices stand on the edges of tetrahedra, where linear
    interpolation is 0.

    Args:
        values: [x y z].
        valid: bool [x y z].

    Returns:
        edges: the two voxels of every vertex, places in the flattened array, [v 2].
        share: t of every vertex: it lies at (1 - t) of the first plus t of the second, [v].
        faces: vertices of every triangle, counterclockwise seen from outside, [f 3].
    """
    strides = np.array([values.shape[1] * values.shape[2], values.shape[2], 1])
    inside, flat = values < 0, values.reshape(-1)
    counts = np.zeros([side - 1 for side in values.shape], np.int8)
    whole = np.ones(counts.shape, bool)
    for corner in np.ndindex(2, 2, 2):
        part = tuple(slice(c, side - 1 + c) for c, side in zip(corner, values.shape))
        counts, whole = counts + inside[part], whole & valid[part]
    cells = np.argwhere(whole & (counts > 0) & (counts < 8)) @ strides
    corners = cells[:, None, None] + _TETRAHEDRA @ strides  # cells 6 4
    corners = corners.reshape(-1, 4)
    masks = (flat[corners] < 0) @ np.array([1, 2, 4, 8])
    triangles = [
        corners[masks == mask][:, np.array(triangle)]  # t 3 2: three edges
        for mask, cut in _CUTS.items()
        for triangle in cut
    ]
    ends = np.sort(np.concatenate(triangles).reshape(-1, 2), axis=1)
    edges, faces = np.unique(ends[:, 0] * flat.size + ends[:, 1], return_inverse=True)
    edges = np.stack([edges // flat.size, edges % flat.size], axis=1)
    first, second = flat[edges[:, 0]].astype(np.float64), flat[edges[:, 1]].astype(np.float64)
    return edges, first / (first - second), faces.reshape(-1, 3)


def _even(order: tuple[int, ...]) -> bool:
    """Whether a permutation takes an even number of swaps."""
    return sum(a > b for k, a in enumerate(order) for b in order[k + 1 :]) % 2 == 0


def _tetrahedra() -> np.ndarray:
    """Corners [6 4 3] of the six tetrahedra of a cell, each along one path of axes from (0,0,0) to
    (1,1,1).

    All are positively oriented: det(b - a, c - a, d - a) > 0.
    """
    found = []
    for axes in permutations(range(3)):
        steps = np.eye(3, dtype=np.int64)[list(axes)]
        a, b, c, d = np.concatenate([np.zeros((1, 3), np.int64), steps.cumsum(axis=0)])
        found.append([a, b, c, d] if _even(axes) else [a, c, b, d])
    return np.array(found)


def _cuts() -> dict[int, list[list[tuple[int, int]]]]:
    """Triangles, as three edges each, by the mask of the corners inside: bit k for corner k.

    With a alone inside a positively oriented tetrahedron (a, b, c, d), the triangle (ab, ac, ad)
    looks away from a; with a and b inside, the quadrilateral (ac, ad, bd, bc) looks away from both.
    """
    cuts = {}
    for mask in range(1, 15):
        inside = [k for k in range(4) if mask >> k & 1]
        outside = [k for k in range(4) if k not in inside]
        order = inside + outside if len(inside) < 3 else outside + inside
        a, b, c, d = order if _even(tuple(order)) else [*order[:2], order[3], order[2]]
        if len(inside) == 2:
            cuts[mask] = [[(a, c), (a, d), (b, d)], [(a, c), (b, d), (b, c)]]
        else:
            cuts[mask] = [
                [(a, b), (a, c), (a, d)] if len(inside) == 1 else [(a, b), (a, d), (a, c)]
            ]
    return cuts


_TETRAHEDRA, _CUTS = _tetrahedra(), _cuts()


def write_ply(path: str | Path, mesh: Mesh) -> Path:
    """Writes a mesh as a binary PLY with colors at the vertices, where it has them. Textures do not
    fit into a PLY.
    """
    if mesh.texture is not None:
        raise ValueError(
            f"mesh {mesh.name!r} has a texture, which a PLY can not hold; write a .glb"
        )
    place = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
    shade = [] if mesh.colors is None else [("red", "u1"), ("green", "u1"), ("blue", "u1")]
    vertices = np.empty(len(mesh.vertices), dtype=place + shade)
    for k, (name, _) in enumerate(place):
        vertices[name] = mesh.vertices[:, k]
    for k, (name, _) in enumerate(shade):
        vertices[name] = mesh.colors[:, k]  # type: ignore[index]
    faces = np.empty(len(mesh.faces), dtype=[("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, mesh.faces
    kinds = {"<f4": "float", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertices)}"]
    header += [f"property {kinds[kind]} {name}" for name, kind in place + shade]
    header += [
        f"element face {len(faces)}",
        "property list uchar int vertex_indices",
        "end_header",
        "",
    ]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes("\n".join(header).encode() + vertices.tobytes() + faces.tobytes())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
