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
