"""Metrics of `gan3d measure` by name: what they say and what they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gan3d.cli.messages import CommandError, nearest

Network = Literal["inception", "classes", "vgg", "lpips"]


@dataclass(frozen=True)
class Score:
    """A metric by name.

    Attributes:
        says: what it tells.
        network: that it needs.
        real: whether it needs real images.
        parts: what each of its values tells, by name, where it has several.
        of_heads: whether it knows procedural heads only.
    """

    says: str
    network: Network | None = None
    real: bool = False
    parts: Mapping[str, str] = field(default_factory=dict)
    of_heads: bool = False


SCORES = {
    "fid": Score("Frechet distance, lower is better", "inception", True),
    "kid": Score("kernel distance, lower is better", "inception", True),
    "pr": Score(
        "precision (how good) and recall (how varied), higher is better",
        "vgg",
        True,
        parts={
            "precision": "how good the pictures are, higher is better",
            "recall": "how varied the pictures are, higher is better",
        },
    ),
    "is": Score("inception score, higher is better", "classes"),
    "ppl": Score("perceptual path length (w, end), lower is smoother", "lpips"),
    "eqt": Score("equivariance to shifts by whole pixels, dB, higher is better"),
    "eqt_frac": Score("equivariance to shifts by any distance, dB, higher is better"),
    "eqr": Score("equivariance to rotation, dB, higher is better"),
    "relief": Score(
        "relief of procedural heads with a sign: 1 right, 0 flat, -1 hollow",
        parts={
            "face_slope": "relief of the face: 1 right, 0 flat, -1 hollow",
            "face_convex": "share of the heads whose face is convex",
            "body_slope": "relief of head and shoulders: 1 right, 0 flat, -1 hollow",
            "body_convex": "share of the heads that are convex as a whole",
            "background_behind": "background behind the face, camera radii (true heads: 0.32)",
        },
        of_heads=True,
    ),
    "turn": Score(
        "whether procedural heads turn with the camera, and stay the same",
        parts={
            "turn": "yaw of the head per yaw of the camera: 1 turns, 0 does not, -1 the other way",
            "identity": "same head at other yaws: 1 the same, 0 another (see turn first)",
        },
        of_heads=True,
    ),
}


def names_of(metrics: str) -> list[str]:
    """Names with commas between them, each known."""
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    for name in names:
        if name not in SCORES:
            raise CommandError(
                f"there is no metric {name}",
                nearest(name, SCORES, like="{}"),
                *(f"{known}: {score.says}" for known, score in SCORES.items()),
            )
    if not names:
        raise CommandError(f"--metrics is empty; choose some of {', '.join(SCORES)}")
    return list(dict.fromkeys(names))


def without_reals(names: list[str]) -> dict[str, str]:
    """Metrics that need real images, where there are none, and why they are refused."""
    reason = "compares with real images and there are none; give --data FOLDER_OR_ZIP"
    return {name: reason for name in names if SCORES[name].real}


def parts_of(name: str) -> tuple[str, ...]:
    """Names of the values of a metric."""
    return tuple(SCORES[name].parts) or (name,)


def says(part: str) -> str:
    """What a value tells, by its name."""
    for name, score in SCORES.items():
        if part in parts_of(name):
            return score.parts.get(part, score.says)
    raise KeyError(part)


def left(names: list[str], refused: Mapping[str, str]) -> list[str]:
    """The metrics that are not refused.

    Raises:
        CommandError: none is left.
    """
    rest = [name for name in names if name not in refused]
    if not rest:
        raise CommandError(*reasons(refused))
    return rest


def reasons(refused: Mapping[str, str]) -> list[str]:
    """What was not measured, and why; each reason once."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in refused.items():
        by_reason.setdefault(reason, []).append(name)
    rows = [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]
    return [f"not measured: {rows[0]}", *rows[1:]]
