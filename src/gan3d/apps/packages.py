"""Packages of gan3d[apps], which are imported where they are needed."""

from __future__ import annotations

import importlib
from types import ModuleType


def needed(name: str, what: str = "meshes need") -> ModuleType:
    """A module of a package that comes with gan3d[apps].

    Args:
        name: of the module.
        what: needs it, for the message.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"{what} the package {name.partition('.')[0]}, which is not installed; install "
            "it: pip install gan3d[apps]"
        ) from error
