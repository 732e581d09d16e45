"""What a thread of this process waits for, read from its stack: a data worker, the other processes,
a file, or a line of the program.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

PACKAGE = Path(__file__).parents[1]
LOADER = "torch/utils/data/dataloader.py"
COLLECTIVES = "torch/distributed/distributed_c10d.py"
ARCHIVE = "gan3d/data/archive.py"
# Of Linux, in /proc/PID/stat.
STATES = {
    "T": "stopped by a signal: kill -CONT {pid} lets it go on",
    "t": "stopped by a debugger",
    "D": "waiting for a disk",
    "Z": "dead",
    "R": "computing",
    "S": "asleep",
}


def waits_for(thread: int) -> tuple[str, bool]:
    """What a thread, by its number, waits for, and whether that is another process of the run."""
    frames = list(_frames(sys._current_frames().get(thread)))
    for frame in frames:
        file = frame.f_code.co_filename.replace("\\", "/")
        if file.endswith(COLLECTIVES):
            return f"the other processes ({frame.f_code.co_name})", True
        own = frame.f_locals.get("self")
        if file.endswith(LOADER) and hasattr(own, "_task_info"):
            return _worker(own), False
        name = frame.f_locals.get("name")
        if file.endswith(ARCHIVE) and isinstance(name, str):
            return f"the file {name!r} of {getattr(own, 'path', 'the data set')}", False
    own_code = (f for f in frames if Path(f.f_code.co_filename).is_relative_to(PACKAGE))
    place = next(own_code, frames[0] if frames else None)
    if place is None:
        return "a thread that has ended", False
    code = place.f_code
    return f"{Path(code.co_filename).name}, line {place.f_lineno}, {code.co_qualname}", False


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """From the innermost to the outermost."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _worker(iterator: Any) -> str:
    """The worker of a DataLoader that has the next batch to make."""
    info = iterator._task_info.get(iterator._rcvd_idx)
    if info is None:
        return "the data workers"
    number = info[0]
    pid = iterator._workers[number].pid
    known = [state_of(pid), *(f"reading {path}" for path in open_files(pid)[-1:])]
    return f"data worker {number} (process {pid}; {', '.join(filter(None, known))})"


def state_of(pid: int) -> str:
    """What a process does; empty where the system does not tell."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
    return STATES.get(letter, "").format(pid=pid)


def open_files(pid: int) -> list[str]:
    """Files that a process has open, in the order in which it opened them."""
    found = []
    try:
        for link in sorted(Path(f"/proc/{pid}/fd").iterdir(), key=lambda path: int(path.name)):
            target = Path(link.readlink())
            if target.is_absolute() and target.parts[1] not in ("dev", "proc", "sys"):
                found.append(str(target))
    except (OSError, ValueError):
        pass
    return found


def folder_of_beats() -> Path:
    """Where the processes of one run on one machine tell how far they are."""
    run = f"{os.environ.get('MASTER_ADDR', '')}-{os.environ.get('MASTER_PORT', '')}"
    user = os.getuid() if hasattr(os, "getuid") else 0
    return Path(tempfile.gettempdir()) / f"gan3d-{user}-{run}"
