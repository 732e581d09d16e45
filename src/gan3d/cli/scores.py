"""Metrics of `gan3d measure` by name: what they say and what they need."""

from __future__ import annotations

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
