"""The verb `symmetry`: does a trained generator turn its heads, or mirror them in front?"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from gan3d.apps.symmetry import draw_encoding, draw_symmetry, yaw_sheet
from gan3d.cli.checks import at_least, folder_for
from gan3d.cli.models import View, load_with_view
from gan3d.cli.stylize import write_picture
from gan3d.generators import Generator
from gan3d.metrics.symmetry import EncodingCurve, MirrorSymmetry, encoding_curve, mirror_symmetry
from gan3d.randomness import Randomness
from gan3d.results import write_whole

SHOWN = 4  # heads in the sheet


def measure_symmetry(
    model: str,
    out: Path = Path("symmetry"),
    seed: int = 0,
    num: int = 16,
    yaw: float = 0.5,
    steps: int = 5,
    raw: bool = False,
    radius: float | None = None,
    fov: float | None = None,
    truncation: float = 1.0,
    resolution: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> str:
    """Measures mirror symmetry: 1 where a head seen from the left is the mirror image of itself
    seen from the right.

    Writes heads.png (heads across yaw), symmetry.png (curves), symmetry.json (numbers), and, for
    models with a field, encoding.png: how far the position encoding takes a point from its mirror
    image.

    Args:
        model: a file (.safetensors, .ckpt), a folder, a run folder, or a name
            (docs/checkpoints.md); of a training checkpoint the average is taken.
        out: folder.
        seed: of the heads.
        num: heads; the score of 8 is good to about 0.2.
        yaw: the largest, radians.
        steps: yaws on each side.
        raw: judge the raw image (CIPS3D: the auxiliary one).
        radius: distance of the cameras; by default as in training, else 2.7.
        fov: field of view, degrees; by default as in training, else 18.83.
        truncation: psi, 1 is none.
        resolution: of the rendering; by default as in training.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.
        overwrite: replace files that are there.
    """
    files = "heads.png", "symmetry.png", "encoding.png", "symmetry.json"
    out = folder_for(out, *files, overwrite=overwrite)
    at_least(1, "num", num)
    at_least(2, "steps", steps)
    generator, view = load_with_view(model, device, radius=radius, fov=fov, resolution=resolution)
    z = (
        Randomness(seed, range(num))
        .normal("z", generator.z_dim)
        .to(next(generator.parameters()).device)
    )
    found = mirror_symmetry(
        generator,
        z,
        yaw=yaw,
        num=steps,
        radius=view.radius,
        fov=view.fov,
        truncation=truncation,
        resolution=view.resolution,
        raw=raw,
    )
    sheet = yaw_sheet(
        generator,
        z[:SHOWN],
        yaw=yaw,
        radius=view.radius,
        fov=view.fov,
        truncation=truncation,
        resolution=view.resolution,
    )
    write_picture(out / "heads.png", sheet)
    draw_symmetry(out / "symmetry.png", found)
    curve = _encoding(generator, z[:1], view, truncation)
    if curve is not None:
        draw_encoding(out / "encoding.png", curve)
    record = _record(found, curve)
    text = json.dumps(record, indent=1) + "\n"
    write_whole(out / "symmetry.json", lambda partial: partial.write_text(text))
    return _table(found, curve)


def _encoding(
    generator: Generator, z: Tensor, view: View, truncation: float
) -> EncodingCurve | None:
    """Of the first head: of the model's `encoding(representation, points)`, else of the colors of
    its field.
    """
    known = getattr(generator, "encoding", None)
    if known is None and not generator.has_field:
        return None
    with torch.no_grad():
        ws = generator.map(z, view.condition(generator, z), truncation=truncation)
        scene = generator.represent(ws)

    def encode(points: Tensor) -> Tensor:
        return (
            known(scene, points[None])[0]
            if known is not None
            else generator.field(scene, points[None])[1][0]
        )

    return encoding_curve(encode, generator.scene_extent / 2, like=z)


def _record(found: MirrorSymmetry, curve: EncodingCurve | None) -> dict:
    record = {
        "score": _number(found.mean),
        "frontal_similarity": found.frontal,
        "jump": _number(found.jump),
        "yaw": found.yaw.tolist(),
        "similarity": found.similarity.tolist(),
        "scores": [_number(score) for score in found.score.tolist()],
    }
    if curve is None:
        return record
    distances = {
        "x": curve.x.tolist(),
        "mirror": curve.mirror.tolist(),
        "neighbor": curve.neighbor.tolist(),
    }
    return record | {"encoding": {"step": curve.step, "confused": curve.confused, **distances}}


def _number(value: float) -> float | None:
    return value if value == value else None  # JSON has no NaN


def _table(found: MirrorSymmetry, curve: EncodingCurve | None) -> str:
    rows = zip(found.yaw.tolist(), found.similarity.tolist(), found.score.tolist())
    lines = [f"yaw {a:5.2f}: similarity {s:5.2f}, score {score:5.2f}" for a, s, score in rows]
    verdict = (
        f"mirror symmetry {found.mean:.2f} (mirrored 1, steady about 0), jump in front "
        f"{found.jump:.1f} (about 1)"
    )
    if curve is not None:
        lines.append(
            f"encoding: the mirror image is nearer than the neighbor at {curve.confused:.0%} of "
            "the points"
        )
    return "\n".join([*lines, verdict])
