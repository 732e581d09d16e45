"""Shading of the heads: albedo by part, key and fill light, occlusion, and a soft tone curve."""

from __future__ import annotations

import torch
from torch import Tensor

from gan3d.data.heads.attributes import COLORS
from gan3d.data.heads.scene import HEAD_SCALE, Parts, Scene, distance, measure, smoothstep

# Per material: skin, eye, hair, cloth, frame, metal.
_SPECULAR = (0.055, 0.55, 0.10, 0.012, 0.28, 0.65)
_GLOSS = (16.0, 160.0, 26.0, 8.0, 60.0, 28.0)
_TETRAHEDRON = ((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, 1.0, 1.0))


def shade(scene: Scene, points: Tensor, view: Tensor, footprint: Tensor) -> Tensor:
    """Colors of surface points.

    Args:
        scene: one row per tile.
        points: [t 3 l] on the surface, head units.
        view: [t 3 l] from the camera to the point, any length.
        footprint: [t l] distance between neighboring rays at the point, head units; finer detail
            fades out.

    Returns:
        [t 3 l] display colors in [0, 1).
    """
    # geometry
    parts = measure(scene, points)
    normal = normals(scene, points, (0.5 * footprint).clamp_min(0.0006))
    occlusion = _occlusion(scene, points, normal)

    # material
    distances = [parts.skin, parts.eye, parts.hair, parts.cloth, parts.frame, parts.metal]
    material = torch.stack(distances, dim=1).argmin(1)  # t l
    is_skin = material == 0
    albedo = _albedo(scene, parts, material, footprint)
    specular = points.new_tensor(_SPECULAR)[material]
    specular = specular * (1 - 0.7 * scene["afro"] * (material == 2))
    gloss = points.new_tensor(_GLOSS)[material]

    # wet lips
    wet = (parts.masks["lip"] * is_skin) * (0.5 + scene["makeup"])
    specular = specular + 0.07 * wet
    gloss = gloss + 20 * wet

    return _light(scene, albedo, normal, view, occlusion, specular, gloss, is_skin)


def normals(scene: Scene, points: Tensor, h: Tensor) -> Tensor:
    """Unit gradient [t 3 l] of the distance, from four taps on a tetrahedron of size h [t l]."""
    lanes = points.shape[2]
    taps = points.new_tensor(_TETRAHEDRON)  # 4 3
    offset = h[:, None, None] * taps[None, :, :, None]  # t 4 3 l
    where = (points[:, None] + offset).transpose(1, 2).reshape(points.shape[0], 3, 4 * lanes)
    values = distance(scene, where).reshape(-1, 4, lanes)
    a, b, c, d = values.unbind(1)
    gradient = torch.stack([a - b - c + d, c + d - a - b, b + d - a - c], dim=1)
    return gradient * torch.rsqrt(gradient.square().sum(1, keepdim=True) + 1e-20)


def _occlusion(scene: Scene, points: Tensor, normal: Tensor) -> Tensor:
    """Ambient occlusion [t l] from distances at two heights over the surface: 1 is fully open."""
    above = torch.cat([points + 0.018 * normal, points + 0.06 * normal], dim=2)
    low, high = distance(scene, above).chunk(2, dim=1)
    return (0.30 + 0.38 * (low / 0.018).clamp(0, 1) + 0.32 * (high / 0.06).clamp(0, 1)).clamp(0, 1)


def _albedo(scene: Scene, parts: Parts, material: Tensor, footprint: Tensor) -> Tensor:
    """Unlit display color, [t 3 l]."""
    x, y, z = parts.local.unbind(1)
    color = {name: scene.colors[:, :, k : k + 1] for k, name in enumerate(COLORS)}  # t 3 1

    # Hair. Strands fall from the crown, and fade out where pixels are too coarse (moire).
    around = torch.atan2(x - scene["part_x"], z + 0.02) + 0.5 * torch.sin(11 * y + 5 * z)
    coarse_strand = torch.sin(31 * around + 2 * torch.sin(23 * y))
    fine_strand = torch.sin(74 * around - 3 * torch.sin(17 * y))
    strand = 0.5 * (coarse_strand + fine_strand) * smoothstep(-0.006, -0.0015, -footprint)
    streak = torch.sin(38 * x - 29 * z + 17 * y + scene["phase"])
    hair = color["hair"].expand(-1, -1, x.shape[1])
    hair = hair * (1 + 0.15 * strand + 0.06 * streak)[:, None]

    # cloth
    wave = torch.sin(scene["stripe_f"] * (parts.height + 0.25 * x * x))
    stripe = smoothstep(-0.25, 0.25, wave) * scene["stripes"]
    cloth = torch.lerp(color["cloth"], color["stripe"], stripe[:, None])

    by_material = [
        _skin_color(scene, parts, color, footprint),
        _eye_color(parts, color["iris"], footprint),
        hair,
        cloth,
        color["frame"].expand_as(hair),
        color["metal"].expand_as(hair),
    ]
    out = torch.zeros_like(hair)
    for index, choice in enumerate(by_material):
        out = torch.where((material == index)[:, None], choice, out)
    return out


def _skin_color(scene: Scene, parts: Parts, color: dict[str, Tensor], footprint: Tensor) -> Tensor:
    """Skin with blush, freckles, makeup, beard, brows, mole and mouth, [t 3 l]."""
    m = {name: mask[:, None] for name, mask in parts.masks.items()}
    x, y, z = parts.local.unbind(1)
    skin = color["skin"]

    def tint(red: float, green: float, blue: float) -> Tensor:
        return skin.new_tensor([red, green, blue])[:, None]

    # blush
    rosy = m["blush"] * (0.25 + 0.55 * scene["blush"])[:, None]
    out = torch.lerp(skin, skin * tint(1.04, 0.80, 0.78), rosy)

    # freckles
    dots = torch.sin(310 * x + 2 * torch.sin(90 * y))
    dots = dots * torch.sin(290 * y + 2.5 * torch.sin(110 * x))
    dots = smoothstep(0.45, 0.85, dots) * smoothstep(-0.010, -0.003, -footprint) * scene["freckles"]
    freckles = dots[:, None] * (m["blush"] * 2).clamp(0, 1) * 0.8
    out = torch.lerp(out, skin * tint(0.78, 0.64, 0.55), freckles)

    # eye shadow
    paint = torch.lerp(skin * 0.62, color["iris"] * 0.8, 0.3)
    out = torch.lerp(out, paint, m["shadow"] * (0.9 * scene["makeup"] - 0.2).clamp_min(0)[:, None])

    # beard, brows and mole
    wisps = torch.sin(300 * x + 4 * torch.sin(70 * y))
    wisps = wisps + torch.sin(190 * x + 5 * torch.sin(90 * y + 40 * x) - 120 * z)
    grain = 1 + 0.08 * wisps * smoothstep(-0.006, -0.0015, -footprint)
    beard = (m["beard"] * 2.5).clamp(0, 1) * (0.62 + 0.36 * scene["beard_len"])[:, None]
    out = torch.lerp(out, color["hair"] * 0.92 * grain[:, None], beard)
    out = torch.lerp(out, color["hair"] * 0.72, m["brow"] * 0.88)
    out = torch.lerp(out, skin * 0.38, (m["mole"] * 2).clamp(0, 1) * 0.9)

    # mouth and lashes
    out = torch.lerp(out, color["lip"], m["lip"] * 0.85)
    out = torch.lerp(out, color["lip"] * 0.34, m["line"] * 0.85)
    out = torch.lerp(out, tint(0.20, 0.06, 0.06), m["inside"])
    out = torch.lerp(out, tint(0.86, 0.84, 0.78), m["teeth"] * 0.95)
    return torch.lerp(out, skin * 0.18, m["lash"] * (0.55 + 0.4 * scene["makeup"])[:, None])


def _eye_color(parts: Parts, iris: Tensor, footprint: Tensor) -> Tensor:
    """Sclera, iris with its dark rim, and pupil, by the angle to the gaze, [t 3 l]."""
    is_left = parts.local[:, 0] < 0  # in the image
    cosine = torch.where(is_left, parts.gaze[:, 0], parts.gaze[:, 1])
    angle = (2 - 2 * cosine).clamp_min(1e-8).sqrt()
    soft = (footprint * 40).clamp(0.04, 0.3)
    inside = ((0.47 - angle) / soft + 0.5).clamp(0, 1)[:, None]
    pupil = ((0.20 - angle) / soft + 0.5).clamp(0, 1)[:, None]
    limbus = smoothstep(0.33, 0.47, angle)[:, None]
    sclera = iris.new_tensor([0.93, 0.915, 0.90])[:, None]
    out = torch.lerp(sclera, iris * (1.15 - 0.75 * limbus), inside)
    return torch.lerp(out, iris.new_tensor([0.035, 0.03, 0.03])[:, None], pupil)


def _light(
    scene: Scene,
    albedo: Tensor,
    normal: Tensor,
    view: Tensor,
    occlusion: Tensor,
    specular: Tensor,
    gloss: Tensor,
    is_skin: Tensor,
) -> Tensor:
    """Lit display color [t 3 l] in [0, 1).

    Wrapped key light, fill light from the other side, sky light, a Blinn highlight and a faint rim,
    through a tone curve.
    """
    az, el = scene["key_az"], scene["key_el"]
    key = torch.stack([az.sin() * el.cos(), el.sin(), az.cos() * el.cos()], dim=1)  # t 3 1
    fill = torch.stack([-0.8 * az.sin(), 0 * az + 0.15, 0 * az + 0.6], dim=1)
    fill = torch.nn.functional.normalize(fill, dim=1)
    towards = -view * torch.rsqrt(view.square().sum(1, keepdim=True))

    # key light, warm or cold; on skin it wraps further around, most of all in the red
    lambert = (normal * key).sum(1)
    wrap = is_skin * 0.12 + 0.18
    red = ((lambert + wrap + is_skin * 0.10) / (1 + wrap + is_skin * 0.10)).clamp_min(0)
    gray = ((lambert + wrap) / (1 + wrap)).clamp_min(0)
    strength = 1.12 * scene["key_i"] * (0.45 + 0.55 * occlusion)
    warm = torch.cat([1 + 0.09 * scene["warmth"], 1 + 0 * az, 1 - 0.12 * scene["warmth"]], dim=1)
    direct = torch.stack([strength * red, strength * gray, strength * gray], dim=1)
    direct = direct * warm[:, :, None]

    # fill and sky light
    other = 0.30 * ((normal * fill).sum(1) * 0.6 + 0.4).clamp_min(0)
    sky = scene["ambient"] * (0.72 + 0.28 * normal[:, 1]) * occlusion
    light = direct + (other * (0.5 + 0.5 * occlusion) + sky)[:, None]

    # highlight and rim
    half = torch.nn.functional.normalize(key + towards, dim=1)
    shine = (normal * half).sum(1).clamp_min(1e-4).pow(gloss) * specular * scene["key_i"] * 1.6
    rim = (1 - (normal * towards).sum(1).clamp(0, 1)).pow(4) * 0.06 * occlusion
    linear = albedo.square() * light + (shine * occlusion + rim)[:, None]
    return soft_shoulder(linear).sqrt()


def soft_shoulder(linear: Tensor, knee: float = 0.45) -> Tensor:
    """Tone curve: identity below the knee, then an exponential approach to 0.97; nothing clips."""
    room = 0.97 - knee
    bent = knee + room * (1 - torch.exp((knee - linear.clamp_min(knee)) / room))
    return torch.where(linear < knee, linear, bent).clamp_min(0)


def background(scene: Scene, directions: Tensor) -> Tensor:
    """Background color of rays by their elevation, a soft vertical gradient, [t 3 l] -> [t 3 l]."""
    names = list(COLORS)
    low = scene.colors[:, :, names.index("back_low"), None]
    high = scene.colors[:, :, names.index("back_high"), None]
    elevation = directions[:, 1] * torch.rsqrt(directions.square().sum(1))
    return torch.lerp(low, high, smoothstep(-0.32, 0.32, elevation)[:, None])


def footprint_at(depth: Tensor, spacing: float) -> Tensor:
    """Distance between neighboring rays at `depth`, head units.

    Args:
        depth: world units.
        spacing: distance between the rays per unit of depth.
    """
    return depth * (spacing / HEAD_SCALE)
