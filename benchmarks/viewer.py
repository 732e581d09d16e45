"""Frames per second of the viewer (gan3d.apps.looks), from a camera that moves.

    python benchmarks/viewer.py                  # some minutes of two cores
    python benchmarks/viewer.py --frames 3 --no_page

A frame is the image layer of a scene that is computed already, as a browser gets it: rendered, on
its canvas, as a JPEG. At rest it has the full resolution; moving frames have that of the viewer's
pace, which aims at ten per second. Weights are random: they do not change the speed.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import facts, write
from pages import write_between
from PIL import Image

import gan3d
from gan3d.apps.canvas import on_canvas
from gan3d.apps.looks import Exhibit, Gallery, Look
from gan3d.camera import Camera

ASPECT = 1.5  # of the canvas
SECONDS = 20  # of each measurement, after which no frame begins


@dataclass(frozen=True)
class Case:
    """A model at a resolution.

    Attributes:
        config: packaged.
        resolution: of the rendering at rest; None is the model's own.
    """

    config: str
    resolution: int | None = None


CASES = (Case("eg3d_heads64"), Case("cips3d_heads64"), Case("cips3d_heads64", 256))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=20, help="of each measurement")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no_page", action="store_true", help="leave the table of docs/apps.md")
    parser.add_argument("--out", type=Path, help="folder of the result")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = [measure(case, given.frames) for case in CASES]
    path = write("viewer", {"machine": facts(), "threads": given.threads, "rows": rows}, given.out)
    print(path)
    if not given.no_page:
        write_table(rows)


def measure(case: Case, frames: int) -> dict[str, Any]:
    """Frames of one model while the camera turns, at rest and moving."""
    torch.manual_seed(0)
    generator = gan3d.create(case.config).eval()
    exhibit = Exhibit(case.config, generator, resolution=case.resolution)
    gallery = Gallery([exhibit])
    row: dict[str, Any] = asdict(case) | {"generator": type(generator).__name__}
    for name, moving in (("rest", False), ("moving", True)):
        paces = gallery.paces()
        wall, cpu, sides, image = [], [], [], 0
        for k in range(-5 if moving else -1, frames):  # before 0 to warm up: the pace learns
            camera = Camera.from_angles(0.02 * k, 0.0, radius=exhibit.radius, fov=exhibit.fov)
            start, used = time.perf_counter(), time.process_time()
            frame = gallery.frame(Look(), camera, "image", paces, moving=moving)
            jpeg(on_canvas(frame.pictures, ASPECT))
            if k >= 0:
                wall.append(time.perf_counter() - start)
                cpu.append(time.process_time() - used)
                sides.append(frame.sides[0])
            image = len(frame.pictures[0])
            if sum(wall) > SECONDS:
                break
        row[name] = {
            "side": statistics.median_low(sides),
            "image": image,
            "seconds": round(statistics.median(wall), 4),
            "cpu_seconds": round(statistics.median(cpu), 4),
        }
    print(row, flush=True)
    return row


def jpeg(picture: np.ndarray) -> bytes:
    """As the viewer sends it."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="jpeg", quality=90)
    return stream.getvalue()


def write_table(rows: list[dict[str, Any]]) -> None:
    """Between the marks of the page."""
    lines = [
        "| model | image | rays at rest | frames/s at rest | rays moving | frames/s moving "
        "| CPU seconds of a frame, at rest and moving |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        rest, moving = row["rest"], row["moving"]
        cells = [f"{row['generator']} (`{row['config']}`)", f"{rest['image']} px"]
        for entry in (rest, moving):
            cells += [f"{entry['side']}²", f"{1 / entry['seconds']:.2g}"]
        lines.append(
            f"| {' | '.join(cells)} | {rest['cpu_seconds']:.2f}, {moving['cpu_seconds']:.2f} |"
        )
    write_between("apps.md", "viewer", lines)


if __name__ == "__main__":
    main()
