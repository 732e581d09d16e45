"""Shared by the benchmarks that train on procedural heads: data, training, measures, picture.

Every step is a verb of gan3d in a process of its own, on one thread; what lies in the folder is
kept, so a script that was stopped goes on.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from machine import facts
from torch import Tensor

from gan3d.apps.pictures import depth_colors, enlarge, grid, to_uint8
from gan3d.apps.samples import sample_turned
from gan3d.data.heads import head_camera
from gan3d.generators import Generator, Rendering

YAWS = (-0.6, -0.3, 0.0, 0.3, 0.6)
ROWS, SIDE = 4, 96
MADE_WITH = "made_with.json"
# Heads to train on, and others to measure with.
DATA_HEADS, DATA_SEED = 4000, 5
EVAL_HEADS, EVAL_SEED = 1000, 905


def gan3d(*arguments: Any, quiet: bool = False) -> str:
    """Runs a verb; returns what it prints, if quiet."""
    command = [sys.executable, "-m", "gan3d", *map(str, arguments)]
    print("$", " ".join(["gan3d", *map(str, arguments)]), flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    out = subprocess.PIPE if quiet else None
    done = subprocess.run(command, env=environment, check=True, text=True, stdout=out)
    return done.stdout or ""


def heads(folder: Path, px: int, num: int, seed: int, recipe: str = "heads") -> Path:
    """A set of procedural heads."""
    path = folder / f"{recipe}{px}_{num}_{seed}.zip"
    if not path.exists():
        size = ("--num", num, "--resolution", px, "--seed", seed)
        gan3d("data", "heads", "--out", path, *size, "--recipe", recipe, "--workers", 1)
    return path


def fit(run: Path, arguments: Iterable[Any]) -> None:
    """Trains to the end; a finished run is left as it is. `MADE_WITH` says on what, from where."""
    made = run / MADE_WITH
    if not made.exists():
        run.mkdir(parents=True, exist_ok=True)
        made.write_text(json.dumps(facts(), indent=1))
    gan3d("fit", *arguments, "--resume", "auto", "--run_dir", run, "--threads", 1)


def measured(
    model: Path, reals: Path, draws: int, num: int, fakes: int, has_camera: bool
) -> dict[str, list[float]]:
    """Distance (small features) and, of 3D models, the signed measures; a value per draw of
    latents.

    Args:
        model: run folder or file; the results of `gan3d measure` lie beside it.
        reals: heads that its training has not seen.
        draws: how often latents are drawn.
        num: heads of the signed measures.
        fakes: pictures of the distance.
        has_camera: whether the model has one.
    """
    found: dict[str, list[float]] = {}
    for seed in range(draws):
        jobs: list[tuple[str, int, tuple[Any, ...]]] = [
            ("fid", fakes, ("--data", reals, "--features", "small"))
        ]
        if has_camera:
            jobs.append(("relief,turn", num, ()))
        for metrics, count, more in jobs:
            path = model.parent / f"{model.name}.{metrics.replace(',', '_')}.{seed}.json"
            size = ("--num", count, "--batch_size", 16, "--seed", seed)
            options = ("--out", path, "--overwrite", "true", "--num_workers", 0)
            gan3d("measure", model, "--metrics", metrics, *size, *more, *options, quiet=True)
            for key, value in json.loads(path.read_text())["results"].items():
                found.setdefault("distance" if key == "small/frechet" else key, []).append(value)
    return found


def training_seconds(run: Path) -> float:
    """Wall seconds of the training itself, from the images and speeds that it logged."""
    seconds, before = 0.0, 0
    with (run / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            speed = float(row.get("speed/images_per_second") or 0)
            if speed > 0:
                images = int(row["step"]) - before
                seconds += images / speed
                before += images
    return seconds


def views(generator: Generator, num: int, yaws: Sequence[float] = (0.0,)) -> list[Rendering]:
    """The first heads from some sides, conditioned on the frontal camera; 2D: their pictures."""
    turned = [head_camera(torch.tensor([yaw]), torch.zeros(1)) for yaw in yaws]
    cameras = turned if generator.has_camera else [None]
    return sample_turned(generator, range(num), cameras)


def sheet(generator: Generator) -> np.ndarray:
    """Heads in rows, seen from `YAWS`, and their frontal depth; 2D: a grid of pictures."""
    if not generator.has_camera:
        (pictures,) = views(generator, 6 * ROWS)
        return grid(enlarge(to_uint8(pictures.image), SIDE), 6)
    seen = views(generator, ROWS, YAWS)
    frontal = seen[YAWS.index(0.0)]
    columns = [to_uint8(view.image) for view in seen]
    columns.append(depth_colors(cast(Tensor, frontal.depth), frontal.opacity))
    cells = np.stack([enlarge(column, SIDE) for column in columns], axis=1)
    return grid(cells.reshape(-1, *cells.shape[2:]), len(columns))
