"""Packaged configs: complete files `<generator>_<dataset><resolution>.yaml`, and overlays to put on
top of them. This is the one place that knows where they lie.
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Any

import yaml

from gan3d.spelling import closest, did_you_mean

# Of a config; those that come with gan3d have 8 KiB, a depth of 7 and no alias.
MOST_BYTES, MOST_DEEP, MOST_ALIASES = 2**22, 100, 100


def folder() -> Path:
    """Where the configs that come with gan3d lie: inside the wheel, or beside `src` in a
    checkout.
    """
    packaged = Path(str(importlib.resources.files("gan3d"))) / "configs"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / "configs"


def names() -> list[str]:
    """File names of the packaged configs."""
    return sorted(path.name for path in folder().glob("*.yaml"))


def find(name: str) -> Path:
    """The config of that name: first a file of that path, then a packaged config (`.yaml` may be
    left out).

    Raises:
        ValueError: there is neither; the nearest names are given.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    known = names()
    for candidate in (name, f"{name}.yaml"):
        if candidate in known:
            return folder() / candidate
    near = did_you_mean(closest(path.stem, [k.removesuffix(".yaml") for k in known]), "{}.yaml")
    raise ValueError(
        f"there is no config {name}: no such file, and no packaged config of that name\n"
        f"  {near or 'packaged: ' + (', '.join(known) or 'none')}\n"
        "  all of them: gan3d configs"
    )


def summary(name: str) -> str:
    """The first comment line of a packaged config."""
    first = (folder() / name).read_text(encoding="utf-8").split("\n", 1)[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def refuse_bomb(path: Path) -> None:
    """Refuses a YAML file that would take all memory, or more stack than there is, to be read.

    Raises:
        ValueError: it is very large, very deep, or refers to its own parts again and again.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(
            f"{path} has {size / 2**20:.0f} MiB; a config has {MOST_BYTES / 2**20:.0f} at most"
        )
    depth = aliases = 0
    try:
        for event in yaml.parse(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader):
            begins = isinstance(event, yaml.CollectionStartEvent)
            depth += begins - isinstance(event, yaml.CollectionEndEvent)
            aliases += isinstance(event, yaml.AliasEvent)
            if depth > MOST_DEEP or aliases > MOST_ALIASES:
                most = f"{MOST_DEEP} levels" if depth > MOST_DEEP else f"{MOST_ALIASES} aliases"
                raise ValueError(f"{path} is no config: it has more than {most}")
    except (yaml.YAMLError, UnicodeDecodeError):
        pass  # what is no YAML at all is said, with the line, by who reads it


def read(path: Path) -> dict[str, Any]:
    """The content of a config.

    Raises:
        ValueError: it is not YAML, no dictionary, or a bomb.
    """
    refuse_bomb(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no config: it holds no dictionary")
    return content


def generator_of(config: dict[str, Any]) -> dict[str, Any] | None:
    """The generator's part, class_path and init_args; None where there is none (an overlay)."""
    section = (config.get("model") or {}).get("generator")
    if isinstance(section, str):
        return {"class_path": section, "init_args": {}}
    return section if section and "class_path" in section else None
