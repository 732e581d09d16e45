"""Exports radiance manifolds as textured meshes to one .glb, to view a scene in a browser.

GRAM-HD, free-view synthesis. Every surface becomes a mesh with a texture of its color and
occupancy, blended over the others:

    C = sum_i alpha_i c_i prod_{j nearer than i} (1 - alpha_j)

Blending is exact if the order of the nodes (farthest first, as seen from +z) is the order along the
view: for surfaces behind each other, from all cameras in front of them. The colors are those of
locked view directions. Textures have 8 bits: colors out of range are clamped on each surface,
whereas a generator may clamp the final image only.

Convention: texture coordinates as in `grid_sample` with align_corners False: grid (x, y) in [-1, 1]
spans the texture from edge to edge, x along its rows, y along its columns, row 0 at y = -1. They
are exact at vertices and linear in between; the lattice must be fine where they are not linear in
the world (GRAM-HD's background).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from gan3d.apps.glb import Mesh, write_glb
from gan3d.generators.contract import SurfaceLayer


def export_manifolds(path: str | Path, layers: Sequence[SurfaceLayer]) -> list[str]:
    """Writes surfaces to a .glb, farthest first; surfaces without a complete cell are left out.

    Args:
        path: the new file; an existing one is replaced.
        layers: surfaces of one scene, in any order; they are sorted by the mean z of their valid
            points.

    Returns:
        Names of the written surfaces, in the order of the file.

    Raises:
        ValueError: a layer is malformed, or none has a complete cell.
    """
    found = []
    for layer in layers:
        mesh = surface_mesh(layer)
        if mesh is not None:
            found.append((float(layer.points[layer.valid][:, 2].mean()), mesh))
    if not found:
        raise ValueError(
            f"none of {len(layers)} surfaces has a cell with four valid corners, so there is no "
            "mesh"
        )

    meshes = [mesh for _, mesh in sorted(found, key=lambda item: item[0])]
    write_glb(path, meshes)
    return [mesh.name for mesh in meshes]


def surface_mesh(layer: SurfaceLayer) -> Mesh | None:
    """The mesh of a surface: two triangles per cell of four valid corners; None without cells.

    The triangles are counterclockwise seen from the side that (direction of the columns) x
    (direction of the rows) points to: from +z if columns run with x and rows run with y.
    """
    _check(layer)

    # cells with four valid corners
    valid = layer.valid.cpu().numpy()
    complete = _corners(valid).all(axis=0)
    if not complete.any():
        return None

    # two triangles each, over the vertices that are used
    a, b, c, d = _corners(np.arange(valid.size).reshape(valid.shape))[:, complete]
    faces = np.stack([a, b, c, a, c, d], axis=-1).reshape(-1, 3)
    used, faces = np.unique(faces, return_inverse=True)
    faces = faces.reshape(-1, 3)
    vertices = _rows(layer.points)[used]
    uv = (_rows(layer.grid)[used] + 1) / 2
    return Mesh(vertices, faces, uv=uv, texture=_pixels(layer.texture), name=layer.name)


def _corners(lattice: np.ndarray) -> np.ndarray:
    """The four corners of every cell, in a circle, [4 h-1 w-1]."""
    return np.stack([lattice[:-1, :-1], lattice[:-1, 1:], lattice[1:, 1:], lattice[1:, :-1]])


def _rows(lattice: Tensor) -> np.ndarray:
    """[h w k] -> [(h w) k], float32."""
    return rearrange(lattice, "h w k -> (h w) k").detach().float().cpu().numpy()


def _pixels(texture: Tensor) -> np.ndarray:
    """The texture [4 H W] of a layer as uint8 [H W 4]."""
    rgb, alpha = texture.detach().float().cpu().split([3, 1])
    rgba = torch.cat([(rgb + 1) / 2, alpha])
    pixels = (rgba * 255).round().clamp(0, 255).to(torch.uint8)
    return rearrange(pixels, "c h w -> h w c").contiguous().numpy()


def _check(layer: SurfaceLayer) -> None:
    size = tuple(layer.valid.shape)
    shapes = {"points": (*size, 3), "grid": (*size, 2), "texture": (4, *layer.texture.shape[1:])}
    found = {name: tuple(getattr(layer, name).shape) for name in shapes}
    wrong = [f"{name} {list(found[name])}" for name in shapes if found[name] != shapes[name]]
    if wrong or len(size) != 2 or layer.texture.ndim != 3 or layer.valid.dtype != torch.bool:
        raise ValueError(
            f"layer {layer.name!r} has {', '.join(wrong) or 'the wrong shape'} beside valid "
            f"{layer.valid.dtype} {list(size)}; expected points [h w 3], valid bool [h w], "
            "grid [h w 2], texture [4 H W]"
        )
