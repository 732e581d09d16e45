"""One model under one suite: a result."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from gan3d.bench.machine import machine_facts
from gan3d.bench.measures import MEASURES
from gan3d.bench.protocol import protocol_hash, protocol_of
from gan3d.bench.results import FORMAT, Record
from gan3d.bench.speed import measure_speed
from gan3d.bench.subject import Subject
from gan3d.bench.suites import Suite
from gan3d.data.archive import open_archive
from gan3d.data.dataset import LABEL_FILE, PosedImages
from gan3d.generators.contract import Generator
from gan3d.metrics.exact import full_precision

OFFICIAL, HERE = "official weights, evaluated here", "trained here"


def subject_of(
    generator: Generator,
    suite: Suite,
    data: Path,
    networks: Mapping[str, nn.Module],
    resolution: int | None = None,
) -> Subject:
    """A model and the real images in its size.

    Args:
        generator: in evaluation mode, on its device.
        data: folder or zip of the real images.
        networks: feature networks, by name.
        resolution: of the rendering; None is the model's own.

    Raises:
        ValueError: the model makes pictures of another size than the suite's.
    """
    side = generator.img_resolution
    if generator.any_resolution:
        if resolution is None and suite.real is not None:
            resolution = suite.real.resolution
        side = side if resolution is None else resolution
    if suite.real is not None and side != suite.real.resolution:
        raise ValueError(
            f"the model makes pictures of {side} px, suite {suite.name} is one of "
            f"{suite.real.resolution} px; choose a suite of its size (gan3d bench suites), or "
            "measure it on --data"
        )
    labels = LABEL_FILE in open_archive(data).names
    reals = PosedImages(data, resolution=side, resize_filter=suite.resize_filter, use_labels=labels)
    if not labels and (generator.has_camera or generator.camera_conditioned):
        raise ValueError(
            f"{data} has no {LABEL_FILE}, and {type(generator).__name__} needs the cameras of the "
            "real images; give a set with labels (docs/data.md)"
        )
    return Subject(generator, suite, reals, networks, resolution)


def evaluate(subject: Subject, model: Mapping[str, Any]) -> Record:
    """Measures a model.

    What cannot be measured is absent, with the reason; it does not cancel the others.

    Args:
        subject: the model under its suite.
        model: facts about it: name, file, sha256, ..

    Raises:
        ValueError: the suite names a measure that there is not.
    """
    start, suite = time.monotonic(), subject.suite
    for name in suite.measures:
        if name not in MEASURES:
            raise ValueError(
                f"suite {suite.name}: there is no measure {name}; known: {', '.join(MEASURES)}"
            )
    speed = measure_speed(subject)
    values: dict[str, dict[str, float]] = {}
    absent: dict[str, str] = {}
    with full_precision():
        for name in suite.measures:
            try:
                found = MEASURES[name].compute(subject)
            except (ValueError, ArithmeticError) as error:
                found = dict.fromkeys(MEASURES[name].columns, str(error))
            for key, value in found.items():
                if isinstance(value, str):
                    absent[key] = value
                elif not all(map(math.isfinite, value)):
                    absent[key] = "it came out as NaN or infinite"
                else:
                    values[key] = value._asdict()
    protocol = protocol_of(suite, subject.reals, subject.networks)
    return {
        "format": FORMAT,
        "suite": suite.name,
        "model": {"class": type(subject.generator).__name__, **model},
        "protocol": protocol,
        "protocol_hash": protocol_hash(protocol),
        "values": values,
        "absent": absent,
        "speed": speed,
        "training": None,
        "pictures": {},
        "made_with": {
            **machine_facts(subject.device),
            "seconds": round(time.monotonic() - start, 1),
        },
    }


def origin_of(facts: Mapping[str, Any]) -> str:
    """Where a model was trained, by the facts in its file: a checkpoint of ours says which of its
    generators it is, imported weights say what they were imported from.
    """
    return HERE if facts.get("source") in ("generator_ema", "generator") else OFFICIAL
