"""The measures by name. A new one is a function of a `Subject` and a row of `MEASURES`.

Each gives values by name, with their intervals; a value that cannot be there is given as the reason
in words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gan3d.bench.intervals import (
    Interval,
    frechet_interval,
    kernel_interval,
    mean_interval,
    states_interval,
)
from gan3d.bench.subject import Pictures, Subject, compute_from
from gan3d.data.heads import FOV, RADIUS
from gan3d.metrics.epipolar import EpipolarLines
from gan3d.metrics.exact import check_finite
from gan3d.metrics.precision_recall import inside, rounded
from gan3d.metrics.readings import AttributeDrift, ConditioningDrift, DepthError, PoseError
from gan3d.metrics.reprojection import Reprojection
from gan3d.metrics.views import ViewMetric, measure_views
from gan3d.randomness import Randomness

Values = Mapping[str, Interval | str]
PICTURES: tuple[Pictures, ...] = ("same", "3d")
MOST_ROWS = 2000  # of the kernel distance; its cost is quadratic
FLAT = "has no camera, so there is no other view"


class Column(NamedTuple):
    """How values of a name are shown.

    Attributes:
        heading: short.
        says: what it tells.
        better: which is better: a low value, a high one, or one near 1; "" for neither.
    """

    heading: str
    says: str
    better: Literal["low", "high", "one", ""]


class Measure(NamedTuple):
    """A measure.

    Attributes:
        compute: its values.
        columns: of each kind of value: the part of the name before the first `_` of a feature
            network, or the whole name.
    """

    compute: Callable[[Subject], Values]
    columns: Mapping[str, Column]


def frechet(subject: Subject) -> Values:
    """Frechet distances `fd_<features>/same` and `fd_<features>/3d`."""
    return _of_pictures(subject, "fd", frechet_interval)


def kernel(subject: Subject) -> Values:
    """Kernel distances `kd_<features>/same` and `kd_<features>/3d`, of at most 2000 images each."""

    def compute(real: Tensor, fake: Tensor, resamples: int, seed: int) -> Interval:
        some = (_some(real, seed, "real"), _some(fake, seed, "fake"))
        return kernel_interval(*some, resamples, seed)

    return _of_pictures(subject, "kd", compute)


def precision_recall(subject: Subject) -> Values:
    """Precision and recall on the suite's first features, of the pictures of `3d`, else `same`.

    The intervals are over the images that are looked up, the manifolds stay: a resample with copies
    would have balls of radius 0.
    """
    name = next(iter(subject.networks))
    which: Pictures = "3d" if subject.generator.has_camera else "same"
    real, fake = rounded(subject.real[name], subject.fake(which)[name])
    real, fake = real.float(), fake.float()
    options = (subject.suite.resamples, subject.suite.seed)
    return {
        f"precision_{name}": mean_interval(inside(real, fake), *options, "fake"),
        f"recall_{name}": mean_interval(inside(fake, real), *options, "real"),
    }


def relief(subject: Subject) -> Values:
    """Signed relief of procedural heads, as of `gan3d.metrics.HeadRelief`."""
    return _of_heads(subject, "relief")


def turn(subject: Subject) -> Values:
    """Turn and identity of procedural heads, as of `gan3d.metrics.HeadTurn`."""
    return _of_heads(subject, "turn")


def readings(subject: Subject) -> Values:
    """What HeadNet reads of procedural heads, of each head (`gan3d.metrics.readings`)."""
    subject.refuse_others_than_heads()
    return _of_views(subject, PoseError(), DepthError(), AttributeDrift(), ConditioningDrift())


def views(subject: Subject) -> Values:
    """How well several views of a scene agree, of each scene, without a network."""
    radius, fov = subject.view or (RADIUS, FOV)
    return _of_views(
        subject, Reprojection(radius=radius, fov=fov), EpipolarLines(radius=radius, fov=fov)
    )


MEASURES: Mapping[str, Measure] = {
    "frechet": Measure(
        frechet,
        {"fd": Column("Frechet distance", "between sets of pictures, no FID", "low")},
    ),
    "kernel": Measure(
        kernel,
        {"kd": Column("kernel distance", "between sets of pictures, unbiased", "low")},
    ),
    "precision_recall": Measure(
        precision_recall,
        {
            "precision": Column("precision", "how good the pictures are", "high"),
            "recall": Column("recall", "how varied the pictures are", "high"),
        },
    ),
    "relief": Measure(
        relief,
        {
            "face_slope": Column("face slope", "relief of the face: 0 flat, -1 hollow", "one"),
            "face_convex": Column("faces convex", "share of the heads", "high"),
            "body_slope": Column("body slope", "of head and shoulders: 0 flat, -1 hollow", "one"),
            "body_convex": Column("bodies convex", "share of the heads", "high"),
            "background_behind": Column(
                "background", "behind the face, camera radii; true heads: 0.32", "high"
            ),
        },
    ),
    "turn": Measure(
        turn,
        {
            "turn": Column("turn", "yaw of the head per yaw of the camera", "one"),
            "identity": Column("identity", "same head at other yaws; see turn first", "high"),
        },
    ),
    "readings": Measure(
        readings,
        {
            "pose_error": Column("pose error", "of what is read, radians squared", "low"),
            "depth_error": Column("depth error", "0 the same, 1 flat, 4 hollow", "low"),
            "drift": Column("drift", "of what is read while the camera moves", "low"),
            "conditioning_drift": Column(
                "conditioning drift", "while only the conditioning camera moves", "low"
            ),
        },
    ),
    "views": Measure(
        views,
        {
            "reprojection_psnr": Column("reprojection, dB", "of pixels that two views see", "high"),
            "reprojection_share": Column("reprojected", "share of the pixels seen by both", ""),
            "epi_straight": Column("straight lines", "of a row while the camera turns", "high"),
            "epi_parallax": Column("parallax", "widths per radian, by contrast", ""),
        },
    ),
}


def column_of(name: str) -> Column:
    """How a value is shown: its heading has the features and the pictures in it.

    Raises:
        KeyError: no measure gives a value of that name.

    Example:
        >>> column_of("fd_headnet/3d").heading
        'Frechet distance, headnet, 3d'
    """
    stem, _, pictures = name.partition("/")
    for measure in MEASURES.values():
        for kind, column in measure.columns.items():
            if stem == kind:
                return column
            if stem.startswith(f"{kind}_"):
                words = [column.heading, stem.removeprefix(f"{kind}_"), pictures]
                return column._replace(heading=", ".join(word for word in words if word))
    raise KeyError(name)


def _of_pictures(
    subject: Subject, kind: str, compute: Callable[[Tensor, Tensor, int, int], Interval]
) -> Values:
    """A distance by each network, between the reals and the pictures of both conditionings."""
    found: dict[str, Interval | str] = {}
    for pictures in PICTURES:
        for name in subject.networks:
            key = f"{kind}_{name}/{pictures}"
            if pictures == "3d" and not subject.generator.has_camera:
                found[key] = f"{type(subject.generator).__name__} {FLAT}"
                continue
            real, fake = subject.real[name], subject.fake(pictures)[name]
            for features, what in ((real, "real images"), (fake, "fakes")):
                check_finite(features, what)
            found[key] = compute(real, fake, subject.suite.resamples, subject.suite.seed)
    return found


def _of_heads(subject: Subject, which: str) -> Values:
    metric, states = subject.heads[which]

    def compute(state: Tensor) -> Tensor:
        return torch.stack(list(compute_from(metric, state).values()))

    names = list(compute_from(metric, states.sum(0)))
    suite = subject.suite
    found = states_interval(compute, states, suite.resamples, suite.seed, "heads")
    return dict(zip(names, found, strict=True))


def _of_views(subject: Subject, *metrics: ViewMetric) -> Values:
    """Means over the heads, those left out of which a value is NaN (nothing to compare)."""
    suite = subject.suite
    measure_views(
        subject.generator,
        subject.latents(),
        metrics,
        truncation=suite.truncation,
        resolution=subject.resolution,
    )
    found: dict[str, Interval | str] = {}
    for metric in metrics:
        for name, per_head in metric.per_head().items():
            known = per_head[per_head.isfinite()]
            found[name] = (
                mean_interval(known, suite.resamples, suite.seed, "heads")
                if len(known)
                else "there is nothing to compare in any head"
            )
    return found


def _some(rows: Tensor, seed: int, name: str) -> Tensor:
    """At most MOST_ROWS of the features, drawn without replacement."""
    if len(rows) <= MOST_ROWS:
        return rows
    order = Randomness(seed, [0], f"kernel/{name}").uniform("order", len(rows))[0].argsort()
    return rows[order[:MOST_ROWS]]
