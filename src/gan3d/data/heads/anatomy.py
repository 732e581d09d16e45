"""The anatomy of a head: from attributes to the coefficients of a `heads.scene.Scene`.

Parts are laid out in the untilted head frame (x right, y up, z out of the face). Parts that lie on
the face are placed by marching to its surface. The tilt of the head is applied to all coefficients
at the end. Everything is computed in float64, once per head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gan3d.data.heads.attributes import COLORS, HeadAttributes
from gan3d.data.heads.scene import (
    BODY,
    BUMPS,
    CYLINDERS,
    ELLIPSOIDS,
    FAR,
    PLANES,
    Scene,
    base_face,
    ellipsoid_distance,
    monomials,
)

_TILT_PIVOT = (0.0, -0.13, -0.02)


def build_scene(attributes: HeadAttributes) -> Scene:
    """Coefficients of a batch of heads.

    Args:
        attributes: b heads.

    Returns:
        Scene of b rows in float32.
    """
    layout = _Layout(len(attributes))
    a = _Columns(attributes)

    # the bare face, and where its surface is in front of eyes, nose and ears
    _face(layout, a)
    starts = [
        a.vector(a["eye_d"], a["eye_y"], 0.4),
        a.vector(0.0, a["eye_y"] + 0.004, 0.4),
        a.vector(0.0, _nose_tip_y(a), 0.4),
    ]
    eye_front, nose_root, nose_foot = _march(layout, starts, (0.0, 0.0, -1.0))
    front = eye_front[:, 2]
    ear_x = _march(layout, [a.vector(0.4, 0.01, -0.02)], (-1.0, 0.0, 0.0))[0][:, 0]

    # everything on it
    nose_tip = _nose(layout, a, nose_root, nose_foot)
    _ears(layout, a, ear_x)
    _eyes(layout, a, front)
    _decals(layout, a, nose_tip)
    _hair(layout, a)
    _body(layout, a)

    # glasses
    glasses_z = front + 0.027 + 0.004 * a["eye_s"]
    for side, sign in (("l", -1), ("r", 1)):
        layout.plane(f"gx_{side}", a.vector(1.0, 0.0, 0.0), -sign * (a["eye_d"] + 0.001))
    layout.plane("gy", a.vector(0.0, 1.0, 0.0), -(a["eye_y"] - 0.002))
    layout.plane("gz", a.vector(0.0, 0.0, 1.0), -glasses_z)

    numbers = _numbers(a) | _arms(layout, a, glasses_z)
    return Scene(
        rows=layout.coefficients(a).float(),
        heights=_heights(a).float()[:, None],
        numbers=torch.stack(list(numbers.values()), dim=1).float(),
        colors=torch.stack([attributes.color(name) for name in COLORS], dim=2).float(),
        names={name: column for column, name in enumerate(numbers)},
    )


class _Columns:
    """Attribute columns [b], and vectors [b 3] of columns and plain numbers."""

    def __init__(self, attributes: HeadAttributes) -> None:
        self.attributes = attributes

    def __getitem__(self, name: str) -> Tensor:
        return self.attributes[name]

    def vector(self, *parts: float | Tensor) -> Tensor:
        like = self["skull_w"]
        columns = [
            part if isinstance(part, Tensor) else torch.full_like(like, part) for part in parts
        ]
        return torch.stack(columns, dim=1)


# Entries of a symmetric 4x4 matrix in the order of `heads.scene.monomials`.
# fmt: off
_ENTRIES = (
    (0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2),
    (0, 3), (1, 3), (2, 3), (3, 3),
)
# fmt: on


class _Layout:
    """Symmetric 4x4 quadrics by name: value(p) = [p 1] Q [p 1]ᵀ, [b 4 4] each."""

    def __init__(self, num: int) -> None:
        self.num = num
        self.quadrics: dict[str, Tensor] = {}

    def ellipsoid(
        self, name: str, center: Tensor, radii: Tensor, axes: Tensor | None = None
    ) -> None:
        """Adds two quadrics, k0² = |p/r|² and k1² = |p/r²|².

        The rows of `axes` [b 3 3] are the ellipsoid's own x, y and z.
        """
        self.quadrics[name] = self._square(center, 1 / radii, axes)
        self.quadrics[name + ".gradient"] = self._square(center, 1 / radii**2, axes)

    def bump(self, name: str, center: Tensor, radii: Tensor, angle: Tensor | float = 0.0) -> None:
        """Adds u² = |p/r|², rotated by `angle` counter-clockwise in the frontal plane."""
        angle = torch.as_tensor(angle, dtype=center.dtype).expand(self.num)
        self.quadrics[name] = self._square(center, 1 / radii, _rotation("z", -angle))

    def plane(self, name: str, normal: Tensor, offset: Tensor | float) -> None:
        """Adds the linear form normal · p + offset."""
        q = normal.new_zeros(self.num, 4, 4)
        q[:, 3, :3] = q[:, :3, 3] = normal / 2
        q[:, 3, 3] = offset
        self.quadrics[name] = q

    def _square(self, center: Tensor, scale: Tensor, axes: Tensor | None) -> Tensor:
        local = torch.eye(3, dtype=center.dtype).expand(self.num, 3, 3) if axes is None else axes
        affine = torch.cat([local, -local @ center[:, :, None]], dim=2) * scale[:, :, None]  # b 3 4
        return affine.transpose(1, 2) @ affine

    def stack(self, names: tuple[str, ...], tilt: Tensor | None = None) -> Tensor:
        """Coefficients [b k 10] of the quadrics `names`.

        Args:
            names: k names.
            tilt: [b 4 4] maps query points to the head frame; None if they are given in it. The
                body does not tilt.
        """
        rows = []
        for name in names:
            q = self.quadrics[name]
            if tilt is not None and name.removesuffix(".gradient") not in BODY:
                q = tilt.transpose(1, 2) @ q @ tilt
            upper = [q[:, i, j] * (1 if i == j else 2) for i, j in _ENTRIES]
            rows.append(torch.stack(upper, dim=1))
        return torch.stack(rows, dim=1)

    def coefficients(self, a: _Columns) -> Tensor:
        """All rows of a Scene, [b k 10], with the head tilted about the neck."""
        turn = _rotation("z", -a["roll"]) @ _rotation("x", -a["nod"])
        pivot = torch.tensor(_TILT_PIVOT, dtype=turn.dtype)
        tilt = torch.eye(4, dtype=turn.dtype).repeat(self.num, 1, 1)
        tilt[:, :3, :3] = turn
        tilt[:, :3, 3] = pivot - turn @ pivot
        gradients = tuple(name + ".gradient" for name in ELLIPSOIDS)
        return self.stack((*ELLIPSOIDS, *gradients, *BUMPS, *CYLINDERS, *PLANES), tilt)


def _rotation(axis: str, angle: Tensor) -> Tensor:
    """Right-handed rotation about a coordinate axis, [b 3 3]."""
    c, s = angle.cos(), angle.sin()
    one, zero = torch.ones_like(angle), torch.zeros_like(angle)
    rows = {
        "x": (one, zero, zero, zero, c, -s, zero, s, c),
        "y": (c, zero, s, zero, one, zero, -s, zero, c),
        "z": (c, -s, zero, s, c, zero, zero, zero, one),
    }[axis]
    return torch.stack(rows, dim=1).reshape(-1, 3, 3)


def _march(
    layout: _Layout, starts: list[Tensor], direction: tuple[float, float, float]
) -> list[Tensor]:
    """Points [b 3] where rays from the starts [b 3] along `direction` hit the bare face."""
    names = ("skull", "face", "jaw", "chin", "cheek_l", "cheek_r")
    rows = layout.stack((*names, *(name + ".gradient" for name in names)))
    points = torch.stack(starts, dim=2)  # b 3 n
    step = torch.tensor(direction, dtype=points.dtype)[:, None]
    for _ in range(32):
        values = rows @ monomials(points)
        distances = ellipsoid_distance(values[:, : len(names)], values[:, len(names) :])
        face = base_face(dict(zip(names, distances.unbind(1), strict=True)))
        points = points + 0.85 * face[:, None] * step
    return list(points.unbind(2))


def _skull(a: _Columns) -> tuple[Tensor, Tensor]:
    """Center and radii of the skull, [b 3] each."""
    center = a.vector(0.0, 0.083, -0.012)
    radii = a.vector(0.151 * a["skull_w"], 0.182 * a["skull_h"], 0.186 * a["skull_d"])
    return center, radii


def _face(layout: _Layout, a: _Columns) -> None:
    """Skull, face, jaw, chin and cheeks."""
    layout.ellipsoid("skull", *_skull(a))
    width = 0.5 * (a["skull_w"] + a["jaw_w"])
    layout.ellipsoid("face", a.vector(0.0, -0.005, 0.048), a.vector(0.119 * width, 0.140, 0.122))

    drop = a["jaw_l"]
    jaw_radii = a.vector(0.100 * a["jaw_w"], 0.080, 0.106)
    layout.ellipsoid("jaw", a.vector(0.0, -0.062 * drop, 0.040), jaw_radii)

    size = 0.026 + 0.011 * a["chin"]
    chin = a.vector(0.0, -0.118 * drop - 0.006 * a["chin"], 0.112)
    layout.ellipsoid("chin", chin, a.vector(size * 1.25, size, size * 1.05))

    cheek_radii = a.vector(0.040, 0.036, 0.042) * (0.92 + 0.20 * a["cheek"])[:, None]
    for side, sign in (("l", -1), ("r", 1)):
        center = a.vector(sign * (0.066 * width), -0.022, 0.100 + 0.012 * a["cheek"])
        layout.ellipsoid(f"cheek_{side}", center, cheek_radii)


def _nose_tip_y(a: _Columns) -> Tensor:
    return -0.026 * a["nose_l"]


def _nose(layout: _Layout, a: _Columns, root: Tensor, foot: Tensor) -> Tensor:
    """Bridge, tip, wings and nostrils.

    Args:
        layout: receives them.
        a: attributes.
        root: upper end of the nose on the face, [b 3].
        foot: lower end of the nose on the face, [b 3].

    Returns:
        The tip, [b 3].
    """
    # a frame along the bridge
    root = root - a.vector(0.0, 0.0, 0.004)
    tip = foot + a.vector(a["nose_bend"], 0.0, 0.012 + 0.016 * a["nose_p"])
    length = (tip - root).norm(dim=1)
    up = (root - tip) / length[:, None]
    right = torch.linalg.cross(up, a.vector(0.0, 0.0, 1.0))
    right = right / right.norm(dim=1, keepdim=True)
    axes = torch.stack([right, up, torch.linalg.cross(right, up)], dim=1)

    # bridge
    slim = 0.75 + 0.25 * a["nose_w"]
    bridge_radii = a.vector(0.0135 * slim, 0.60 * length, 0.0150)
    layout.ellipsoid("nose", 0.5 * (root + tip), bridge_radii, axes)

    # tip
    size = 0.0160 + 0.0030 * a["nose_w"]
    tip_radii = a.vector(size * (0.85 + 0.2 * a["nose_w"]), size * 0.9, size)
    layout.ellipsoid("nose_tip", tip - a.vector(0.0, 0.0, size * 0.85), tip_radii)

    # wings and nostrils
    for side, sign in (("l", -1), ("r", 1)):
        spread = sign * (0.0165 * a["nose_w"])
        wing = tip + a.vector(spread, -0.003, -0.024)
        layout.ellipsoid(f"wing_{side}", wing, a.vector(0.0098 * slim, 0.0105, 0.0145))
        nostril = tip + a.vector(0.58 * spread, -0.0165, -0.017)
        layout.ellipsoid(f"nostril_{side}", nostril, a.vector(0.0056 * slim, 0.0065, 0.0085))
    return tip


def _ears(layout: _Layout, a: _Columns, ear_x: Tensor) -> None:
    """Ears at distance `ear_x` [b] from the middle, and the earring."""
    size = a["ear_s"]
    for side, sign in (("l", -1), ("r", 1)):
        # The rear edge stands off the head.
        outward = _rotation("y", sign * (0.35 + 0.55 * a["ear_out"]))
        axes = outward @ _rotation("x", torch.full_like(size, 0.18))
        center = a.vector(sign * (ear_x + 0.004 + 0.006 * a["ear_out"]), 0.006, -0.026)
        layout.ellipsoid(f"ear_{side}", center, a.vector(0.0125, 0.044 * size, 0.028 * size), axes)
        hollow = center + torch.einsum("bji,bj->bi", axes, a.vector(sign * 0.013, 0.004, 0.003))
        concha_radii = a.vector(0.0105, 0.029 * size, 0.0165 * size)
        layout.ellipsoid(f"concha_{side}", hollow, concha_radii, axes)

    lobe = a.vector(ear_x + 0.010, 0.006 - 0.045 * size - 0.010 - 0.012 * a["ring_drop"], -0.018)
    away = 40 * (1 - a["earring"])
    radius = 0.0085 + 0.003 * a["ring_drop"]
    ring_radii = a.vector(radius, radius * (1 + a["ring_drop"]), radius)
    layout.ellipsoid("ring", lobe - a.vector(0.0, away, 0.0), ring_radii)


def _eyes(layout: _Layout, a: _Columns, front: Tensor) -> None:
    """Eyeballs, and the axes of lids, gaze and brows; `front` [b] is the z of the face there."""
    radius = 0.0335 * a["eye_s"]
    for side, sign in (("l", -1), ("r", 1)):
        # eyeball
        x = sign * a["eye_d"]
        center = a.vector(x, a["eye_y"], front - 0.74 * radius)
        layout.ellipsoid(f"eye_{side}", center, a.vector(radius, radius, radius))

        # lids
        slant = sign * a["eye_slant"]
        along = a.vector(slant.cos(), slant.sin(), 0.0)
        above = a.vector(-slant.sin(), slant.cos(), 0.0)
        layout.plane(f"ex_{side}", along, -(along * center).sum(1))
        layout.plane(f"ey_{side}", above, -(above * center).sum(1))

        # gaze
        look = a.vector(a["gaze_x"].sin(), a["gaze_y"].sin(), 1.0)
        look = look / look.norm(dim=1, keepdim=True) / radius[:, None]
        layout.plane(f"gaze_{side}", look, -(look * center).sum(1))

        # brows
        height = a["eye_y"] + a["brow_h"] + sign * a["brow_asym"]
        tilt = -sign * a["brow_tilt"]
        outward = a.vector(sign * tilt.cos(), sign * tilt.sin(), 0.0)
        upward = a.vector(-tilt.sin(), tilt.cos(), 0.0)
        middle = a.vector(x * 1.04, height, 0.0)
        layout.plane(f"bx_{side}", outward, -(outward * middle).sum(1))
        layout.plane(f"by_{side}", upward, -(upward * middle).sum(1))


def _decals(layout: _Layout, a: _Columns, tip: Tensor) -> None:
    """Bumps and color patches on the face, and the axes of the mouth; `tip` [b 3] of the nose."""
    deep = 0.5  # long enough in z that only the frontal gate limits a decal

    # around the eyes and on the cheeks
    for side, sign in (("l", -1), ("r", 1)):
        x, y = sign * a["eye_d"], a["eye_y"]
        brow_y = y + a["brow_h"] - 0.004
        layout.bump(f"ridge_{side}", a.vector(x * 0.95, brow_y, 0.15), a.vector(0.026, 0.009, deep))
        layout.bump(f"socket_{side}", a.vector(x, y, 0.15), a.vector(0.026, 0.019, deep))
        layout.bump(f"bag_{side}", a.vector(x, y - 0.027, 0.15), a.vector(0.018, 0.005, deep))
        fold = a.vector(sign * (0.040 + 0.004 * a["smile"]), -0.048, 0.15)
        layout.bump(f"fold_{side}", fold, a.vector(0.0055, 0.020, deep), sign * 0.55)
        blush = a.vector(sign * 0.066, -0.030, 0.12)
        layout.bump(f"blush_{side}", blush, a.vector(0.024, 0.020, 0.08))
        layout.bump(f"shadow_{side}", a.vector(x, y + 0.016, 0.15), a.vector(0.020, 0.009, deep))

    # in the middle
    mouth_y = a["mouth_y"] - 0.073
    layout.bump("philtrum", a.vector(0.0, mouth_y + 0.024, 0.15), a.vector(0.0045, 0.010, deep))
    dimple = a.vector(0.0, -0.118 * a["jaw_l"] + 0.003, 0.15)
    layout.bump("dimple", dimple, a.vector(0.005, 0.010, deep))
    mole = a.vector(a["mole_x"], a["mole_y"] - 40 * (1 - a["mole"]), 0.15)
    layout.bump("mole", mole, a.vector(0.0042, 0.0042, deep))
    layout.bump("moustache", a.vector(0.0, mouth_y + 0.020, 0.15), a.vector(0.026, 0.0075, 0.06))
    layout.bump("blush_nose", tip, a.vector(0.016, 0.014, 0.03))

    # axes of the mouth
    tilt = a["mouth_tilt"]
    along = a.vector(tilt.cos(), tilt.sin(), 0.0)
    above = a.vector(-tilt.sin(), tilt.cos(), 0.0)
    middle = a.vector(0.25 * a["nose_bend"], mouth_y, 0.0)
    layout.plane("mx", along, -(along * middle).sum(1))
    layout.plane("my", above, -(above * middle).sum(1))

    # axes of the head
    layout.plane("hx", a.vector(1.0, 0.0, 0.0), 0.0)
    layout.plane("hy", a.vector(0.0, 1.0, 0.0), 0.0)
    layout.plane("hz", a.vector(0.0, 0.0, 1.0), 0.0)


def _heights(a: _Columns) -> Tensor:
    """How far each bump lifts the skin, [b len(BUMPS)]; 0 for the beard and color patches."""
    one = torch.ones_like(a["smile"])
    smile = a["smile"].clamp_min(0)
    lift = {
        "ridge": 0.0035 * one,
        "socket": -0.0048 * one,
        "fold": -0.0012 - 0.0028 * smile,
        "bag": 0.0007 * one,
        "philtrum": -0.0016 * one,
        "dimple": -0.0022 * (a["chin"] - 0.7),
        "mole": 0.0022 * one,
    }
    names = [name.removesuffix("_l").removesuffix("_r") for name in BUMPS]
    return torch.stack([lift.get(name, 0 * one) for name in names], dim=1)


def _hair(layout: _Layout, a: _Columns) -> None:
    """Cap, quiff, knot (bun or ponytail) and the curtain of long hair.

    Parts that a head does not have are moved 40 units away.
    """
    # cap
    center, radii = _skull(a)
    layout.ellipsoid("cap", center, radii + 0.003)

    # quiff
    short = (1 - a["bald"]) * (1 - a["afro"]) * (1 - a["bun"])
    lift = (a["quiff"] * 1.6 - 0.6).clamp_min(0) * short * (1 - a["fringe"])
    quiff = a.vector(0.035 * a["sweep"], 0.212 * a["skull_h"] + 0.016 * lift, 0.085)
    away = 40.0 * (lift <= 0).double()
    layout.ellipsoid("quiff", quiff - a.vector(0.0, away, 0.0), a.vector(0.085, 0.046, 0.070))

    # knot
    bun, tail = a["bun"], a["ponytail"]
    size = 0.052 + 0.022 * a["hair_th"]
    knot = a.vector(
        0.03 * a["sweep"],
        bun * (0.20 + 0.085 * a["hair_side"]) - 0.06 * tail,
        bun * (-0.13 + 0.06 * a["hair_side"]) - 0.235 * tail,
    )
    away = 40.0 * (1 - bun) * (1 - tail)
    long_radii = a.vector(0.05, 0.10 + 0.06 * a["hair_len"], 0.05)
    round_radii = torch.stack([size, 0.85 * size, size], dim=1)
    radii_knot = torch.where(tail[:, None] > 0, long_radii, round_radii)
    pitch = _rotation("x", -0.30 * tail)
    layout.ellipsoid("knot", knot - a.vector(0.0, away, 0.0), radii_knot, pitch)

    # curtain, and the cylinder cut out of it in front of the face; both endless in y
    width = radii[:, 0] * 1.05 + 0.004 + 0.020 * a["hair_th"]
    endless = torch.full_like(width, 1e4)
    outer = a.vector(width, endless, 0.168 + 0.012 * a["hair_th"])
    layout.quadrics["curtain"] = layout._square(a.vector(0.0, 0.0, -0.025), 1 / outer, None)
    inner = a.vector(0.096 + 0.024 * (1 - a["hair_side"]), endless, 0.190)
    middle = a.vector(0.0, 0.0, 0.165 - 0.03 * (1 - a["hair_side"]))
    layout.quadrics["clear"] = layout._square(middle, 1 / inner, None)


def _body(layout: _Layout, a: _Columns) -> None:
    """Neck, collar, shoulders and neckline."""
    width = a["neck_w"]
    neck_radii = a.vector(0.070 * width, 0.30, 0.072 * width)
    layout.ellipsoid("neck", a.vector(0.0, -0.20, -0.020), neck_radii)
    collar_radii = a.vector(0.070 * width + 0.014, 0.32, 0.072 * width + 0.014)
    layout.ellipsoid("collar", a.vector(0.0, -0.20, -0.018), collar_radii)
    shoulder_radii = a.vector(0.33 * a["shoulder"], 0.195, 0.150)
    layout.ellipsoid("shoulders", a.vector(0.0, -0.445, -0.045), shoulder_radii)
    depth = 0.055 + 0.02 * a["hair_side"]
    scoop = a.vector(0.0, -0.235 - 40 * a["collar"], 0.055)
    layout.ellipsoid("scoop", scoop, a.vector(0.085 * width, depth, 0.14))
    layout.plane("wy", a.vector(0.0, 1.0, 0.0), 0.0)


def _numbers(a: _Columns) -> dict[str, Tensor]:
    """All other numbers of the scene, [b] each. Prefix i: inverse of a length."""
    afro, bald, fringe = a["afro"], a["bald"], a["fringe"]
    lip = a["lip_t"]
    rim_a, rim_b = 0.0405 * a["rim_w"], 0.0310 * a["rim_h"]
    opening = (0.0055 + 0.0105 * a["eye_open"]) * a["eye_s"] * (1 - 0.12 * a["smile"].clamp_min(0))
    curly = a["curl"] * (1 - 0.4 * afro)
    inner = a["eye_d"] + 0.001 - rim_a
    # fmt: off
    numbers = {
        # collar and mouth
        "neckline": torch.where(a["collar"] > 0, a["neckline"] + 0.02, torch.full_like(lip, -0.33)),
        "mouth_iw": 1 / (0.043 * a["mouth_w"] * (1 + 0.10 * a["smile"])),
        "mouth_curve": 0.019 * a["smile"], "mouth_gap": 0.017 * a["mouth_open"],
        "lip_iup": 1 / (0.0075 * lip), "lip_ilow": 1 / (0.0088 * lip),
        # brows and eyes
        "brow_it": 1 / (0.0052 * a["brow_t"]),
        "open_l": opening * (1 - a["eye_asym"]), "open_r": opening * (1 + a["eye_asym"]),
        "eye_iw": 1 / (0.0290 * a["eye_s"]),
        # beard and hair
        "beard": a["beard"], "afro": afro, "goatee": a["goatee"],
        "beard_y": a["mouth_y"] - 0.092 + 0.012 * a["beard_len"], "beard_len": a["beard_len"],
        "part_x": a["part_x"],
        "sweep_lift": 0.008 * a["sweep"] * (1 - afro), "sweep_tilt": 0.22 * a["sweep"],
        "thick": 0.006 + 0.020 * a["hair_th"] + afro * (0.020 + 0.020 * a["hair_th"]),
        "flare": (0.16 * a["hair_flare"]).clamp_min(-0.02) * (1 - bald) + 0.10 * afro,
        "groove": 0.006 * (1 - afro),
        "wave_f": 30 + 45 * curly + afro * (35 + 20 * a["curl"]),
        "phase": 40 * a["part_x"],
        "wave_a": 0.0012 + 0.0045 * curly**2 + 0.0045 * afro,
        "hairline_y": 0.055 + a["hairline"],
        "fringe_drop": fringe * (0.030 + 0.034 * a["fringe_len"]),
        "recede_up": (1 - fringe) * 3.2 * a["recede"],
        "sideburn": 0.055 * a["hair_side"] * (1 - a["long"]),
        "bald_far": FAR * bald,
        "long": a["long"], "long_flare": 0.25 + 0.9 * a["hair_flare"],
        "long_end": -0.10 - 0.22 * a["hair_len"], "long_slant": 0.30 * a["sweep"],
        # glasses
        "glasses": a["glasses"],
        "rim_ia": 1 / rim_a, "rim_ib": 1 / rim_b, "rim_mean": 0.5 * (rim_a + rim_b),
        "rim_square": a["rim_square"], "clear_lens": FAR * (1 - a["shades"]),
        "bridge_x": inner.clamp_min(0.002), "hinge_x": a["eye_d"] + rim_a, "arm_y": 0.45 * rim_b,
    }
    unchanged = (
        "freckles", "blush", "makeup", "stripes", "stripe_f",
        "key_az", "key_el", "key_i", "ambient", "warmth",
    )
    # fmt: on
    return numbers | {name: a[name] for name in unchanged}


def _arms(layout: _Layout, a: _Columns, glasses_z: Tensor) -> dict[str, Tensor]:
    """Numbers of the arms of the glasses, [b] each.

        x = back + (front - back) (1 - s)²,   s from 0 at the rim to 1 over the ear

    `front` is far enough out for the arms to clear the temple, but at most back + 0.02.
    """
    y = a["eye_y"] - 0.002
    length = glasses_z + 0.015
    places = (0.2, 0.35, 0.5, 0.65, 0.9, 1.0)
    starts = [a.vector(0.4, y, glasses_z - s * length) for s in places]
    temple = [point[:, 0] + 0.006 for point in _march(layout, starts, (-1.0, 0.0, 0.0))]
    back = torch.maximum(temple[-1], temple[-2])
    front = a["eye_d"] + 0.0405 * a["rim_w"] + 0.003
    for s, needed in zip(places[:4], temple, strict=False):
        front = torch.maximum(front, back + (needed - back) / (1 - s) ** 2)
    front = torch.minimum(front, back + 0.02)
    return {
        "arm_back": back,
        "arm_bend": front - back,
        "arm_front": front,
        "arm_il": 1 / length,
        "arm_l": length,
    }
