"""The zip reader beside Pillow alone: CPU seconds per image at 32, 64, 256 and 512 px.

Both read the same uncompressed zip of PNGs in this process and give uint8 [3 H W]. Pillow alone
opens a member, decodes it and copies the channels to the front: no checksum but the zip's, no check
of size or mode, no label. First all pixels are compared, then the two take turns. Writes
reader.json, or reader_pyspng.json where pyspng is installed (the extra `png`).
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
from PIL import Image

from gan3d.data import png
from gan3d.data.archive import StoredZip
from gan3d.data.dataset import PosedImages

SIDES = {32: 512, 64: 512, 256: 64, 512: 24}  # side: images per turn


def write_pictures(path: Path, side: int, num: int) -> None:
    """Smooth random pictures with a little grain: a PNG takes about 1.8 bytes per pixel."""
    draw = np.random.default_rng(0)
    with StoredZip(path) as file:
        for number in range(num):
            colors = Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            smooth = np.asarray(colors.resize((side, side), Image.Resampling.BICUBIC)).astype(int)
            levels = (smooth + draw.integers(-1, 2, (side, side, 3))).clip(0, 255)
            stream = io.BytesIO()
            Image.fromarray(levels.astype(np.uint8)).save(stream, "PNG")
            file.put(f"{number:04d}.png", stream.getvalue())


def pillow_alone(file: zipfile.ZipFile, name: str) -> torch.Tensor:
    with file.open(name) as member:
        levels = np.array(Image.open(member))
    return torch.from_numpy(levels.transpose(2, 0, 1).copy())


def seconds(read: Callable[[Any], object], items: Iterable[Any]) -> float:
    """CPU seconds of reading all items."""
    start = time.process_time()
    for item in items:
        read(item)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--out", type=Path, help="folder of the JSON file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for side, num in SIDES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pictures.zip"
            write_pictures(path, side, num)
            images = PosedImages(path, use_labels=False)
            with zipfile.ZipFile(path) as file:
                assert all(
                    torch.equal(images[k][0], pillow_alone(file, name))
                    for k, name in enumerate(images.names)
                )
                alone, ours = [], []
                for _ in range(options.pairs):
                    alone.append(seconds(partial(pillow_alone, file), images.names))
                    ours.append(seconds(images.__getitem__, range(num)))
            row = {
                "side": side,
                "bytes_per_image": path.stat().st_size // num,
                "pillow_ms": 1000 * statistics.median(alone) / num,
                "reader_ms": 1000 * statistics.median(ours) / num,
                "ratio": statistics.median(b / a for a, b in zip(alone, ours, strict=True)),
            }
        rows.append(row)
        print(
            f"{side:4d} px: Pillow alone {row['pillow_ms']:.3f} ms, reader {row['reader_ms']:.3f} "
            f"ms, ratio {row['ratio']:.2f}"
        )
    decoder = "Pillow" if png.pyspng is None else f"pyspng {png.pyspng.__version__}"
    result = machine.facts() | {"decoder": decoder, "pairs": options.pairs, "rows": rows}
    name = "reader" if png.pyspng is None else "reader_pyspng"
    print(machine.write(name, result, options.out))


if __name__ == "__main__":
    main()
