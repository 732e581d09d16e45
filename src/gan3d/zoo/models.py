"""Names of models: what lies where, found without reading it (and without importing torch)."""

from __future__ import annotations

import re
from pathlib import Path

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
