"""EG3D at 32 px by several recipes, several seeds, on wide heads and on those of FFHQ's cameras.

    python benchmarks/eg3d_recipes.py FOLDER                     # 10 hours of one core; or a part,
    python benchmarks/eg3d_recipes.py FOLDER --recipes published --sets wide --seeds 0 1 2
    python benchmarks/eg3d_recipes.py FOLDER --only_measure      # of the runs that are finished

Each run trains `eg3d_heads32.yaml` for 30,000 images on one thread, then the signed measures of
`HEADS` heads and the distance (small features, 1000 fakes) to heads of the same cameras that no
training has seen. What lies in FOLDER is kept. Writes eg3d_recipes.json, a picture per recipe and
set (seed 0), and the table of docs/eg3d.md.

`published` is the published recipe: constant white backdrop, conditional discriminator.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from head_runs import (
    DATA_HEADS,
    DATA_SEED,
    EVAL_HEADS,
    EVAL_SEED,
    fit,
    heads,
    measured,
    sheet,
)
from machine import RESULTS, ROOT, facts, machine_name
from pages import write_between
from PIL import Image

from gan3d.checkpoints.models import load_model

POSE = {"model.discriminator.init_args.predicts_pose": "true", "model.pose.real_weight": 15}
BACKDROP = {"model.generator.init_args.render.background": "learned"}
BALL = {"model.generator.init_args.density_prior.shape": "ball"}
BLACK = {"model.generator.init_args.render.background": "black"}
RECIPES: dict[str, dict[str, Any]] = {
    "published": {},
    "backdrop": BACKDROP,
    "backdrop, pose 5": BACKDROP | POSE | {"model.pose.weight": 5},
    "backdrop, pose 5, ball": {"config": "eg3d_narrow_cameras.yaml"},
    "backdrop, pose 15, ball": BACKDROP | POSE | {"model.pose.weight": 15} | BALL,
    "black": BLACK,
}
SETS = {"wide": "heads", "ffhq": "heads-ffhq"}
KIMG, HEADS = 30, 64
PICTURES = ROOT / "docs" / "images" / "recipes"
COLUMNS = ("distance", "body_convex", "face_convex", "face_slope", "turn", "identity")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="of data and runs")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only_measure", action="store_true", help="no training: finished runs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for cameras in args.sets:
        for recipe in args.recipes:
            for seed in args.seeds:
                run = args.folder / f"{cameras}_{recipe.replace(', ', '_').replace(' ', '')}_{seed}"
                if not args.only_measure:
                    fit(run, arguments(args.folder, recipe, cameras, seed))
                if finished(run):
                    rows.append(measure(args.folder, run, recipe, cameras, seed))
    record = {**facts(), "kimg": KIMG, "heads": HEADS, "rows": rows}
    path = RESULTS / machine_name() / "eg3d_recipes.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(path)
    write_table(rows)


def arguments(folder: Path, recipe: str, cameras: str, seed: int) -> list[Any]:
    """Arguments of `fit`."""
    data = heads(folder, 32, DATA_HEADS, DATA_SEED, SETS[cameras])
    values: dict[str, Any] = {
        "data.path": data,
        "model.run.total_kimg": KIMG,
        "seed_everything": seed,
    }
    options = [
        word for name, value in (values | RECIPES[recipe]).items() for word in (f"--{name}", value)
    ]
    return ["--config", "eg3d_heads32.yaml", *options]


def finished(run: Path) -> bool:
    """Whether a run has made all of its images."""
    return (run / "checkpoints" / f"kimg-{KIMG:010.3f}.ckpt").exists()


def measure(folder: Path, run: Path, recipe: str, cameras: str, seed: int) -> dict[str, Any]:
    """The row of a run; of seed 0 there is a picture, too."""
    reals = heads(folder, 32, EVAL_HEADS, EVAL_SEED, SETS[cameras])
    values = measured(run, reals, 1, HEADS, 1000, has_camera=True)
    if seed == 0:
        PICTURES.mkdir(parents=True, exist_ok=True)
        generator, _ = load_model(run)
        Image.fromarray(sheet(generator)).save(PICTURES / f"{run.name}.png", optimize=True)
    numbers = {key: round(value, 4) for key, (value,) in values.items()}
    return {"set": cameras, "recipe": recipe, "seed": seed, **numbers}


def write_table(rows: list[dict[str, Any]]) -> None:
    """The mean over the seeds of a recipe, its extremes below, between the marks of the page."""
    lines = [
        f"| heads | recipe | seeds | {' | '.join(name.replace('_', ' ') for name in COLUMNS)} |"
    ]
    lines.append("|" + "---|" * (3 + len(COLUMNS)))
    for cameras, recipe in dict.fromkeys((row["set"], row["recipe"]) for row in rows):
        runs = [row for row in rows if (row["set"], row["recipe"]) == (cameras, recipe)]
        cells = " | ".join(_cell([row[name] for row in runs]) for name in COLUMNS)
        lines.append(f"| {SETS[cameras]} | {recipe} | {len(runs)} | {cells} |")
    write_between("eg3d.md", "recipes", lines)


def _cell(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
