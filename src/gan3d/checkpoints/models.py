"""Models by name: what Python and every verb of the command line take for MODEL.

    heads.safetensors           a portable file
    last.ckpt                   a training checkpoint, of which the average is taken
    heads/                      a folder that `save_pretrained` wrote
    runs/eg3d_heads32           the folder of a run: its newest whole checkpoint
    NAME                        weights that come with gan3d
    user/name                   model.safetensors of a repository of the Hugging Face hub

What exists on the disk goes first. Nothing is ever executed: files hold only data, and a class is
one that is registered in this program.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gan3d.checkpoints import portable
from gan3d.checkpoints.runs import checkpoints_in, load_training, newest_whole
from gan3d.checkpoints.shards import is_sharded_checkpoint
from gan3d.generators import GENERATORS, Generator, pin
from gan3d.pretrained import SUFFIX, WEIGHTS
from gan3d.zoo import configs
from gan3d.zoo.models import locate

LATENTS = "ws"  # a fact: the latents of the one scene that the file is about


def from_pretrained(model: Path | str) -> Generator:
    """A trained generator, on the CPU and in evaluation mode.

    Args:
        model: a file, a folder, a run folder, a checkpoint (of which the average is taken), a name
            that comes with gan3d, or user/name of the Hugging Face hub.

    Raises:
        ValueError: there is no such model (the nearest names are given), or the file does not fit
        the class that it names.

    Example:
        >>> import gan3d
        >>> path = gan3d.EG3D(**gan3d.EG3D.tiny).save_pretrained("tiny")
        >>> generator = gan3d.from_pretrained("tiny")
        >>> generator.img_resolution, generator.training
        (32, False)
    """
    return load_model(model)[0]


def create(name: str, **arguments: Any) -> Generator:
    """The generator of a config, with random weights (torch's global generator draws them).

    Args:
        name: of a packaged config (`list_models`), or a config file.
        arguments: of the generator, over those of the config. A dictionary for an argument that is
            a dataclass changes only the fields that it names.

    Raises:
        ValueError: there is no such config or argument; the nearest names are given.

    Example:
        >>> import gan3d
        >>> generator = gan3d.create("eg3d_heads32", z_dim=8)
        >>> type(generator).__name__, generator.z_dim, generator.img_resolution
        ('EG3D', 8, 32)
    """
    section = configs.generator_of(configs.read(configs.find(name)))
    if section is None:
        raise ValueError(
            f"config {name} is an overlay, it holds no generator; gan3d.list_models() lists those "
            "that do"
        )
    given = _merged(section.get("init_args") or {}, arguments)
    cls, made_with = portable.class_and_arguments(
        GENERATORS, section["class_path"].rpartition(".")[2], given
    )
    return cls(**made_with)


def load_model(model: Path | str) -> tuple[Generator, dict[str, Any]]:
    """What `from_pretrained` returns, and facts about it that were saved with it.

    Where these have latents, of an inverted photograph, the generator is pinned to its scene.
    """
    path = find_model(model)
    if path.suffix == ".ckpt":
        generator, _, facts = load_training(path)
        return generator, facts
    generator, facts = portable.load_generator(path), portable.read_facts(path)
    if LATENTS in facts:
        pin(generator, torch.tensor(facts[LATENTS]))
    return generator, facts


def find_model(model: Path | str) -> Path:
    """The file of a model, a portable file or a training checkpoint (.ckpt); from the hub it is
    downloaded.

    Args:
        model: as of `from_pretrained`.

    Raises:
        ValueError: there is no such model; the nearest names are given.

    Example:
        >>> import gan3d
        >>> path = gan3d.EG3D(**gan3d.EG3D.tiny).save_pretrained("tiny")
        >>> find_model("tiny").as_posix()
        'tiny/model.safetensors'
    """
    found = locate(model)
    if found is None:
        return _from_hub(str(model))
    if found.is_dir() and not is_sharded_checkpoint(found):
        return _in_folder(found)
    return found


def _merged(known: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries, the second one's values over the first one's."""
    merged = dict(known)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = _merged(old, value)
        merged[key] = value
    return merged


def _in_folder(folder: Path) -> Path:
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    for place in (folder / "checkpoints", folder):
        if checkpoints_in(place):
            newest = newest_whole(place)
            if newest is None:
                raise ValueError(f"no checkpoint in {place} is whole; give another run")
            return newest
    files = sorted(path.name for kind in (f"*{SUFFIX}", "*.ckpt") for path in folder.glob(kind))
    raise ValueError(
        f"{folder} holds no model: neither {WEIGHTS} (of save_pretrained) nor "
        "checkpoints/kimg-*.ckpt (of a run, from its first checkpoint on)"
        + (f"\n  give one of its files: {', '.join(files)}" if files else "")
    )


def is_offline() -> bool:
    """Whether the user forbids downloads: GAN3D_OFFLINE or HF_HUB_OFFLINE is set."""
    return any(
        os.environ.get(name, "0").lower() not in ("", "0", "false", "no", "off")
        for name in ("GAN3D_OFFLINE", "HF_HUB_OFFLINE")
    )


def _from_hub(repository: str) -> Path:
    """model.safetensors of a repository, from the hub or its cache on this machine."""
    missing = f"there is no file or folder {repository} here"
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ValueError(
            f"{missing}, and user/name of the Hugging Face hub needs the package huggingface_hub\n"
            "  install it: pip install gan3d[hub]; or give a file or a folder"
        ) from error
    offline = is_offline()
    try:
        return Path(hf_hub_download(repository, WEIGHTS, local_files_only=offline))
    except (
        Exception
    ) as error:  # of many kinds: no network, no such repository, no such file, no access
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        advice = (
            "downloads are off (GAN3D_OFFLINE or HF_HUB_OFFLINE) and it was not downloaded before"
            if offline
            else "check the name, the network and your access (hf auth login)"
        )
        raise ValueError(
            f"{missing}, and the hub gave no {WEIGHTS} of {repository}: {reason}\n  {advice}"
        ) from error
