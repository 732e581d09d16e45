"""Colors of a mesh from pictures of the scene, at its vertices or as a texture.

    c(p) = sum_i w_i c_i(p) / sum_i w_i,   w_i = o_i max(0, n . d_i)^4

over the views i that see the point p with the normal n: c_i is the color of the picture there, o_i
its opacity, d_i the direction to the camera. A view sees a point if no other part of the mesh is
before it and the picture is more than half opaque there. Points that no view sees have the color of
the nearest one that is seen.

Texture coordinates are made by xatlas.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree
from torch import Tensor

from gan3d.apps.glb import Mesh
from gan3d.apps.packages import needed
from gan3d.camera import Camera
from gan3d.generators.contract import SURFACE_OPACITY, Rendering

SHARPNESS = 4  # exponent of the angle
NEIGHBORS = 2**14  # points, at most, that give their colors to unseen ones
BUFFER = 128  # side of the depth maps that say what is hidden, pixels
GRAY = 128


def colored(mesh: Mesh, views: Rendering, cameras: Camera) -> Mesh:
    """A mesh with colors at its vertices.

    Args:
        mesh: any mesh; its colors and texture are replaced.
        views: v views, on the CPU.
        cameras: the v cameras, on the CPU.
    """
    plain = replace(mesh, colors=None, uv=None, texture=None)
    colors = colors_at(mesh.vertices, vertex_normals(mesh), mesh, views, cameras)
    return replace(plain, colors=colors)


def textured(mesh: Mesh, views: Rendering, cameras: Camera, *, size: int = 512) -> Mesh:
    """A mesh with a texture.

    Args:
        mesh: any mesh; its colors and texture are replaced. Vertices on seams of the texture are
            doubled.
        views: v views, on the CPU.
        cameras: the v cameras, on the CPU.
        size: side of the texture, pixels.
    """
    xatlas = needed("xatlas")
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    pack = xatlas.PackOptions()
    pack.resolution, pack.padding, pack.bilinear = size, 2, True
    atlas.generate(pack_options=pack)
    origin, faces, uv = atlas[0]
    normals = vertex_normals(mesh)[origin]
    vertices, faces = mesh.vertices[origin], faces.astype(np.int64)

    # the texels inside of triangles, and where they lie in the world
    texels, face, shares = texels_of(uv[faces] * size, size)
    corners = faces[face]  # t 3
    points = (shares[..., None] * vertices[corners]).sum(1)
    directions = (shares[..., None] * normals[corners]).sum(1)
    colors = colors_at(points, directions, mesh, views, cameras)

    # texels outside of all triangles repeat the nearest one, for bilinear sampling at seams
    picture = np.full((size, size, 4), GRAY, np.uint8)
    picture[..., 3] = 255
    empty = np.ones((size, size), bool)
    empty[texels[:, 1], texels[:, 0]] = False
    picture[texels[:, 1], texels[:, 0], :3] = colors
    nearest = distance_transform_edt(empty, return_distances=False, return_indices=True)
    picture = picture[tuple(nearest)]
    return Mesh(vertices, faces, uv=uv.astype(np.float32), texture=picture, name=mesh.name)


def texels_of(corners: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels whose centers lie in triangles, or within half a pixel of them.

    Args:
        corners: of the triangles, [f 3 2], pixels (column, row), 0 at the outer corner of the
            first.
        size: side of the picture, pixels.

    Returns:
        pixels (column, row), int [t 2]; their triangles, int [t]; and their barycentric
        coordinates, clipped to the triangle, [t 3].
    """
    low = np.clip(np.floor(corners.min(1) - 1), 0, size - 1).astype(np.int64)
    high = np.clip(np.ceil(corners.max(1)), 0, size - 1).astype(np.int64)
    spans = high - low + 1  # columns and rows of each box
    counts = spans.prod(1)
    face = np.repeat(np.arange(len(corners)), counts)
    within = np.arange(len(face)) - np.repeat(counts.cumsum() - counts, counts)
    columns = spans[face, 0]
    texels = low[face] + np.stack([within % columns, within // columns], axis=-1)

    # of each triangle: how its shares grow with the place, and how far half a pixel outside is
    a, b, c = (corners[:, k].astype(np.float64) for k in range(3))
    ab, ac = b - a, c - a
    area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    flat = np.abs(area) < 1e-9
    area = np.where(flat, 1.0, area)[:, None]
    second = np.stack([ac[:, 1], -ac[:, 0]], axis=-1) / area
    third = np.stack([-ab[:, 1], ab[:, 0]], axis=-1) / area
    sides = np.stack([np.linalg.norm(side, axis=1) for side in (c - b, ac, ab)], axis=-1)
    heights = np.abs(area) / np.maximum(sides, 1e-12)  # pixels; a share of 1 is that far from 0

    # of each pixel of a box
    x, y = (texels + 0.5 - a[face]).T
    shares = np.empty((len(face), 3))
    shares[:, 1] = second[face, 0] * x + second[face, 1] * y
    shares[:, 2] = third[face, 0] * x + third[face, 1] * y
    shares[:, 0] = 1 - shares[:, 1] - shares[:, 2]
    least = np.where(flat[:, None], np.inf, -0.5 / np.maximum(heights, 1e-12))
    inside = np.flatnonzero((shares > least[face]).all(1))
    texels, face, shares = texels[inside], face[inside], shares[inside]

    # the best triangle of a texel is written last
    order = np.argsort((shares * heights[face]).min(1), kind="stable")
    shares = np.clip(shares[order], 0, None)
    return texels[order], face[order], shares / shares.sum(1, keepdims=True)


def colors_at(
    points: np.ndarray,
    normals: np.ndarray,
    mesh: Mesh,
    views: Rendering,
    cameras: Camera,
) -> np.ndarray:
    """Colors of points of a mesh, uint8 [p 3]; see the equation of the module.

    Args:
        points: world [p 3].
        normals: world [p 3], of any length.
        mesh: what hides points.
        views: v views, on the CPU.
        cameras: the v cameras, on the CPU.
    """
    place = torch.from_numpy(points).float()
    n = F.normalize(torch.from_numpy(normals).float(), dim=-1)
    total, weights = torch.zeros(len(place), 3), torch.zeros(len(place))
    for k, camera in enumerate(cameras.to(torch.float32)):
        uv, z = (x[0] for x in camera.project(place[None]))  # p 2, p 1
        grid = (2 * uv - 1)[None, None]
        pixel = float(z.mean()) / (float(camera.focal) * BUFFER)  # world units
        nearest = torch.from_numpy(depth_of(mesh, camera, BUFFER))[None, None]
        first = _sampled(nearest, grid, "nearest")[:, 0]
        weight = ((uv >= 0) & (uv <= 1)).all(-1) * (z[:, 0] < first + 3 * pixel)
        if views.opacity is not None:
            opacity = _sampled(views.opacity[k : k + 1].float(), grid)[:, 0]
            weight = weight * torch.where(opacity > SURFACE_OPACITY, opacity, 0.0)
        towards = F.normalize(camera.origins - place, dim=-1)
        weight = weight * (n * towards).sum(-1).clamp(min=0) ** SHARPNESS
        total += weight[:, None] * _sampled(views.image[k : k + 1].float(), grid)
        weights += weight
    return _filled(place, total, weights)


def depth_of(mesh: Mesh, camera: Camera, side: int) -> np.ndarray:
    """The camera z of a mesh in the pixels of one view, float32 [side side]; inf beside it."""
    vertices = torch.from_numpy(mesh.vertices).float()
    uv, z = (x[0].numpy() for x in camera.project(vertices[None]))
    texels, face, shares = texels_of(uv[mesh.faces] * side, side)
    depth = (shares * z[mesh.faces[face], 0]).sum(1)
    nearest = np.full((side, side), np.inf, np.float32)
    np.minimum.at(nearest, (texels[:, 1], texels[:, 0]), depth.astype(np.float32))
    return nearest


def _sampled(maps: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    """Values [p c] of a map [1 c h w] at grid [1 1 p 2]; the border is repeated outside."""
    found = F.grid_sample(maps, grid, mode=mode, padding_mode="border", align_corners=False)
    return rearrange(found, "1 c 1 p -> p c")


def _filled(points: Tensor, total: Tensor, weights: Tensor) -> np.ndarray:
    """Weighted means as bytes; points of no weight take the color of the nearest one with some."""
    known = (weights > 1e-6).numpy()
    if not known.any():
        return np.full((len(points), 3), GRAY, np.uint8)
    mean = (total / weights.clamp(min=1e-12)[:, None]).numpy()
    seen = np.flatnonzero(known)
    seen = seen[:: -(-len(seen) // NEIGHBORS)]
    _, nearest = cKDTree(points.numpy()[seen]).query(points.numpy()[~known])
    mean[~known] = mean[seen[nearest]]
    return np.clip(np.round((mean + 1) * 127.5), 0, 255).astype(np.uint8)


def vertex_normals(mesh: Mesh) -> np.ndarray:
    """Normals of the vertices: the sum over their triangles, weighted by area, [n 3]."""
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    normals = np.zeros((len(mesh.vertices), 3))
    for k in range(3):
        np.add.at(normals, mesh.faces[:, k], np.cross(b - a, c - a))
    return normals
