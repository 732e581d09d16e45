"""Arguments and configs that would take all memory, or all stack, to be read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gan3d.cli.messages import CommandError
from gan3d.zoo.configs import MOST_DEEP, refuse_bomb


def refuse_bombs(arguments: Iterable[str], configs: Iterable[Path]) -> None:
    """Refuses configs, and values of options, that are nested like none is.

    Raises:
        CommandError: a value is.
        ValueError: a file is.
    """
    for path in configs:
        refuse_bomb(path)
    for word in arguments:
        if max(word.count("["), word.count("{")) > MOST_DEEP:
            raise CommandError(
                f"{word[:40]!r}.. is nested more than {MOST_DEEP} levels; no option takes such a "
                "value"
            )
        # A group of options may be given as a file.
        value = word.partition("=")[2] if word.startswith("--") else word
        if value.endswith((".yaml", ".yml", ".json")) and Path(value).is_file():
            refuse_bomb(Path(value))
