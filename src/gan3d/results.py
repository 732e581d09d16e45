"""Results on disk: nothing is overwritten unasked, and a file is there as a whole or not at all.

A verb refuses before its work begins; what it made is written beside its place, then renamed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

MARKER = ".gan3d-run"  # the file that makes a folder known as that of a run


def refuse_existing(paths: Iterable[Path], overwrite: bool) -> None:
    """Refuses to write where something is, unless `overwrite`.

    Raises:
        ValueError: a path is there.
    """
    there = [] if overwrite else [path for path in paths if path.exists() or path.is_symlink()]
    if there:
        more = f" (and {len(there) - 1} more)" if len(there) > 1 else ""
        raise ValueError(
            f"{there[0]} exists already{more}; give another place, or replace it: --overwrite true"
        )


def write_whole(path: Path, write: Callable[[Path], Any]) -> Path:
    """Has a file written beside its place, and renames it; a failure leaves what was there.

    Args:
        path: of the file; missing folders are made.
        write: is given the path to write to, of the same folder and suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
