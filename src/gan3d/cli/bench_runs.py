"""Run folders of the benchmark: whether a run was trained on a suite's data, under its budget."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gan3d.bench.runs import TrainingCost, training_cost
from gan3d.bench.suites import Suite
from gan3d.checkpoints.runs import newest_whole, read_checkpoint, unpack_config
from gan3d.cli.messages import CommandError
from gan3d.cli.record import DATA_KEY
from gan3d.data.dataset import PosedImages
from gan3d.data.fingerprint import changes, fingerprint
from gan3d.results import MARKER


def training_of(run: Path, suite: Suite, data: Path | None) -> dict[str, Any] | None:
    """What a run was trained on, how long, and whether that is the suite's training.

    Args:
        run: its folder.
        suite: of the benchmark.
        data: the suite's training set; None, or not there: it is not known whether it is the run's.

    Returns:
        the section `training` of a result; None: the run has no checkpoint.
    """
    folder = run / "checkpoints"
    newest = newest_whole(folder) if folder.is_dir() else None
    if newest is None:
        return None
    checkpoint = read_checkpoint(newest)
    config = unpack_config(checkpoint)
    section = config["model"]["run"]
    images = int(checkpoint["state_dict"]["images_seen"])
    why = list(_differences(checkpoint, section["total_kimg"], images, suite, data))
    cost: TrainingCost | None = None
    with contextlib.suppress(ValueError):  # another logger: its cost is not known
        cost = training_cost(run)
    return {
        "by_suite": not why,
        "why_not": why,
        "config": run.resolve().name,
        "seed": section.get("seed"),
        "images": images,
        "seconds": _rounded(None if cost is None else cost.seconds),
        "cpu_seconds": _rounded(None if cost is None else cost.cpu_seconds),
        "images_per_second": None if cost is None else float(f"{cost.images_per_second:.4g}"),
        "device": _device(run),
    }


def refuse_unfit(run: Path, suite: Suite, data: Path, *, finished: bool = True) -> None:
    """Refuses a run that is not the suite's training.

    Args:
        finished: whether it must be at its end.

    Raises:
        CommandError: saying what differs.
    """
    found = training_of(run, suite, data)
    why = ["it has no checkpoint"] if found is None else found["why_not"]
    if not finished:
        why = [reason for reason in why if not reason.startswith(UNFINISHED)]
    if why:
        raise CommandError(
            f"{run} was not trained as suite {suite.name} says: {'; '.join(why)}",
            f"evaluate it all the same: gan3d bench eval {run} --suite {suite.name}",
            "or train another: gan3d bench run with another --out",
        )


UNFINISHED = "it has seen"


def _differences(
    checkpoint: Mapping[str, Any], total_kimg: float, images: int, suite: Suite, data: Path | None
) -> Iterator[str]:
    """What differs from the suite's training, in words."""
    if suite.train is None:
        yield f"suite {suite.name} has no training"
        return
    if total_kimg != suite.budget_kimg:
        yield f"its budget is {total_kimg:g} kimg, expected {suite.budget_kimg:g}"
    elif images < suite.budget_kimg * 1000:
        yield f"{UNFINISHED} {images:,} images of {suite.budget_kimg * 1000:,.0f}"
    if data is None or not data.exists():
        yield f"whether its data are {suite.train.file} is not known, which is not there"
    elif DATA_KEY not in checkpoint:
        yield "its checkpoint does not say what its data were"
    elif said := changes(checkpoint[DATA_KEY], fingerprint(PosedImages(data))):
        yield f"its data are not {suite.train.file}: {', '.join(said)}"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _device(run: Path) -> str | None:
    """What it was trained on, from the plan in its marker."""
    try:
        return json.loads((run / MARKER).read_text(encoding="utf-8"))["plan"].get("device")
    except (OSError, ValueError, LookupError, AttributeError):
        return None
