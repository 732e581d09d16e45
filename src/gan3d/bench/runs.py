"""What the training of a run cost, from what it logged."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple


class TrainingCost(NamedTuple):
    """A training with its own pictures and evaluations, without the start of the program.

    Attributes:
        images: seen.
        seconds: of the clock.
        cpu_seconds: that the first process spent on a CPU; None: the run did not log them.
    """

    images: int
    seconds: float
    cpu_seconds: float | None

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds


def training_cost(run: Path, until: int | None = None) -> TrainingCost:
    """Of a run folder.

    Args:
        run: the folder.
        until: images of the last row that counts; None: all rows.

    Raises:
        ValueError: it has no metrics.csv with speeds.
    """
    table = run / "metrics.csv"
    images, seconds = 0, 0.0
    cpu_seconds: float | None = 0.0
    for row in _rows(table):
        speed = float(row.get("speed/images_per_second") or 0)
        cpu_speed = float(row.get("speed/images_per_cpu_second") or 0)
        if speed > 0 and (until is None or int(row["step"]) <= until):
            more = int(row["step"]) - images
            images += more
            seconds += more / speed
            if cpu_seconds is not None:
                cpu_seconds = cpu_seconds + more / cpu_speed if cpu_speed > 0 else None
    if seconds == 0:
        raise ValueError(
            f"{table} has no speeds; expected metrics.csv of a run with the csv logger"
        )
    return TrainingCost(images, seconds, cpu_seconds)


def _rows(table: Path) -> list[dict[str, str]]:
    if not table.is_file():
        return []
    with table.open(newline="") as file:
        return list(csv.DictReader(file))
