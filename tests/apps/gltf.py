"""A strict reader of glTF binaries, for tests of writers."""

import io
import json
import struct
from itertools import pairwise

import numpy as np
from PIL import Image

WIDTH = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}
TYPE = {5126: "<f4", 5125: "<u4"}


def read_glb(path) -> tuple[dict, bytes]:
    """(JSON, binary) of a file; checks header, chunks, views and accessors against glTF 2.0."""
    # header and chunks
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert (kind, size % 4) == (b"JSON", 0)
    content = json.loads(data[20 : 20 + size])
    start = 20 + size
    binary_size, kind = struct.unpack_from("<I4s", data, start)
    assert (kind, binary_size % 4) == (b"BIN\0", 0)
    binary = data[start + 8 :]
    assert len(binary) == binary_size == content["buffers"][0]["byteLength"]

    # views and accessors
    views = content["bufferViews"]
    assert all(view["byteOffset"] % 4 == 0 for view in views)
    assert all(a["byteOffset"] + a["byteLength"] <= b["byteOffset"] for a, b in pairwise(views))
    assert views[-1]["byteOffset"] + views[-1]["byteLength"] <= binary_size
    for accessor in content["accessors"]:
        size = 4 * WIDTH[accessor["type"]] * accessor["count"]
        assert views[accessor["bufferView"]]["byteLength"] == size
    return content, binary


def array(content: dict, binary: bytes, index: int) -> np.ndarray:
    accessor = content["accessors"][index]
    view = content["bufferViews"][accessor["bufferView"]]
    dtype = TYPE[accessor["componentType"]]
    numbers = np.frombuffer(binary, dtype, view["byteLength"] // 4, view["byteOffset"])
    return numbers.reshape(accessor["count"], -1)


def picture(content: dict, binary: bytes, index: int) -> np.ndarray:
    image = content["images"][index]
    view = content["bufferViews"][image["bufferView"]]
    assert image["mimeType"] == "image/png"
    assert "target" not in view
    png = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
    return np.array(Image.open(io.BytesIO(png), formats=["PNG"]))
