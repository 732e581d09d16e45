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
        opaque: below this share of opaque pixels there is no surface to speak of.
        flatness: relief below this share of the camera's radius is flat (real heads: 0.02).
        bulge: a center that is this share of the radius behind the rim, or more, is hollow (real
            heads: 0.02 in front of it).
        convex: a smaller share of convex faces, where the truth is known, is hollow.
        turn: heads that turn less than this, per angle of the camera, do not turn.
        z_sensitivity: images of different z differing less than this, of a range of 2, are the same
            head.
        camera_leak: the conditioning camera changing the head this much, relative to z, is too
            much.
    """

    after_kimg: float = 1000.0
    opaque: float = 0.01
    flatness: float = 0.004
    bulge: float = 0.004
    convex: float = 0.5
    turn: float = 0.2
    z_sensitivity: float = 0.03
    camera_leak: float = 0.5


def alarms(values: Mapping[str, float], levels: AlarmLevels) -> dict[str, str]:
    """A plain sentence for each alarm that sounds, by its name."""
    sentences: dict[str, str] = {}
    opaque = values.get("alarm/opaque", 1.0)
    flat = values.get("alarm/flatness", math.inf)
    bulge = values.get("alarm/bulge", 0.0)
    same = values.get("alarm/z_sensitivity", math.inf)
    leak = values.get("alarm/camera_leak", 0.0)
    convex = values.get("heads/face_convex", 1.0)
    turn = values.get("heads/turn", 1.0)
    if opaque < levels.opaque:
        sentences["alarm/opaque"] = (
            f"Nothing is opaque ({100 * opaque:.2g} % of the pixels, alarm below "
            f"{100 * levels.opaque:g} %): the scenes are fog, without a surface whose relief could "
            "be measured; look at the depth maps, and try a larger --model.r1.gamma or density "
            "regularization (--model.density.weight)."
        )
    elif flat < levels.flatness:
        sentences["alarm/flatness"] = (
            f"The heads are nearly flat (relief {flat:.4f} camera radii, alarm below "
            f"{levels.flatness:g}): try another --model.r1.gamma (larger first), or condition the "
            "discriminator on the camera."
        )
    elif bulge < -levels.bulge:
        sentences["alarm/bulge"] = (
            f"The heads are hollow (their center is {-bulge:.4f} camera radii behind the rim, "
            f"alarm above {levels.bulge:g}): the shape is inside out, which looks right from the "
            "cameras of training only; condition the discriminator on the camera, check the "
            "convention of the labels (docs/data.md), or start again with another "
            "--model.run.seed."
        )
    if opaque >= levels.opaque and convex < levels.convex:
        sentences["heads/face_convex"] = (
            f"The faces are hollow or flat: {convex:.0%} are convex (alarm below "
            f"{levels.convex:.0%}, slope of their relief {values['heads/face_slope']:+.2f} where "
            "true heads have 1): train on wider cameras, or condition the discriminator on the "
            "camera (docs/metrics.md)."
        )
    if turn < levels.turn:
        sentences["heads/turn"] = (
            f"The heads do not turn: by {turn:.2f} of the angle of the camera (alarm below "
            f"{levels.turn:g}); the discriminator does not see the pose: condition it on the "
            "camera, train on wider cameras, or train longer (docs/metrics.md)."
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
