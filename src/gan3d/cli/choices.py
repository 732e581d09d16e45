"""Options that hold several values in one word: `--seeds 0-3,7`, `--yaw -0.5,0,0.5`, `--layers
image,depth`, `--grid 4x2`.

They are read before torch is imported (gan3d.cli.signatures).
"""

from __future__ import annotations

import re
from math import isfinite

from gan3d.cli.messages import CommandError, nearest
from gan3d.zoo.models import locate

LAYERS = ("image", "raw", "depth", "normals", "opacity")  # those of gan3d.apps.pictures
MOST_SEEDS = 10_000
SEEDS = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?")


def seeds_in(option: str, text: str) -> list[int]:
    """Seeds with commas between them and ranges that include their end: "0-3,7".

    Args:
        option: its name, for messages.
        text: what the user gave.

    Raises:
        CommandError: that is no list of seeds, a range runs backwards, or there are too many.
    """
    seeds: list[int] = []
    for word in text.split(","):
        found = SEEDS.fullmatch(word.strip())
        if found is None:
            raise CommandError(
                f"--{option} {text}: {word.strip()!r} is no seed; give whole numbers from 0 on, "
                f"such as --{option} 3, --{option} 0-15 or --{option} 1,4,8-11"
            )
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise CommandError(
                f"--{option} {text}: {first}-{last} runs backwards; did you mean {last}-{first}?"
            )
        if len(seeds) + last - first >= MOST_SEEDS:
            raise CommandError(
                f"--{option} {text} are more than {MOST_SEEDS} seeds; give fewer, call by call"
            )
        seeds += range(first, last + 1)
    return seeds


def angles_in(option: str, text: str) -> list[float]:
    """Angles in radians with commas between them: "-0.5,0,0.5".

    Raises:
        CommandError: one is no number, or more than a full turn.
    """
    angles = []
    for word in text.split(","):
        try:
            angle = float(word)
        except ValueError:
            angle = float("nan")
        if not isfinite(angle) or abs(angle) > 6.3:
            raise CommandError(
                f"--{option} {text}: {word.strip()!r} is no angle; give radians, from -6.3 to 6.3, "
                f"such as --{option} 0.3 or --{option} -0.5,0,0.5"
            )
        angles.append(angle)
    return angles


def numbers_in(option: str, text: str) -> list[float]:
    """Numbers with commas between them: "-3,0,3".

    Raises:
        CommandError: one is no number.
    """
    numbers = []
    for word in text.split(","):
        try:
            number = float(word)
        except ValueError:
            number = float("nan")
        if not isfinite(number):
            raise CommandError(
                f"--{option} {text}: {word.strip()!r} is no number; give some with commas between, "
                f"such as --{option} -3,0,3"
            )
        numbers.append(number)
    return numbers


def layers_in(option: str, text: str) -> list[str]:
    """Names of layers with commas between them: "image,depth".

    Raises:
        CommandError: there is no such layer, or one is named twice.
    """
    names = [word.strip() for word in text.split(",")]
    for name in names:
        if name not in LAYERS:
            raise CommandError(
                f"--{option} {text}: there is no layer {name!r}",
                nearest(name, LAYERS, like="{}") or f"layers: {', '.join(LAYERS)}",
            )
    if len(set(names)) < len(names):
        raise CommandError(f"--{option} {text} names a layer twice; name each once")
    return names


def grid_in(option: str, text: str) -> tuple[int, int]:
    """Columns and rows of a grid: "4x2".

    Raises:
        CommandError: that is no grid.
    """
    found = re.fullmatch(r"([1-9]\d?)x([1-9]\d?)", text.strip())
    if found is None:
        raise CommandError(
            f"--{option} {text} is no grid; give columns x rows, such as --{option} 4x2"
        )
    return int(found[1]), int(found[2])


def models_in(option: str, text: str) -> list[str]:
    """Models with commas between them.

    Raises:
        ValueError: there is no such model; the nearest names are given.
    """
    models = [word.strip() for word in text.split(",") if word.strip()]
    for model in models:
        locate(model)
    return models
