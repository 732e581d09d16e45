"""What only shows a run may fail: pictures, videos, evaluation, loggers. It is said once, the run
goes on, and it is tried again the next time.

    with tolerated("the video"):
        write_video(..)

Tolerated is what the surroundings do: disks, ffmpeg, W&B, and an eigenvalue that is not found. A
mistake in the program, and all that concerns the training itself, still ends the run.
"""

from __future__ import annotations

import errno
import logging
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import torch

log = logging.getLogger(__name__)

# Packages whose own exceptions say that a file or a service failed.
OUTSIDE = ("wandb", "imageio_ffmpeg", "tensorboard")
CURES = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "your quota is used up: make room",
    errno.EFBIG: "a limit of file sizes is set: ulimit -f unlimited",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EROFS: "the disk is mounted read-only: make it writable",
    errno.EEXIST: "a file stands where a folder should be: move it away",
    errno.ENOTDIR: "a file stands where a folder should be: move it away",
}

# What fails at present, and why; a run has one process that shows it.
_failing: dict[str, str] = {}


def is_tolerable(error: BaseException) -> bool:
    """Whether an error comes from the surroundings, not from the program or its training."""
    if isinstance(error, (OSError, torch.linalg.LinAlgError, subprocess.SubprocessError)):
        return True
    return type(error).__module__.partition(".")[0] in OUTSIDE


@contextmanager
def tolerated(what: str, *, again: bool = True) -> Iterator[None]:
    """Says once that `what`, with the name of its file, failed; says when it works again.

    Args:
        what: is done.
        again: whether it comes again.
    """
    try:
        yield
    except Exception as error:
        if not is_tolerable(error):
            raise
        if what not in _failing:
            more = "; the run goes on, and tries it again the next time" if again else ""
            log.warning("warning: %s failed: %s%s", what, reason(error), more)
        _failing[what] = reason(error)
    else:
        if _failing.pop(what, None) is not None:
            log.info("%s: works again", what)


def reason(error: BaseException) -> str:
    """One line of an error, with what to do about it."""
    text = " ".join(str(error).split()) or type(error).__name__
    cure = None
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        cure = CURES.get(error.errno or 0)
    text = text if len(text) <= 300 else f"{text[:297]}..."
    return f"{text} ({cure})" if cure else text


def begin() -> None:
    """Forgets the failures of an earlier run of this process."""
    _failing.clear()


def conclude() -> None:
    """At the end of a run: says what failed the last time it was tried."""
    if _failing:
        log.warning(
            "warning: the run is whole, but what shows it is not: %s",
            "; ".join(f"{what} ({why})" for what, why in _failing.items()),
        )
