"""A run that is told to stop saves first: SIGTERM, SIGUSR1, SIGHUP and Ctrl-C.

A signal only leaves a note. After the iteration all processes of the run write a checkpoint and
end: a signal to one of them stops all at the same iteration, as the note travels with the one
message that an iteration sends anyway (`GAN.asked_to_stop`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from gan3d.training.callbacks.periodic import images_seen
from gan3d.training.checkpoints import Checkpoints, code_of_others
from gan3d.training.gan import GAN

# Those that a run outlives until it has saved (there are fewer on Windows).
NAMES = ("SIGTERM", "SIGUSR1", "SIGHUP", "SIGINT")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))


class Stopped(SystemExit):
    """A signal ended the run between two iterations. As is usual, the exit code is 128 and its
    number.

    Args:
        number: of the signal.
        images_seen: by the run.
        checkpoint: that was written; None: there was nothing to save.
        code: exit code.

    Attributes:
        text: what to tell the user.
    """

    text = ""

    def __init__(self, number: int, images_seen: int, checkpoint: Path | None, code: int):
        super().__init__(code)
        self.signal = signal.Signals(number).name
        self.images_seen, self.checkpoint = images_seen, checkpoint


class StopOnSignal(Callback):
    """Ends a run after the iteration in which a signal came, with a checkpoint.

    The second Ctrl-C stops at once. When the last checkpoint of the run is written, signals do
    what they did before.
    """

    def __init__(self) -> None:
        self._former: dict[int, Any] = {}
        self._began_at, self._interrupts = 0, 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._former = {number: signal.getsignal(number) for number in SIGNALS}  # not Lightning's

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._module, self._began_at, self._interrupts = cast(GAN, pl_module), -1, 0
        self._module.asked_to_stop = 0
        if trainer.received_sigterm:  # before we were asked
            self._module.asked_to_stop = signal.SIGTERM
            trainer._signal_connector.received_sigterm = False
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._module.asked_to_stop = max(number, self._module.asked_to_stop)
        if number != signal.SIGINT:
            return
        self._interrupts += 1
        if self._interrupts > 1:
            raise KeyboardInterrupt
        if self._module.global_rank == 0:  # print may be what was interrupted
            text = "\ngan3d: stops after this iteration, with a checkpoint; Ctrl-C again: at once\n"
            with contextlib.suppress(OSError):
                os.write(2, text.encode())

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Signals while the first pictures were made: nothing is trained that could be saved."""
        if self._began_at < 0:
            self._began_at = images_seen(pl_module)
            if trainer.world_size == 1 and self._module.asked_to_stop:
                self._stop(trainer, None)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module = self._module
        if module.stop_agreed if trainer.world_size > 1 else module.asked_to_stop:
            self._stop(trainer, checkpoints_of(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        checkpoints = checkpoints_of(trainer)
        if checkpoints is not None:
            checkpoints.on_train_end(trainer, pl_module)
        if trainer.world_size == 1 and self._module.asked_to_stop:
            self._stop(trainer, None)
        self._restore()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._restore()

    def _stop(self, trainer: Trainer, checkpoints: Checkpoints | None) -> None:
        seen = images_seen(self._module)
        path = None
        if checkpoints is not None:
            path = checkpoints.path(seen)
            checkpoints.on_train_end(trainer, self._module)
            if trainer.is_global_zero and not path.exists():  # of a trial
                path = None
        asked = torch.tensor(self._module.asked_to_stop, device=self._module.device)
        number = int(trainer.strategy.reduce(asked, reduce_op="max"))
        raise Stopped(number, seen, path, code_of_others(trainer, 128 + number))

    def _restore(self) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        for number, handler in self._former.items() if is_main else ():
            if handler is not None:  # of a library, which Python cannot put back
                signal.signal(number, handler)
        self._former = {}


def checkpoints_of(trainer: Trainer) -> Checkpoints | None:
    """The callback that saves, where there is one."""
    return next((c for c in trainer.callbacks if isinstance(c, Checkpoints)), None)  # type: ignore[attr-defined]
