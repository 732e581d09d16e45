"""The MODEL of a verb: found by `gan3d.checkpoints.models`, put on the device that is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gan3d.camera import Camera
from gan3d.camera.pinhole import DEFAULT_FOV
from gan3d.checkpoints.models import load_model
from gan3d.cli.checks import device_of
from gan3d.cli.choices import LAYERS
from gan3d.cli.messages import CommandError, say
from gan3d.generators import Generator

# Where the cameras stand if neither the model's file nor the user says it: as in EG3D.
RADIUS = 2.7


@dataclass(frozen=True)
class View:
    """How the scenes of a model are seen.

    Attributes:
        radius: distance of the cameras.
        fov: degrees.
        resolution: of the rendering; None is the model's own.
    """

    radius: float
    fov: float
    resolution: int | None

    def condition(self, generator: Generator, z: Tensor) -> Camera | None:
        """The camera that `generator.map` takes with the latents of some scenes z [b z_dim]: the
        frontal one of this view, or None.
        """
        front = Camera.from_angles(0.0, 0.0, radius=self.radius, fov=self.fov).to(z)
        return generator.frontal_condition(front, len(z))


def load_with_view(
    model: Path | str,
    device: str = "auto",
    *,
    radius: float | None = None,
    fov: float | None = None,
    resolution: int | None = None,
    seen: bool = True,
) -> tuple[Generator, View]:
    """A model with a camera, its view directions locked, and how it is seen: as the user says, else
    as in training, as far as its file tells.

    Args:
        model: a file, a folder, a run folder, or a name.
        device: cpu, cuda, cuda:1, ..; auto takes a GPU where there is one.
        radius: distance of the cameras that the user asks for, or None.
        fov: field of view in degrees that the user asks for, or None.
        resolution: of the rendering that the user asks for, or None.
        seen: whether the scenes are rendered: a view that shows nothing is then refused, and one
            that is only assumed is said.

    Raises:
        CommandError: the device is not there, the model has no camera, or no sample of a ray lies
            in the scene at that distance.
        ValueError: there is no such model.
    """
    generator, facts = _load(model, device)
    if not generator.has_camera:
        raise CommandError(
            f"{model} holds {type(generator).__name__}, which has no camera; use a 3D generator"
        )
    return generator, _view(model, generator, facts, radius, fov, resolution, seen)


def load_shown(
    model: Path | str,
    device: str = "auto",
    *,
    radius: float | None = None,
    fov: float | None = None,
    resolution: int | None = None,
    lock_view: bool = True,
) -> tuple[Generator, View | None]:
    """As `load_with_view`, and also a model without a camera, which has no view.

    Args:
        lock_view: whether colors are independent of the direction of view.

    Raises:
        CommandError: as `load_with_view`, or a camera or resolution is asked for that the model
            does not have.
    """
    generator, facts = _load(model, device)
    if generator.has_camera:
        generator.lock_view = lock_view
        return generator, _view(model, generator, facts, radius, fov, resolution)
    for name, value in (("radius", radius), ("fov", fov), ("resolution", resolution)):
        if value is not None:
            kind = type(generator).__name__
            raise CommandError(f"{model} holds {kind}, a 2D model: leave out --{name}")
    return generator, None


def refuse_layers(model: Path | str, generator: Generator, layers: Iterable[str]) -> None:
    """Refuses layers of a view that a model does not have.

    Raises:
        CommandError: it is a 2D model, or makes no raw image.
    """
    absent = set() if generator.has_raw else {"raw"}
    absent |= set() if generator.has_camera else {"depth", "normals", "opacity"}
    there = [layer for layer in LAYERS if layer not in absent]
    for layer in layers:
        if layer in absent:
            kind = type(generator).__name__
            raise CommandError(
                f"{model} holds {kind}, which has no layer {layer}; it has {', '.join(there)}"
            )


def refuse_angles(model: Path | str, generator: Generator, *given: tuple[Any, Any]) -> None:
    """Refuses angles of the camera, each given with its default, for a 2D model.

    Raises:
        CommandError: there is one.
    """
    if not generator.has_camera and any(value != default for value, default in given):
        kind = type(generator).__name__
        raise CommandError(f"{model} holds {kind}, a 2D model: leave out --yaw and --pitch")


def sha256_of(path: Path) -> str:
    """What tells a file from all others, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _view(
    model: Path | str,
    generator: Generator,
    facts: dict[str, Any],
    radius: float | None,
    fov: float | None,
    resolution: int | None,
    seen: bool = True,
) -> View:
    asked = {"radius": radius, "fov": fov, "resolution": resolution}
    known = facts | {name: value for name, value in asked.items() if value is not None}
    view = View(known.get("radius", RADIUS), known.get("fov", DEFAULT_FOV), known.get("resolution"))
    if not seen:
        return view
    _refuse_unseen(model, generator, view.radius)
    if missing := [f"--{name}" for name in ("radius", "fov") if name not in known]:
        say(
            f"{model} does not say how its scenes were seen in training: they are seen from "
            f"{view.radius:g}, with a field of view of {view.fov:g} degrees; if that is wrong, set "
            f"{' and '.join(missing)}"
        )
    return view


def _load(model: Path | str, device: str) -> tuple[Generator, dict[str, Any]]:
    place = device_of(device)
    generator, facts = load_model(model)
    generator.lock_view = (
        True  # what is drawn or measured of a scene is not to change with the camera
    )
    return generator.to(place), facts


def _refuse_unseen(model: Path | str, generator: Generator, radius: float) -> None:
    """Refuses a distance at which no sample of a ray lies in the scene."""
    if generator.ray_limits is None:
        return
    start, end = generator.ray_limits
    near, far = radius - generator.scene_extent / 2, radius + generator.scene_extent / 2
    if end <= near or far <= start:
        raise CommandError(
            f"{model}: nothing is seen from a distance of {radius:g}: {type(generator).__name__} "
            f"samples its rays from {start:g} to {end:g}, the scene is {near:g} to {far:g} away",
            f"give the distance of the cameras in training, such as --radius {(start + end) / 2:g}",
        )


def beside(model: Path | str, found: Path, suffix: str) -> Path:
    """Where what is said of a model goes by default: beside its file, or into the present folder
    where that file is not the user's (it came with gan3d, or from the hub).

    Args:
        model: as the user named it.
        found: its file.
        suffix: of the new file.
    """
    if Path(model).expanduser().exists():
        return found.with_suffix(suffix)
    return Path(f"{Path(model).name}{suffix}")
