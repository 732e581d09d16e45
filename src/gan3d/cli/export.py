"""Networks of a training checkpoint as a portable file. Here, because the config in a checkpoint is
YAML.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from torch import Tensor

from gan3d.checkpoints.plain import load_plain
from gan3d.checkpoints.portable import build, from_pretrained, read_facts, save_pretrained
from gan3d.cli.checks import device_of, file_for
from gan3d.cli.messages import CommandError
from gan3d.cli.run_folder import CONFIG_KEY
from gan3d.discriminators import DISCRIMINATORS, Discriminator
from gan3d.generators import GENERATORS, Generator


def export_training(
    checkpoint: Path,
    out: Path | None = None,
    which: Literal["generator_ema", "generator"] = "generator_ema",
    discriminator: bool = True,
) -> str:
    """Turns a training checkpoint into a portable file, a fraction of its size.

    Args:
        checkpoint: of a run: checkpoints/last.ckpt or checkpoints/kimg-*.ckpt.
        out: the new file; by default beside `checkpoint`, ending in .safetensors.
        which: the average of the generator over training, or the last one.
        discriminator: whether the file holds it, too.
    """
    path = file_for(
        Path(checkpoint).with_suffix(".safetensors") if out is None else out, ".safetensors"
    )
    generator, judge, facts = load_training(checkpoint, which)
    save_pretrained(path, generator, judge if discriminator else None, facts=facts)
    return f"{path}: {type(generator).__name__}, {facts['images_seen'] / 1000:g} kimg"


def load_generator(path: Path | str) -> tuple[Generator, dict[str, Any]]:
    """The generator of a training checkpoint (.ckpt: its average) or of a portable file, and facts
    about it.
    """
    if Path(path).suffix == ".ckpt":
        generator, _, facts = load_training(path)
        return generator, facts
    return from_pretrained(path), read_facts(path)


def load_3d_generator(path: Path | str, device: str = "auto") -> Generator:
    """The same, on a device (auto: the GPU where there is one); it must have a camera. View
    directions are locked.
    """
    place = device_of(device)
    generator, _ = load_generator(path)
    if not generator.has_camera:
        raise CommandError(
            f"{path} holds {type(generator).__name__}, which has no camera; use a 3D generator"
        )
    generator.lock_view = (
        True  # what is drawn or measured of a scene is not to change with the camera
    )
    return generator.to(place)


def load_training(
    checkpoint: Path | str, which: Literal["generator_ema", "generator"] = "generator_ema"
) -> tuple[Generator, Discriminator, dict[str, Any]]:
    """Generator and discriminator of a training checkpoint, in evaluation mode, and facts
    (images_seen).

    Raises:
        ValueError: the file is no training checkpoint of gan3d, or its classes are not known here.
    """
    if not Path(checkpoint).is_file():
        raise ValueError(f"there is no file {checkpoint}")
    content = load_plain(checkpoint)
    if not isinstance(content, dict) or not {CONFIG_KEY, "state_dict"} <= set(content):
        raise ValueError(
            f"{checkpoint} is not a training checkpoint; give one of the checkpoints/ of a run"
        )
    model, state = yaml.safe_load(content[CONFIG_KEY])["model"], content["state_dict"]
    generator = _network(GENERATORS, model["generator"], state, which)
    discriminator = _network(DISCRIMINATORS, model["discriminator"], state, "discriminator")
    return (
        generator.eval(),
        discriminator.eval(),
        {"source": which, "images_seen": int(state["images_seen"])},
    )


def _network(
    registry: Mapping[str, type], config: dict[str, Any], state: dict[str, Tensor], prefix: str
) -> Any:
    name = config["class_path"].rpartition(".")[2]
    part = {
        key[len(prefix) + 1 :]: tensor
        for key, tensor in state.items()
        if key.startswith(f"{prefix}.")
    }
    return build(registry, name, config.get("init_args") or {}, part)
