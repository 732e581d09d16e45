"""The verb `edit`: scenes moved along directions of the latent space, seen by a still camera."""

from __future__ import annotations

import copy
import csv
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from gan3d import __version__
from gan3d.apps.editing import (
    MappedLatents,
    mapped_latents,
    principal_direction,
    regressed_direction,
    style_direction,
)
from gan3d.apps.pictures import sheet, to_uint8
from gan3d.apps.samples import latents as latents_of
from gan3d.apps.stamps import write_png
from gan3d.apps.video import film, write_video
from gan3d.apps.views import evaluating
from gan3d.camera import Camera
from gan3d.checkpoints.models import LATENTS, find_model
from gan3d.checkpoints.portable import save_pretrained
from gan3d.cli.checks import at_least, existing, file_for
from gan3d.cli.choices import numbers_in, seeds_in
from gan3d.cli.messages import CommandError, nearest, say
from gan3d.cli.models import View, load_shown, refuse_angles, sha256_of
from gan3d.data.heads import ATTRIBUTE_NAMES
from gan3d.generators import Generator, unpin
from gan3d.metrics.headnet import HeadNet, headnet

READ = 512  # scenes whose attributes are read
BY_NUMBER = re.compile(r"(pca|sefa)([1-9]\d{0,3})")
MOST_ON_A_SHEET = 1024  # pictures


def edit_scenes(
    model: str,
    directions: str = "pca1,pca2,pca3",
    out: Path = Path("edits.png"),
    seeds: str = "0",
    strengths: str = "-2,-1,0,1,2",
    labels: Path | None = None,
    video: Path | None = None,
    frames: int = 60,
    save: Path | None = None,
    yaw: float = 0.0,
    pitch: float = 0.0,
    truncation: float = 1.0,
    radius: float | None = None,
    fov: float | None = None,
    resolution: int | None = None,
    batch_size: int = 4,
    device: str = "auto",
    overwrite: bool = False,
) -> str:
    """Moves scenes along directions of the latent space and draws them, seen by a still camera.

    Says for 3D models whether the heads turned on the way, as HeadNet reads them, which knows
    procedural heads only.

    Args:
        model: a file (.safetensors, .ckpt), a folder, a run folder, or a name
            (docs/checkpoints.md); an inverted photograph is edited itself, whatever the seed.
        directions: with commas between: pca1, pca2, .. (GANSpace), sefa1, sefa2, .. (SeFa), an
            attribute of procedural heads that HeadNet reads (such as glasses), or a column of
            --labels.
        out: the picture, .png: a row per seed and direction, a column per strength.
        seeds: of the scenes, such as 3, 0-3 or 1,4,8.
        strengths: how far to go, in standard deviations, with commas between.
        labels: a CSV file whose column `seed` names scenes of this model (as gan3d sample shows
            them), and whose other columns are numbers that describe them.
        video: a video of it, too, .mp4 or .gif: to the largest strength, the smallest, and back.
        frames: of the video.
        save: .safetensors file for the first scene at the last strength of the first direction: a
            model that every verb takes.
        yaw: of the camera, radians.
        pitch: of the camera, radians.
        truncation: psi of the scenes, 1 is none.
        radius: distance of the camera; by default as in training, else 2.7.
        fov: field of view, degrees; by default as in training, else 18.83.
        resolution: of the rendering; by default as in training.
        batch_size: scenes at once.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.
        overwrite: replace files that are there.
    """
    numbers, ways = seeds_in("seeds", seeds), numbers_in("strengths", strengths)
    names = [word.strip() for word in directions.split(",")]
    at_least(2, "frames", frames)
    out = file_for(out, ".png", overwrite=overwrite)
    clip = None if video is None else file_for(video, ".mp4", ".gif", overwrite=overwrite)
    kept = None if save is None else file_for(save, ".safetensors", overwrite=overwrite)
    table = None if labels is None else _read_labels(existing("--labels", labels))
    _refuse_unknown(names, table)
    if (num := len(numbers) * len(names) * len(ways)) > MOST_ON_A_SHEET:
        raise CommandError(f"a picture of {num} scenes is too large; {MOST_ON_A_SHEET} at most")

    # the scenes and the directions
    generator, view = load_shown(model, device, radius=radius, fov=fov, resolution=resolution)
    refuse_angles(model, generator, (yaw, 0.0), (pitch, 0.0))
    stage = StillView(generator, view, yaw, pitch, batch_size)
    free = StillView(unpin(copy.deepcopy(generator)), view, 0.0, 0.0, batch_size)
    space = mapped_latents(free.generator, stage.condition(1))
    steps, said = _directions(free, space, names, table)
    start = stage.mapped(numbers, truncation)  # b n w
    ways_of = torch.tensor(ways).to(start)[:, None, None]
    edited = torch.stack([w + ways_of * step for w in start for step in steps])  # r s n w

    # the picture
    shown = [stage.pictures(row) for row in tqdm(
        edited, desc="rows", leave=False, disable=not sys.stderr.isatty())]  # fmt: skip
    rows = [to_uint8(images) for images in shown]
    labels_of = [
        name if len(numbers) == 1 else f"{seed}: {name}" for seed in numbers for name in names
    ]
    facts = {
        "Software": f"gan3d {__version__}",
        "model": model,
        "sha256": sha256_of(find_model(model)),
        "seeds": seeds,
        "directions": directions,
        "strengths": strengths,
        "truncation": f"{truncation:g}",
    }
    write_png(out, sheet(rows, labels_of, [f"{way:+g}" for way in ways]), facts)

    # what is asked for beside it
    if clip is not None:
        _film(clip, stage, start, steps, ways, frames)
    if kept is not None:
        scene: dict[str, Any] = {LATENTS: edited[0, -1:].tolist(), "edited_with": model}
        scene |= {"direction": names[0], "strength": ways[-1]}
        scene |= {} if view is None else {"radius": view.radius, "fov": view.fov}
        save_pretrained(kept, free.generator, facts=scene)
        said.append(f"{kept}: seed {numbers[0]} at {names[0]} {ways[-1]:+g}, for every verb")
    if view is not None:
        said += _turns(shown, labels_of)
    return "\n".join([*said, f"{out}: {num} scenes"])


@dataclass(frozen=True)
class StillView:
    """A generator and the camera that looks at its scenes.

    Attributes:
        generator: any generator.
        view: how it is seen; None for a 2D model.
        yaw: radians.
        pitch: radians.
        batch_size: scenes at once.
    """

    generator: Generator
    view: View | None
    yaw: float
    pitch: float
    batch_size: int

    def camera(self, num: int) -> Camera | None:
        """The camera, `num` times."""
        if self.view is None:
            return None
        yaws = torch.full((num,), self.yaw)
        camera = Camera.from_angles(yaws, self.pitch, radius=self.view.radius, fov=self.view.fov)
        return camera.to(next(self.generator.parameters()))

    def condition(self, num: int) -> Camera | None:
        """The camera that `map` is given."""
        if self.view is None:
            return None
        like = next(self.generator.parameters())
        return self.view.condition(self.generator, like.new_zeros(num, self.generator.z_dim))

    def mapped(self, seeds: Sequence[int], truncation: float) -> Tensor:
        """MappedLatents of the scenes, [b n w]."""
        z = latents_of(self.generator, seeds)
        with evaluating(self.generator):
            return self.generator.map(z, self.condition(len(z)), truncation=truncation)

    def pictures(self, ws: Tensor) -> Tensor:
        """The scenes of latents [b n w] as images on the CPU, [b 3 H W]."""
        images = []
        with evaluating(self.generator):
            for part in ws.split(self.batch_size):
                view = self.generator.render(
                    self.generator.represent(part),
                    self.camera(len(part)),
                    resolution=self.view.resolution if self.view else None,
                    raw=False,
                )
                images.append(view.image.cpu())
        return torch.cat(images)


def _directions(
    free: StillView,
    space: MappedLatents,
    names: Sequence[str],
    table: dict[str, list[float]] | None,
) -> tuple[list[Tensor], list[str]]:
    """A step [1 n w] by name, and what is to be said of them."""
    steps, said = [], []
    known: tuple[Tensor, dict[str, Tensor]] | None = None
    for name in names:
        if found := BY_NUMBER.fullmatch(name):
            k = int(found[2])
            if found[1] == "pca":
                steps.append(principal_direction(space, k))
            else:
                steps.append(style_direction(free.generator, space, k))
            continue
        known = known or _quantities(free, space, table)
        ws, values = known
        step, r2 = regressed_direction(space, ws, values[name])
        steps.append(step)
        said.append(f"{name}: {max(r2, 0):.0%} of its variance follows from the latents")
    return steps, said


def _quantities(
    free: StillView, space: MappedLatents, table: dict[str, list[float]] | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """MappedLatents of scenes of which something is known, [m n w], and that, [m] by name."""
    if table is not None:
        seeds = [int(seed) for seed in table["seed"]]
        values = {name: torch.tensor(column) for name, column in table.items()}
        return free.mapped(seeds, 1.0), values
    ws = space.ws[:READ]
    say(f"reads the attributes of {len(ws)} scenes")
    network: HeadNet = headnet()
    with torch.no_grad():
        read = torch.cat([network(part).attributes for part in free.pictures(ws).split(64)])
    return ws, dict(zip(ATTRIBUTE_NAMES, read.unbind(dim=1), strict=True))


def _turns(shown: Sequence[Tensor], labels: Sequence[str]) -> list[str]:
    """How far the heads turned from the smallest strength to the largest, as HeadNet reads."""
    network = headnet()
    lines = []
    for images, label in zip(shown, labels, strict=True):
        with torch.no_grad():
            read = network(images)
        moved = [float(angle.max() - angle.min()) for angle in (read.yaw, read.pitch)]
        yaw, pitch = map(math.degrees, moved)
        lines.append(f"{label}: the head turns by {yaw:.1f} (yaw) and {pitch:.1f} degrees (pitch)")
    return lines


def _film(
    out: Path,
    stage: StillView,
    start: Tensor,
    steps: Sequence[Tensor],
    ways: Sequence[float],
    frames: int,
) -> None:
    """A cell per scene and direction: to the largest strength, to the smallest, and back."""
    swing = torch.sin(torch.arange(frames) * 2 * math.pi / frames)
    strengths = torch.where(swing > 0, swing * max(*ways, 0.0), -swing * min(*ways, 0.0))
    cells = [w + strengths.to(w)[:, None, None] * step for w in start for step in steps]
    pictures = film(
        stage.generator,
        torch.stack(cells, dim=1),  # t b n w
        stage.camera(frames),
        columns=len(steps),
        resolution=stage.view.resolution if stage.view else None,
        batch_size=stage.batch_size,
        progress=sys.stderr.isatty(),
    )
    write_video(out, pictures)


def _refuse_unknown(names: Sequence[str], table: dict[str, list[float]] | None) -> None:
    """Refuses directions that there are not, before the model is loaded."""
    known = ATTRIBUTE_NAMES if table is None else [name for name in table if name != "seed"]
    for name in names:
        if not BY_NUMBER.fullmatch(name) and name not in known:
            kinds = "an attribute of heads" if table is None else "a column of --labels"
            raise CommandError(
                f"there is no direction {name!r}: it is neither pca1, pca2, .. nor sefa1, .. nor "
                f"{kinds}",
                nearest(name, known, like="{}") or f"{kinds}: {', '.join(known)}",
            )


def _read_labels(path: Path) -> dict[str, list[float]]:
    """The columns of a CSV file of numbers, by name."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or "seed" not in rows[0]:
        raise CommandError(f"{path} has no column seed; give one row per scene: seed,name,..")
    columns: dict[str, list[float]] = {name: [] for name in rows[0]}
    for number, row in enumerate(rows, start=2):
        for name in columns:
            try:
                columns[name].append(float(row[name]))
            except (TypeError, ValueError) as error:
                raise CommandError(
                    f"{path}, line {number}: {name} is {row[name]!r}, expected a number"
                ) from error
    return columns
