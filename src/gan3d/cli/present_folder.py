"""Classes of the present folder: a config may name one, and nothing else there is imported.

A config given on the command line is a program: it may name any class. But a file that happens to
lie in the present folder shadows no module, and stands in for none that is not installed
(`adlfs.py`, which some package looks for).
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from gan3d.cli.messages import CommandError

DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")


class PresentFolder(importlib.abc.MetaPathFinder):
    """Finds modules in a folder, after all others: those that class paths name, and what these
    import themselves.

    Args:
        folder: where they lie.
        names: modules that are named.
    """

    def __init__(self, folder: Path, names: Iterable[str]):
        self.folder, self.names = folder, set(names)
        self.found: set[str] = set()

    def find_spec(
        self, fullname: str, path: Any = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """A top-level module; those below it are found by its own path."""
        if path is not None or not (fullname in self.names or self._asks()):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, [str(self.folder)])
        if spec is not None:
            self.found.add(fullname)
        return spec

    def _asks(self) -> bool:
        """Whether a module that was found here imports another one."""
        frame = sys._getframe(2)
        while frame is not None and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back  # type: ignore[assignment]
        return frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in self.found


def open_present_folder(arguments: list[str], configs: list[Path]) -> None:
    """Makes the classes of the present folder known that a command and its configs name."""
    texts = [*arguments, *_texts([content_of(path) for path in configs])]
    names = {found.partition(".")[0] for text in texts for found in DOTTED.findall(text)}
    others = [finder for finder in sys.meta_path if not isinstance(finder, PresentFolder)]
    sys.meta_path[:] = [*others, PresentFolder(Path.cwd(), names)]


def content_of(path: Path) -> Any:
    """The content of a config; nothing where it is broken, which its parser says."""
    try:
        return yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, OSError):
        return None


def refuse_foreign(config: dict[str, Any], given: Iterable[Any], known: Iterable[type]) -> None:
    """Refuses a config out of a file whose classes are neither gan3d's nor registered, as these
    would be imported.

    Args:
        config: plain values, of a checkpoint.
        given: the words and configs of the user, who may name any class.
        known: registered classes.

    Raises:
        CommandError: a class is none of them.
    """
    allowed = {f"{cls.__module__}.{cls.__qualname__}" for cls in known}
    own = set(_texts(list(given)))
    for text in _texts({name: part for name, part in config.items() if name not in PATHS}):
        is_path = DOTTED.fullmatch(text) and not text.startswith("gan3d.")
        if is_path and text not in allowed | own:
            raise CommandError(
                f"the checkpoint asks for {text[:80]!r}, which is neither a class of gan3d nor of "
                "an installed package's gan3d.models; nothing was imported",
                "if you trust it, name its config yourself, which is a program: "
                "--config runs/NAME/config.yaml",
            )


PATHS = ("run_dir", "data")  # no class stands there


def _texts(tree: Any) -> Iterator[str]:
    """All texts of nested dictionaries and lists."""
    if isinstance(tree, dict):
        for part in tree.values():
            yield from _texts(part)
    elif isinstance(tree, (list, tuple)):
        for part in tree:
            yield from _texts(part)
    elif isinstance(tree, str):
        yield tree
