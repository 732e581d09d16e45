"""An iteration on the pretended device: what it needs, phase by phase, without computing anything.

The harness trains as it always does, on tensors without numbers: forward and backward passes,
double backward passes, optimizers, the average. Two iterations run in each stage, both with all
lazy phases: the first makes the states of the optimizers, the second is measured.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gan3d.host import set_number
from gan3d.training import gan as harness
from gan3d.training.estimate.device import DEVICE, PretendedStrategy, pretending, watching
from gan3d.training.estimate.live import LiveBytes, Work, bytes_of
from gan3d.training.estimate.repeated import RepeatedBatch
from gan3d.training.gan import GAN

PARTS = ("weights", "average", "gradients", "optimizers", "activations")
OUTSIDE = "updates"  # what is done between the phases: averages, logs


@dataclass
class PhaseCost:
    """What a phase needs.

    Attributes:
        interval: iterations from one to the next.
        peak: bytes of live tensors, at most.
        parts: these bytes by `PARTS`.
        flops: of matrix products and convolutions.
        moved: bytes read and written by all operations.
        operations: launches of operations.
        seconds: on the device of `simulate`; 0 where none was given.
    """

    interval: int = 1
    peak: int = 0
    parts: dict[str, int] = field(default_factory=dict)
    flops: float = 0.0
    moved: int = 0
    operations: int = 0
    seconds: float = 0.0


@dataclass
class StageCost:
    """A stage of a run.

    Attributes:
        images: that it trains on.
        batch: images of an iteration, over all processes.
        phases: by name.
    """

    images: int
    batch: int
    phases: dict[str, PhaseCost] = field(default_factory=dict)

    @property
    def largest(self) -> PhaseCost:
        """The phase of the highest peak."""
        return max(self.phases.values(), key=lambda phase: phase.peak)

    @property
    def seconds(self) -> float:
        """Of an iteration, lazy phases by their intervals."""
        return sum(phase.seconds / phase.interval for phase in self.phases.values())


def simulate(
    gan: GAN,
    *,
    batch_size: int,
    processes: int = 1,
    posed: bool = True,
    precision: str = "32-true",
    kind: str = "cpu",
    seconds_of: Callable[[Work], float] = lambda work: 0.0,
) -> list[StageCost]:
    """The cost of an iteration of one process, in each stage.

    Args:
        gan: the harness, whose tensors lose their numbers: give it a copy.
        batch_size: images per iteration over all processes, where a stage has none of its own.
        processes: that share it.
        posed: whether the images have cameras.
        precision: 32-true, bf16-mixed or 16-mixed.
        kind: of the device, cpu or cuda.
        seconds_of: how long a device needs for an operation.
    """
    stages = list(gan.stages)
    costs = []
    for stage, (begin, end) in zip(stages, _spans(stages, gan.run.total_kimg), strict=True):
        batch = stage.batch_size or batch_size
        data = RepeatedBatch(gan.generator.img_resolution, max(1, batch // processes), posed=posed)
        cost = StageCost(end - begin, batch)
        # schedules have their last values at the end of the stage
        trial = Trial(gan, cost, max(begin, end - 2 * batch), seconds_of)
        _train(gan, data, trial, precision, kind)
        costs.append(cost)
    return costs


def _spans(stages: Sequence[harness.Stage], total_kimg: float) -> list[tuple[int, int]]:
    """First and last image of each stage."""
    starts = [round(1000 * stage.from_kimg) for stage in stages]
    ends = [*starts[1:], round(1000 * total_kimg)]
    return [(start, max(start, end)) for start, end in zip(starts, ends, strict=True)]


class Trial(Callback):
    """Puts both iterations at one place of the run, and measures the second one."""

    def __init__(self, gan: GAN, cost: StageCost, seen: int, seconds_of: Callable[[Work], float]):
        self.gan, self.cost, self.seen, self.seconds_of = gan, cost, seen, seconds_of
        self.now: PhaseCost | None = None
        self.live: LiveBytes | None = None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        set_number(pl_module.images_seen, self.seen)
        set_number(pl_module.iterations, 0)
        if batch_idx == 1:
            self.optimizers = trainer.optimizers
            there = [*self._tensors("weights"), *self._tensors("average")]
            there += [*self._tensors("gradients"), *self._tensors("optimizers"), batch.image]
            self.live = LiveBytes(there, self.split, self.note)
            self.live.__enter__()
            self.begin(OUTSIDE)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if self.live is not None:
            self.finish()
            self.live.__exit__(None, None, None)
            self.live = None

    def begin(self, name: str) -> None:
        """A phase begins."""
        if self.live is None:
            return
        self.finish()
        self.now = self.cost.phases.setdefault(name, PhaseCost(self._interval(name)))
        self.live.start_phase()

    def finish(self) -> None:
        """The phase is over."""
        now, live = self.now, self.live
        if now is not None and live is not None and live.peak >= now.peak:
            now.peak = live.peak
            known = {part: live.parts.get(part, 0) for part in PARTS[:-1]}
            now.parts = {**known, PARTS[-1]: live.peak - sum(known.values())}

    def note(self, work: Work) -> None:
        if self.now is not None:
            self.now.flops += work.flops
            self.now.moved += work.moved
            self.now.operations += 1
            self.now.seconds += self.seconds_of(work)

    def split(self) -> dict[str, int]:
        return {part: bytes_of(self._tensors(part)) for part in PARTS[:-1]}

    def _tensors(self, part: str) -> Iterator[Tensor]:
        gan = self.gan
        if part == "weights":
            own = {*gan.generator_ema.parameters(), *gan.generator_ema.buffers()}
            yield from (t for t in (*gan.parameters(), *gan.buffers()) if t not in own)
        elif part == "average":
            yield from (*gan.generator_ema.parameters(), *gan.generator_ema.buffers())
        elif part == "gradients":
            yield from (p.grad for p in gan.parameters() if p.grad is not None)
        else:
            for optimizer in self.optimizers:
                for state in optimizer.state.values():
                    yield from (v for v in state.values() if isinstance(v, Tensor))

    def _interval(self, name: str) -> int:
        losses = self.gan.losses
        if name == "r1":
            return losses.lazy_d
        lazy = {"density": losses.density.interval, "path_length": losses.path_length.interval}
        return lazy.get(name, 1)


class Casts(TorchFunctionMode):
    """What autocast does to products and convolutions, on a device that it does not know."""

    PRODUCTS = frozenset(
        (
            *(F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose2d, F.conv_transpose3d),
            *(torch.matmul, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, torch.mm),
            *(torch.bmm, Tensor.mm, Tensor.bmm, torch.addmm, torch.baddbmm, torch.einsum),
            torch.conv2d,
        )
    )

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self.PRODUCTS and torch.is_autocast_enabled(DEVICE.type):
            dtype = torch.get_autocast_dtype(DEVICE.type)
            args = tuple(_lowered(value, dtype) for value in args)
            kwargs = {name: _lowered(value, dtype) for name, value in (kwargs or {}).items()}
        return func(*args, **(kwargs or {}))


def _lowered(value: Any, dtype: torch.dtype) -> Any:
    is_float = isinstance(value, Tensor) and value.dtype == torch.float32
    return value.to(dtype) if is_float else value


def _train(gan: GAN, data: RepeatedBatch, trial: Trial, precision: str, kind: str) -> None:
    class Step(harness.PhaseStep):
        """A phase that says when it begins and ends."""

        def __call__(self, name: str, *args, **options) -> None:
            trial.begin(name)
            super().__call__(name, *args, **options)
            trial.begin(OUTSIDE)

    low = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    with (
        quiet(),
        pretending(kind),
        watching() as notes,
        patch.object(harness, "PhaseStep", Step),
        Casts() if low else nullcontext(),
        torch.autocast(DEVICE.type, low) if low else nullcontext(),
    ):
        trainer = Trainer(
            strategy=PretendedStrategy(notes),
            max_epochs=-1,
            max_steps=2,
            logger=False,
            callbacks=[trial],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(gan, data)


@contextmanager
def quiet(names: Iterable[str] = ("lightning.pytorch", "gan3d")) -> Iterator[None]:
    """Nothing is said of a training that is none."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def peak_of(costs: Iterable[StageCost]) -> PhaseCost:
    """The phase of the highest peak of all stages."""
    return max((cost.largest for cost in costs), key=lambda phase: phase.peak)


def seconds_in_all(costs: Iterable[StageCost]) -> float:
    """Of all iterations of a run."""
    return sum(math.ceil(cost.images / cost.batch) * cost.seconds for cost in costs)
