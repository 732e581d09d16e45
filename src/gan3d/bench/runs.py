"""What the training of a run cost, from what it logged."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple


class TrainingCost(NamedTuple):
    """Images seen, wall seconds of the training itself, without pictures and evaluation, and images
    per second.
    """

    images: int
    seconds: float
    images_per_second: float


def training_cost(run: Path) -> TrainingCost:
    """Of a run folder.

    Raises:
        ValueError: it has no metrics.csv with speeds.
    """
    table = run / "metrics.csv"
    seconds, before = 0.0, 0
    if table.is_file():
        with table.open(newline="") as file:
            for row in csv.DictReader(file):
                speed = float(row.get("speed/images_per_second") or 0)
                if speed > 0:
                    images = int(row["step"]) - before
                    seconds += images / speed
                    before += images
    if seconds == 0:
        raise ValueError(
            f"{table} has no speeds; expected metrics.csv of a run with the csv logger"
        )
    return TrainingCost(before, seconds, before / seconds)
