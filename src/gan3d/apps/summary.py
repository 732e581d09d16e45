"""A run in one row: what it is, and its final and best values."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from gan3d.apps.curves import finite

# Columns as gan3d.apps.run_files reads them: name -> (images seen, value), in order.
Columns = Mapping[str, list[tuple[int, float]]]
Row = dict[str, str | float]

FINAL = {  # the last values that were logged
    "frechet": "distance/frechet",
    "frechet_3d": "distance/frechet_3d",
    "face_slope": "heads/face_slope",
    "turn": "heads/turn",
    "alarms": "alarm/sounding",
}
BEST = ("frechet", "frechet_3d")  # low is good; beside the last value
# The columns of a row, and what they mean.
MEANING = {
    "config": "name of the config",
    "generator": "its class",
    "discriminator": "its class",
    "resolution": "of the images, pixels",
    "generator_parameters": "their number",
    "discriminator_parameters": "their number",
    "kimg": "thousand images seen",
    "frechet": "Frechet distance at the end, conditioning `same`",
    "frechet_best": "the least one of the run",
    "frechet_best_kimg": "when it was reached, kimg",
    "frechet_3d": "Frechet distance at the end, conditioning `3d`",
    "frechet_3d_best": "the least one of the run",
    "frechet_3d_best_kimg": "when it was reached, kimg",
    "face_slope": "`heads/face_slope` at the end",
    "turn": "`heads/turn` at the end",
    "alarms": "alarms that sound at the end",
    "images_per_second": "median over the run",
    "memory_gib": "peak memory, GiB",
}


def values_of(columns: Columns) -> Row:
    """Final and best values of what a run has logged; what it has not is left out."""
    columns = {name: kept for name, points in columns.items() if (kept := finite(points))}
    row: Row = {}
    steps = [points[-1][0] for points in columns.values()]
    if steps:
        row["kimg"] = max(steps) / 1000
    for name, key in FINAL.items():
        if key not in columns:
            continue
        row[name] = columns[key][-1][1]
        if name in BEST:
            step, least = min(columns[key], key=lambda point: point[1])
            row[f"{name}_best"], row[f"{name}_best_kimg"] = least, step / 1000
    if speeds := [value for _, value in columns.get("speed/images_per_second", [])]:
        row["images_per_second"] = statistics.median(speeds)
    if memory := [value for _, value in columns.get("memory/peak_gib", [])]:
        row["memory_gib"] = max(memory)
    return row


def facts_of(generator: Any, discriminator: Any, config: str) -> Row:
    """What is trained.

    Args:
        generator: a module with `img_resolution`.
        discriminator: its opponent.
        config: name of the config.
    """
    row: Row = {"config": config}
    for role, network in (("generator", generator), ("discriminator", discriminator)):
        row[role] = type(network).__name__
        row[f"{role}_parameters"] = sum(p.numel() for p in network.parameters())
    row["resolution"] = generator.img_resolution
    return ordered(row)


def ordered(row: Row) -> Row:
    """A row in the order of `MEANING`; other columns come last."""
    known = {name: row[name] for name in MEANING if name in row}
    return known | row
