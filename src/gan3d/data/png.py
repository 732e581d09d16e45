"""Plain PNGs, decoded by pyspng where it is installed (the extra `png`), else by Pillow.

A PNG is plain if both decoders give its pixels without doubt: 8 bits of gray, RGB or either with
alpha, not interlaced, with no palette, no transparent color, and no chunk that may turn or describe
the picture (EXIF and text). All its checksums are verified here, so it is decoded once.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

try:
    import pyspng
except ImportError:  # it is an extra
    pyspng = None

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by color type
_HARMLESS = (b"IHDR", b"IDAT", b"IEND", b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"tIME", b"bKGD")


@dataclass(frozen=True)
class PlainPNG:
    """A file that is known to be a plain and undamaged PNG.

    Attributes:
        data: the file.
        width, height: in pixels.
        channels: 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha.
    """

    data: bytes
    width: int
    height: int
    channels: int

    def pixels(self) -> np.ndarray | None:
        """RGB, uint8 [H W 3]: gray three times, alpha dropped; None if it cannot be decoded."""
        try:
            if pyspng is not None:
                values = pyspng.load(self.data)
            else:
                with Image.open(io.BytesIO(self.data), formats=("PNG",)) as image:
                    values = np.asarray(image)
        # Decoders raise all kinds of exceptions on broken data; the caller finds out which.
        except Exception:
            return None
        values = values.reshape(self.height, self.width, -1)
        if values.dtype != np.uint8 or values.shape[2] != self.channels:
            return None
        if self.channels < 3:
            return np.broadcast_to(values[..., :1], (self.height, self.width, 3))
        return values[..., :3]


def plain(data: bytes) -> PlainPNG | None:
    """The PNG `data` if it is plain and all its checksums are right, else None."""
    if not data.startswith(_SIGNATURE):
        return None
    names, place, end = [], len(_SIGNATURE), len(data)
    view = memoryview(data)
    while place + 12 <= end:
        length, name = struct.unpack_from(">I4s", data, place)
        stop = place + 8 + length
        if name not in _HARMLESS or stop + 4 > end:
            return None
        if zlib.crc32(view[place + 4 : stop]) != struct.unpack_from(">I", data, stop)[0]:
            return None
        names.append(name)
        place = stop + 4
    if place != end or len(names) < 3 or names[0] != b"IHDR" or names[-1] != b"IEND":
        return None
    width, height, depth, color, packing, filters, interlaced = struct.unpack_from(
        ">IIBBBBB", data, 16
    )
    if depth != 8 or color not in _CHANNELS or packing or filters or interlaced:
        return None
    return PlainPNG(data, width, height, _CHANNELS[color])
