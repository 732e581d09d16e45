"""The verb `video`: the camera moves, scenes turn into others, or both; several models beside each
other.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gan3d import __version__
from gan3d.apps.samples import latents
from gan3d.apps.video import beside_each_other, ffmpeg, film, write_video
from gan3d.apps.views import evaluating
from gan3d.apps.walks import closed_walk, mixed
from gan3d.camera import Camera, PathName, camera_path
from gan3d.cli.checks import at_least, file_for
from gan3d.cli.choices import grid_in, layers_in, models_in, seeds_in
from gan3d.cli.messages import CommandError
from gan3d.cli.models import View, load_shown, refuse_layers
from gan3d.generators import Generator


def write_video_of(
    model: str,
    out: Path = Path("video.mp4"),
    seeds: str = "0",
    grid: str | None = None,
    path: PathName | None = None,
    frames: int = 120,
    interpolate: bool = False,
    styles: str | None = None,
    cut: int | None = None,
    beside: str | None = None,
    layers: str = "image",
    yaw: float | None = None,
    pitch: float | None = None,
    truncation: float = 1.0,
    scale: int | None = None,
    fps: int = 30,
    radius: float | None = None,
    fov: float | None = None,
    resolution: int | None = None,
    batch_size: int = 4,
    device: str = "auto",
    overwrite: bool = False,
) -> str:
    """Films a model: the camera moves around heads, heads turn into others, or both.

    Args:
        model: a file (.safetensors, .ckpt), a folder, a run folder, or a name
            (docs/checkpoints.md); of a training checkpoint the average is taken.
        out: the video, .mp4 or .gif.
        seeds: of the scenes, such as 3, 1-8 or 1,4,8-11.
        grid: columns x rows, such as 4x2; by default about square.
        path: of the camera; by default orbit.
        frames: of the video.
        interpolate: whether each scene turns into others: every cell of the grid (by default one)
            has its share of the seeds, and goes through them and back to its first.
        styles: seeds of scenes whose later latents are mixed in: a column per seed, a row per
            style; with interpolate a cell per style.
        cut: the first latent that comes from the styles; by default the middle one.
        beside: more models, with commas between, filmed beside the first one from the same
            angles, each from its own distance.
        layers: what to show, with commas between, below each other: image, raw, depth, normals,
            opacity.
        yaw: of the outer cameras of orbit and wiggle, or of the still one, radians.
        pitch: of orbit and still; of the upper cameras of wiggle, radians.
        truncation: psi, 1 is none.
        scale: enlarges frames by this factor, pixel by pixel; by default small frames get 256
            pixels.
        fps: frames per second.
        radius: distance of the cameras; by default as in training, else 2.7.
        fov: field of view, degrees; by default as in training, else 18.83.
        resolution: of the rendering; by default as in training.
        batch_size: scenes at once.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.
        overwrite: replace a file that is there.
    """
    numbers, names = seeds_in("seeds", seeds), layers_in("layers", layers)
    size = None if grid is None else grid_in("grid", grid)
    others = [] if beside is None else models_in("beside", beside)
    style_seeds = [] if styles is None else seeds_in("styles", styles)
    at_least(2, "frames", frames)
    out = file_for(out, ".mp4", ".gif", overwrite=overwrite)
    cast = _cast(numbers, style_seeds, size, interpolate, frames, cut)
    if out.suffix.lower() == ".mp4":
        ffmpeg()
    films = []
    for each in (model, *others):
        generator, view = load_shown(each, device, radius=radius, fov=fov, resolution=resolution)
        refuse_layers(each, generator, names)
        cameras = _cameras(each, generator, view, path, frames, yaw, pitch, interpolate)
        films.append(
            film(
                generator,
                _latents_of(each, generator, view, cast, truncation),
                cameras,
                layers=names,
                columns=cast.columns,
                resolution=view.resolution if view else None,
                batch_size=batch_size,
                progress=sys.stderr.isatty(),
            )
        )
    shown = beside_each_other(films, [Path(each).name for each in (model, *others)])
    asked = f"gan3d {__version__}: {', '.join([model, *others])}, seeds {seeds}"
    written = write_video(
        out, shown if others else films[0], fps=fps, scale=scale, comment=f"{asked}, {truncation=}"
    )
    return f"{written}: {frames} frames, {frames / fps:.1f} s"


@dataclass(frozen=True)
class Cast:
    """Which scenes a video shows.

    Attributes:
        seeds: of every cell of the grid: one of a scene that stays, or those that it goes through.
        styles: seeds of styles that are mixed into every cell, a row each; or none.
        columns: of the grid; None is about square.
        frames: of a walk; None where scenes stay as they are.
        cut: the first latent of a style; None is the middle one.
    """

    seeds: tuple[tuple[int, ...], ...]
    styles: tuple[int, ...]
    columns: int | None
    frames: int | None
    cut: int | None


def _cast(
    seeds: Sequence[int],
    styles: Sequence[int],
    size: tuple[int, int] | None,
    interpolate: bool,
    frames: int,
    cut: int | None,
) -> Cast:
    """The scenes that the options ask for.

    Raises:
        CommandError: the options do not fit each other.
    """
    if cut is not None and not styles:
        raise CommandError("--cut says where --styles begin; give --styles, too")
    if size is not None and styles:
        raise CommandError(
            "--styles make a grid of their own, a column per seed and a row per style; leave out "
            "--grid"
        )
    num = size[0] * size[1] if size else 1 if interpolate else len(seeds)
    shape = "" if size is None else f"--grid {size[0]}x{size[1]} has {num} cells, "
    if interpolate and (len(seeds) % num or len(seeds) // num < 2):
        raise CommandError(
            f"--interpolate goes from seed to seed: {shape}--seeds are {len(seeds)}; give {2 * num}"
            + (f", {3 * num} or another multiple" if num > 1 else " or more")
        )
    if not interpolate and len(seeds) != num:
        raise CommandError(f"{shape}--seeds are {len(seeds)}; give as many of both")
    share = len(seeds) // num
    cells = tuple(tuple(seeds[k : k + share]) for k in range(0, len(seeds), share))
    columns = size[0] if size else None
    if styles:
        columns = len(styles) if interpolate else num
    return Cast(cells, tuple(styles), columns, frames if interpolate else None, cut)


def _cameras(
    model: str,
    generator: Generator,
    view: View | None,
    path: PathName | None,
    frames: int,
    yaw: float | None,
    pitch: float | None,
    interpolate: bool,
) -> Camera | None:
    """The camera of every frame; None for a 2D model."""
    if view is not None:
        name = path or "orbit"
        far = _far(model, generator, view) if name == "dolly" else None
        cameras = camera_path(
            name, frames, radius=view.radius, fov=view.fov, yaw=yaw, pitch=pitch, far=far
        )
        return cameras.to(next(generator.parameters()))
    kind = type(generator).__name__
    if (path, yaw, pitch) != (None, None, None):
        raise CommandError(f"{model} holds {kind}, a 2D model: leave out --path, --yaw and --pitch")
    if not interpolate:
        raise CommandError(
            f"{model} holds {kind}, a 2D model, which has no camera to move",
            "film its scenes turning into others: --seeds 0-3 --interpolate true",
        )
    return None


def _far(model: str, generator: Generator, view: View) -> float:
    """The largest distance of the path dolly at which rays are sampled up to behind the middle of
    the scene.
    """
    most = 1.15 * view.radius
    if generator.ray_limits is None:
        return most
    far = min(most, generator.ray_limits[1] - generator.scene_extent / 4)
    if far < 1.01 * view.radius:
        raise CommandError(
            f"{model}: {type(generator).__name__} samples its rays up to a distance of "
            f"{generator.ray_limits[1]:g}, so that the camera cannot move away from "
            f"{view.radius:g}",
            "take another --path, such as circle_near_far, which zooms",
        )
    return far


def _latents_of(
    model: str, generator: Generator, view: View | None, cast: Cast, truncation: float
) -> Tensor:
    """Latents of the scenes [b n w], or of the scenes of every frame [t b n w]."""
    ws = torch.stack(
        [_mapped(generator, view, seeds, truncation) for seeds in cast.seeds]
    )  # b k n w
    if cast.frames is None:
        ws = ws[:, 0]
    else:
        walks = [closed_walk(keyframes, cast.frames) for keyframes in ws]
        ws = torch.stack(walks, dim=1)  # t b n w
    if not cast.styles:
        return ws
    styles = _mapped(generator, view, cast.styles, truncation)  # s n w
    try:
        grid = mixed(ws[..., None, :, :, :], styles[:, None], cast.cut)  # .. s b n w
    except ValueError as error:
        raise CommandError(f"{model} holds {type(generator).__name__}: {error}") from error
    return grid.flatten(-4, -3)


def _mapped(
    generator: Generator, view: View | None, seeds: Sequence[int], truncation: float
) -> Tensor:
    """Latents of some seeds, conditioned on the frontal camera of a view, [b n w]."""
    z = latents(generator, seeds)
    condition = None if view is None else view.condition(generator, z)
    with evaluating(generator):
        return generator.map(z, condition, truncation=truncation)
