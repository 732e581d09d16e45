"""The signed-distance scene of a head: distances and parts at points.

Almost every part is a quadric ``q(p) = [x² y² z² xy xz yz x y z 1] · coefficients`` (an ellipsoid,
a bump, a plane). One batched matrix product evaluates all of them at all points, and the tilt of
the head is folded into the coefficients. Points come in tiles, [t 3 l]: t tiles of l lanes; a tile
belongs to one head. The result of a tile does not depend on the other tiles, so a picture does not
depend on the batch it is rendered in.

Convention: head units (world units / HEAD_SCALE); x is image right in the frontal view, y is up,
the face looks along +z. Distances are bounds, not exact: the length of their gradient is about 0.5
to 1.4 near the surface, so a ray must step 0.9 of them or less.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

HEAD_SCALE = 1.16
# fmt: off
ELLIPSOIDS = (
    "skull", "face", "jaw", "chin", "cheek_l", "cheek_r",
    "nose", "nose_tip", "wing_l", "wing_r", "nostril_l", "nostril_r",
    "ear_l", "ear_r", "concha_l", "concha_r", "eye_l", "eye_r",
    "cap", "quiff", "knot", "ring", "neck", "shoulders", "collar", "scoop",
)
BUMPS = (
    "ridge_l", "ridge_r", "socket_l", "socket_r", "fold_l", "fold_r", "bag_l", "bag_r",
    "philtrum", "dimple", "mole", "moustache", "blush_l", "blush_r", "blush_nose",
    "shadow_l", "shadow_r",
)
CYLINDERS = ("curtain", "clear")
# Coordinates: head, mouth, eyes, brows, glasses, gaze (cosine to it), and y of the world.
PLANES = (
    "hx", "hy", "hz", "mx", "my", "ex_l", "ex_r", "ey_l", "ey_r",
    "bx_l", "bx_r", "by_l", "by_r", "gx_l", "gx_r", "gy", "gz",
    "gaze_l", "gaze_r", "wy",
)
# fmt: on
BODY = ("neck", "shoulders", "collar", "scoop", "wy")  # these do not tilt with the head
_COMPILED: ContextVar[bool] = ContextVar("compiled", default=False)
FAR = 1e3  # added to a distance to remove a part


@dataclass(frozen=True)
class Scene:
    """Coefficients of a batch of heads, or of tiles of heads.

    Args:
        rows: [t k 10] quadric coefficients in the order ELLIPSOIDS, their gradients, BUMPS,
            CYLINDERS, PLANES.
        heights: [t 1 len(BUMPS)] how far each bump lifts the skin.
        numbers: [t n] plain numbers, with the columns of `names`.
        colors: [t 3 c] display colors in the order `heads.attributes.COLORS`.
        names: column of every number in `numbers`.
    """

    rows: Tensor
    heights: Tensor
    numbers: Tensor
    colors: Tensor
    names: dict[str, int] = field(repr=False)

    def select(self, index: Tensor) -> Scene:
        """The scene that has row `index[t]` of this one at tile t."""
        return Scene(
            self.rows[index],
            self.heights[index],
            self.numbers[index],
            self.colors[index],
            self.names,
        )

    def __getitem__(self, name: str) -> Tensor:
        """Number `name`, [t 1], which broadcasts over the lanes of a tile."""
        column = self.names[name]
        return self.numbers[:, column : column + 1]


@dataclass(frozen=True)
class Parts:
    """Distances to the parts at points, and the masks that color the skin.

    Args:
        skin, eye, hair, cloth, frame, metal: [t l] distance to each material, head units.
        masks: [t l] each, in [0, 1].
        gaze: [t 2 l] cosine of the angle to the gaze, left and right eye.
        local: [t 3 l] coordinates in the untilted head frame.
        height: [t l] y in the world frame.
    """

    skin: Tensor
    eye: Tensor
    hair: Tensor
    cloth: Tensor
    frame: Tensor
    metal: Tensor
    masks: dict[str, Tensor]
    gaze: Tensor
    local: Tensor
    height: Tensor

    def distance(self) -> Tensor:
        """Distance to the nearest part, [t l]."""
        head = torch.minimum(torch.minimum(self.skin, self.eye), self.hair)
        return torch.minimum(torch.minimum(head, self.cloth), torch.minimum(self.frame, self.metal))


def bump(squared: Tensor) -> Tensor:
    """(1 - u²/4)⁴ for u² < 4, else 0: the shape of a Gaussian, with compact support and no exp."""
    return torch.square_(torch.square_((1 - 0.25 * squared).clamp_(0, 1)))


def smooth_min(a: Tensor, b: Tensor, k: float) -> Tensor:
    """Polynomial smooth minimum: differs from min(a, b) only where |a - b| < k, by k/4 at most."""
    blend = (k - (a - b).abs_()).clamp_min_(0)
    return torch.addcmul(torch.minimum(a, b), blend, blend, value=-0.25 / k)


def smooth_max(a: Tensor, b: Tensor, k: float) -> Tensor:
    """Polynomial smooth maximum."""
    blend = (k - (a - b).abs_()).clamp_min_(0)
    return torch.addcmul(torch.maximum(a, b), blend, blend, value=0.25 / k)


def smoothstep(low: float, high: float, value: Tensor) -> Tensor:
    """0 below `low`, 1 above `high`, cubic in between."""
    t = ((value - low) * (1 / (high - low))).clamp_(0, 1)
    return t * t * (3 - 2 * t)


def monomials(points: Tensor) -> Tensor:
    """Monomials [x² y² z² xy xz yz x y z 1] of points, [t 3 l] -> [t 10 l]."""
    x, y, z = points.unbind(1)
    if torch.compiler.is_compiling():  # one pass, without a tensor in between
        rows = x * x, y * y, z * z, x * y, x * z, y * z, x, y, z, torch.ones_like(x)
        return torch.stack(rows, 1)
    out = points.new_empty(points.shape[0], 10, points.shape[2])
    torch.mul(points, points, out=out[:, 0:3])
    torch.mul(x, y, out=out[:, 3])
    torch.mul(x, z, out=out[:, 4])
    torch.mul(y, z, out=out[:, 5])
    out[:, 6:9] = points
    out[:, 9] = 1
    return out


def ellipsoid_distance(value: Tensor, gradient: Tensor) -> Tensor:
    """Distance bound k0 (k0 - 1) / k1 with k0 = |p/r|, k1 = |p/r²| (Inigo Quilez).

    Args:
        value: k0².
        gradient: k1².
    """
    k0 = (value + 1e-12).clamp_min_(0).sqrt_()
    inverse_k1 = (gradient + 1e-9).clamp_min_(1e-9).rsqrt_()
    return (value - k0).mul_(inverse_k1)


def base_face(distances: dict[str, Tensor]) -> Tensor:
    """Distance to skull, jaw and cheeks, without nose, eyes and ears."""
    face = smooth_min(distances["skull"], distances["face"], 0.06)
    face = smooth_min(face, distances["jaw"], 0.05)
    face = smooth_min(face, distances["chin"], 0.045)
    return smooth_min(face, torch.minimum(distances["cheek_l"], distances["cheek_r"]), 0.035)


def measure(scene: Scene, points: Tensor, paint: bool = True) -> Parts:
    """Measures the distances to all parts.

    Args:
        scene: one row per tile.
        points: [t 3 l] in head units.
        paint: compute all masks; False omits from `Parts.masks` those that only color the skin.

    Returns:
        Parts of [t l].
    """
    # all quadrics at all points, by group
    values = torch.bmm(scene.rows, monomials(points))
    e, b, c = len(ELLIPSOIDS), len(BUMPS), len(CYLINDERS)
    solids = ellipsoid_distance(values[:, :e], values[:, e : 2 * e])
    solid = dict(zip(ELLIPSOIDS, solids.unbind(1), strict=True))
    bumps = bump(values[:, 2 * e : 2 * e + b])
    cylinder = dict(zip(CYLINDERS, values[:, 2 * e + b : 2 * e + b + c].unbind(1), strict=True))
    planes = values[:, 2 * e + b + c :]
    plane = dict(zip(PLANES, planes.unbind(1), strict=True))

    def pair(name: str) -> Tensor:
        first = PLANES.index(name + "_l")
        return planes[:, first : first + 2]

    # skin of head and chest
    first = ELLIPSOIDS.index("eye_l")
    eyes = solids[:, first : first + 2]
    skin, masks = _skin(scene, solid, bumps, plane, pair, eyes, paint)
    chest = smooth_min(solid["neck"], solid["shoulders"] + 0.006, 0.03)
    skin = smooth_min(skin, chest, 0.02)

    # clothes
    collar = smooth_max(solid["collar"], plane["wy"] - scene["neckline"], 0.008)
    cloth = smooth_min(solid["shoulders"], collar, 0.02)
    cloth = smooth_max(cloth, -solid["scoop"], 0.008)

    return Parts(
        skin=skin,
        eye=torch.minimum(eyes[:, 0], eyes[:, 1]),
        hair=_hair(scene, solid, cylinder, plane),
        cloth=cloth,
        frame=_glasses(scene, plane, pair),
        metal=solid["ring"],
        masks=masks,
        gaze=pair("gaze"),
        local=planes[:, 0:3],
        height=plane["wy"],
    )


def distance(scene: Scene, points: Tensor) -> Tensor:
    """Distance bound [t l] to the head at points [t 3 l]; negative inside."""
    if not _COMPILED.get():
        return measure(scene, points, paint=False).distance()
    # torch compiles a size of 1 on its own: such tiles go twice.
    tensors = [scene.rows, scene.heights, scene.numbers, points]
    if len(points) == 1:
        tensors = [tensor.repeat(2, *[1] * (tensor.ndim - 1)) for tensor in tensors]
    return _program(tuple(scene.names))(*tensors)[: len(points)]


@contextmanager
def compiled(on: bool) -> Iterator[None]:
    """`distance` as one compiled pass over the points, to rounding the same, if `on`.

    The first call takes about a minute, later programs find the result in torch's cache.

    Raises:
        ValueError: there is no C++ compiler.
    """
    if on and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))):
        raise ValueError(
            "there is no C++ compiler (neither g++ nor clang++ is in PATH), which compile needs; "
            "install one (apt install g++), or leave compile out"
        )
    token = _COMPILED.set(on)
    try:
        yield
    finally:
        _COMPILED.reset(token)


@cache
def _program(names: tuple[str, ...]) -> Callable[..., Tensor]:
    """The compiled `distance` of scenes with some names of numbers."""
    columns = {name: column for column, name in enumerate(names)}

    def of_tensors(rows: Tensor, heights: Tensor, numbers: Tensor, points: Tensor) -> Tensor:
        scene = Scene(rows, heights, numbers, numbers, columns)  # no colors are needed
        return measure(scene, points, paint=False).distance()

    return torch.compile(of_tensors, dynamic=True, fullgraph=True)


def _skin(
    scene: Scene,
    solid: dict[str, Tensor],
    bumps: Tensor,
    plane: dict[str, Tensor],
    pair: Callable[[str], Tensor],
    eyes: Tensor,
    paint: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Distance to the bare head with lids, lips, brows and beard, and the masks that color it.

    Features of the face are decals: bumps in (x, y) that displace the skin where z > 0.02,
    regardless of the skull below.
    """
    # solids
    face = base_face(solid)
    nose = smooth_min(solid["nose"], solid["nose_tip"], 0.020)
    nose = smooth_min(nose, torch.minimum(solid["wing_l"], solid["wing_r"]), 0.010)
    face = smooth_min(face, nose, 0.022)
    face = smooth_max(face, -torch.minimum(solid["nostril_l"], solid["nostril_r"]), 0.005)
    ears = torch.minimum(solid["ear_l"], solid["ear_r"])
    ears = smooth_max(ears, -torch.minimum(solid["concha_l"], solid["concha_r"]), 0.006)
    face = smooth_min(face, ears, 0.010)

    # decals
    front = smoothstep(0.02, 0.08, plane["hz"])
    lift = dict(zip(BUMPS, bumps.unbind(1), strict=True))
    mouth_lift, masks = _mouth(scene, plane["mx"], plane["my"], paint)
    brow = _brows(scene, pair("bx"), pair("by"))
    beard = _beard(scene, plane, lift["moustache"]) * (1 - masks["near_mouth"])
    beard_lift = (0.002 + 0.010 * scene["beard_len"]) * beard * beard * beard
    displacement = torch.bmm(scene.heights, bumps)[:, 0]
    displacement = displacement + mouth_lift + 0.0035 * brow + beard_lift
    face = torch.addcmul(face, front, displacement, value=-1)

    # lids
    lids, lash = _lids(scene, pair("ex"), pair("ey"), eyes, paint)
    face = smooth_min(face, lids, 0.012)

    if paint:
        masks["beard"] = beard
        for name, mask in (("brow", brow), ("mole", lift["mole"]), ("lash", lash)):
            masks[name] = mask * front
        masks["lip"] = masks["lip"] * front
        masks["inside"] = masks["inside"] * front
        cheeks = torch.maximum(lift["blush_l"], lift["blush_r"])
        masks["blush"] = torch.maximum(cheeks, lift["blush_nose"]) * front
        masks["shadow"] = torch.maximum(lift["shadow_l"], lift["shadow_r"]) * front
    return face, masks


def _mouth(scene: Scene, mx: Tensor, my: Tensor, paint: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Lips, the line between them, and an opening with teeth: displacement and masks."""
    e2 = (mx * scene["mouth_iw"]).square_()
    yc = my - scene["mouth_curve"] * (e2 - 0.35)
    gap = scene["mouth_gap"] * (1 - e2).clamp_min_(0)
    ends = e2 * e2 * 1.6
    beyond = yc.abs() - gap

    # The upper lip dips in the middle (the cupid's bow).
    upper = bump(((yc - gap) * scene["lip_iup"] - 0.9 + 0.30 * bump(60 * e2)).square_() + ends)
    lower = bump(((yc + gap) * scene["lip_ilow"] + 0.9).square_() + ends)
    line = bump((beyond * 420).square_() + 1.3 * e2) * (beyond > 0) + (beyond <= 0) * bump(1.3 * e2)
    inside = ((gap - yc.abs()) * 250 + 0.5).clamp_(0, 1) * ((gap * 500 - 0.5).clamp_(0, 1))
    lips = torch.maximum(upper, lower)

    lift = 0.0065 * upper + 0.0085 * lower - 0.0035 * line - 0.012 * inside
    masks = {"near_mouth": (lips * 3).clamp_(0, 1)}
    if paint:
        masks["lip"] = (lips * 2.4 - 0.5).clamp_(0, 1)
        masks["line"] = line * (1 - inside)
        masks["inside"] = inside
        above = ((yc - 0.15 * gap) * 400).clamp_(0, 1)
        masks["teeth"] = inside * above * smoothstep(0.25, 0.5, 1 - e2)
    return lift, masks


def _brows(scene: Scene, bx: Tensor, by: Tensor) -> Tensor:
    """Mask of both eyebrows, [t 2 l] -> [t l], from outward x and height above the brow line."""
    u2 = (bx * 28.0).square()  # half length 0.036
    arched = by + 4.0 * bx * bx - 0.003
    thickness = scene["brow_it"][:, None] * (1 + 6 * bx.clamp(-0.03, 0.05))
    marks = bump((arched * thickness).square_() + u2 * u2)
    return (torch.maximum(marks[:, 0], marks[:, 1]) * 2.2 - 0.2).clamp_(0, 1)


def _beard(scene: Scene, plane: dict[str, Tensor], moustache: Tensor) -> Tensor:
    """Mask [t l] of the beard.

    It covers the upper lip, and what lies in front of the neck and below a line from chin to ears.
    """
    x, y, z = plane["hx"], plane["hy"], plane["hz"]
    line = scene["beard_y"] + 0.80 * (0.130 - z).clamp_min(0)
    below = ((line - y) * 55 + 0.5).clamp_(0, 1)
    before_neck = ((z + 0.55 * (y + 0.06)) * 35).clamp_(0, 1)
    chin_only = 1 - scene["goatee"] * ((x.abs() - 0.030) * 45).clamp_(0, 1)
    full = torch.maximum(below * before_neck * chin_only, (moustache * 1.8).clamp_(0, 1))
    return full * scene["beard"]


def _lids(scene: Scene, ex: Tensor, ey: Tensor, eyes: Tensor, paint: bool) -> tuple[Tensor, Tensor]:
    """Eyelids: a shell over each eyeball with an almond-shaped slit.

    Returns:
        (distance [t l], mask of the lash line [t l]); the mask is meaningless without `paint`.
    """
    opening = torch.cat([scene["open_l"], scene["open_r"]], dim=1)[:, :, None]
    across = (ex * scene["eye_iw"][:, None]).square_()
    above = ey - 0.0015 - opening * 0.10
    slit = opening * (1 - across)
    outside = above.abs() - slit  # positive on the lid
    lids = smooth_max(eyes - 0.0032, -outside * 0.8, 0.0025)
    closed = torch.minimum(lids[:, 0], lids[:, 1])
    if not paint:
        return closed, closed
    lash = bump((outside * 300 - 0.4).square()) * (above > 0) * (across < 1.3)
    return closed, torch.maximum(lash[:, 0], lash[:, 1])


def _hair(
    scene: Scene, solid: dict[str, Tensor], cylinder: dict[str, Tensor], plane: dict[str, Tensor]
) -> Tensor:
    """Distance [t l] to the hair: a cap over the skull, joined with quiff, knot and curtain."""
    x, y, z = plane["hx"], plane["hy"], plane["hz"]

    # cap with parting and waves, and the quiff
    from_part = (x - scene["part_x"]) * 20
    side = from_part * torch.rsqrt(1 + from_part * from_part)
    crown = smoothstep(-0.12, 0.02, z)
    frequency = scene["wave_f"]
    waves = torch.sin(frequency * (x + 0.6 * z) + scene["phase"])
    waves = waves.mul_(torch.sin(frequency * (0.8 * y - 0.5 * z + 0.3 * x))) * scene["wave_a"]
    groove = bump((from_part * 4.5).square()) * crown * scene["groove"]
    sweep = scene["sweep_lift"] * side * crown
    thick = scene["thick"] + sweep + scene["flare"] * (0.14 - y).clamp_min(0)
    cap = solid["cap"] - thick - waves + groove
    cap = smooth_min(cap, solid["quiff"] - 0.7 * waves, 0.05)

    # hairline
    front = smoothstep(0.05, 0.13, z)
    hairline = (
        scene["hairline_y"] + 0.60 * z + 0.12 * z.clamp_max(0) + scene["sweep_tilt"] * x * front
    )
    hairline = hairline - scene["fringe_drop"] * front + scene["recede_up"] * (x * x) * front
    hairline = hairline - scene["sideburn"] * bump(((z - 0.035) * 40).square_())
    hair = smooth_max(cap, (hairline - y + 0.4 * waves) * 0.85, 0.022)

    # knot, and none of it on bald heads
    hair = smooth_min(hair, solid["knot"] - 0.5 * waves, 0.015) + scene["bald_far"]

    # curtain, in the tiles of heads with long hair
    if torch.compiler.is_compiling():  # in all tiles: a program does not depend on numbers
        curtain = _curtain(scene, cylinder, x, y, waves)
        return torch.where(scene["long"] != 0, smooth_min(hair, curtain, 0.03), hair)
    long = scene["long"][:, 0].nonzero()[:, 0]
    if len(long):
        cylinder = {name: values[long] for name, values in cylinder.items()}
        curtain = _curtain(scene.select(long), cylinder, x[long], y[long], waves[long])
        hair = hair.index_copy(0, long, smooth_min(hair[long], curtain, 0.03))
    return hair


def _curtain(
    scene: Scene, cylinder: dict[str, Tensor], x: Tensor, y: Tensor, waves: Tensor
) -> Tensor:
    """Distance [t l] to long hair: a flaring elliptic cylinder, open in front of the face."""
    widening = 1 + scene["long_flare"] * (0.10 - y).clamp_min(0)
    outer = (cylinder["curtain"].clamp_min(1e-9).sqrt() / widening - 1) * 0.15 - waves
    inner = (cylinder["clear"].clamp_min(1e-9).sqrt() - 1) * 0.12
    bottom = scene["long_end"] + scene["long_slant"] * x + 1.5 * waves - y
    curtain = smooth_max(outer, -inner, 0.03)
    return smooth_max(curtain, torch.maximum(bottom, y - 0.12), 0.025)


def _glasses(scene: Scene, plane: dict[str, Tensor], pair: Callable[[str], Tensor]) -> Tensor:
    """Distance [t l] to rims, lenses, bridge, hinges and arms; FAR on heads without glasses."""
    gx, gy, gz, x = pair("gx"), plane["gy"], plane["gz"], plane["hx"]
    if torch.compiler.is_compiling():  # in all tiles, as the curtain
        return torch.where(scene["glasses"] != 0, _frame(scene, gx, gy, gz, x.abs()), FAR)
    worn = scene["glasses"][:, 0].nonzero()[:, 0]
    out = torch.full_like(gy, FAR)
    if not len(worn):
        return out
    frame = _frame(scene.select(worn), gx[worn], gy[worn], gz[worn], x[worn].abs())
    return out.index_copy(0, worn, frame)


def _frame(part: Scene, gx: Tensor, gy: Tensor, gz: Tensor, x: Tensor) -> Tensor:
    """The same for tiles of heads with glasses.

    Args:
        part: their scene.
        gx: x beside each lens, [t 2 l].
        gy: y above the lenses, [t l].
        gz: z before the lenses, [t l].
        x: distance to the plane of symmetry, [t l].
    """
    # rims, between a circle and a rounded square, and lenses
    u2 = (gx * part["rim_ia"][:, None]).square_()
    v2 = (gy * part["rim_ib"]).square_()[:, None]
    circle = (u2 + v2).sqrt()
    square = (u2 * u2 + v2 * v2).clamp_min_(1e-14).sqrt_().sqrt_()  # quartic root
    ring = (torch.lerp(circle, square, part["rim_square"][:, None]) - 1) * part["rim_mean"][:, None]
    gz2 = gz * gz
    rims = (ring * ring + gz2[:, None]).sqrt_() - 0.0050
    lens = torch.maximum(ring, gz.abs()[:, None] - 0.0015) + part["clear_lens"][:, None]
    rims = torch.minimum(rims, lens)

    # bridge, hinges and arms
    dy2 = (gy - part["arm_y"]).square_()
    bridge = ((x - part["bridge_x"]).clamp_min(0).square_() + dy2 + gz2).sqrt_() - 0.0042
    hinge_x = torch.maximum(part["hinge_x"] - x, x - part["arm_front"]).clamp_min(0)
    hinge = (hinge_x.square_() + dy2 + gz2).sqrt_() - 0.0046
    along = torch.maximum(gz, -part["arm_l"] - gz).clamp_min_(0)
    ahead = (1 + gz * part["arm_il"]).clamp_(0, 1)
    arm_x = part["arm_back"] + part["arm_bend"] * ahead * ahead
    arms = ((x - arm_x).square_() + dy2 + along.square_()).sqrt_() - 0.0044

    frame = torch.minimum(torch.minimum(bridge, hinge), arms)
    return torch.minimum(torch.minimum(rims[:, 0], rims[:, 1]), frame)
