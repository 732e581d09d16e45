"""The verb `sample`: pictures of a model, one by one or on a contact sheet."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from einops import repeat
from tqdm.auto import tqdm

from gan3d import __version__
from gan3d.apps.pictures import contact_sheet, draw
from gan3d.apps.samples import MAX_COLUMNS, sample_turned
from gan3d.apps.stamps import write_png
from gan3d.apps.views import pick, together
from gan3d.camera import Camera
from gan3d.checkpoints.models import find_model
from gan3d.cli.checks import folder_for
from gan3d.cli.choices import angles_in, layers_in, seeds_in
from gan3d.cli.messages import CommandError
from gan3d.cli.models import View, load_shown, refuse_angles, refuse_layers, sha256_of
from gan3d.generators import Generator, Rendering
from gan3d.results import refuse_existing

MOST_ON_A_SHEET = 1024  # pictures
SHEET = "sheet.png"
SHEET_SIDE = 128  # pixels; smaller pictures of a sheet are enlarged


def write_stills(
    model: str,
    out: Path = Path("samples"),
    seeds: str = "0-15",
    sheet: bool = False,
    layers: str = "image",
    yaw: str = "0",
    pitch: float = 0.0,
    truncation: float = 1.0,
    scale: int | None = None,
    radius: float | None = None,
    fov: float | None = None,
    resolution: int | None = None,
    batch_size: int = 4,
    device: str = "auto",
    overwrite: bool = False,
) -> str:
    """Draws pictures of a model, each with the model, the seed and the camera in its metadata.

    A seed gives the same picture as `gan3d.sample(generator, [seed], camera)` in Python.

    Args:
        model: a file (.safetensors, .ckpt), a folder, a run folder, or a name
            (docs/checkpoints.md); of a training checkpoint the average is taken.
        out: folder; it gets a .png for each seed, yaw and layer, or sheet.png.
        seeds: of the pictures, such as 3, 0-15 or 1,4,8-11.
        sheet: whether to write one contact sheet in place of single pictures.
        layers: what to show, with commas between: image, raw (before super-resolution), depth,
            normals, opacity.
        yaw: of the camera, radians, 0 is frontal; several with commas between, as -0.5,0,0.5.
        pitch: of the camera, radians, above 0 looks down from above.
        truncation: psi, 1 is none.
        scale: enlarges every picture by this factor, pixel by pixel; by default 1, and on a sheet
            as much as gives pictures of 128 pixels.
        radius: distance of the cameras; by default as in training, else 2.7.
        fov: field of view, degrees; by default as in training, else 18.83.
        resolution: of the rendering; by default as in training.
        batch_size: scenes at once.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.
        overwrite: replace files that are there.
    """
    numbers, yaws = seeds_in("seeds", seeds), angles_in("yaw", yaw)
    names = layers_in("layers", layers)
    if sheet and len(numbers) * len(yaws) * len(names) > MOST_ON_A_SHEET:
        raise CommandError(
            f"a sheet of {len(numbers) * len(yaws) * len(names)} pictures is too large; give "
            f"--seeds, --yaw and --layers for at most {MOST_ON_A_SHEET}, or leave out --sheet"
        )
    out = folder_for(out, *([SHEET] if sheet else []), overwrite=overwrite)
    files = _files(out, numbers, yaws, names)
    refuse_existing([] if sheet else files.values(), overwrite)
    generator, view = load_shown(
        model, device, radius=radius, fov=fov, resolution=resolution, lock_view=False
    )
    refuse_layers(model, generator, names)
    refuse_angles(model, generator, (yaws, [0.0]), (pitch, 0.0))
    shots = Shots(generator, view, tuple(yaws), pitch, truncation, batch_size, "raw" in names)
    facts = shots.facts() | {"model": model, "sha256": sha256_of(find_model(model))}
    if sheet:
        drawn = _sheet(shots, numbers, names, scale)
        asked = {"seeds": seeds, "layers": layers} | ({} if view is None else {"yaw": yaw})
        write_png(out / SHEET, drawn, facts | asked)
        return f"{out / SHEET}: {len(files)} pictures"
    for seed, views in shots.scenes(numbers):
        for name in names:
            for turn, picture in zip(yaws, draw(views, name, shots.cameras()), strict=True):
                own = {"seed": str(seed), "layer": name} | ({} if view is None else _text(yaw=turn))
                write_png(files[seed, turn, name], _enlarged(picture, scale), facts | own)
    return f"{out}: {len(files)} pictures"


@dataclass(frozen=True)
class Shots:
    """Scenes of a generator, each seen from some yaws.

    Attributes:
        generator: any generator.
        view: how it is seen; None for a 2D model.
        yaws: radians.
        pitch: radians.
        truncation: psi.
        batch_size: scenes at once.
        raw: whether to show the raw image.
    """

    generator: Generator
    view: View | None
    yaws: tuple[float, ...]
    pitch: float
    truncation: float
    batch_size: int
    raw: bool

    def cameras(self) -> Camera | None:
        """One camera per yaw."""
        if self.view is None:
            return None
        yaws = torch.tensor(self.yaws)
        return Camera.from_angles(yaws, self.pitch, radius=self.view.radius, fov=self.view.fov)

    def scenes(self, seeds: Sequence[int]) -> Iterator[tuple[int, Rendering]]:
        """Every seed with its views, one per yaw."""
        cameras = self.cameras()
        turned = [None] if cameras is None else list(cameras)
        starts = range(0, len(seeds), self.batch_size)
        for start in tqdm(starts, unit="batch", leave=False, disable=not sys.stderr.isatty()):
            part = seeds[start : start + self.batch_size]
            views = sample_turned(
                self.generator,
                part,
                turned,
                self.truncation,
                resolution=self.view.resolution if self.view else None,
                raw=self.raw,
                batch_size=self.batch_size,
            )
            for k, seed in enumerate(part):
                yield seed, together([pick(view, k) for view in views])

    def facts(self) -> dict[str, str]:
        """What is the same for all pictures, for their metadata."""
        made = {"Software": f"gan3d {__version__}", "generator": type(self.generator).__name__}
        made |= _text(truncation=self.truncation)
        if self.view is None:
            return made
        return made | _text(pitch=self.pitch, radius=self.view.radius, fov=self.view.fov)


def _text(**numbers: float) -> dict[str, str]:
    return {name: f"{value:g}" for name, value in numbers.items()}


def _files(
    out: Path, seeds: Sequence[int], yaws: Sequence[float], layers: Sequence[str]
) -> dict[tuple[int, float, str], Path]:
    """The file of each seed, yaw and layer; a name says what is not the same for all."""
    files = {}
    for seed, yaw, layer in product(seeds, yaws, layers):
        words = [f"seed{seed:04d}"]
        words += [f"yaw{yaw:+.3f}"] if len(yaws) > 1 else []
        words += [layer] if len(layers) > 1 else []
        files[seed, yaw, layer] = out / f"{'_'.join(words)}.png"
    return files


def _sheet(
    shots: Shots, seeds: Sequence[int], layers: Sequence[str], scale: int | None
) -> np.ndarray:
    """A row per layer, a column per seed and yaw, uint8 [h w 3]. All depths share their colors."""
    views = together([views for _, views in shots.scenes(seeds)])
    num = len(shots.yaws)
    cameras = shots.cameras()
    if cameras is not None:
        cameras = cameras.select([*range(num)] * len(seeds))
    rows = [draw(views, layer, cameras) for layer in layers]
    labels = [
        f"seed {seed}" if num == 1 else f"seed {seed}, {yaw:+g}"
        for seed in seeds
        for yaw in shots.yaws
    ]
    columns = num * max(1, MAX_COLUMNS // num)  # the yaws of a seed stay in one line
    side = SHEET_SIDE if scale is None else scale * min(rows[0].shape[1:3])
    return contact_sheet(rows, layers, labels, columns=columns, side=side)


def _enlarged(picture: np.ndarray, scale: int | None) -> np.ndarray:
    factor = scale or 1
    return repeat(picture, "h w c -> (h y) (w x) c", y=factor, x=factor)
