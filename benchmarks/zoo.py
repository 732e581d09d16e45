"""Trains, measures and packs the models that come with gan3d (docs/zoo.md).

    python benchmarks/zoo.py FOLDER                            # all of them: hours of one core
    python benchmarks/zoo.py FOLDER --names eg3d_heads32 pigan_heads32
    python benchmarks/zoo.py --page                            # docs/zoo.md from the cards alone

Each is trained by the packaged config of its name on `gan3d data heads`. What lies in FOLDER is
kept: a finished run is not trained again, one that was stopped goes on. Every step is a verb of
`gan3d`, one thread.

Measured for the card: four times the signed measures of 64 heads, and four times the distance
(small features, 1000 fakes) to 1000 heads that no training has seen; mean and 95 % interval
(Student's t over the four draws of latents). A model is a member if its distance is at most
`MOST_DISTANCE` and, in 3D, bodies, faces and turn reach `DEMANDS`, else a preview.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from head_runs import (
    DATA_HEADS,
    DATA_SEED,
    EVAL_HEADS,
    EVAL_SEED,
    MADE_WITH,
    fit,
    gan3d,
    heads,
    measured,
    sheet,
    training_seconds,
    views,
)
from machine import ROOT
from pages import write_between
from PIL import Image

from gan3d.checkpoints.models import find_model, load_model
from gan3d.generators import Generator
from gan3d.zoo.models import SHIPPED, Card, list_models, read_card


@dataclass(frozen=True)
class Member:
    """A model to be trained.

    Attributes:
        px: resolution of its data.
        after: the model whose newest checkpoint it starts from.
        noise: whether its layers keep their per-pixel noise: drawn anew in training, it is constant
            afterwards, and shows as dots at fixed places.
        about: a sentence for the page: what to see in it.
    """

    px: int
    after: str | None = None
    noise: bool = True
    about: str = ""


MEMBERS = {
    "eg3d_heads32": Member(
        32, noise=False, about="Packed with the strengths of its per-pixel noise at 0."
    ),
    "cips3d_heads32": Member(32),
    "gram_heads32": Member(
        32,
        about="Five surfaces, the last one the background: four steps of depth. Narrowly a member.",
    ),
    "gramhd_heads64": Member(
        64,
        after="gram_heads32",
        about="Its super-resolution is 5,000 images old: the grid that pixel shuffling leaves has "
        "not faded yet. Narrowly a member, by its first stage.",
    ),
    "pigan_heads32": Member(
        32,
        about="Heads turn little, change with the camera, and hardly differ: 12,000 images are not "
        "enough, or its recipe is not right yet.",
    ),
    "stylegan2_heads64": Member(64, about="2D: without a camera."),
    "stylegan3t_heads64": Member(64, about="2D: without a camera. Just begun."),
}
DRAWS, HEADS, FAKES = 4, 64, 1000
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182}  # 97.5 % quantile of t with one degree less
DEMANDS = {"body_convex": 0.9, "face_convex": 0.8, "turn": 0.5}
MOST_DISTANCE = 0.5
MOST_BYTES = 4_000_000
VISIBLE = 1.0  # gray levels of 255 by which float16 weights may change a picture

PICTURES = ROOT / "docs" / "images" / "zoo"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="of data and runs")
    parser.add_argument("--names", nargs="+", choices=MEMBERS, default=list(MEMBERS))
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder of the packed models")
    parser.add_argument("--page", action="store_true", help="only write docs/zoo.md")
    parser.add_argument("--tiny", action="store_true", help="try the script in a minute")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.page:
        if args.folder is None:
            parser.error("give the folder of data and runs")
        args.folder.mkdir(parents=True, exist_ok=True)
        for name in args.names:
            run = train(name, args.folder, args.tiny)
            pack(name, run, args.folder, args.out, args.tiny)
    if args.out == SHIPPED:
        write_page()


# ------------------------------------------------------------ training


def train(name: str, folder: Path, tiny: bool) -> Path:
    """The run folder of a model, trained to the end of its config."""
    if (after := MEMBERS[name].after) is not None:
        train(after, folder, tiny)
    fit(folder / name, _recipe(name, folder, tiny))
    return folder / name


def _recipe(name: str, folder: Path, tiny: bool) -> list[Any]:
    """Arguments of `fit` that say what is trained."""
    member = MEMBERS[name]
    data = heads(folder, member.px, 64 if tiny else DATA_HEADS, DATA_SEED)
    arguments: list[Any] = ["--config", f"{name}.yaml", "--data.path", data]
    if member.after is not None:
        arguments += ["--model.run.init_from", find_model(folder / member.after)]
    if tiny:
        arguments += ["--model.run.total_kimg", 0.016, "--data.heldout", 32]
        arguments += ["--evaluation.num_images", 32]
    return arguments


# ------------------------------------------------------------ measuring


def pack(name: str, run: Path, folder: Path, out: Path, tiny: bool) -> Path:
    """Measures a finished run, and writes its weights with their card."""
    _refuse_another_recipe(name, run, folder, tiny)
    generator, known = load_model(run)
    if not MEMBERS[name].noise:
        silence(generator)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.safetensors"
    card = {
        **{key: known[key] for key in ("source", "images_seen", "radius", "fov") if key in known},
        "config": f"{name}.yaml",
        "data": f"gan3d data heads --recipe heads --resolution {MEMBERS[name].px} --num "
        f"{DATA_HEADS} --seed {DATA_SEED}",
        "training_minutes": round(training_seconds(run) / 60, 1),
        "made_with": json.loads((run / MADE_WITH).read_text()),
    }
    half = float16_error(generator, path) <= VISIBLE
    trial = generator.save_pretrained(folder / path.name, facts=card, half=half)
    card["scores"] = measure(name, trial, generator, folder, tiny)
    card["status"] = status(generator, card["scores"])
    generator.save_pretrained(path, facts=card, half=half)
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise SystemExit(f"{path} has {size:,} bytes, at most {MOST_BYTES:,} are to be shipped")
    print(f"{path}: {size / 1e6:.2f} MB, {'float16' if half else 'float32'}, {card['status']}")
    if out == SHIPPED:
        PICTURES.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet(generator)).save(PICTURES / f"{name}.png", optimize=True)
    return path


def _refuse_another_recipe(name: str, run: Path, folder: Path, tiny: bool) -> None:
    """Refuses a run whose config is no longer that of its name."""
    # Both with all their defaults: an option that is new since then changes nothing.
    recipes = _recipe(name, folder, tiny), ("--config", run / "config.yaml")
    printed = [gan3d("fit", *recipe, "--print_config", quiet=True) for recipe in recipes]
    now, then = (yaml.safe_load(text) for text in printed)
    for config in (now, then):
        config["data"].pop("path")
        del config["model"]["run"]["init_from"], config["model"]["run"]["seed"]
    for section in ("seed_everything", "model", "data"):
        if now[section] != then[section]:
            raise SystemExit(
                f"{run} was trained with another {section} than {name}.yaml has now; train it "
                "again in another folder"
            )


@torch.no_grad()
def silence(generator: Generator) -> None:
    """Sets the strengths of per-pixel noise to 0."""
    for name, weight in generator.named_parameters():
        if name.endswith("noise_strength"):
            weight.zero_()


def measure(
    name: str, model: Path, generator: Generator, folder: Path, tiny: bool
) -> dict[str, dict[str, float]]:
    """Mean and half of the 95 % interval of each score, over several draws of latents."""
    sizes = (2, 4, 16) if tiny else (DRAWS, HEADS, FAKES)
    reals = heads(folder, MEMBERS[name].px, 16 if tiny else EVAL_HEADS, EVAL_SEED)
    found = measured(model, reals, *sizes, has_camera=generator.has_camera)
    return {key: _interval(values) for key, values in found.items()}


def _interval(values: list[float]) -> dict[str, float]:
    spread = statistics.stdev(values) / math.sqrt(len(values))
    return {
        "value": round(statistics.mean(values), 4),
        "interval": round(STUDENT[len(values)] * spread, 4),
    }


def status(generator: Generator, scores: dict[str, dict[str, float]]) -> str:
    """Whether a model is what it should be, by its mean scores: its pictures, its shape if it has
    one.
    """
    demands = DEMANDS if generator.has_camera else {}
    met = all(scores[key]["value"] >= least for key, least in demands.items())
    return "member" if met and scores["distance"]["value"] <= MOST_DISTANCE else "preview"


def float16_error(generator: Generator, path: Path) -> float:
    """Largest change of a gray level (of 255) that float16 weights make in 16 pictures."""
    trial = path.with_name(f".{path.name}")
    try:
        generator.save_pretrained(trial, half=True)
        halved, _ = load_model(trial)
    finally:
        trial.unlink(missing_ok=True)
    pictures = [views(network, 16)[0].image for network in (generator, halved)]
    return float((pictures[0] - pictures[1]).abs().max()) * 127.5


# ------------------------------------------------------------ page


def write_page() -> None:
    """Puts table and pictures of the models into docs/zoo.md, between its marks."""
    cards = [read_card(name) for name in list_models(pretrained=True)]
    sections = [line for card in cards for line in _section(card)]
    write_between("zoo.md", "zoo", [*_table(cards), "", *sections])


def _table(cards: Iterable[Card]) -> list[str]:
    keys = {
        "distance": "distance",
        "body_convex": "bodies convex",
        "face_convex": "faces convex",
        "face_slope": "face slope",
        "turn": "turn",
        "identity": "identity",
    }
    lines = [
        f"| model | architecture | px | MB | images | minutes | {' | '.join(keys.values())} | |",
        "|" + "---|" * (7 + len(keys)),
    ]
    for card in cards:
        numbers = " | ".join(_score(card, key) for key in keys)
        about = card.facts
        lines.append(
            f"| `{card.name}` | {card.architecture} | {card.resolution} | {card.megabytes:.1f} | "
            f"{about['images_seen']:,} | {about['training_minutes']:.0f} | {numbers} | "
            f"{'preview' if about['status'] == 'preview' else ''} |"
        )
    return lines


def _score(card: Card, key: str) -> str:
    score = card.facts["scores"].get(key)
    return "" if score is None else f"{score['value']:.2f} ± {score['interval']:.2f}"


def _section(card: Card) -> list[str]:
    about, made = card.facts, card.facts["made_with"]
    return [
        f"### `{card.name}`",
        "",
        f"![{card.name}](images/zoo/{card.name}.png)",
        "",
        *([MEMBERS[card.name].about, ""] if MEMBERS[card.name].about else []),
        f"`{about['config']}` on `{about['data']}`; {about['images_seen']:,} images, "
        f"{about['training_minutes']:.0f} minutes on {made['threads']} thread of "
        f"{made['machine']}, commit {made['commit']}, {made['date'][:10]}.",
        "",
    ]


if __name__ == "__main__":
    main()
