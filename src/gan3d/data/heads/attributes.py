"""The attributes that vary from head to head, and their distributions.

Every attribute is a number. Head ``i`` of seed ``s`` draws its numbers from a generator seeded with
``(s, i)``: one uniform number per row of the tables below, in their order. So a head does not
depend on other heads, but it does depend on the order of the rows: never insert a row.

Convention: lengths are in head units (a head is about 0.43 high; one unit is
`heads.scene.HEAD_SCALE` world units), angles in radians. x is image right in the frontal view, y is
up, the face looks along +z. Colors are display values in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# fmt: off
# name: (lowest, highest), uniform between them.
SHAPES: dict[str, tuple[float, float]] = {
    # skull and face
    "skull_w": (0.90, 1.12), "skull_h": (0.94, 1.10), "skull_d": (0.95, 1.08),
    "jaw_w": (0.82, 1.14), "jaw_l": (0.88, 1.14),
    "chin": (0.70, 1.35), "cheek": (0.0, 1.0),
    "roll": (-0.11, 0.11), "nod": (-0.09, 0.09),
    # eyes and brows
    "eye_d": (0.054, 0.067), "eye_y": (0.026, 0.046), "eye_s": (0.88, 1.14),
    "eye_open": (0.45, 1.0), "eye_asym": (-0.22, 0.22), "eye_slant": (-0.16, 0.16),
    "gaze_x": (-0.5, 0.5), "gaze_y": (-0.22, 0.22),
    "brow_h": (0.037, 0.052), "brow_t": (0.55, 1.5),
    "brow_tilt": (-0.25, 0.25), "brow_asym": (-0.009, 0.009),
    # nose and mouth
    "nose_l": (0.80, 1.25), "nose_w": (0.75, 1.45), "nose_p": (0.65, 1.45),
    "nose_bend": (-0.014, 0.014),
    "mouth_w": (0.78, 1.22), "mouth_y": (-0.008, 0.008), "lip_t": (0.60, 1.45),
    "smile": (-0.6, 1.0), "mouth_tilt": (-0.12, 0.12), "mouth_open": (0.0, 1.0),
    # ears and neck
    "ear_s": (0.78, 1.22), "ear_out": (0.0, 1.0),
    "neck_w": (0.82, 1.15), "shoulder": (0.82, 1.15), "neckline": (-0.315, -0.235),
    # hair
    "hair_th": (0.2, 1.0), "hair_flare": (-0.25, 0.60), "hairline": (-0.02, 0.025),
    "recede": (-0.4, 1.0), "part_x": (-0.085, 0.085), "sweep": (-1.0, 1.0),
    "hair_len": (0.0, 1.0), "hair_side": (0.0, 1.0), "curl": (0.0, 1.0), "quiff": (0.0, 1.0),
    "beard_len": (0.0, 1.0), "fringe_len": (0.0, 1.0),
    # marks and things worn
    "mole_x": (-0.075, 0.075), "mole_y": (-0.085, -0.02),
    "freckles": (0.0, 1.0), "blush": (0.0, 1.0), "makeup": (0.0, 1.0),
    "rim_w": (0.86, 1.15), "rim_h": (0.75, 1.20), "rim_square": (0.0, 1.0),
    "ring_drop": (0.0, 1.0), "stripe_f": (70.0, 170.0),
    # light
    "key_az": (-1.0, 1.0), "key_el": (0.20, 0.90), "key_i": (0.62, 0.92),
    "ambient": (0.30, 0.48), "warmth": (-1.0, 1.0),
}
# name: probability. A switch is 0 or 1.
SWITCHES: dict[str, float] = {
    "glasses": 0.30, "shades": 0.045, "beard": 0.27, "goatee": 0.30, "earring": 0.22,
    "stripes": 0.35, "mole": 0.40, "fringe": 0.35, "collar": 0.50, "gray": 0.14, "dyed": 0.11,
}
# name: probability. Hair styles exclude one another; the remaining probability is short hair.
STYLES: dict[str, float] = {
    "bald": 0.09, "afro": 0.12, "long": 0.34, "bun": 0.10, "ponytail": 0.07,
}
COLORS: tuple[str, ...] = (
    "skin", "lip", "hair", "iris", "cloth", "stripe", "frame", "metal", "back_low", "back_high",
)
# Uniform numbers that the colors are computed from; skin tone and undertone are attributes too.
_COLOR_DRAWS: tuple[str, ...] = (
    "skin_tone", "undertone", "lip_s", "melanin", "hair_red", "dye", "gray_level",
    "iris_u", "iris_v", "cloth_h", "cloth_s", "cloth_v", "stripe_h", "stripe_s", "stripe_v",
    "frame_h", "frame_s", "frame_v", "metal_u",
    "back_h", "back_s", "back_v", "back_dh", "back_dv",
)
ATTRIBUTE_NAMES: tuple[str, ...] = (
    *SHAPES, *SWITCHES, *STYLES, "skin_tone", "undertone",
    *(f"{color}_{channel}" for color in COLORS for channel in "rgb"),
)
# fmt: on

# A second, independent stream per head: the number of views never changes the head.
_CAMERA_STREAM = 1

# Color ramps, RGB.
# fmt: off
_SKIN = (
    (0.30, 0.185, 0.125), (0.53, 0.35, 0.245), (0.76, 0.56, 0.43), (0.87, 0.69, 0.565),
    (0.92, 0.775, 0.68),
)
_HAIR = (
    (0.80, 0.63, 0.38), (0.52, 0.33, 0.17), (0.27, 0.165, 0.105), (0.11, 0.08, 0.065),
    (0.065, 0.055, 0.055),
)
_IRIS = (
    (0.22, 0.12, 0.06), (0.40, 0.24, 0.10), (0.32, 0.42, 0.20), (0.25, 0.45, 0.62),
    (0.42, 0.55, 0.62),
)
_METAL = ((0.85, 0.66, 0.28), (0.80, 0.80, 0.82))
# fmt: on


@dataclass(frozen=True)
class HeadAttributes:
    """The numbers of a batch of heads.

    Args:
        values: [b, len(ATTRIBUTE_NAMES)], float64 on the CPU; column order `ATTRIBUTE_NAMES`.
    """

    values: Tensor

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(ATTRIBUTE_NAMES):
            raise ValueError(
                f"values has shape {list(self.values.shape)}, expected "
                f"[b, {len(ATTRIBUTE_NAMES)}]; make them with sample_heads"
            )

    def __len__(self) -> int:
        return self.values.shape[0]

    def __getitem__(self, name: str) -> Tensor:
        """Column `name`, [b]."""
        return self.values[:, ATTRIBUTE_NAMES.index(name)]

    def color(self, name: str) -> Tensor:
        """Color `name` (one of COLORS), [b 3] in [0, 1]."""
        first = ATTRIBUTE_NAMES.index(f"{name}_r")
        return self.values[:, first : first + 3]

    def select(self, index: Tensor | list[int]) -> HeadAttributes:
        """The heads at `index`, which may repeat heads."""
        return HeadAttributes(self.values[torch.as_tensor(index, dtype=torch.long)])

    def replace(self, **columns: float | Tensor) -> HeadAttributes:
        """A copy with some columns replaced, for experiments: ``heads.replace(glasses=1.0)``."""
        values = self.values.clone()
        for name, column in columns.items():
            values[:, ATTRIBUTE_NAMES.index(name)] = torch.as_tensor(column, dtype=values.dtype)
        return HeadAttributes(values)

    def named(self, row: int) -> dict[str, float]:
        """Head `row` as a dictionary of plain floats."""
        return dict(zip(ATTRIBUTE_NAMES, self.values[row].tolist(), strict=True))


def sample_heads(seed: int, indices: list[int] | range, smile_yaw: float = 0.0) -> HeadAttributes:
    """Draw the heads numbered `indices` of the data set `seed`.

    Args:
        seed: number of the data set, at least 0.
        indices: head numbers, each at least 0; head i does not depend on the other indices.
        smile_yaw: correlation in [-1, 1] between the smile and the yaw of the head's first view, as
            real photographs have it. A Gaussian copula: the smile stays uniformly distributed.

    Returns:
        HeadAttributes of len(indices) rows.

    Raises:
        ValueError: `smile_yaw` is out of range.
    """
    if not -1 <= smile_yaw <= 1:
        raise ValueError(f"smile_yaw {smile_yaw} is not a correlation; use a number from -1 to 1")

    # one row of uniform numbers per head
    names = (*SHAPES, *SWITCHES, "style", *_COLOR_DRAWS)
    draws = np.stack([np.random.default_rng([seed, index]).random(len(names)) for index in indices])
    u = {name: draws[:, column] for column, name in enumerate(names)}
    if smile_yaw:
        u["smile"] = _correlated(u["smile"], _camera_normals(seed, indices, 1)[:, 0, 0], smile_yaw)

    # shapes
    columns = {name: low + (high - low) * u[name] for name, (low, high) in SHAPES.items()}
    columns["mouth_open"] = columns["mouth_open"] ** 3  # most mouths are closed
    columns["freckles"] = np.clip(columns["freckles"] * 3 - 2, 0, 1)  # most faces have none

    # switches, and one style at most
    for name, probability in SWITCHES.items():
        columns[name] = (u[name] < probability).astype(float)
    edge = 0.0
    for name, probability in STYLES.items():
        columns[name] = ((u["style"] >= edge) & (u["style"] < edge + probability)).astype(float)
        edge += probability
    columns["fringe"] *= (1 - columns["bald"]) * (1 - columns["afro"]) * (1 - columns["bun"])
    columns["glasses"] = np.maximum(columns["glasses"], columns["shades"])

    # colors
    columns["skin_tone"] = u["skin_tone"]
    columns["undertone"] = 2 * u["undertone"] - 1
    for name, rgb in _colors(u, columns).items():
        columns |= {f"{name}_{channel}": rgb[:, k] for k, channel in enumerate("rgb")}

    values = np.stack([columns[name] for name in ATTRIBUTE_NAMES], axis=1)
    return HeadAttributes(torch.from_numpy(values))


def sample_angles(
    seed: int,
    indices: list[int] | range,
    views: int = 1,
    yaw_std: float = 0.3,
    pitch_std: float = 0.15,
) -> tuple[Tensor, Tensor]:
    """Draw the camera angles of the first `views` views of every head.

        yaw ~ N(0, yaw_std²),   pitch ~ N(0, pitch_std²)

    Args:
        seed: number of the data set.
        indices: head numbers.
        views: views per head; view v does not depend on their number.
        yaw_std: radians.
        pitch_std: radians; the pitch is clipped to [-1.2, 1.2], so the camera stays off the poles.

    Returns:
        (yaw [b views], pitch [b views]) in radians, float64.
    """
    normals = _camera_normals(seed, indices, views)
    yaw = yaw_std * normals[..., 0]
    pitch = np.clip(pitch_std * normals[..., 1], -1.2, 1.2)
    return torch.from_numpy(yaw), torch.from_numpy(pitch)


def _camera_normals(seed: int, indices: list[int] | range, views: int) -> np.ndarray:
    """[b views 2] standard normal numbers for (yaw, pitch)."""
    streams = [np.random.default_rng([seed, index, _CAMERA_STREAM]) for index in indices]
    return np.stack([stream.standard_normal((views, 2)) for stream in streams])


def _correlated(uniform: np.ndarray, normal: np.ndarray, correlation: float) -> np.ndarray:
    """Uniform numbers whose normal scores correlate with `normal` (a Gaussian copula)."""
    scores = torch.special.ndtri(torch.from_numpy(np.clip(uniform, 1e-9, 1 - 1e-9))).numpy()
    mixed = correlation * normal + math.sqrt(1 - correlation**2) * scores
    return torch.special.ndtr(torch.from_numpy(mixed)).numpy()


def _colors(u: dict[str, np.ndarray], columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All COLORS, [b 3] each, from the uniform draws."""
    # skin and lips
    tone = u["skin_tone"]
    undertone = columns["undertone"][:, None] * np.array([0.025, -0.004, -0.030])
    skin = _ramp(tone, _SKIN) + undertone
    makeup = u["lip_s"][:, None] * columns["makeup"][:, None]
    lip = skin * np.array([0.92, 0.62, 0.60]) + makeup * np.array([0.10, -0.16, -0.10])

    # hair; dark skin rarely comes with fair hair unless the hair is dyed
    melanin = np.maximum(u["melanin"], 0.95 - 1.5 * tone)
    red = (u["hair_red"][:, None] ** 3) * np.array([0.16, -0.01, -0.05])
    hair = _ramp(melanin, _HAIR) + red * (1.2 - melanin[:, None])
    silver = (0.42 + 0.36 * u["gray_level"][:, None]) * np.array([1.0, 0.985, 0.97])
    hair = np.where(columns["gray"][:, None] > 0, 0.25 * hair + 0.75 * silver, hair)
    dye = _hsv(u["dye"], 0.55 + 0 * tone, 0.35 + 0.4 * u["melanin"])
    hair = np.where(columns["dyed"][:, None] > 0, dye, hair)

    # background
    high_hue = u["back_h"] + 0.12 * (u["back_dh"] - 0.5)
    low_value = np.clip(0.25 + 0.65 * u["back_v"] + 0.5 * (u["back_dv"] - 0.5), 0.12, 0.95)

    colors = {
        "skin": skin,
        "lip": lip,
        "hair": hair,
        "iris": _ramp(u["iris_u"], _IRIS) * (0.8 + 0.4 * u["iris_v"][:, None]),
        "cloth": _hsv(u["cloth_h"], 0.10 + 0.72 * u["cloth_s"] ** 1.5, 0.15 + 0.72 * u["cloth_v"]),
        "stripe": _hsv(u["stripe_h"], 0.1 + 0.7 * u["stripe_s"], 0.15 + 0.75 * u["stripe_v"]),
        "frame": _hsv(u["frame_h"], 0.6 * u["frame_s"], 0.06 + 0.5 * u["frame_v"] ** 2),
        "metal": _ramp(u["metal_u"], _METAL),
        "back_low": _hsv(u["back_h"], 0.45 * u["back_s"] ** 1.5, low_value),
        "back_high": _hsv(high_hue, 0.45 * u["back_s"] ** 1.5, 0.25 + 0.65 * u["back_v"]),
    }
    return {name: np.clip(rgb, 0.02, 0.95) for name, rgb in colors.items()}


def _ramp(position: np.ndarray, stops: Sequence[tuple[float, float, float]]) -> np.ndarray:
    """Piecewise linear color ramp over [0, 1], [b 3]."""
    knots = np.linspace(0, 1, len(stops))
    channels = [np.interp(position, knots, channel) for channel in zip(*stops)]
    return np.stack(channels, axis=1)


def _hsv(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """HSV to RGB, [b 3]; the hue wraps around at 1."""
    wheel = [(hue * 6 + shift) % 6 for shift in (5, 3, 1)]
    channels = [value - value * saturation * np.clip(np.minimum(w, 4 - w), 0, 1) for w in wheel]
    return np.stack(channels, axis=1)
