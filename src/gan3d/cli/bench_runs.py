"""Run folders of the benchmark: whether a run was trained on a suite's data, under its budget.

A run may start from the weights of another one (`model.run.init_from`), its stage before. All
stages together have the budget.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan3d.bench.runs import TrainingCost, training_cost
from gan3d.bench.suites import Suite
from gan3d.checkpoints.models import find_model
from gan3d.checkpoints.portable import read_facts
from gan3d.checkpoints.runs import newest_whole, read_checkpoint, unpack_config
from gan3d.cli.messages import CommandError
from gan3d.cli.record import DATA_KEY
from gan3d.data.dataset import PosedImages
from gan3d.data.fingerprint import changes, fingerprint
from gan3d.results import MARKER
from gan3d.zoo.models import shipped_models

SAME_HEADS = ("images", "names", "labels")  # of a fingerprint: what heads of two sizes share


@dataclass(frozen=True)
class RunStage:
    """One run of a training, up to a checkpoint.

    Attributes:
        name: of its folder, else of its file.
        images: seen; None: not known.
        cost: of these images; None: not known.
        run: its folder; None: there is none.
        checkpoint: its content; None: it is a file of weights alone, or missing.
        starts_from: what it started from; None: random weights.
    """

    name: str
    images: int | None
    cost: TrainingCost | None = None
    run: Path | None = None
    checkpoint: Mapping[str, Any] | None = None
    starts_from: str | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """As they stand in a result."""
        return {
            "run": self.name,
            "images": self.images,
            "seconds": _rounded(None if self.cost is None else self.cost.seconds),
            "cpu_seconds": _rounded(None if self.cost is None else self.cost.cpu_seconds),
        }


def training_of(run: Path, suite: Suite, data: Path | None) -> dict[str, Any] | None:
    """What a run was trained on, how long, and whether that is the suite's training.

    Args:
        run: its folder.
        suite: of the benchmark.
        data: the suite's training set; None, or not there: it is not known whether it is the run's.

    Returns:
        the section `training` of a result; None: the run has no checkpoint.
    """
    newest = newest_of(run)
    if newest is None:
        return None
    stages = stages_of(newest)
    *_, last = stages
    assert last.checkpoint is not None
    section = unpack_config(last.checkpoint)["model"]["run"]
    why = list(_differences(stages, section["total_kimg"], suite, data))
    facts = [stage.facts for stage in stages]
    seconds = _sum(fact["seconds"] for fact in facts)
    images = images_of(stages)
    return {
        "by_suite": not why,
        "why_not": why,
        "config": run.resolve().name,
        "seed": section.get("seed"),
        "images": images,
        "seconds": seconds,
        "cpu_seconds": _sum(fact["cpu_seconds"] for fact in facts),
        "images_per_second": None if seconds is None else float(f"{images / seconds:.4g}"),
        "device": _device(run),
        "stages": facts,
    }


def newest_of(run: Path) -> Path | None:
    """The newest whole checkpoint of a run; None: there is none."""
    folder = run / "checkpoints"
    return newest_whole(folder) if folder.is_dir() else None


def stages_of(model: Path) -> list[RunStage]:
    """The stages of a training, the first one first; the last ends in the checkpoint or file of
    weights `model`.
    """
    stages = [_stage(model)]
    seen = {model.resolve()}
    while (source := stages[0].starts_from) is not None:
        path = _found(source, stages[0].run)
        if path is None or path.resolve() in seen:
            return [RunStage(source, None), *stages]
        seen.add(path.resolve())
        stages.insert(0, _stage(path))
    return stages


def images_of(stages: Sequence[RunStage]) -> int:
    """Images that all stages have seen, as far as they are known."""
    return sum(stage.images or 0 for stage in stages)


def counted(stages: Sequence[RunStage], suite: Suite) -> Sequence[RunStage]:
    """The stages that the suite's budget counts."""
    return stages[-1:] if suite.stages == "last" else stages


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


def _stage(path: Path) -> RunStage:
    """The run of a checkpoint up to it, or a file of weights."""
    if path.suffix != ".ckpt":
        images = read_facts(path).get("images_seen")
        return RunStage(path.name, None if images is None else int(images))
    checkpoint = read_checkpoint(path)
    images = int(checkpoint["state_dict"]["images_seen"])
    source = unpack_config(checkpoint)["model"]["run"].get("init_from")
    run = path.absolute().parent.parent
    if not (run / MARKER).exists():
        return RunStage(path.name, images, None, None, checkpoint, source)
    cost: TrainingCost | None = None
    with contextlib.suppress(ValueError):  # another logger: its cost is not known
        cost = training_cost(run, until=images)
    return RunStage(run.resolve().name, images, cost, run, checkpoint, source)


def _found(source: str, run: Path | None) -> Path | None:
    """The file that `init_from` names, from here or from a folder above the run; None: it is not
    there. Nothing is downloaded.
    """
    above = [] if run is None else [folder / source for folder in run.parents]
    for place in (Path(source).expanduser(), *above):
        if place.exists():
            with contextlib.suppress(ValueError):  # a folder without a checkpoint
                return find_model(place)
    return shipped_models().get(source)


def _differences(
    stages: Sequence[RunStage], total_kimg: float, suite: Suite, data: Path | None
) -> Iterator[str]:
    """What differs from the suite's training, in words."""
    if suite.train is None:
        yield f"suite {suite.name} has no training"
        return
    stages = counted(stages, suite)
    *before, last = stages
    for stage in before:
        if stage.images is None:
            yield f"how many images {stage.name} has seen, from which it starts, is not known"
        elif stage.checkpoint is None:
            yield f"it starts from {stage.name}, a file, which does not say all of its training"
    earlier = images_of(before) / 1000
    after = f" after {earlier:g} of earlier stages" if before else ""
    if total_kimg + earlier != suite.budget_kimg:
        yield f"its budget is {total_kimg:g} kimg{after}, expected {suite.budget_kimg:g} in all"
    elif images_of(stages) < suite.budget_kimg * 1000:
        yield f"{UNFINISHED} {images_of(stages):,} images of {suite.budget_kimg * 1000:,.0f}"
    if data is None or not data.exists():
        yield f"whether its data are {suite.train.file} is not known, which is not there"
        return
    expected = fingerprint(PosedImages(data))
    for stage in stages:
        its = "its" if stage is last else f"{stage.name}'s"
        if stage.checkpoint is None:
            continue
        if DATA_KEY not in stage.checkpoint:
            yield f"{its} checkpoint does not say what its data were"
            continue
        # an earlier stage has the same heads, perhaps in another size
        had = stage.checkpoint[DATA_KEY]
        had = had if stage is last else expected | {key: had.get(key) for key in SAME_HEADS}
        if said := changes(had, expected):
            yield f"{its} data are not {suite.train.file}: {', '.join(said)}"


def _sum(seconds: Iterator[float | None]) -> float | None:
    """The sum; None where a part is not known."""
    parts = list(seconds)
    known = [part for part in parts if part is not None]
    return round(sum(known), 1) if len(known) == len(parts) else None


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _device(run: Path) -> str | None:
    """What it was trained on, from the plan in its marker."""
    try:
        return json.loads((run / MARKER).read_text(encoding="utf-8"))["plan"].get("device")
    except (OSError, ValueError, LookupError, AttributeError):
        return None
