"""A mesh on a turntable: pictures of its triangles, without light, because its colors contain it.

A pixel shows the triangle that is nearest at its center, with the color of the vertices, or of the
nearest pixel of the texture.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from gan3d.apps.glb import Mesh
from gan3d.apps.pictures import PAPER
from gan3d.apps.texture import GRAY, texels_of
from gan3d.camera import Camera


def turntable(mesh: Mesh, cameras: Camera, *, side: int = 256) -> Iterator[np.ndarray]:
    """Pictures of a mesh from some cameras, one after the other, uint8 [side side 3].

    Args:
        mesh: with colors, a texture, or neither (gray).
        cameras: where it is seen from, in front of all of it.
        side: of the pictures, pixels.
    """
    for camera in cameras.to("cpu"):
        yield picture_of(mesh, camera, side)


def picture_of(mesh: Mesh, camera: Camera, side: int) -> np.ndarray:
    """One picture of a mesh before white, uint8 [side side 3]."""
    vertices = torch.from_numpy(mesh.vertices).to(camera.cam2world)
    pixels, z = (x[0].numpy() for x in camera.project(vertices[None]))
    texels, face, shares = texels_of(pixels[mesh.faces] * side, side)
    corners = mesh.faces[face]  # t 3
    order = np.argsort(-(shares * z[corners, 0]).sum(1), kind="stable")  # the nearest comes last
    texels, corners, shares = texels[order], corners[order], shares[order]
    picture = np.full((side, side, 3), PAPER, dtype=np.uint8)
    picture[texels[:, 1], texels[:, 0]] = _colors(mesh, corners, shares)
    return picture


def _colors(mesh: Mesh, corners: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Colors inside of triangles, uint8 [t 3], or one for all."""
    if mesh.texture is not None and mesh.uv is not None:
        size = np.array(mesh.texture.shape[1::-1])  # columns, rows
        place = (shares[..., None] * mesh.uv[corners]).sum(1) * size
        column, row = np.clip(place.astype(np.int64), 0, size - 1).T
        return mesh.texture[row, column, :3]
    if mesh.colors is not None:
        mean = (shares[..., None] * mesh.colors[corners]).sum(1)
        return np.round(mean).astype(np.uint8)
    return np.full(3, GRAY, dtype=np.uint8)
