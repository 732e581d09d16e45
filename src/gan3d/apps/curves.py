"""Curves as inline SVG, in the colors of the page around them (--c0, --c1, --c2 and its text
color).
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

WIDTH, HEIGHT = 560, 270
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 28, 40  # margins
MAX_POINTS = 500  # of a drawn line


@dataclass(frozen=True)
class Curve:
    """A line: its name and (images seen, value) points, in order."""

    name: str
    points: list[tuple[int, float]]


def curve_svg(
    title: str, curves: list[Curve], *, log: bool = False, marks: Mapping[str, float] | None = None
) -> str:
    """An SVG plot of curves over thousands of images.

    Args:
        title: for screen readers.
        curves: at most three, each with two points or more.
        log: a logarithmic axis of values, where all of them are positive.
        marks: values drawn as dashed lines, by name.
    """
    marks = dict(marks or {})
    lines = [Curve(curve.name, thinned(finite(curve.points), MAX_POINTS)) for curve in curves]
    values = [value for line in lines for _, value in line.points] + list(marks.values())
    steps = [step / 1000 for line in lines for step, _ in line.points]
    if not steps:
        return ""
    log = log and min(values) > 0
    warp = math.log10 if log else float
    low, high = _room(min(map(warp, values)), max(map(warp, values)))
    first, last = min(steps), max(max(steps), min(steps) + 1e-9)

    def x(kimg: float) -> float:
        return LEFT + (kimg - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (high - warp(value)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for value in log_ticks(low, high) if log else ticks(low, high):
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        )
        parts.append(
            f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.4g}</text>'
        )
    for kimg in ticks(first, last):
        parts.append(
            f'<text x="{x(kimg):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{kimg:,.6g}</text>'
        )
    parts.append(
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">thousand images</text>'
    )
    for name, value in marks.items():
        parts.append(
            f'<line class="mark" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        )
        parts.append(
            f'<text x="{WIDTH - RIGHT}" y="{y(value) - 5:.1f}" text-anchor="end">{html.escape(name)}</text>'
        )
    for i, line in enumerate(lines):
        points = " ".join(f"{x(step / 1000):.1f},{y(value):.1f}" for step, value in line.points)
        parts.append(f'<polyline points="{points}" style="stroke: var(--c{i})"/>')
        if len(lines) == 1:  # the title says what it is
            break
        left = LEFT + 4 + 130 * i
        parts.append(
            f'<line x1="{left}" x2="{left + 18}" y1="12" y2="12" style="stroke: var(--c{i}); stroke-width: 3"/>'
        )
        parts.append(f'<text x="{left + 24}" y="16">{html.escape(line.name)}</text>')
    label = html.escape(title, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def finite(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(step, value) for step, value in points if math.isfinite(value)]


def thinned(points: list[tuple[int, float]], num: int) -> list[tuple[int, float]]:
    """At most `num` points: the means of equally long stretches where there are more."""
    if len(points) <= num:
        return points
    bounds = [round(i * len(points) / num) for i in range(num + 1)]
    stretches = [points[a:b] for a, b in pairwise(bounds)]
    return [
        (stretch[-1][0], sum(value for _, value in stretch) / len(stretch)) for stretch in stretches
    ]


def ticks(low: float, high: float, num: int = 5) -> list[float]:
    """About `num` round numbers in [low, high]: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / num
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [
        i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between 10^low and 10^high: powers of ten, and 2 and 5 times them where few."""
    factors = (1,) if high - low > 3 else (1, 2, 5)
    values = [f * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for f in factors]
    return [value for value in values if low <= math.log10(value) <= high]


def _room(low: float, high: float) -> tuple[float, float]:
    """A little space above and below; never an empty range."""
    space = 0.06 * (high - low) if high > low else max(abs(low), 1.0) * 0.1
    return low - space, high + space
