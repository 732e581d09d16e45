"""Geometry alarms: plain sentences for values that look wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class AlarmLevels:
    """When a geometry alarm sounds.

    Args:
        after_kimg: not before; young generators are flat, all of them.
        flatness: relief below this many world units is flat (real heads at radius 2.7: 0.056).
        z_sensitivity: images of different z differing less than this, of a range of 2, are the same
            head.
        camera_leak: the conditioning camera changing the head this much, relative to z, is too
            much.
    """

    after_kimg: float = 1000.0
    flatness: float = 0.01
    z_sensitivity: float = 0.03
    camera_leak: float = 0.5


def alarms(values: Mapping[str, float], levels: AlarmLevels) -> dict[str, str]:
    """A plain sentence for each alarm that sounds, by its name."""
    sentences: dict[str, str] = {}
    flat = values.get("alarm/flatness", math.inf)
    same = values.get("alarm/z_sensitivity", math.inf)
    leak = values.get("alarm/camera_leak", 0.0)
    if flat < levels.flatness:
        sentences["alarm/flatness"] = (
            f"The heads are nearly flat (relief {flat:.4f} world units, alarm below "
            f"{levels.flatness:g}): try another --model.r1.gamma (larger first), or condition the "
            "discriminator on the camera."
        )
    if same < levels.z_sensitivity:
        sentences["alarm/z_sensitivity"] = (
            f"Different z give nearly the same image (they differ by {same:.4f}, alarm below "
            f"{levels.z_sensitivity:g}): the generator collapses; try a larger --model.r1.gamma or "
            "a smaller learning rate of the generator."
        )
    if leak > levels.camera_leak:
        sentences["alarm/camera_leak"] = (
            f"The head changes with the conditioning camera, {leak:.2f} times as much as with z "
            f"(alarm above {levels.camera_leak:g}): condition the generator less, by a larger swap "
            "probability in --model.fakes.conditioning or by switching its camera conditioning off."
        )
    return sentences
