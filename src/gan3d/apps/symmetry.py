"""Pictures of mirror symmetry (`metrics.symmetry`): heads over yaw, similarity, encodings."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from gan3d.apps.epi import sweep
from gan3d.apps.stylize import style_sheet
from gan3d.generators.contract import Generator
from gan3d.metrics.symmetry import EncodingCurve, MirrorSymmetry
from gan3d.results import write_whole


def yaw_sheet(
    generator: Generator,
    z: Tensor,
    *,
    yaw: float = 0.5,
    num: int = 7,
    radius: float = 2.7,
    fov: float | None = None,
    truncation: float = 1.0,
    resolution: int | None = None,
) -> np.ndarray:
    """A sheet of heads (rows) at several yaws (columns), uint8 [h w 3] (CIPS-3D figure 5).

    Args:
        generator: a generator with a camera.
        z: [b z_dim], one per head.
        yaw: the yaws run from -yaw to yaw, radians.
        num: number of yaws, at equal steps.
        radius: distance of the cameras from the origin, world units.
        fov: field of view in degrees; None is 18.83.
        truncation: truncation of `generator.map`.
        resolution: resolution of `generator.render`.
    """
    cameras = sweep(num, yaw=yaw, radius=radius, fov=fov).to(z)
    return style_sheet([(generator, truncation)], z, cameras, resolution=resolution, labels=["yaw"])


def draw_symmetry(path: str | Path, symmetry: MirrorSymmetry) -> Path:
    """Plots similarity and score over yaw to a file (.png, .svg, .pdf)."""
    figure, axes = _plot("yaw, radians", "picture at +yaw and mirrored picture at -yaw")
    yaw = symmetry.yaw.tolist()
    similarity = symmetry.similarity.tolist()
    score = symmetry.score.tolist()
    axes.plot([0, *yaw], [symmetry.frontal, *similarity], marker="o", label="similarity")
    axes.plot(yaw, score, marker="s", label="score: beyond frontal symmetry")
    axes.axhline(1, color="0.6", linestyle="--", linewidth=1)
    axes.axhline(0, color="0.6", linewidth=1)
    axes.set_ylim(min(-0.2, *(s for s in score if s == s), 1), 1.1)
    numbers = f"mean score {symmetry.mean:.2f}, jump {symmetry.jump:.1f}"
    axes.set_title(f"{numbers}  (mirrored 1, steady about 0)")
    return _save(path, figure, axes)


def draw_encoding(path: str | Path, curve: EncodingCurve) -> Path:
    """Plots the distances of an encoding along x to a file (.png, .svg, .pdf)."""
    figure, axes = _plot("x, world units", "distance between codes")
    x = curve.x.tolist()
    axes.plot(x, curve.mirror.tolist(), label="to the mirror image (-x)")
    axes.plot(x, curve.neighbor.tolist(), label=f"to the neighbor (x + {curve.step:.3g})")
    axes.set_title(f"mirror image closer than the neighbor: {curve.confused:.0%} of points")
    return _save(path, figure, axes)


def _plot(x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # slow to import (0.5 s), and needed only here

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _save(path: str | Path, figure: Any, axes: Any) -> Path:
    axes.legend(frameon=False)
    return write_whole(Path(path), partial(figure.savefig, dpi=120))
