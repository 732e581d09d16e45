"""The measures by name. A new one is a function of a `Subject` and a row of `MEASURES`.

Each gives values by name, with their intervals; a value that cannot be there is given as the reason
in words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
from gan3d.bench.subject import Pictures, Subject, compute_from, state_of
from gan3d.data.heads import FOV, RADIUS
from gan3d.metrics.alarms import flatness
from gan3d.metrics.epipolar import EpipolarLines
from gan3d.metrics.equivariance import Equivariance, Kind, decibels, draw_motion
from gan3d.metrics.exact import check_finite, exact
from gan3d.metrics.fields import FitOptions
from gan3d.metrics.measure import Protocol, latent_batches, movable, path_steps
from gan3d.metrics.path_length import trimmed
from gan3d.metrics.precision_recall import inside, rounded
from gan3d.metrics.readings import AttributeDrift, ConditioningDrift, DepthError, PoseError
from gan3d.metrics.refit import Reconstruction, SelfConsistency
from gan3d.metrics.reprojection import Reprojection
from gan3d.metrics.symmetry import SYMMETRIC, mirror_distances, mirror_score
from gan3d.metrics.turn import YAWS
from gan3d.metrics.views import ViewMetric, measure_views
from gan3d.randomness import Randomness

Values = Mapping[str, Interval | str]
PICTURES: tuple[Pictures, ...] = ("same", "3d")
MOST_ROWS = 2000  # of the kernel distance; its cost is quadratic
FLAT = "has no camera, so there is no other view"
MOTIONS: tuple[Kind, ...] = ("eqt", "eqr")


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
    return {
        f"precision_{name}": mean_interval(inside(real, fake), *_resampling(subject), "fake"),
        f"recall_{name}": mean_interval(inside(fake, real), *_resampling(subject), "real"),
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


def fields(subject: Subject) -> Values:
    """How well fields that are fitted to views explain a scene, of the suite's few scenes."""
    radius, fov = subject.view or (RADIUS, FOV)
    options = FitOptions(steps=subject.suite.fit_steps)
    extent = radius / RADIUS  # as large in the picture as a head in the unit cube
    metrics = [
        kind(options, extent=extent, radius=radius, fov=fov)
        for kind in (Reconstruction, SelfConsistency)
    ]
    protocol = replace(subject.protocol, num=subject.suite.num_scenes, batch_size=1)
    return _of_views(subject, *metrics, protocol=protocol)


def flat(subject: Subject) -> Values:
    """Relief of the frontal surface without a sign (`gan3d.metrics.flatness`), in camera radii."""
    front, depth, opacity, _ = subject.turned
    values = flatness(depth, opacity, front) / exact(front.origins.norm(dim=-1))
    return {"flatness": mean_interval(values, *_resampling(subject), "heads")}


def mirror(subject: Subject) -> Values:
    """Mirror symmetry of all heads, beyond that of their fronts (`gan3d.metrics.symmetry`)."""
    images = subject.turned.images
    sides = [(YAWS.index(yaw), YAWS.index(-yaw)) for yaw in sorted(YAWS) if yaw >= 0]
    distances = [mirror_distances(images[:, a], images[:, b]) for a, b in sides]  # n 2, front first
    states = torch.stack(distances, dim=1).flatten(1)  # n (y 2)

    def compute(state: Tensor) -> Tensor:
        own, others = state.unflatten(0, (-1, 2)).unbind(1)
        frontal, *similarity = 1 - own / others
        return mirror_score(torch.stack(similarity), float(frontal)).mean()[None]

    if bool(compute(states.sum(0)).isnan()):
        return {"mirror": f"the heads are symmetric from the front, by more than {SYMMETRIC:g}"}
    (found,) = states_interval(compute, states, *_resampling(subject), "heads")
    return {"mirror": found}


def equivariance(subject: Subject) -> Values:
    """EQ-T (whole pixels) and EQ-R, every picture with a motion of its own."""
    rows = subject.each("motions", moved, replace(subject.heads_protocol, batch_size=1))

    # error and known values of each picture; decibels of their sums
    found: dict[str, Interval] = {}
    for kind in MOTIONS:
        (found[kind],) = states_interval(
            lambda state: decibels(*state)[None],
            torch.stack([row[kind] for row in rows]),
            *_resampling(subject),
            "heads",
        )
    return found


@torch.no_grad()
def moved(subject: Subject, batch: Protocol) -> dict[Kind, Tensor]:
    """The states of `Equivariance` after one picture, by the kind of its motion."""
    synthesize = movable(subject.generator)
    ((ws, draw),) = latent_batches(subject.generator, batch, subject.cameras)
    original = synthesize(ws, torch.eye(3).to(ws))
    size = (original.shape[-2], original.shape[-1])
    return {
        kind: state_of(Equivariance(synthesize, kind), ws, original, draw_motion(kind, draw, size))
        for kind in MOTIONS
    }


def path_length(subject: Subject) -> Values:
    """Perceptual path length in W, at the ends of paths, on the suite's first features."""
    name = next(iter(subject.networks))
    steps = subject.each("paths", steps_of_paths, subject.heads_protocol, name)
    values = trimmed(torch.cat(steps))
    return {f"ppl_{name}": mean_interval(values, *_resampling(subject), "paths")}


def steps_of_paths(subject: Subject, batch: Protocol, name: str) -> Tensor:
    """Steps of some paths on the features of a network."""
    (steps,) = path_steps(subject.generator, subject.placed[name], batch, subject.cameras)
    return steps


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
    "fields": Measure(
        fields,
        {
            "reconstruction_psnr": Column("reconstruction, dB", "by a field of ours", "high"),
            "reconstruction_ssim": Column("reconstruction, SSIM", "by a field of ours", "high"),
            "self_psnr": Column("self-consistency, dB", "of fields of two sides", "high"),
            "self_ssim": Column("self-consistency, SSIM", "of fields of two sides", "high"),
        },
    ),
    "flatness": Measure(
        flat,
        {"flatness": Column("flatness", "rms off a plane, camera radii; true heads: 0.021", "")},
    ),
    "mirror": Measure(
        mirror,
        {"mirror": Column("mirroring", "0 the head turns, 1 the picture is mirrored", "low")},
    ),
    "equivariance": Measure(
        equivariance,
        {
            "eqt": Column("EQ-T, dB", "picture and input move together, whole pixels", "high"),
            "eqr": Column("EQ-R, dB", "picture and input turn together", "high"),
        },
    ),
    "path_length": Measure(
        path_length,
        {"ppl": Column("path length", "change of the picture per step in w", "low")},
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
    _, kind, column = _found(name)
    if stem == kind:
        return column
    words = [column.heading, stem.removeprefix(f"{kind}_"), pictures]
    return column._replace(heading=", ".join(word for word in words if word))


def measure_of(name: str) -> str:
    """The measure that gives a value of that name.

    Raises:
        KeyError: none does.
    """
    return _found(name)[0]


def _found(name: str) -> tuple[str, str, Column]:
    """Measure, kind and column of a value."""
    stem, _, _ = name.partition("/")
    for of, measure in MEASURES.items():
        for kind, column in measure.columns.items():
            if stem == kind or stem.startswith(f"{kind}_"):
                return of, kind, column
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
            found[key] = compute(real, fake, *_resampling(subject))
    return found


def _of_heads(subject: Subject, which: str) -> Values:
    metric, states = subject.heads[which]

    def compute(state: Tensor) -> Tensor:
        return torch.stack(list(compute_from(metric, state).values()))

    names = list(compute_from(metric, states.sum(0)))
    found = states_interval(compute, states, *_resampling(subject), "heads")
    return dict(zip(names, found, strict=True))


def _resampling(subject: Subject) -> tuple[int, int]:
    return subject.suite.resamples, subject.suite.seed


def _of_views(subject: Subject, *metrics: ViewMetric, protocol: Protocol | None = None) -> Values:
    """Means over the heads of a protocol, by default all, those left out of which a value is NaN
    (nothing to compare).
    """
    protocol = subject.heads_protocol if protocol is None else protocol
    rows = subject.each("views", seen_by, protocol, metrics)
    found: dict[str, Interval | str] = {}
    for name in rows[0]:
        values = torch.cat([row[name] for row in rows])
        known = values[values.isfinite()]
        found[name] = (
            mean_interval(known, *_resampling(subject), "heads")
            if len(known)
            else "there is nothing to compare in any head"
        )
    return found


def seen_by(subject: Subject, batch: Protocol, metrics: Sequence[ViewMetric]) -> dict[str, Tensor]:
    """Every value of some heads, float64 [b]."""
    for metric in metrics:
        metric.reset()
    measure_views(
        subject.generator,
        subject.latents(batch),
        metrics,
        truncation=batch.truncation,
        resolution=batch.resolution,
    )
    return {name: values for metric in metrics for name, values in metric.per_head().items()}


def _some(rows: Tensor, seed: int, name: str) -> Tensor:
    """At most MOST_ROWS of the features, drawn without replacement."""
    if len(rows) <= MOST_ROWS:
        return rows
    order = Randomness(seed, [0], f"kernel/{name}").uniform("order", len(rows))[0].argsort()
    return rows[order[:MOST_ROWS]]
