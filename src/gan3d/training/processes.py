"""Processes of a run: which one ended, and how, said by those that are left.

Where one ends, the others lose their connection in the middle of a message. That is no news: the
first cause is.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from gan3d.training.waiting import folder_of_beats

log = logging.getLogger(__name__)

LOST = re.compile(
    r"Connection (closed by peer|reset by peer)|Broken pipe|connectFullMesh|remote process exited|"
    r"NCCL (error|communicator)|Socket (Timeout|closed)|Timed out waiting .*ms for"
)
PATIENCE = 10.0  # seconds for the process that ended to be seen


def lost_connection(error: BaseException) -> bool:
    """Whether an error is what a process sees of the end of another one."""
    if type(error).__name__ in ("DistBackendError", "DistNetworkError"):
        return True
    return isinstance(error, RuntimeError) and LOST.search(str(error)) is not None


def leave_word(rank: int, reason: str) -> None:
    """Leaves the reason why this process ends to the first one."""
    try:
        folder = folder_of_beats()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{rank}.reason").write_text(reason)
    except OSError:  # the first process then tells the exit code
        pass


class Launcher(_SubprocessScriptLauncher):
    """Starts the other processes; where one of them ends badly, the first one can still tell."""

    def launch(self, function: Callable, *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        environment = self.cluster_environment
        environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not environment.creates_processes_externally:
            self._call_children_scripts()
            for rank in range(1, self.num_processes):
                (folder_of_beats() / f"{rank}.reason").unlink(missing_ok=True)
            Observer(os.getpid(), self.procs, sleep_period=2).start()
        return function(*args, **kwargs)


class Observer(_ChildProcessObserver):
    """Ends a run whose process ended, some seconds later than Lightning's."""

    def _terminate_all(self) -> None:
        time.sleep(PATIENCE)  # the first process is mostly gone by then, with better words
        log.error("error: %s; the run is ended", describe(ended(self._child_processes)))
        super()._terminate_all()


def ended(processes: Sequence[subprocess.Popen]) -> tuple[int, int] | None:
    """(rank, exit code) of the process that ended first: one that was killed, else one that left
    word, else any that ended badly.
    """
    bad = [(rank, p.poll()) for rank, p in enumerate(processes, start=1)]
    codes = [(rank, code) for rank, code in bad if code]
    killed = [(rank, code) for rank, code in codes if code < 0]
    told = [(rank, code) for rank, code in codes if _reason(rank)]
    return next(iter([*killed, *told, *codes]), None)


def describe(end: tuple[int, int] | None) -> str:
    """How a process ended."""
    if end is None:
        return "another process ended; its own words are above, or in its log"
    rank, code = end
    if code < 0:
        name = signal.Signals(-code).name
        memory = "; out of memory?" if name == "SIGKILL" else ""
        return f"process {rank} was killed ({name}{memory})"
    return f"process {rank} failed: {_reason(rank) or f'exit code {code}'}"


def _reason(rank: int) -> str:
    try:
        return (folder_of_beats() / f"{rank}.reason").read_text().strip()
    except OSError:
        return ""


def first_cause(strategy: Any, parent: int) -> str:
    """Why this process lost its connection; empty where another one says it.

    Args:
        strategy: of the trainer.
        parent: process that started this one, as it was at the start.
    """
    processes = getattr(getattr(strategy, "launcher", None), "procs", [])
    until = time.monotonic() + PATIENCE / 2
    while processes and ended(processes) is None and time.monotonic() < until:
        time.sleep(0.1)
    if processes:
        return describe(ended(processes))
    if strategy.global_rank == 0 or sys.platform == "win32":
        return describe(None)
    while os.getppid() == parent and Path(f"/proc/{parent}").exists():
        if time.monotonic() > until:
            return ""  # the first process is there, and speaks
        time.sleep(0.1)
    return "process 0 was killed (SIGKILL; out of memory?)"
