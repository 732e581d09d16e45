"""What goes wrong in one of several processes: a callback that a config names."""

import os
import resource
import signal
import time
from pathlib import Path

import torch
from lightning.pytorch import Callback

from gan3d.training.callbacks import Watchdog


class Fault(Callback):
    """One process has a fault before an iteration.

    Args:
        kind: killed, error, nan, hang, or full (no file can grow any more).
        rank: of the process.
        at: iteration, counted from 0.
        seconds: that `hang` takes; the watchdog of the run then speaks after three.
    """

    def __init__(self, kind: str, rank: int = 1, at: int = 5, seconds: float = 0.0):
        self.kind, self.rank, self.at, self.seconds = kind, rank, at, seconds
        if kind == "hang":
            Watchdog.__init__.__defaults__ = (3.0,)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_rank != self.rank or int(pl_module.iterations) != self.at:
            return
        Path(trainer.default_root_dir, "fault").touch()
        if self.kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.kind == "error":
            raise RuntimeError("a fault of the test")
        elif self.kind == "nan":
            batch.pixels = torch.full_like(batch.image, torch.nan)
        elif self.kind == "hang":
            time.sleep(self.seconds)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
