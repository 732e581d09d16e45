"""Histograms of some distributions over each other, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

BINS = 40
COLORS = ("#2866b8", "#d0662a")  # of the pages of gan3d.apps


@dataclass(frozen=True)
class Panel:
    """One plot: values [n] by the name of their distribution, at most two of them."""

    title: str
    values: Mapping[str, np.ndarray]


def histograms(panels: Sequence[Panel]) -> Image.Image:
    """The shares of the values in common bins, the panels beside each other.

    Values that are not finite are left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # slow to import (0.5 s), and needed only here

    figure = Figure(figsize=(4.2 * len(panels), 2.8), dpi=100, layout="constrained")
    for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        values = {name: v[np.isfinite(v)] for name, v in panel.values.items()}
        every = np.concatenate(list(values.values()))
        if len(every) == 0:
            every = np.zeros(1)
        edges = np.linspace(every.min() - 1e-6, every.max() + 1e-6, BINS + 1)
        for (name, own), color in zip(values.items(), COLORS):
            counts, _ = np.histogram(own, edges)
            share = counts / max(len(own), 1)
            axes.stairs(share, edges, fill=True, alpha=0.35, color=color)
            axes.stairs(share, edges, color=color, label=f"{name} ({len(own):,})")
        axes.set_title(panel.title, fontsize=10)
        axes.set_yticks([])
        axes.legend(frameon=False, fontsize=8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
