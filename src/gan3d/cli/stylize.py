"""The verb `stylize`: a model between a base and its fine-tuned relative, with pictures and a video
of it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import torch
from PIL import Image

from gan3d.apps.stylize import MappingOf, style_layers, style_sheet, stylize, unreachable
from gan3d.apps.video import orbit_video
from gan3d.camera import Camera, orbit
from gan3d.checkpoints.portable import save_pretrained
from gan3d.cli.checks import at_least, folder_for
from gan3d.cli.messages import CommandError
from gan3d.cli.models import load_with_view
from gan3d.randomness import Randomness
from gan3d.results import write_whole


def stylize_heads(
    base: str,
    target: str,
    out: Path = Path("stylized"),
    mode: Literal["interpolate", "swap"] = "interpolate",
    layers: str = "all",
    gamma: float | None = None,
    mapping: MappingOf = "base",
    seed: int = 0,
    num: int = 4,
    yaws: tuple[float, ...] = (-0.4, 0.0, 0.4),
    frames: int = 60,
    radius: float | None = None,
    fov: float | None = None,
    truncation: float = 1.0,
    truncation_target: float | None = None,
    resolution: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> str:
    """Mixes layers of a model with those of the same model fine-tuned on other pictures; the heads
    still turn.

    Writes sheet.png (a row per head: base, stylized, target, each at all yaws), orbit.mp4 of the
    stylized heads, and stylized.safetensors, the new model.

    Args:
        base: a file (.safetensors, .ckpt), a folder, a run folder, or a name
            (docs/checkpoints.md); of a training checkpoint the average is taken.
        target: another one, fine-tuned from base.
        out: folder.
        mode: interpolate fades between the two, swap takes layers of the target as they are.
        layers: names with commas between (CIPS3D: 1024,512,256,128,64,32), or all.
        gamma: share of the target in these layers, from 0 (base) to 1, or more to exaggerate; by
            default 0.5, and 1 to swap.
        mapping: whose mapping network; base as published.
        seed: of the heads.
        num: heads.
        yaws: of the pictures, radians, as "[-0.4, 0, 0.4]".
        frames: of the video; 0 makes none.
        radius: distance of the cameras; by default as in training, else 2.7.
        fov: field of view, degrees; by default as in training, else 18.83.
        truncation: psi of base and of the new model, 1 is none.
        truncation_target: psi of the target's pictures; by default the same.
        resolution: of the rendering; by default as in training.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.
        overwrite: replace files that are there.
    """
    out = folder_for(out, "sheet.png", "orbit.mp4", "stylized.safetensors", overwrite=overwrite)
    at_least(1, "num", num)
    at_least(0, "frames", frames)
    if not yaws:
        raise CommandError('--yaws is empty; give one or more, as "[-0.4, 0, 0.4]"')
    share, names = _share(mode, gamma), _layers(layers)
    first, view = load_with_view(base, device, radius=radius, fov=fov, resolution=resolution)
    second, _ = load_with_view(target, device, radius=view.radius, fov=view.fov)
    side = view.resolution
    if side is None and first.any_resolution:
        side = first.img_resolution  # the target may have been fine-tuned at another one
    new = stylize(first, second, names, gamma=share, mapping=mapping)
    all_names = list(style_layers(new))
    facts = {
        "base": str(base),
        "target": str(target),
        "layers": names or all_names,
        "gamma": share,
        "mapping": mapping,
        "radius": view.radius,
        "fov": view.fov,
    }
    place = next(new.parameters()).device
    z = Randomness(seed, range(num)).normal("z", new.z_dim).to(place)
    cameras = Camera.from_angles(torch.tensor(yaws), 0.0, radius=view.radius, fov=view.fov).to(
        place
    )
    psi = truncation if truncation_target is None else truncation_target
    models = [(first, truncation), (new, truncation), (second, psi)]
    write_picture(
        out / "sheet.png",
        style_sheet(models, z, cameras, resolution=side, labels=("base", "stylized", "target")),
    )
    if frames:
        path = orbit(frames, yaw=max(map(abs, yaws)), radius=view.radius, fov=view.fov).to(place)
        video = out / "orbit.mp4"
        orbit_video(
            video,
            new,
            z,
            path,
            truncation=truncation,
            resolution=side,
            progress=sys.stderr.isatty(),
        )
    save_pretrained(out / "stylized.safetensors", new, facts=facts)
    mixed = f"{len(names or all_names)} of {len(all_names)} layers, gamma {share:g}"
    said = f"{out}: {type(new).__name__}, {mixed}"
    return "\n".join([said, *_note(unreachable(first, second))])


def _share(mode: str, gamma: float | None) -> float:
    if mode == "swap" and gamma not in (None, 1):
        raise CommandError(
            f"--mode swap takes layers as they are, --gamma {gamma} mixes them; leave out one of "
            "the two"
        )
    return gamma if gamma is not None else 1.0 if mode == "swap" else 0.5


def _layers(text: str) -> list[str] | None:
    """Names with commas between them; None is all."""
    if text == "all":
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise CommandError(
            f"--layers {text!r} names none; give names with commas between them, or all"
        )
    return names


def _note(names: tuple[str, ...]) -> list[str]:
    if not names:
        return []
    found = f"{len(names)} tensors that belong to no layer ({names[0]}, ..)"
    return [f"note: base and target differ in {found}; they stay base's"]


def write_picture(path: Path, picture) -> None:
    """Writes uint8 [h w 3]; the file appears when it is complete."""
    write_whole(path, Image.fromarray(picture).save)
