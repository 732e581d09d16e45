"""Names of models: what lies where, found without importing torch."""

from __future__ import annotations

import fnmatch
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan3d.spelling import closest, did_you_mean
from gan3d.zoo import configs

SHIPPED = Path(__file__).parent
SUFFIXES = (".safetensors", ".ckpt")
REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*(?<!\.safetensors)(?<!\.ckpt)")


def locate(model: Path | str) -> Path | None:
    """The file or folder of a model; None for user/name, a repository of the Hugging Face hub.

    Args:
        model: a path, which goes first, or a name.

    Raises:
        ValueError: there is no such model; the nearest names are given.
    """
    name, path = str(model), Path(model).expanduser()
    if path.exists():
        return path
    shipped = shipped_models()
    if name in shipped:
        return shipped[name]
    near = [*_neighbors(path), *closest(name, shipped)]
    # A misspelt path looks like a name of the hub: where a model of nearly that name lies here,
    # the hub is not asked.
    if not near and REPOSITORY.fullmatch(name):
        return None
    raise ValueError(
        f"there is no model {name}: no such file or folder, and no model of that name comes with "
        f"gan3d\n  {did_you_mean(near) or _advice(name)}"
    )


def shipped_models() -> dict[str, Path]:
    """Weights that come with gan3d, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.safetensors"))}


@dataclass(frozen=True)
class Card:
    """What the file of a trained model says about it.

    Attributes:
        name: `from_pretrained(name)` loads it.
        architecture: class of the generator.
        resolution: side of its images in pixels; None if its arguments do not say.
        megabytes: size of the file.
        facts: how it was trained, and its scores (docs/zoo.md).
    """

    name: str
    architecture: str
    resolution: int | None
    megabytes: float
    facts: dict[str, Any]


def read_card(name: str) -> Card:
    """The card of weights that come with gan3d, from the heading of their file.

    Raises:
        KeyError: none of that name come with gan3d.
    """
    path = shipped_models()[name]
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        metadata = json.loads(file.read(length))["__metadata__"]
    generator = json.loads(metadata["generator"])
    return Card(
        name=name,
        architecture=generator["class"],
        resolution=generator["arguments"].get("img_resolution"),
        megabytes=path.stat().st_size / 1e6,
        facts=json.loads(metadata.get("facts", "{}")),
    )


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """Names of models: packaged configs (`create` makes the model, `lightning fit --config` trains
    it), or trained weights that come with gan3d (`from_pretrained` loads them).

    Args:
        pattern: as of file names: * is anything, ? one letter.
        pretrained: only those with weights.

    Example:
        >>> import gan3d
        >>> gan3d.list_models("eg3d_heads*")
        ['eg3d_heads32', 'eg3d_heads64']
        >>> gan3d.list_models("*afhq*")
        ['cips3d_afhq256', 'eg3d_afhq512']
    """
    if pretrained:
        return fnmatch.filter(shipped_models(), pattern)
    known = [name.removesuffix(".yaml") for name in configs.names()]
    path = {name: configs.folder() / f"{name}.yaml" for name in known}
    fitting = fnmatch.filter(known, pattern)
    return [name for name in fitting if configs.generator_of(configs.read(path[name]))]


def _neighbors(path: Path) -> list[str]:
    """What lies beside a path that is not there, and has nearly its name."""
    if not path.parent.is_dir():
        return []
    known = [p for p in path.parent.iterdir() if p.is_dir() or p.suffix in SUFFIXES]
    return [str(path.with_name(name)) for name in closest(path.name, [p.name for p in known])]


def _advice(name: str) -> str:
    """What to do about a name that nothing is near."""
    stem = name.removesuffix(".yaml")
    if f"{stem}.yaml" in configs.names():
        return (
            f"{stem} is a config without weights: train it (lightning fit --config {stem}.yaml), "
            f'or gan3d.create("{stem}") makes it with random ones'
        )
    return (
        "give a .safetensors, a .ckpt, a folder of save_pretrained, a run folder, or user/name of "
        "the hub"
    )
