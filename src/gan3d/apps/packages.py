"""Packages of meshes, which are imported where they are needed (pip install gan3d[apps])."""

from __future__ import annotations

import importlib
from types import ModuleType


def needed(name: str) -> ModuleType:
    """A module of a package that comes with gan3d[apps].

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"meshes need the package {name.partition('.')[0]}, which is not installed; install "
            "it: pip install gan3d[apps]"
        ) from error
