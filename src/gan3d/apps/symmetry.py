"""Pictures of mirror symmetry (`metrics.symmetry`): heads across yaw, similarity curves, distances
of encodings.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from gan3d.apps.epi import sweep
from gan3d.apps.stylize import style_sheet
from gan3d.generators.contract import Generator
from gan3d.metrics.symmetry import EncodingCurve, MirrorSymmetry


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
    """Heads (rows) at `num` equal steps of yaw from -yaw to yaw, uint8 [h w 3] (CIPS-3D figure
    5).
    """
    cameras = sweep(num, yaw=yaw, radius=radius, fov=fov).to(z)
    return style_sheet([(generator, truncation)], z, cameras, resolution=resolution)


def draw_symmetry(path: str | Path, symmetry: MirrorSymmetry) -> Path:
    """Writes similarity and score over yaw as a picture (.png, .svg, .pdf)."""
    figure, axes = _plot("yaw, radians", "picture at +yaw and mirrored picture at -yaw")
    yaw, score = symmetry.yaw.tolist(), symmetry.score.tolist()
    axes.plot(
        [0, *yaw], [symmetry.frontal, *symmetry.similarity.tolist()], marker="o", label="similarity"
    )
    axes.plot(yaw, score, marker="s", label="score: beyond frontal symmetry")
    axes.axhline(1, color="0.6", linestyle="--", linewidth=1)
    axes.axhline(0, color="0.6", linewidth=1)
    axes.set_ylim(min(-0.2, *(s for s in score if s == s), 1), 1.1)
    axes.set_title(
        f"mean score {symmetry.mean:.2f}, jump {symmetry.jump:.1f}  (mirrored 1, steady about 0)"
    )
    return _save(path, figure, axes)


def draw_encoding(path: str | Path, curve: EncodingCurve) -> Path:
    """Writes the distances of an encoding along x as a picture (.png, .svg, .pdf)."""
    figure, axes = _plot("x, world units", "distance between codes")
    x = curve.x.tolist()
    axes.plot(x, curve.mirror.tolist(), label="to the mirror image (-x)")
    axes.plot(x, curve.neighbor.tolist(), label=f"to the neighbor (x + {curve.step:.3g})")
    axes.set_title(f"mirror image nearer than the neighbor: {curve.confused:.0%} of points")
    return _save(path, figure, axes)


def _plot(x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # half a second that only plots need

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _save(path: str | Path, figure: Any, axes: Any) -> Path:
    axes.legend(frameon=False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        figure.savefig(partial, dpi=120)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
