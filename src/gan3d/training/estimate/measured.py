"""What an iteration takes on the CPU, to compare an estimate with."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, Trainer
from torch.profiler import ProfilerActivity, profile, record_function

from gan3d.host import set_number
from gan3d.training.estimate.live import bytes_of
from gan3d.training.estimate.repeated import RepeatedBatch
from gan3d.training.estimate.simulate import quiet
from gan3d.training.gan import GAN

SECOND = "gan3d.second_iteration"


class Profiled(Callback):
    """Follows the bytes of live tensors from the first iteration on, which makes the states of the
    optimizers; the peak is that of the second one.
    """

    peak: int

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == 0:
            self.before = bytes_of([*pl_module.parameters(), *pl_module.buffers()])
            self.profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self.profiler.__enter__()
        else:
            with record_function(SECOND):
                pass

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if batch_idx == 1:
            self.profiler.__exit__(None, None, None)
            self.peak = self.before + self._most()

    def _most(self) -> int:
        """Most bytes above `before` in the second iteration."""
        profiler = self.profiler.profiler
        assert profiler is not None
        assert profiler.kineto_results is not None
        events = profiler.kineto_results.events()
        begin = next(event.start_ns() for event in events if event.name() == SECOND)
        live = most = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            if event.name() == "[memory]":
                live += event.nbytes()  # type: ignore[attr-defined]
                if event.start_ns() >= begin:
                    most = max(most, live)
        return most


class AtTheEnd(Callback):
    """Both iterations are among the last ones of the run, and have all phases."""

    def __init__(self, images_seen: int):
        self.images_seen = images_seen

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        set_number(pl_module.images_seen, self.images_seen)
        set_number(pl_module.iterations, 0)


def train_twice(
    gan: GAN,
    batch_size: int,
    *callbacks: Callback,
    posed: bool = True,
    processes: int = 1,
    strategy: str = "auto",
) -> None:
    """Two iterations on black images, on the CPU, as in the last stage of a run.

    Args:
        gan: a harness on the CPU; it is trained.
        batch_size: images over all processes, where the stage has no number of its own.
        callbacks: of the training.
        posed: whether the images have cameras.
        processes: of the training; the others run the program that calls this.
        strategy: of Lightning.
    """
    *_, last = gan.stages
    batch_size = last.batch_size or batch_size
    side = gan.generator.img_resolution
    seen = max(0, round(1000 * gan.run.total_kimg) - 2 * batch_size)
    with quiet():
        trainer = Trainer(
            accelerator="cpu",
            devices=processes,
            strategy=strategy,
            max_steps=2,
            max_epochs=-1,
            logger=False,
            callbacks=[AtTheEnd(seen), *callbacks],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(gan, RepeatedBatch(side, batch_size // processes, posed=posed))


def live_peak(gan: GAN, batch_size: int, *, posed: bool = True) -> int:
    """Bytes of live tensors, at most, of an iteration with all its lazy phases.

    Args:
        gan: a harness on the CPU; it is trained.
        batch_size: images.
        posed: whether they have cameras.
    """
    found = Profiled()
    torch.manual_seed(0)
    train_twice(gan, batch_size, found, posed=posed)
    return found.peak
