"""Options checked before the work begins: what is asked for is there, and what comes of it can be
written.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from gan3d.cli.messages import CommandError


def at_least(least: int, name: str, value: int) -> None:
    """Refuses a number of things that is too small."""
    if value < least:
        raise CommandError(f"--{name} {value} is too few; give {least} or more")


def device_of(name: str) -> torch.device:
    """The device of an option `--device`: auto is the GPU where there is one.

    Raises:
        CommandError: torch does not know it, or it is not in this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # by kind of device
        there = ["auto", "cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CommandError(
            f"--device {name} can not be used: {reason}", f"there is: {', '.join(there)}"
        ) from error


def file_for(out: Path, *suffixes: str) -> Path:
    """A file that can be written, by what its name ends in (any for no suffixes); nothing is made.

    Raises:
        CommandError: it is a folder, has another ending, or lies where nothing can be written.
    """
    out = Path(out).expanduser()
    if suffixes and out.suffix.lower() not in suffixes:
        example = out.with_suffix(suffixes[0]).name if out.stem.strip(".") else f"name{suffixes[0]}"
        raise CommandError(
            f"--out {out} does not end in {' or '.join(suffixes)}; use for example {example}"
        )
    if out.is_dir():
        raise CommandError(
            f"--out {out} is a folder; give the name of a file, for example "
            f"{out / 'name'}{out.suffix}"
        )
    _refuse_unwritable(out, out.parent)
    return out


def folder_for(out: Path) -> Path:
    """A folder that files can be written to, be it there or not; nothing is made.

    Raises:
        CommandError: it is a file, or lies where nothing can be written.
    """
    out = Path(out).expanduser()
    if out.exists() and not out.is_dir():
        raise CommandError(f"--out {out} is a file; give the name of a folder")
    _refuse_unwritable(out, out)
    return out


def _refuse_unwritable(out: Path, folder: Path) -> None:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise CommandError(f"--out {out}: {there} is a file, no folder; choose another place")
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise CommandError(
            f"--out {out}: nothing can be written in {there} ({reason}); choose another place"
        ) from error
