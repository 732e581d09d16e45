"""Plain PNGs: the pixels of the long way, by pyspng where it is installed, and no damage passes."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from gan3d.data import images, png
from gan3d.data.archive import DataError
from gan3d.data.images import decode

SIDES = (1, 7, 32)
MODES = ("L", "LA", "RGB", "RGBA")
DECODERS = ["Pillow"] + ["pyspng"] * (png.pyspng is not None)


@pytest.fixture(params=DECODERS)
def decoder(request, monkeypatch):
    """Decodes plain PNGs with Pillow, and with pyspng where it is installed."""
    if request.param == "Pillow":
        monkeypatch.setattr(png, "pyspng", None)
    return request.param


def picture(mode: str, side: int = 8) -> Image.Image:
    levels = np.random.default_rng(side).integers(0, 256, (side, side, len(mode)), dtype=np.uint8)
    return Image.fromarray(levels.squeeze(2) if mode == "L" else levels, mode)


def encode(image: Image.Image, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def the_long_way(data: bytes) -> torch.Tensor:
    """Pixels by Pillow's verify, load and convert."""
    image = images._open(data, "x", None)
    return torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("side", SIDES)
def test_plain_pictures_have_the_pixels_of_the_long_way(decoder, mode, side):
    data = encode(picture(mode, side))
    assert png.plain(data).channels == len(mode)
    assert torch.equal(decode(data, "x", native=side), the_long_way(data))


def exif() -> bytes:
    tags = Image.Exif()
    tags[0x0112] = 6  # turned by a quarter
    return tags.tobytes()


def text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "who knows")
    return info


# fmt: off
DOUBTFUL = {
    "palette": lambda: encode(picture("RGB").convert("P")),
    "one bit": lambda: encode(picture("L").convert("1")),
    "16 bits": lambda: encode(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) << 10)),
    "transparent color": lambda: encode(picture("RGB"), transparency=(1, 2, 3)),
    "EXIF": lambda: encode(picture("RGB"), exif=exif()),
    "text": lambda: encode(picture("RGB"), pnginfo=text()),
}
# fmt: on


@pytest.mark.parametrize("kind", DOUBTFUL)
def test_what_is_in_doubt_goes_the_long_way(decoder, kind):
    data = DOUBTFUL[kind]()
    assert png.plain(data) is None
    assert torch.equal(decode(data, "x"), the_long_way(data))


def test_an_interlaced_picture_is_not_plain():
    data = bytearray(encode(picture("RGB")))
    data[28] = 1
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    assert png.plain(bytes(data)) is None


def test_every_damaged_byte_is_noticed(decoder):
    data = encode(picture("RGB"))
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1
        assert png.plain(bytes(damaged)) is None, place
    for length in range(len(data)):
        assert png.plain(data[:length]) is None, length
    assert png.plain(data + b"more than a chunk header of bytes") is None


def test_right_checksums_around_broken_pixels_are_one_readable_error(decoder):
    data = encode(picture("RGB", 32))
    start = data.index(b"IDAT")
    broken = b"IDAT" + data[start + 4 : start + 40]  # fewer pixels than the header says
    chunk = struct.pack(">I", 36) + broken + struct.pack(">I", zlib.crc32(broken))
    cut = data[: start - 4] + chunk + data[data.index(b"IEND") - 4 :]
    assert png.plain(cut) is not None
    with pytest.raises(DataError, match=r"a\.png: not a readable image"):
        decode(cut, "a.png")


@pytest.mark.parametrize(("width", "native"), [(8, 4), (4, None)])
def test_a_plain_picture_of_the_wrong_size_is_refused_as_ever(decoder, width, native):
    data = encode(picture("RGB").resize((width, 8)))
    with pytest.raises(DataError, match=r"8 px, the first image|4 x 8 pixels, expected a square"):
        decode(data, "x", native=native)
