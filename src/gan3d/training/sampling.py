"""Sampling: which scenes a trained model shows when it is asked for some."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sampling:
    """Scenes of `predict`. Scene 0 of a seed is the one that the verbs draw for `--seed`.

    Args:
        seed: of the scenes.
        truncation: psi; 1 is none.
    """

    seed: int = 0
    truncation: float = 1.0
