"""What is done to a mesh before it is written: its largest piece, fewer triangles; OBJ files."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from gan3d.apps.glb import Mesh
from gan3d.apps.packages import needed
from gan3d.results import write_whole

HASTE = (7.0, 5.0, 3.0)  # aggressiveness of fast-simplification; 7 is its own


def largest_piece(mesh: Mesh) -> Mesh:
    """The connected piece with the most triangles: a field has islands that no view shows."""
    num, ones = len(mesh.vertices), np.ones(len(mesh.faces))
    edges = coo_array((ones, (mesh.faces[:, 0], mesh.faces[:, 1])), shape=(num, num))
    edges = edges + coo_array((ones, (mesh.faces[:, 1], mesh.faces[:, 2])), shape=(num, num))
    _, piece = connected_components(edges, directed=False)
    counts = np.bincount(piece[mesh.faces[:, 0]])
    return kept(mesh, piece[mesh.faces[:, 0]] == counts.argmax())


def kept(mesh: Mesh, faces: np.ndarray) -> Mesh:
    """Some triangles of a mesh, bool [m], with their vertices."""
    used, remaining = np.unique(mesh.faces[faces], return_inverse=True)
    return replace(
        mesh,
        vertices=mesh.vertices[used],
        faces=remaining.reshape(-1, 3),
        colors=None if mesh.colors is None else mesh.colors[used],
        uv=None if mesh.uv is None else mesh.uv[used],
    )


def simplified(mesh: Mesh, num_faces: int) -> Mesh:
    """A mesh of at most about `num_faces` triangles (quadric error metric, Garland and Heckbert
    1997), without colors; one that has no more stays as it is.

    Haste may pinch a surface; one that was closed is simplified less hastily where it is then still
    closed, and hardly larger than asked for.
    """
    if len(mesh.faces) <= num_faces:
        return mesh
    closed, tries = is_closed(mesh.faces), []
    for haste in HASTE:
        tries.append(_simplified(mesh, num_faces, haste))
        if not closed:
            break
        if len(tries[-1].faces) <= 1.1 * num_faces and is_closed(tries[-1].faces):
            return tries[-1]
    return tries[0]


def _simplified(mesh: Mesh, num_faces: int, haste: float) -> Mesh:
    vertices, faces = needed("fast_simplification").simplify(
        mesh.vertices.astype(np.float32),
        mesh.faces.astype(np.int32),
        target_count=num_faces,
        agg=haste,
    )
    return Mesh(vertices.astype(np.float32), faces.astype(np.int64), name=mesh.name)


def is_closed(faces: np.ndarray) -> bool:
    """Whether every edge of triangles [f 3] belongs to two of them, once in each direction."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    there = edges[:, 0] * (faces.max() + 1) + edges[:, 1]
    back = edges[:, 1] * (faces.max() + 1) + edges[:, 0]
    return len(np.unique(there)) == len(there) and np.array_equal(np.sort(there), np.sort(back))


def write_obj(path: Path, mesh: Mesh) -> Path:
    """Writes a mesh as NAME.obj; one with a texture with NAME.mtl and NAME.png beside it.

    Existing files are replaced.
    """
    trimesh = needed("trimesh")
    visual = None
    if mesh.texture is not None and mesh.uv is not None:
        material = trimesh.visual.material.SimpleMaterial(
            image=Image.fromarray(mesh.texture[..., :3]), diffuse=[255] * 4, name=path.stem
        )
        upwards = mesh.uv * [1, -1] + [0, 1]  # v of OBJ runs from the bottom to the top
        visual = trimesh.visual.TextureVisuals(uv=upwards, material=material)
    shown = trimesh.Trimesh(
        mesh.vertices, mesh.faces, vertex_colors=mesh.colors, visual=visual, process=False
    )
    text, files = trimesh.exchange.obj.export_obj(
        shown, return_texture=True, mtl_name=f"{path.stem}.mtl", header="gan3d"
    )
    for name, content in files.items():
        write_whole(path.with_name(name), partial(_write_bytes, content))
    return write_whole(path, partial(_write_bytes, text.encode()))


def _write_bytes(content: bytes, path: Path) -> None:
    path.write_bytes(content)
