"""Verbs that show whether a trained generator is 3D: `epi`, `reproject`, and `export
manifolds`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan3d.apps.epi import epi, sweep, write_epi
from gan3d.apps.manifold_export import export_manifolds
from gan3d.apps.views import evaluating
from gan3d.camera import Camera
from gan3d.cli.checks import at_least, file_for
from gan3d.cli.messages import CommandError
from gan3d.cli.models import View, load_with_view
from gan3d.generators import Generator
from gan3d.generators.contract import Rendering
from gan3d.metrics.reprojection import pairwise_reprojection
from gan3d.randomness import Randomness


def write_epi_of(
    model: str,
    out: Path = Path("epi.png"),
    seed: int = 0,
    num: int = 1,
    frames: int = 120,
    yaw: float = 0.3,
    row: int | None = None,
    radius: float | None = None,
    fov: float | None = None,
    truncation: float = 1.0,
    resolution: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> str:
    """Draws one row of the picture over time while the camera turns: lines if the scene is 3D, else
    noise or stripes.

    Args:
        model: a file (.safetensors, .ckpt), a folder, a run folder, or a name
            (docs/checkpoints.md); of a training checkpoint the average is taken.
        out: the picture (.png); one scene below the other.
        seed: of the scenes.
        num: scenes.
        frames: cameras from -yaw to yaw; the height of the picture.
        yaw: radians.
        row: of the image, counted from the top; by default the middle one.
        radius: distance of the cameras; by default as in training, else 2.7.
        fov: field of view, degrees; by default as in training, else 18.83.
        truncation: psi, 1 is none.
        resolution: of the rendering; by default as in training.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.
        overwrite: replace a file that is there.
    """
    out = file_for(out, ".png", overwrite=overwrite)
    at_least(1, "num", num)
    at_least(2, "frames", frames)
    generator, view = load_with_view(model, device, radius=radius, fov=fov, resolution=resolution)
    scene = _scenes(generator, seed, range(num), truncation, view)
    path = sweep(frames, yaw=yaw, radius=view.radius, fov=view.fov).to(_place(generator))
    lines = epi(
        generator,
        scene,
        path,
        row,
        num_scenes=num,
        resolution=view.resolution,
        progress=sys.stderr.isatty(),
    )
    title = f"yaw {-yaw:+.2f} to {yaw:+.2f}, downwards"
    return f"{write_epi(out, lines, title=title)}: {num} x {frames} rows"


def reproject_views(
    model: str,
    seed: int = 0,
    num: int = 4,
    views: int = 5,
    yaw: float = 0.3,
    radius: float | None = None,
    fov: float | None = None,
    tolerance: float = 0.01,
    truncation: float = 1.0,
    resolution: int | None = None,
    device: str = "auto",
) -> str:
    """Measures how well views of a scene agree where they show the same point: PSNR after
    reprojection by depth.

    Args:
        model: a file (.safetensors, .ckpt), a folder, a run folder, or a name
            (docs/checkpoints.md); of a training checkpoint the average is taken.
        seed: of the scenes.
        num: scenes.
        views: of each scene, at equal steps of yaw.
        yaw: of the outer views, radians.
        radius: distance of the cameras; by default as in training, else 2.7.
        fov: field of view, degrees; by default as in training, else 18.83.
        tolerance: a point deeper than the other view's surface by more than this share of its depth
            is hidden there.
        truncation: psi, 1 is none.
        resolution: of the rendering; by default as in training.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.
    """
    at_least(1, "num", num)
    at_least(2, "views", views)
    generator, view = load_with_view(model, device, radius=radius, fov=fov, resolution=resolution)
    cameras = sweep(views, yaw=yaw, radius=view.radius, fov=view.fov).to(_place(generator))
    rows = []
    for k in range(num):
        scene = _scenes(generator, seed, [k], truncation, view)
        pairs = pairwise_reprojection(
            _shown(generator, scene, cameras, view.resolution), cameras, tolerance=tolerance
        )
        rows.append((pairs.mean_psnr, float(pairs.share.nanmean())))
    found = torch.tensor(rows, dtype=torch.float64)
    if found[:, 0].isnan().all():
        raise CommandError(
            f"{model}: its views have no surface in common (from {view.radius:g}, field of view "
            f"{view.fov:g} degrees): nothing is opaque there, or they are too far apart",
            "look at it: gan3d epi; and try other --radius, --fov or a smaller --yaw",
        )
    table = [
        f"scene {k}: {psnr:6.2f} dB over {share:4.0%} of the surface"
        if psnr == psnr
        else f"scene {k}: no surface in common"
        for k, (psnr, share) in enumerate(rows)
    ]
    psnr, share = found.nanmean(dim=0).tolist()
    return "\n".join([*table, f"mean:    {psnr:6.2f} dB over {share:4.0%}"])


def export_surfaces(
    model: str,
    out: Path = Path("manifolds.glb"),
    seed: int = 0,
    truncation: float = 1.0,
    device: str = "auto",
    overwrite: bool = False,
) -> str:
    """Writes the surfaces of a scene with their pictures as one .glb, which turns in a browser
    (GRAM-HD).

    Args:
        model: a file (.safetensors, .ckpt), a folder, a run folder, or a name
            (docs/checkpoints.md); of a training checkpoint the average is taken.
        out: the .glb.
        seed: of the scene.
        truncation: psi, 1 is none.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.
        overwrite: replace a file that is there.
    """
    out = file_for(out, ".glb", overwrite=overwrite)
    generator, view = load_with_view(model, device, seen=False)
    with evaluating(generator):
        layers = generator.surfaces(_scenes(generator, seed, [0], truncation, view))
    names = export_manifolds(out, layers)
    return f"{out}: {len(names)} of {len(layers)} surfaces, farthest first"


def _place(generator: Generator) -> torch.device:
    return next(generator.parameters()).device


def _scenes(
    generator: Generator, seed: int, indices: Sequence[int], truncation: float, view: View
) -> Any:
    """The representation of scenes number `indices` of a seed, conditioned on the frontal camera of
    a view.
    """
    z = Randomness(seed, indices).normal("z", generator.z_dim).to(_place(generator))
    with evaluating(generator):
        ws = generator.map(z, view.condition(generator, z), truncation=truncation)
        return generator.represent(ws)


def _shown(generator: Generator, scene: Any, cameras: Camera, resolution: int | None) -> Rendering:
    """One scene from all cameras, rendered one after the other."""
    with evaluating(generator):
        views = [
            generator.render(scene, camera, resolution=resolution, raw=False) for camera in cameras
        ]
    return Rendering(
        torch.cat([v.image for v in views]),
        depth=_joined(views, "depth"),
        opacity=_joined(views, "opacity"),
    )


def _joined(views: Sequence[Rendering], name: str) -> Tensor | None:
    maps = [part for view in views if (part := getattr(view, name)) is not None]
    return torch.cat(maps) if maps else None
