"""Decodes image files to uint8 [3 H W].

Convention: 8 bits, RGB, no color management. A photograph is turned as its EXIF orientation says.
Alpha is dropped without blending, as in EG3D's data tool; gray is repeated to three channels; of 16
bits the upper 8 are kept (so 12 bits stored in 16 must be scaled up before, or they are nearly
black).
"""

from __future__ import annotations

import io
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from gan3d.data import png
from gan3d.data.archive import DataError

ResizeFilter = Literal["lanczos", "bicubic", "bilinear", "box"]
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MAX_SIDE = 8192  # the largest power of two below Pillow's own limit (89 million pixels)
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")


def decode(
    data: bytes,
    where: str,
    *,
    native: int | None = None,
    resolution: int | None = None,
    resize_filter: ResizeFilter = "lanczos",
) -> Tensor:
    """Decodes a square image.

    Args:
        data: content of the file.
        where: archive and file, for error messages.
        native: side that the image must have in pixels; None accepts any.
        resolution: side to shrink to in pixels; None keeps the original size.
        resize_filter: Pillow's filter of that name, antialiased (its support grows with the
            reduction).

    Returns:
        uint8 [3 H W].

    Raises:
        DataError: the image is corrupt, truncated, not square, too large, of an unsupported format
            or smaller than `resolution`.
    """
    if resolution is None or resolution == native:
        pixels = _plain_pixels(data, native)
        if pixels is not None:
            return _channels_first(pixels)
    return _shrunk(_open(data, where, native), where, resolution, resize_filter)


def decode_array(
    data: bytes,
    where: str,
    *,
    native: int | None = None,
    resolution: int | None = None,
    resize_filter: ResizeFilter = "lanczos",
) -> Tensor:
    """Decodes a square array of gray levels, uint8 [H W] by numpy.save, to uint8 [1 H W].

    Arguments and errors are those of `decode`.
    """
    try:
        levels = np.load(io.BytesIO(data), allow_pickle=False)
    # numpy raises all kinds of exceptions on broken data.
    except Exception as error:
        raise DataError(f"{where}: not a readable array ({error}); replace the file") from error
    side = levels.shape[0] if levels.ndim else 0
    expected = side if native is None else native
    if levels.dtype != np.uint8 or levels.shape != (expected, expected):
        raise DataError(
            f"{where}: {levels.dtype} {list(levels.shape)}, expected uint8 "
            f"[{expected}, {expected}], as the images are; write it again"
        )
    return _shrunk(Image.fromarray(levels), where, resolution, resize_filter)


def _shrunk(
    image: Image.Image, where: str, resolution: int | None, resize_filter: ResizeFilter
) -> Tensor:
    """uint8 [c H W] of an image, shrunk to `resolution`."""
    side = image.width
    if resolution is not None and resolution != side:
        if resolution > side:
            raise DataError(
                f"{where}: {side} px cannot be enlarged to {resolution} px; use resolution {side} "
                "or less"
            )
        image = image.resize((resolution, resolution), resample=_filter(resize_filter))
    levels = np.array(image)
    return _channels_first(levels.reshape(*levels.shape[:2], -1))


def _channels_first(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def _plain_pixels(data: bytes, native: int | None) -> np.ndarray | None:
    """RGB [H W 3] of a plain, square PNG of side `native`; None of everything else, which is then
    decoded, or refused, the longer way.
    """
    file = png.plain(data)
    if file is None or file.width != file.height or not 0 < file.width <= MAX_SIDE:
        return None
    return file.pixels() if native in (None, file.width) else None


def _open(data: bytes, where: str, native: int | None) -> Image.Image:
    image = _load(data, where, native)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode not in _MODES:
        raise DataError(
            f"{where}: pixels of mode {image.mode}, expected gray, RGB or RGBA of 8 or 16 bits; "
            "convert it"
        )
    return image.convert("RGB")


def _load(data: bytes, where: str, native: int | None) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as header:
            width, height = header.size
            if max(width, height) > MAX_SIDE:
                raise DataError(
                    f"{where}: {width} x {height} pixels; the limit is {MAX_SIDE} px a side"
                )
            if width != height:
                raise DataError(
                    f"{where}: {width} x {height} pixels, expected a square image; crop it first"
                )
            if native not in (None, width):  # before its pixels take memory
                raise DataError(
                    f"{where}: {width} px, the first image of the set has {native} px; resize it "
                    "or take it out"
                )
            header.verify()  # checksums: some damaged PNGs decode without an error
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        image.load()
        return ImageOps.exif_transpose(image)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        got = "it is a GIF" if data.startswith(b"GIF8") else "its content is of no known format"
        raise DataError(
            f"{where}: not a readable image ({got}); expected {', '.join(_FORMATS)}: convert it or "
            "replace the file"
        ) from error
    # Decoders raise all kinds of exceptions on broken data: OSError, SyntaxError, struct.error ...
    except Exception as error:
        raise DataError(f"{where}: not a readable image ({error}); replace the file") from error


def _filter(name: ResizeFilter) -> Image.Resampling:
    known = get_args(ResizeFilter)
    if name not in known:
        raise ValueError(f"resize_filter {name!r} is not known; use one of {', '.join(known)}")
    return Image.Resampling[name.upper()]
