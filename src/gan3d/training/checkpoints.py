"""Checkpoints of a run: whole or not there, found again, named by the images seen.

    <run>/checkpoints/kimg-000012.800.ckpt      the last `keep` of them; a folder where each process
                                                writes its parts of sharded networks
    <run>/checkpoints/last.ckpt                 link to the one written last
    <run>/checkpoints/abandoned-1/              those of a branch that was left, and its metrics

A checkpoint is saved before anything is shown of the same iteration: pictures, videos and
evaluation can fail. A run that goes on from an earlier checkpoint leaves the later ones: they are
kept aside, so that those in the folder are always one branch.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import Checkpoint, ProgressBar

from gan3d.checkpoints.runs import LAST, checkpoints_in, newest_whole
from gan3d.schedules import crossed
from gan3d.training.callbacks.periodic import BEFORE_KEY, PeriodicCallback, images_seen
from gan3d.training.checkpoint_file import NotSavedError, WholeFileIO
from gan3d.training.nan_guard import REMEDIES, NonFiniteError

log = logging.getLogger(__name__)


class Checkpoints(Checkpoint):
    """Saves the whole training state.

    Args:
        dir: folder of the checkpoints; None is `<default_root_dir>/checkpoints`.
        every_kimg: thousand images between two checkpoints; the end of the run saves one, too.
        keep: number of those written last that stay; 0 keeps all.
        sharded: a checkpoint is a folder, to which every process adds its parts of sharded
            networks (gan_fsdp); else it is one file, which the first process writes.
    """

    def __init__(
        self,
        dir: Path | str | None = None,
        every_kimg: float = 20.0,
        keep: int = 3,
        sharded: bool = False,
    ):
        if every_kimg <= 0:
            raise ValueError(
                f"every_kimg is {every_kimg}; expected thousands of images above 0: set "
                "--checkpoints.every_kimg, a large one saves at the end only"
            )
        if keep < 0:
            raise ValueError(f"checkpoints.keep is {keep}; use 0 to keep all, or a positive number")
        self.dir = None if dir is None else Path(dir)
        self.every_kimg, self.keep, self.sharded = every_kimg, keep, sharded
        self._seen = 0

    # ------------------------------------------------------------ when

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.dir is None:
            self.dir = Path(trainer.default_root_dir) / "checkpoints"
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeFileIO()
        if stage == "fit" and self.sharded:
            if not hasattr(trainer.strategy, "writes_parts"):
                raise ValueError(
                    "checkpoints.sharded writes parts of sharded networks, and strategy "
                    f"{type(trainer.strategy).__name__} shards none; set --trainer.strategy "
                    "gan_fsdp or gan_hsdp, or --checkpoints.sharded false"
                )
            trainer.strategy.writes_parts = True
        self._go_first(trainer)

    def _go_first(self, trainer: pl.Trainer) -> None:
        """Before all that shows the run; Lightning puts checkpoints last."""
        others = [c for c in trainer.callbacks if c is not self]  # type: ignore[attr-defined]
        shows = (PeriodicCallback, ProgressBar)
        place = next((i for i, c in enumerate(others) if isinstance(c, shows)), len(others))
        # A new list: Lightning is walking through the old one.
        trainer.callbacks = [*others[:place], self, *others[place:]]  # type: ignore[attr-defined]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._seen = images_seen(pl_module)
        self.leave_branch(trainer, self._seen)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self._seen = images_seen(pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if crossed(self._seen, images_seen(pl_module), self.every_kimg):
            self.save(trainer, images_seen(pl_module))

    def on_train_end(self, trainer, pl_module) -> None:
        if not self.path(images_seen(pl_module)).exists():
            self.save(trainer, images_seen(pl_module))

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict[str, Any]) -> None:
        checkpoint[BEFORE_KEY] = self._seen

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Tells a run that stops on a NaN from what it can go on."""
        if isinstance(exception, NonFiniteError) and trainer.is_global_zero:
            exception.args = (f"{exception} {self.intact()}",)

    # ------------------------------------------------------------ writing

    def path(self, images_seen: int) -> Path:
        assert self.dir is not None
        return self.dir / f"kimg-{images_seen / 1000:010.3f}.ckpt"

    def save(self, trainer: pl.Trainer, images_seen: int) -> None:
        """Writes one checkpoint (all processes call this); none of a trial (fast_dev_run).

        Raises:
            NotSavedError: it could not be written; those before it stay.
            NonFiniteError: a weight, an average or a state of an optimizer is not finite.
        """
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        path = self.path(images_seen)
        partial = path.with_suffix(".partial")
        trainer.save_checkpoint(partial, weights_only=False)
        error = self._conclude(trainer, partial, path) if trainer.is_global_zero else None
        error = trainer.strategy.broadcast(error)
        if error is not None and not trainer.is_global_zero:  # the first process says it
            raise SystemExit(code_of_others(trainer, 1 if isinstance(error, NonFiniteError) else 2))
        if isinstance(error, NonFiniteError):
            raise NonFiniteError(
                f"no checkpoint was written at {images_seen / 1000:.3f} kimg: {error}. {REMEDIES}"
            )
        if error is not None:
            raise NotSavedError(
                f"{path} was not written: {error}. Make room or mend the folder. {self.intact()}"
            )

    def _conclude(self, trainer: pl.Trainer, partial: Path, path: Path) -> Exception | None:
        """Puts what was written in its place; returns what went wrong."""
        io = trainer.strategy.checkpoint_io
        error = io.take_error() if isinstance(io, WholeFileIO) else None
        if error is not None:
            return error
        try:
            if path.is_dir():
                shutil.rmtree(path)
            os.replace(partial, path)
            point_to(path)
            flush(path.parent)
            self._prune(path)
        except OSError as problem:
            return NotSavedError(problem.strerror or str(problem))
        return None

    def intact(self) -> str:
        """The checkpoint from which the run can go on, in a sentence."""
        assert self.dir is not None
        newest = newest_whole(self.dir)
        if newest is None:
            return "There is no checkpoint yet to go on from."
        return (
            f"{newest.name} was checked and is intact, every number in it is finite: go on from it "
            "with --ckpt_path last."
        )

    def _prune(self, written: Path) -> None:
        assert self.dir is not None
        kept = {written.resolve(), (self.dir / LAST).resolve()}
        numbered = [path for path in checkpoints_in(self.dir) if path.name != LAST]
        for old in numbered[self.keep :] if self.keep else ():
            if old.resolve() not in kept:
                remove(old)
        for stray in self.dir.glob("kimg-*.partial"):  # left by a killed run
            remove(stray)

    # ------------------------------------------------------------ branches

    def leave_branch(self, trainer: pl.Trainer, images_seen: int) -> None:
        """Moves checkpoints from after `images_seen` aside, with a copy of the metrics.

        The first process does it, before the run logs or saves.
        """
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        assert self.dir is not None
        there = checkpoints_in(self.dir)
        here = self.path(images_seen).name
        later = [path for path in there if path.name != LAST and path.name > here]
        if not later:
            return
        aside = next(
            folder
            for number in itertools.count(1)
            if not (folder := self.dir / f"abandoned-{number}").exists()
        )
        aside.mkdir()
        metrics = Path(trainer.default_root_dir) / "metrics.csv"
        if metrics.is_file():
            shutil.copyfile(metrics, aside / metrics.name)
        last = self.dir / LAST
        for path in [*later, last] if last in there else later:
            path.rename(aside / path.name)
        last.unlink(missing_ok=True)
        left = checkpoints_in(self.dir)
        if left:
            point_to(left[0])
        log.warning(
            "the run goes on from %.3f kimg: %d later checkpoint%s and a copy of the metrics are "
            "now in %s",
            images_seen / 1000,
            len(later),
            "s" if len(later) > 1 else "",
            aside,
        )


def point_to(path: Path) -> None:
    """Makes `last.ckpt` stand for a checkpoint: a link, and where no links can be made, a hard
    link or a copy.
    """
    last, fresh = path.with_name(LAST), path.with_name("last.partial")
    fresh.unlink(missing_ok=True)
    try:
        fresh.symlink_to(path.name)
    except OSError:
        try:
            os.link(path, fresh)
        except OSError:
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, fresh)
    if last.is_dir() and not last.is_symlink():
        shutil.rmtree(last)
    os.replace(fresh, last)


def remove(path: Path) -> None:
    """Removes a checkpoint, a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def code_of_others(trainer: pl.Trainer, code: int) -> int:
    """Exit code of a process that ends as the first one does: 0 where Lightning itself has started
    it, as with any other it has the first one killed.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    is_started = isinstance(environment, LightningEnvironment) and not trainer.is_global_zero
    return 0 if is_started else code


def flush(folder: Path) -> None:
    """Waits until the names in a folder are on the disk, where the system can say so."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
