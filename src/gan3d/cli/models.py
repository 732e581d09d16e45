"""The MODEL of a verb: found by `gan3d.checkpoints.models`, put on the device that is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gan3d.camera import Camera
from gan3d.camera.pinhole import DEFAULT_FOV
from gan3d.checkpoints.models import load_model
from gan3d.cli.checks import device_of
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
    asked = {"radius": radius, "fov": fov, "resolution": resolution}
    known = facts | {name: value for name, value in asked.items() if value is not None}
    view = View(known.get("radius", RADIUS), known.get("fov", DEFAULT_FOV), known.get("resolution"))
    if not seen:
        return generator, view
    _refuse_unseen(model, generator, view.radius)
    if missing := [f"--{name}" for name in ("radius", "fov") if name not in known]:
        say(
            f"{model} does not say how its scenes were seen in training: they are seen from "
            f"{view.radius:g}, with a field of view of {view.fov:g} degrees; if that is wrong, set "
            f"{' and '.join(missing)}"
        )
    return generator, view


def _load(model: Path | str, device: str) -> tuple[Generator, dict[str, Any]]:
    place = device_of(device)
    generator, facts = load_model(model)
    if not generator.has_camera:
        raise CommandError(
            f"{model} holds {type(generator).__name__}, which has no camera; use a 3D generator"
        )
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
