"""Options checked before the work begins: what is asked for is there, and what comes of it can be
written.

A verb's function begins with its checks, which need no torch: `gan3d.cli.signatures` runs them
before the function's module is imported.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan3d.cli.messages import CommandError, nearest
from gan3d.results import refuse_existing
from gan3d.zoo.models import locate

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Span:
    """Numbers from `least` to `most`; `open` leaves out these two."""

    least: float
    most: float = float("inf")
    open: bool = False

    def __contains__(self, value: float) -> bool:
        if self.open:
            return self.least < value < self.most
        return self.least <= value <= self.most

    def __str__(self) -> str:
        if self.most == float("inf"):
            return f"above {self.least:g}" if self.open else f"{self.least:g} or more"
        between = "between {} and {}" if self.open else "from {} to {}"
        return between.format(f"{self.least:g}", f"{self.most:g}")


# What an option of a name may be, whatever its verb.
SPANS = {
    "seed": Span(0),
    "num": Span(1),
    "batch_size": Span(1),
    "resolution": Span(1),
    "workers": Span(1),
    "threads": Span(1),
    "num_workers": Span(0),
    "truncation": Span(-2, 2),
    "truncation_target": Span(-2, 2),
    "radius": Span(0, open=True),
    "fov": Span(0, 180, open=True),
    "extent": Span(0, open=True),
    "voxels": Span(2),
    "scale": Span(1, 64),
    "fps": Span(1, 120),
    "cut": Span(1),
    "band": Span(0, open=True),
    "tolerance": Span(0, open=True),
    "port": Span(1, 65535),
}
MODELS = ("model", "base", "target")
WRITTEN = ("out", "sheet", "html", "video", "save")  # all other paths are read
DEVICE = re.compile(r"auto|cpu|(cuda|mps|xpu)(:\d+)?")


def check_values(values: Mapping[str, Any]) -> None:
    """Refuses arguments, by name, that no verb can work with.

    Raises:
        CommandError: a number is out of its span, a file or device is not there, or nothing can be
            written where the result is to go.
        ValueError: there is no such model.
    """
    for name, value in values.items():
        if value is None:
            continue
        span = SPANS.get(name)
        if span is not None and value not in span:
            raise CommandError(f"--{name} {value} is out of range; give a number {span}")
        if name in MODELS:
            locate(value)
        if name == "device" and not DEVICE.fullmatch(value):
            known = ("auto", "cpu", "cuda", "cuda:1", "mps")
            raise CommandError(
                f"--device {value} is not a device",
                nearest(value, known, like="{}") or f"devices: {', '.join(known)}",
            )
        if isinstance(value, Path) and name in WRITTEN:
            _refuse_unwritable(value, value.expanduser().parent)
        elif isinstance(value, Path) or name == "run_dir":
            existing(name, Path(value))


def existing(name: str, path: Path) -> Path:
    """A file or folder that is there.

    Raises:
        CommandError: it is not; the nearest one beside it is given.
    """
    path = Path(path).expanduser()
    if not path.exists():
        beside = [str(other) for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise CommandError(
            f"{name} {path}: there is no such file or folder",
            nearest(str(path), beside, like="{}"),
        )
    return path


def at_least(least: int, name: str, value: int) -> None:
    """Refuses a number of things that is too small."""
    if value < least:
        raise CommandError(f"--{name} {value} is too few; give {least} or more")


def device_of(name: str) -> torch.device:
    """The device of an option `--device`: auto is the GPU where there is one.

    Raises:
        CommandError: torch does not know it, or it is not in this machine.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # by kind of device
        there = ["auto", "cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CommandError(
            f"--device {name} cannot be used: {reason}", f"there is: {', '.join(there)}"
        ) from error


def file_for(out: Path, *suffixes: str, overwrite: bool = False) -> Path:
    """A file that can be written, by what its name ends in (any for no suffixes); nothing is made.

    Raises:
        CommandError: it is a folder, has another ending, or lies where nothing can be written.
        ValueError: it is there, and not to be replaced.
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
    refuse_existing([out], overwrite)
    _refuse_unwritable(out, out.parent)
    return out


def folder_for(out: Path, *files: str, overwrite: bool = False) -> Path:
    """A folder that files can be written to, be it there or not; nothing is made.

    Raises:
        CommandError: it is a file, or lies where nothing can be written.
        ValueError: one of the files is there, and not to be replaced.
    """
    out = Path(out).expanduser()
    if out.exists() and not out.is_dir():
        raise CommandError(f"--out {out} is a file; give the name of a folder")
    refuse_existing([out / file for file in files], overwrite)
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
