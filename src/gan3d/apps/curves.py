"""Curves as inline SVG, in the colors of the surrounding page (--c0 to --c7)."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

WIDTH, HEIGHT = 560, 270
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 28, 40  # margins
MAX_POINTS = 500  # per drawn line


@dataclass(frozen=True)
class Curve:
    """A named line of (images seen, value) points, in order.

    Attributes:
        color: number of its color; None is its place among the curves.
        run: number of its run on the page, which may hide it.
    """

    name: str
    points: list[tuple[int, float]]
    color: int | None = None
    run: int | None = None


def curve_svg(
    title: str,
    curves: list[Curve],
    *,
    log: bool = False,
    marks: Mapping[str, float] | None = None,
    legend: bool = True,
) -> str:
    """An SVG plot of curves over kimg.

    Args:
        title: label for screen readers.
        curves: each with two points or more; at most three where there is a legend.
        log: use a logarithmic value axis if all values are positive.
        marks: values to draw as dashed lines, by name.
        legend: name the curves, where there are several.

    Returns:
        The SVG element; empty if there is no finite value.
    """
    # ranges
    marks = dict(marks or {})
    lines = [replace(curve, points=thinned(finite(curve.points), MAX_POINTS)) for curve in curves]
    values = [value for line in lines for _, value in line.points] + list(marks.values())
    steps = [step / 1000 for line in lines for step, _ in line.points]
    if not steps:
        return ""
    log = log and min(values) > 0
    warp = math.log10 if log else float
    low, high = _with_margin(min(map(warp, values)), max(map(warp, values)))
    first, last = min(steps), max(max(steps), min(steps) + 1e-9)

    def x(kimg: float) -> float:
        return LEFT + (kimg - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (high - warp(value)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    right = WIDTH - RIGHT
    parts = []

    # value axis
    for value in log_ticks(low, high) if log else ticks(low, high):
        parts.append(_horizontal("grid", y(value)))
        parts.append(_text(f"{LEFT - 8}", f"{y(value) + 4:.1f}", f"{value:.4g}", "end"))

    # kimg axis
    for kimg in ticks(first, last):
        parts.append(_text(f"{x(kimg):.1f}", f"{HEIGHT - BOTTOM + 18}", f"{kimg:,.6g}", "middle"))
    parts.append(_text(f"{right}", f"{HEIGHT - 6}", "thousand images", "end"))

    # marks
    for name, value in marks.items():
        parts.append(_horizontal("mark", y(value)))
        parts.append(_text(f"{right}", f"{y(value) - 5:.1f}", html.escape(name), "end"))

    # curves, with a legend if there are several
    for i, line in enumerate(lines):
        points = " ".join(f"{x(step / 1000):.1f},{y(value):.1f}" for step, value in line.points)
        color = f"stroke: var(--c{i if line.color is None else line.color})"
        of_run = "" if line.run is None else f' data-run="{line.run}"'
        parts.append(f'<polyline points="{points}" style="{color}"{of_run}/>')
        if len(lines) == 1 or not legend:
            continue
        left = LEFT + 4 + 130 * i
        style = f"{color}; stroke-width: 3"
        parts.append(f'<line x1="{left}" x2="{left + 18}" y1="12" y2="12" style="{style}"/>')
        parts.append(f'<text x="{left + 24}" y="16">{html.escape(line.name)}</text>')

    box, label = f"0 0 {WIDTH} {HEIGHT}", html.escape(title, quote=True)
    return f'<svg viewBox="{box}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _horizontal(kind: str, y: float) -> str:
    """A line across the plot of a CSS class."""
    return f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _text(x: str, y: str, text: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>'


def finite(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """The points with a finite value."""
    return [(step, value) for step, value in points if math.isfinite(value)]


def thinned(points: list[tuple[int, float]], num: int) -> list[tuple[int, float]]:
    """At most `num` points; longer lists are reduced to the means of `num` equal segments."""
    if len(points) <= num:
        return points
    bounds = [round(i * len(points) / num) for i in range(num + 1)]
    segments = [points[a:b] for a, b in pairwise(bounds)]
    means = [sum(value for _, value in segment) / len(segment) for segment in segments]
    return [(segment[-1][0], mean) for segment, mean in zip(segments, means)]


def ticks(low: float, high: float, num: int = 5) -> list[float]:
    """About `num` round numbers in [low, high]: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / num
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from 10^low to 10^high, and their multiples by 2 and 5 if these are few."""
    factors = (1,) if high - low > 3 else (1, 2, 5)
    values = [f * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for f in factors]
    return [value for value in values if low <= math.log10(value) <= high]


def _with_margin(low: float, high: float) -> tuple[float, float]:
    """The range with some margin; never empty."""
    space = 0.06 * (high - low) if high > low else max(abs(low), 1.0) * 0.1
    return low - space, high + space
