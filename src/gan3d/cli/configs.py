"""Packaged configs on the command line: listed, and named after `--config`."""

from __future__ import annotations

from pathlib import Path

from gan3d.zoo.configs import find, folder, names, summary


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


def resolve(arguments: list[str]) -> tuple[list[str], list[Path]]:
    """Replaces the names after `--config` and `-c` by the paths of the files, and puts the configs
    first: an option overrides all configs, wherever it stands.

    Returns:
        the arguments with paths, and the paths in order.
    """
    first: list[str] = []
    others: list[str] = []
    found: list[Path] = []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option not in ("--config", "-c"):
            others.append(word)
        elif equals:
            found.append(find(value))
            first.append(f"{option}={found[-1]}")
        elif (value := next(words, "")) != "":
            found.append(find(value))
            first += [option, str(found[-1])]
        else:
            others.append(word)
    return first + others, found
