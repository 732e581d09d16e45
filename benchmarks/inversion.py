"""Scenes of the zoo's models found again from one picture each: the table of docs/apps.md.

    python benchmarks/inversion.py                 # ten minutes of one core
    python benchmarks/inversion.py --models eg3d_heads32 --scenes 1 --steps 20 --no_page

The picture is the model's own, from yaw 0.3 and pitch 0.1; the search starts 10 degrees of yaw
away. Measured: PSNR of that view, and of two that the search has not seen, the error of the pose
in degrees, and CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from typing import Any

import torch
from machine import RESULTS, facts, machine_name
from pages import write_between
from torch import Tensor

import gan3d
from gan3d.camera import Camera
from gan3d.generators import Generator

MODELS = ("eg3d_heads32", "cips3d_heads32", "gramhd_heads64", "pigan_heads32", "stylegan2_heads64")
SPACES = ("w", "w+", "pti")
YAW, PITCH, OFF = 0.3, 0.1, math.radians(10)
OTHERS = ((-0.3, 0.0), (0.0, 0.2))
FIRST_SEED = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--scenes", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--no_page", action="store_true", help="write nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for model in args.models:
        for space in SPACES:
            seeds = range(FIRST_SEED, FIRST_SEED + args.scenes)
            rows.append(row(model, space, [measure(model, space, s, args.steps) for s in seeds]))
            print(rows[-1], flush=True)
    if args.no_page:
        return
    record = {**facts(), "scenes": args.scenes, "steps": args.steps, "rows": rows}
    path = RESULTS / machine_name() / "inversion.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    write_table(rows)


def measure(model: str, space: str, seed: int, steps: int) -> dict[str, float]:
    """One scene, found again."""
    generator = gan3d.from_pretrained(model)
    target = seen(generator, seed, YAW, PITCH)
    angles = (YAW - OFF, PITCH) if generator.has_camera else (0.0, 0.0)
    start = time.process_time()
    found = gan3d.invert(generator, target, *angles, space=space, steps=steps, progress=False)
    values = {"psnr": found.psnr[0], "seconds": time.process_time() - start}
    if found.pose is None:
        return values
    away = (float(found.pose.yaw) - YAW, float(found.pose.pitch) - PITCH)
    others = [
        psnr(seen(found.generator, seed, *view), seen(generator, seed, *view)) for view in OTHERS
    ]
    return values | {
        "unseen": statistics.mean(others),
        "pose": math.degrees(math.hypot(*away)),
    }


def seen(generator: Generator, seed: int, yaw: float, pitch: float) -> Tensor:
    camera = Camera.from_angles(yaw, pitch) if generator.has_camera else None
    return gan3d.sample(generator, [seed], camera).image


def psnr(a: Tensor, b: Tensor) -> float:
    """dB, of pictures in [-1, 1]."""
    return float(-10 * ((a - b) / 2).square().mean().log10())


def row(model: str, space: str, scenes: list[dict[str, float]]) -> dict[str, Any]:
    """The values of all scenes, by name."""
    print(model, space, [f"{scene['psnr']:.1f}" for scene in scenes], flush=True)
    return {"model": model, "space": space} | {
        key: [round(scene[key], 3) for scene in scenes] for key in scenes[0]
    }


def write_table(rows: list[dict[str, Any]]) -> None:
    """Means over the scenes, between the marks of the page; in brackets the worst one."""
    lines = [
        "| model | space | given view, dB | unseen views, dB | pose, degrees | CPU seconds |",
        "|---|---|---|---|---|---|",
    ]
    for entry in rows:
        cells = [_cell(entry.get("psnr"), min), _cell(entry.get("unseen"), min)]
        cells += [_cell(entry.get("pose"), max), f"{statistics.mean(entry['seconds']):.0f}"]
        lines.append(f"| `{entry['model']}` | {entry['space']} | {' | '.join(cells)} |")
    write_between("apps.md", "inversion", lines)


def _cell(values: list[float] | None, worst: Any) -> str:
    return "" if values is None else f"{statistics.mean(values):.1f} ({worst(values):.1f})"


if __name__ == "__main__":
    main()
