"""The MODEL of a verb: found by `gan3d.checkpoints.models`, put on the device that is asked for."""

from __future__ import annotations

from pathlib import Path

from gan3d.checkpoints.models import from_pretrained
from gan3d.cli.checks import device_of
from gan3d.cli.messages import CommandError
from gan3d.generators import Generator


def load_3d_generator(model: Path | str, device: str = "auto") -> Generator:
    """A model with a camera, on a device (auto: the GPU where there is one). View directions are
    locked.

    Raises:
        CommandError: the device is not there, or the model has no camera.
        ValueError: there is no such model.
    """
    place = device_of(device)
    generator = from_pretrained(model)
    if not generator.has_camera:
        raise CommandError(
            f"{model} holds {type(generator).__name__}, which has no camera; use a 3D generator"
        )
    generator.lock_view = (
        True  # what is drawn or measured of a scene is not to change with the camera
    )
    return generator.to(place)


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
