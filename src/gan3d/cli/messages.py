"""What the command line says when it is misused: what is wrong, the nearest right thing, where to
read more.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from gan3d.spelling import closest, did_you_mean


class CommandError(ValueError):
    """The command line is wrong. Args: the lines of the message, the first one says what is wrong;
    empty ones go.
    """

    def __init__(self, *lines: str):
        super().__init__("\n  ".join(line for line in lines if line))


def nearest(name: str, known: Iterable[str], *, like: str = "--{}") -> str:
    """'did you mean ...?', or nothing where nothing is near. Dotted names are compared within their
    group first.
    """
    known = list(dict.fromkeys(known))
    group, _, leaf = name.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == group}
    near = [siblings[k] for k in closest(leaf, siblings)]
    near = near or [k for k in known if "." in k and k.rpartition(".")[2] == leaf][:3]
    return did_you_mean(near or closest(name, known), like)


def wants_traceback() -> bool:
    return os.environ.get("GAN3D_TRACEBACK", "0") not in ("", "0")


def say(message: str) -> None:
    """One message on stderr."""
    print(f"gan3d: {message}", file=sys.stderr, flush=True)
