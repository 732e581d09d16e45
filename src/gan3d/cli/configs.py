"""Packaged configs: complete files `<generator>_<dataset><resolution>.yaml`, and overlays to put on
top of them.
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from gan3d.cli.messages import CommandError, nearest


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
        CommandError: there is neither; the nearest names are given.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    known = names()
    for candidate in (name, f"{name}.yaml"):
        if candidate in known:
            return folder() / candidate
    raise CommandError(
        f"there is no config {name}: no such file, and no packaged config of that name",
        nearest(path.stem, [k.removesuffix(".yaml") for k in known], like="{}.yaml")
        or f"packaged: {', '.join(known) or 'none'}",
        "all of them: gan3d configs",
    )


def summary(name: str) -> str:
    """The first comment line of a packaged config."""
    first = (folder() / name).read_text().split("\n", 1)[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def print_configs() -> int:
    """Lists the packaged configs, each with what it is."""
    width = max((len(name) for name in names()), default=0)
    print(
        f"packaged configs, in {folder()}; use them by name: lightning fit --config NAME "
        "[--config OVERLAY]\n"
    )
    for name in names():
        print(f"  {name:{width}}  {summary(name)}")
    return 0


def resolve(argv: list[str]) -> tuple[list[str], list[Path]]:
    """Replaces the names after `--config` and `-c` by the paths of the files.

    Returns:
        the arguments with paths, and the paths in order.
    """
    resolved, found = list(argv), []
    for k, word in enumerate(argv):
        option, equals, value = word.partition("=")
        if option not in ("--config", "-c"):
            continue
        if equals:
            found.append(find(value))
            resolved[k] = f"{option}={found[-1]}"
        elif k + 1 < len(argv):
            found.append(find(argv[k + 1]))
            resolved[k + 1] = str(found[-1])
    return resolved, found
