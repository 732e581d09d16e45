"""Writes meshes as glTF 2.0 binary files (.glb), which browsers and Blender open without plugins.

    12 bytes   "glTF", 2, length of the file
    JSON       length, "JSON", text padded with spaces
    BIN        length, "BIN\\0", arrays and PNGs, each from a multiple of 4 on, padded with zeros

All lengths are little-endian uint32 and multiples of 4.

Convention: right-handed, y up, front towards +z, as in gan3d's world. Triangles are
counterclockwise seen from their front. Texture coordinates are (0, 0) at the outer corner of the
texture's first pixel and (1, 1) at the outer corner of its last, u along a row, v along a column:
(grid + 1) / 2 of a `grid_sample` with align_corners False. Colors are sRGB bytes, not premultiplied
by alpha. Meshes with colors are unlit (KHR_materials_unlit), because the pictures already contain
the light. Viewers that sort translucent meshes by the distance of their nodes (three.js) draw the
meshes of one file in order: farthest first.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gan3d.results import write_whole

_FLOAT, _UINT32 = 5126, 5125  # component types
_VERTICES, _INDICES = 34962, 34963  # targets of buffer views
_LINEAR, _CLAMP = 9729, 33071  # sampler


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles with colors at the vertices, with a texture, or plain.

    Attributes:
        vertices: float [n 3], world coordinates.
        faces: int [m 3], indices of vertices.
        colors: uint8 [n 3], or None.
        uv: float [n 2], texture coordinates, given together with `texture`.
        texture: uint8 [H W 4], the fourth channel is alpha, or None.
        name: name shown by viewers.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray | None = None
    uv: np.ndarray | None = None
    texture: np.ndarray | None = None
    name: str = "mesh"

    def __post_init__(self) -> None:
        n = len(self.vertices)
        size = (0, 0) if self.texture is None else self.texture.shape[:2]
        wrong = []
        for what, array, shape, kind in (
            ("vertices", self.vertices, (n, 3), "f"),
            ("faces", self.faces, (len(self.faces), 3), "iu"),
            ("colors", self.colors, (n, 3), "u"),
            ("uv", self.uv, (n, 2), "f"),
            ("texture", self.texture, (*size, 4), "u"),
        ):
            if array is not None and (array.shape != shape or array.dtype.kind not in kind):
                wrong.append(f"{what} {array.dtype} {list(array.shape)}")
        if wrong:
            raise ValueError(
                f"mesh {self.name!r} has {', '.join(wrong)}; expected vertices float [n 3], faces "
                "int [m 3], colors uint8 [n 3], uv float [n 2], texture uint8 [H W 4]"
            )
        if (self.uv is None) != (self.texture is None):
            raise ValueError(f"mesh {self.name!r} has one of uv and texture; give both or neither")
        if len(self.faces) and not 0 <= self.faces.min() <= self.faces.max() < n:
            low, high = self.faces.min(), self.faces.max()
            raise ValueError(
                f"mesh {self.name!r} has faces of vertices {low} to {high}, but it has {n} vertices"
            )


def write_glb(path: str | Path, meshes: Sequence[Mesh]) -> Path:
    """Writes meshes in order, one node each, atomically; an existing file is replaced.

    Raises:
        ValueError: as of `glb_bytes`.
    """
    data = glb_bytes(meshes)
    return write_whole(Path(path), lambda partial: partial.write_bytes(data))


def glb_bytes(meshes: Sequence[Mesh]) -> bytes:
    """The content of a file of meshes in order, one node each.

    Raises:
        ValueError: there is no mesh, a mesh has no triangles, or a coordinate is not finite.
    """
    document = _Document()
    for mesh in meshes:
        if len(mesh.faces) == 0:
            raise ValueError(
                f"mesh {mesh.name!r} has no triangles, which glTF cannot store; leave it out"
            )
        if not np.isfinite(mesh.vertices).all():
            raise ValueError(
                f"mesh {mesh.name!r} has vertices that are not finite; leave out these vertices"
            )
        document.add(mesh)
    if not meshes:
        raise ValueError("there is no mesh to write; give at least one")
    return document.bytes()


@dataclass
class _Document:
    """A file under construction: the entries of its JSON part, and its binary part."""

    binary: bytearray = field(default_factory=bytearray)
    views: list[dict[str, Any]] = field(default_factory=list)
    accessors: list[dict[str, Any]] = field(default_factory=list)
    meshes: list[dict[str, Any]] = field(default_factory=list)
    materials: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)

    def add(self, mesh: Mesh) -> None:
        vertices = np.ascontiguousarray(mesh.vertices, dtype="<f4")
        box = {"min": vertices.min(axis=0).tolist(), "max": vertices.max(axis=0).tolist()}
        attributes = {"POSITION": self._array(vertices, _FLOAT, "VEC3", _VERTICES, box)}
        if mesh.uv is not None:
            attributes["TEXCOORD_0"] = self._array(mesh.uv.astype("<f4"), _FLOAT, "VEC2", _VERTICES)
        if mesh.colors is not None:
            attributes["COLOR_0"] = self._array(_linear(mesh.colors), _FLOAT, "VEC3", _VERTICES)
        indices = self._array(mesh.faces.astype("<u4").reshape(-1), _UINT32, "SCALAR", _INDICES)
        primitive = {"attributes": attributes, "indices": indices, "material": self._material(mesh)}
        self.meshes.append({"name": mesh.name, "primitives": [primitive]})

    def _view(self, data: bytes, target: int | None = None) -> int:
        self.binary += bytes(-len(self.binary) % 4)
        view = {"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data)}
        self.views.append(view if target is None else {**view, "target": target})
        self.binary += data
        return len(self.views) - 1

    def _array(
        self,
        array: np.ndarray,
        component: int,
        kind: str,
        target: int,
        bounds: dict[str, Any] | None = None,
    ) -> int:
        accessor = {
            "bufferView": self._view(np.ascontiguousarray(array).tobytes(), target),
            "componentType": component,
            "count": len(array),
            "type": kind,
            **(bounds or {}),
        }
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def _material(self, mesh: Mesh) -> int:
        surface: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
        material: dict[str, Any] = {
            "name": mesh.name,
            "pbrMetallicRoughness": surface,
            "doubleSided": True,
        }
        if mesh.texture is not None:
            stream = io.BytesIO()
            Image.fromarray(mesh.texture).save(stream, format="png")
            surface["baseColorTexture"] = {"index": len(self.images)}
            image = {"bufferView": self._view(stream.getvalue()), "mimeType": "image/png"}
            self.images.append(image)
            if mesh.texture[..., 3].min() < 255:
                material["alphaMode"] = "BLEND"
        if mesh.texture is not None or mesh.colors is not None:
            material["extensions"] = {"KHR_materials_unlit": {}}
        self.materials.append(material)
        return len(self.materials) - 1

    def bytes(self) -> bytes:
        count = len(self.meshes)
        self.binary += bytes(-len(self.binary) % 4)
        content: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": "gan3d"},
            "scene": 0,
            "scenes": [{"nodes": list(range(count))}],
            "nodes": [{"name": mesh["name"], "mesh": k} for k, mesh in enumerate(self.meshes)],
            "meshes": self.meshes,
            "materials": self.materials,
            "accessors": self.accessors,
            "bufferViews": self.views,
            "buffers": [{"byteLength": len(self.binary)}],
        }
        if any("extensions" in material for material in self.materials):
            content["extensionsUsed"] = ["KHR_materials_unlit"]
        if self.images:
            content["images"] = self.images
            content["samplers"] = [
                {"magFilter": _LINEAR, "minFilter": _LINEAR, "wrapS": _CLAMP, "wrapT": _CLAMP}
            ]
            content["textures"] = [{"source": k, "sampler": 0} for k in range(len(self.images))]
        text = json.dumps(content, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        chunks = _chunk(b"JSON", text) + _chunk(b"BIN\0", bytes(self.binary))
        return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack("<I4s", len(data), kind) + data


def _linear(colors: np.ndarray) -> np.ndarray:
    """sRGB bytes as linear light, float32, which glTF expects at vertices (textures are sRGB)."""
    c = colors.astype(np.float64) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4).astype("<f4")
