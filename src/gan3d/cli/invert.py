"""The verb `invert`: photographs become a scene of a model."""

from __future__ import annotations

import hashlib
import sys
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from gan3d.apps.inversion import (
    Distance,
    Inversion,
    InversionOptions,
    Inverted,
    Pose,
    laplacian_distance,
    mobilenet_distance,
)
from gan3d.apps.pictures import draw, sheet, to_uint8
from gan3d.apps.stamps import write_png
from gan3d.apps.video import orbit_video
from gan3d.apps.views import render_scene
from gan3d.camera import Camera, orbit
from gan3d.checkpoints.models import LATENTS, find_model
from gan3d.checkpoints.portable import save_pretrained
from gan3d.cli.checks import at_least, existing, folder_for
from gan3d.cli.choices import angles_in
from gan3d.cli.messages import CommandError, say
from gan3d.cli.models import View, load_shown, refuse_angles, sha256_of
from gan3d.data.images import decode
from gan3d.generators import Generator
from gan3d.metrics.features import vgg_embedding
from gan3d.results import write_whole

STATE, PROGRESS, RESULT, VIDEO, MODEL = (
    "state.pt",
    "progress.png",
    "result.png",
    "orbit.mp4",
    "inverted.safetensors",
)
NOVEL = (-0.5, -0.25, 0.0, 0.25, 0.5)  # yaws of the result, radians
KEPT_EVERY = 25  # steps


def invert_pictures(
    model: str,
    pictures: list[str],
    out: Path = Path("inverted"),
    space: Literal["w", "w+", "pti"] = "w",
    steps: int = 200,
    tuning_steps: int = 100,
    yaw: str = "0",
    pitch: str = "0",
    refine_pose: bool = True,
    refine_focal: bool = False,
    masks: str | None = None,
    lpips: Path | None = None,
    features: Literal["none", "mobilenet"] = "none",
    frames: int = 60,
    radius: float | None = None,
    fov: float | None = None,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
) -> str:
    """Finds the scene and the camera with which a model shows photographs.

    Writes result.png (the photographs, the same views of the scene, other views), orbit.mp4,
    and inverted.safetensors: the model of this one scene, which every other verb takes for MODEL.
    Stopped and started again with the same options, it goes on.

    Args:
        model: a file (.safetensors, .ckpt), a folder, a run folder, or a name
            (docs/checkpoints.md); of a training checkpoint the average is taken.
        pictures: square image files: views of one scene, cut out as the model's data are. Larger
            ones are shrunk.
        out: folder.
        space: w keeps to what the model's mapping makes, w+ frees every latent, pti tunes the
            model's weights after w: nearer to the photograph, at the cost of other views.
        steps: of the search.
        tuning_steps: of the weights, for pti.
        yaw: of the cameras to start from, radians; one for all pictures or one each, with commas
            between.
        pitch: the same.
        refine_pose: whether yaw and pitch are refined.
        refine_focal: whether the focal length is, one for all pictures.
        masks: image files with commas between, one per picture: what is black does not count.
        lpips: TorchScript file vgg16.pt, whose perceptual distance is taken; by default that of
            Laplacian pyramids.
        features: mobilenet adds the distance of MobileNetV2's activations to that of Laplacian
            pyramids, at the cost of time (docs/metrics.md says how to get its weights).
        frames: of the video; 0 makes none.
        radius: distance of the cameras; by default as in training, else 2.7.
        fov: field of view to start from, degrees; by default as in training, else 18.83.
        seed: of the draws.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.
        overwrite: begin anew, and replace files that are there.
    """
    at_least(1, "steps", steps)
    at_least(0, "tuning_steps", tuning_steps)
    at_least(0, "frames", frames)
    yaws, pitches = angles_in("yaw", yaw), angles_in("pitch", pitch)
    files = [existing("picture", Path(picture)) for picture in pictures]
    covers = [existing("--masks", Path(mask)) for mask in masks.split(",")] if masks else []
    if lpips is not None and features != "none":
        raise CommandError("--lpips and --features are two perceptual distances; give one of them")
    out = folder_for(out, RESULT, VIDEO, MODEL, overwrite=overwrite)

    # the model, the pictures, and where the search begins
    generator, view = load_shown(model, device, radius=radius, fov=fov)
    refuse_angles(model, generator, (yaws, [0.0]), (pitches, [0.0]))
    place = next(generator.parameters())
    targets = torch.cat([_picture(path, generator) for path in files]).to(place)
    mask = _mask(covers, files, generator)
    options = InversionOptions(
        space=space,
        steps=steps,
        tuning_steps=tuning_steps,
        refine_pose=refine_pose,
        refine_focal=refine_focal,
        seed=seed,
    )
    said, distance = _distance(lpips, features)
    search = Inversion(
        generator,
        targets,
        None if view is None else _start(view, yaws, pitches, len(files), place),
        options,
        mask=None if mask is None else mask.to(place),
        distance=distance,
        resolution=view.resolution if view else None,
    )

    # the search
    out.mkdir(parents=True, exist_ok=True)
    asked = repr((sha256_of(find_model(model)), [*map(_hash, (*files, *covers))], options, yaws,
                  pitches, view, said))  # fmt: skip
    state = out / STATE
    if overwrite:
        state.unlink(missing_ok=True)
    _go_on(search, state, asked)
    say(f"pictures: {len(files)}, {space}, {options.total} steps, perceptual distance: {said}")
    bar = tqdm(
        search.run(),
        total=options.total,
        initial=search.step,
        unit="step",
        leave=False,
        disable=not sys.stderr.isatty(),
    )
    for step in bar:
        if step % KEPT_EVERY == 0 and step < options.total:
            write_whole(state, partial(torch.save, {"asked": asked, "search": search.state_dict()}))
            now = [to_uint8(targets.cpu()), to_uint8(search.show().image.cpu())]
            write_png(out / PROGRESS, _sheet(now, ["picture", f"step {step}"]), {})

    # what is written
    found = search.result()
    facts = _facts(model, found, space)
    written = found.generator
    save_pretrained(out / MODEL, written, facts=facts)
    write_png(out / RESULT, _result(targets.cpu(), found), {"model": model, "space": space})
    if frames and found.pose is not None:
        path = orbit(frames, yaw=0.5, radius=found.pose.radius, fov=found.pose.fov).to(place)
        z = torch.zeros(1, written.z_dim).to(place)
        orbit_video(out / VIDEO, written, z, path, progress=sys.stderr.isatty())
    state.unlink(missing_ok=True)
    (out / PROGRESS).unlink(missing_ok=True)
    return "\n".join([*_said(files, found), f"{out / MODEL}: for every verb, in place of MODEL"])


def _distance(lpips: Path | None, features: str) -> tuple[str, Distance]:
    """The perceptual distance that is asked for, and its name."""
    if lpips is not None:
        return f"LPIPS of {lpips}", perceptual_distance(lpips)
    if features == "mobilenet":
        return "Laplacian pyramid and MobileNetV2", mobilenet_distance()
    return "Laplacian pyramid", laplacian_distance


def perceptual_distance(path: Path) -> Distance:
    """LPIPS by the network of a file: the mean squared difference of its embeddings."""
    network = vgg_embedding(path)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return (network(a) - network(b)).square().sum(dim=1).mean()

    return distance


def _picture(path: Path, generator: Generator) -> Tensor:
    """A picture in the generator's size, [1 3 H W] in [-1, 1]."""
    side, data = generator.img_resolution, path.read_bytes()
    if (given := decode(data, str(path)).shape[-1]) < side:
        raise CommandError(
            f"{path} has {given} px, {type(generator).__name__} shows {side} px; give a picture of "
            f"{side} px or more"
        )
    pixels = decode(data, str(path), resolution=side)
    if len(pixels) == 1:
        pixels = pixels.expand(3, -1, -1)
    return pixels[None, :3].float() / 127.5 - 1


def _mask(covers: list[Path], files: list[Path], generator: Generator) -> Tensor | None:
    if not covers:
        return None
    if len(covers) != len(files):
        raise CommandError(
            f"--masks names {len(covers)} files for {len(files)} pictures; give one per picture"
        )
    shown = torch.cat([_picture(path, generator) for path in covers])
    return (shown.mean(dim=1, keepdim=True) + 1) / 2


def _start(view: View, yaws: list[float], pitches: list[float], num: int, like: Tensor) -> Pose:
    for name, given in (("yaw", yaws), ("pitch", pitches)):
        if len(given) not in (1, num):
            raise CommandError(
                f"--{name} has {len(given)} angles for {num} pictures; give one, or {num}"
            )
    yaw, pitch = (torch.tensor(angles).to(like).expand(num) for angles in (yaws, pitches))
    return Pose(yaw, pitch, view.fov, view.radius)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _go_on(search: Inversion, state: Path, asked: str) -> None:
    """Takes up a search that was stopped, if there is one."""
    if not state.exists():
        return
    kept = torch.load(state, map_location="cpu", weights_only=True)
    if kept["asked"] != asked:
        raise CommandError(
            f"{state} is of another inversion: another model, other pictures or other options",
            "give another --out, or --overwrite true to begin anew",
        )
    search.load_state_dict(kept["search"])
    say(f"goes on after {search.step} steps")


def _facts(model: str, found: Inverted, space: str) -> dict[str, Any]:
    """What is kept with the model of the scene."""
    facts: dict[str, Any] = {
        LATENTS: found.ws.tolist(),
        "inverted_with": model,
        "space": space,
        "psnr": list(found.psnr),
    }
    if found.pose is None:
        return facts
    return facts | {
        "yaw": found.pose.yaw.tolist(),
        "pitch": found.pose.pitch.tolist(),
        "radius": found.pose.radius,
        "fov": found.pose.fov,
    }


def _said(files: list[Path], found: Inverted) -> list[str]:
    lines = []
    for k, (path, psnr) in enumerate(zip(files, found.psnr, strict=True)):
        line = f"{path.name}: PSNR {psnr:.1f} dB"
        if found.pose is not None:
            line += (
                f", yaw {float(found.pose.yaw[k]):+.3f}, pitch {float(found.pose.pitch[k]):+.3f}"
            )
        lines.append(line)
    return lines


def _sheet(rows: list[np.ndarray], labels: list[str]) -> np.ndarray:
    """Rows of pictures with labels; shorter rows end in white."""
    num = max(map(len, rows))
    filled = [
        np.pad(row, ((0, num - len(row)), (0, 0), (0, 0), (0, 0)), constant_values=255)
        for row in rows
    ]
    return sheet(filled, labels, [""] * num)


def _result(targets: Tensor, found: Inverted) -> np.ndarray:
    """Photographs, the same views of the scene, and the scene from other sides with its depth."""
    rows = [to_uint8(targets), to_uint8(found.views.image.cpu())]
    labels = ["picture", "inverted"]
    if found.pose is None:
        return _sheet(rows, labels)
    cameras = Camera.from_angles(
        torch.tensor(NOVEL), 0.0, radius=found.pose.radius, fov=found.pose.fov
    ).to(found.ws)
    views = render_scene(found.generator, found.generator.represent(found.ws), cameras)
    turned = [draw(views, layer, cameras) for layer in ("image", "depth")]
    return _sheet(rows + turned, [*labels, f"yaw {NOVEL[0]:g} to {NOVEL[-1]:g}", "depth"])
