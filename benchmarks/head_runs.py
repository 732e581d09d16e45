"""Shared by the benchmarks that train on procedural heads: data, training, measures, picture.

Every step is a verb of gan3d in a process of its own, on one thread; what lies in the folder is
kept, so a script that was stopped goes on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from machine import facts

from gan3d.bench.pictures import front_views, turned_sheet
from gan3d.bench.runs import training_cost
from gan3d.checkpoints.models import find_model
from gan3d.data.heads import FOV, RADIUS
from gan3d.generators import Generator, Rendering

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
        model: run folder or file; the results of `gan3d measure` lie beside it, and are taken as
            they are where they are newer than it.
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
            if not _is_newer(path, find_model(model)):
                gan3d("measure", model, "--metrics", metrics, *size, *more, *options, quiet=True)
            for key, value in json.loads(path.read_text())["results"].items():
                found.setdefault("distance" if key == "small/frechet" else key, []).append(value)
    return found


def _is_newer(path: Path, other: Path) -> bool:
    return path.exists() and path.stat().st_mtime > other.stat().st_mtime


def training_seconds(run: Path) -> float:
    """Wall seconds of the training itself, from the images and speeds that it logged."""
    return training_cost(run).seconds


def views(generator: Generator, num: int) -> list[Rendering]:
    """The first heads from the front; 2D: their pictures."""
    return front_views(generator, num, (RADIUS, FOV))


def sheet(generator: Generator) -> np.ndarray:
    """Heads from several sides and their frontal depth; 2D: a grid of pictures."""
    return turned_sheet(generator, (RADIUS, FOV))
