"""Metrics of `gan3d measure` by name: what they say and what they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gan3d.cli.messages import CommandError, nearest

Network = Literal["inception", "classes", "vgg", "lpips"]


@dataclass(frozen=True)
class Score:
    """A metric by name: what it says, the network it needs, whether it needs real images."""

    says: str
    network: Network | None = None
    real: bool = False


SCORES = {
    "fid": Score("Frechet distance, lower is better", "inception", True),
    "kid": Score("kernel distance, lower is better", "inception", True),
    "pr": Score("precision (how good) and recall (how varied), higher is better", "vgg", True),
    "is": Score("inception score, higher is better", "classes"),
    "ppl": Score("perceptual path length (w, end), lower is smoother", "lpips"),
    "eqt": Score("equivariance to shifts by whole pixels, dB, higher is better"),
    "eqt_frac": Score("equivariance to shifts by any distance, dB, higher is better"),
    "eqr": Score("equivariance to rotation, dB, higher is better"),
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
