"""A watchdog: says what a run waits for where no iteration ends for two minutes."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from gan3d.training.waiting import folder_of_beats, state_of, waits_for

log = logging.getLogger(__name__)


class Watchdog(Callback):
    """One thread that says what a run waits for: a data worker that is stopped, a file that does
    not come, a process that hangs, or a line of the program.

    It says so after `seconds` without an iteration, and again each time that has doubled. It ends
    nothing: what waits may still come. Processes of one machine tell each other by small files how
    far they are; an iteration costs one reading of the clock.

    Args:
        seconds: that an iteration, or what comes between two, may take.
    """

    def __init__(self, seconds: float = 120.0):
        if seconds <= 0:
            raise ValueError(f"seconds is {seconds}; give a time above 0, such as 120")
        self.seconds = seconds
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._beat, self._iterations = 0.0, 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or self._thread is not None:
            return
        self._rank, self._world_size = trainer.global_rank, trainer.world_size
        self._beats = folder_of_beats() if self._world_size > 1 else None
        self._watched = threading.get_ident()
        self._beat, self._iterations = time.monotonic(), 0
        self._over.clear()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._beat, self._iterations = time.monotonic(), self._iterations + 1

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._over.set()
        thread.join(timeout=1)
        if self._beats is not None:
            (self._beats / f"{self._rank}.json").unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not the last one, or it left word
                self._beats.rmdir()

    def _watch(self) -> None:
        since, due = self._beat, self.seconds
        while not self._over.wait(self.seconds / 8):
            if since != self._beat:
                since, due = self._beat, self.seconds
            waiting = time.monotonic() - since
            what, is_other = waits_for(self._watched)
            self._tell_others(what, is_other)
            if waiting < due or self._over.is_set():
                continue
            due *= 2
            late = self._late() if is_other else ""
            # The first process speaks for all, where it can.
            if self._rank == 0 or not is_other or late.startswith("process 0 "):
                log.log(
                    logging.WARNING if self._rank == 0 else logging.ERROR,
                    "warning: %sno iteration for %.0f s (%d so far): waits for %s%s",
                    f"process {self._rank}: " if self._world_size > 1 else "",
                    waiting,
                    self._iterations,
                    what,
                    f"; {late}" if late else "",
                )

    def _tell_others(self, what: str, is_other: bool) -> None:
        if self._beats is None:
            return
        told = {"pid": os.getpid(), "at": time.monotonic(), "what": what, "is_other": is_other}
        path = self._beats / f"{self._rank}.json"
        try:
            self._beats.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".part").write_text(json.dumps(told))
            path.with_suffix(".part").replace(path)
        except OSError:  # a full disk does not matter here
            pass

    def _late(self) -> str:
        """Which process the others wait for, as far as this machine tells."""
        late = []
        for rank in range(self._world_size):
            told = read_beat(self._beats, rank)
            if rank == self._rank:
                continue
            if told is None:
                late.append(f"process {rank} tells nothing (gone, or on another machine)")
            elif time.monotonic() - told["at"] > self.seconds / 2:
                late.append(f"process {rank} ({told['pid']}) is {state_of(told['pid']) or 'gone'}")
            elif not told["is_other"]:
                late.append(f"process {rank} ({told['pid']}) waits for {told['what']}")
        return "; ".join(late)


def read_beat(folder: Path | None, rank: int) -> dict[str, Any] | None:
    """What a process told last; None if it told nothing."""
    try:
        return None if folder is None else json.loads((folder / f"{rank}.json").read_text())
    except (OSError, ValueError):
        return None
