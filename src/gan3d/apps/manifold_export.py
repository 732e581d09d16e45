"""Radiance manifolds as textured meshes in one .glb: a scene that turns in a browser (GRAM-HD,
free-view synthesis).

Every surface becomes a mesh with a picture of its color and occupancy, blended one over the other:

    C = sum_i alpha_i c_i prod_{j nearer than i} (1 - alpha_j)

Blending is right where the nodes' order (farthest first, as seen from +z) is the order along the
view: for surfaces that lie one behind the other, from all cameras in front of them. The colors are
those of locked view directions. Pictures have 8 bits: colors out of range are clamped on each
surface, where a generator may clamp the image alone.

Convention: texture coordinates as of `grid_sample` with align_corners False: grid (x, y) in [-1, 1]
spans the picture from edge to edge, x along its rows, y along its columns, row 0 at y = -1. A
vertex carries them exactly, between
vertices they are linear: where they are not linear in the world (GRAM-HD's background), the lattice
    must be fine.
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
    """Writes surfaces to a .glb, farthest first. A surface without any whole cell is left out.

    Args:
        path: the new file; an existing one is replaced.
        layers: of one scene, in any order; they are sorted by the mean z of what is valid.

    Returns:
        names of the surfaces written, in the order of the file.

    Raises:
        ValueError: a layer is malformed, or none has a cell.
    """
    found = [
        (float(layer.points[layer.valid][:, 2].mean()), mesh)
        for layer in layers
        if (mesh := surface_mesh(layer))
    ]
    if not found:
        raise ValueError(
            f"none of {len(layers)} surfaces has a cell with four valid corners, so there is no "
            "mesh"
        )
    meshes = [mesh for _, mesh in sorted(found, key=lambda item: item[0])]
    write_glb(path, meshes)
    return [mesh.name for mesh in meshes]


def surface_mesh(layer: SurfaceLayer) -> Mesh | None:
    """The triangles between four valid corners of the lattice, two per cell; None where there is no
    such cell.

    They run counterclockwise seen from the side to which (along columns) x (along rows) of the
    lattice points: from +z for a lattice whose columns run with x and whose rows run with y.
    """
    _check(layer)
    valid = layer.valid.cpu().numpy()
    whole = valid[:-1, :-1] & valid[:-1, 1:] & valid[1:, 1:] & valid[1:, :-1]
    if not whole.any():
        return None
    places = np.arange(valid.size).reshape(valid.shape)
    a, b, c, d = (
        part[whole] for part in (places[:-1, :-1], places[:-1, 1:], places[1:, 1:], places[1:, :-1])
    )
    faces = np.stack([a, b, c, a, c, d], axis=-1).reshape(-1, 3)
    used, faces = np.unique(faces, return_inverse=True)
    vertices = rearrange(layer.points, "h w k -> (h w) k").detach().float().cpu().numpy()[used]
    uv = (rearrange(layer.grid, "h w k -> (h w) k").detach().float().cpu().numpy()[used] + 1) / 2
    return Mesh(
        vertices, faces.reshape(-1, 3), uv=uv, texture=_pixels(layer.texture), name=layer.name
    )


def _pixels(texture: Tensor) -> np.ndarray:
    """[4 H W] of a layer as uint8 [H W 4]."""
    rgb, alpha = texture.detach().float().cpu().split([3, 1])
    shares = torch.cat([(rgb + 1) / 2, alpha])
    return (
        rearrange((shares * 255).round().clamp(0, 255).to(torch.uint8), "c h w -> h w c")
        .contiguous()
        .numpy()
    )


def _check(layer: SurfaceLayer) -> None:
    size = tuple(layer.valid.shape)
    shapes = {"points": (*size, 3), "grid": (*size, 2), "texture": (4, *layer.texture.shape[1:])}
    wrong = [
        f"{name} {list(value.shape)}"
        for name, shape in shapes.items()
        if tuple((value := getattr(layer, name)).shape) != shape
    ]
    if wrong or len(size) != 2 or layer.texture.ndim != 3 or layer.valid.dtype != torch.bool:
        raise ValueError(
            f"layer {layer.name!r} has {', '.join(wrong) or 'the wrong shape'} beside valid "
            f"{layer.valid.dtype} {list(size)}; expected points [h w 3], valid bool [h w], grid [h "
            "w 2], texture [4 H W]"
        )
