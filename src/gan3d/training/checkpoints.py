"""Checkpoints of a run: written atomically, found again, named by the images seen.

    <run>/checkpoints/kimg-000012.800.ckpt      the last `keep` of them
    <run>/checkpoints/last.ckpt                 link to the newest complete one

A checkpoint is written under another name, flushed to the disk, and renamed: a killed run leaves
the one before.
"""

from __future__ import annotations

import os
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from gan3d.schedules import crossed


class Checkpoints(Checkpoint):
    """Saves the whole training state.

    Args:
        dir: folder of the checkpoints; None is `<default_root_dir>/checkpoints`.
        every_kimg: a checkpoint every so many thousand images; the end of the run saves one, too.
        keep: so many of the newest stay; 0 keeps all.
    """

    def __init__(self, dir: Path | str | None = None, every_kimg: float = 20.0, keep: int = 3):
        if keep < 0:
            raise ValueError(f"checkpoints.keep is {keep}; use 0 to keep all, or a positive number")
        self.dir = None if dir is None else Path(dir)
        self.every_kimg, self.keep = every_kimg, keep
        self._seen = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.dir is None:
            self.dir = Path(trainer.default_root_dir) / "checkpoints"

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self._seen = int(pl_module.images_seen)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if crossed(self._seen, int(pl_module.images_seen), self.every_kimg):
            self.save(trainer, int(pl_module.images_seen))

    def on_train_end(self, trainer, pl_module) -> None:
        if not self.path(int(pl_module.images_seen)).exists():
            self.save(trainer, int(pl_module.images_seen))

    def path(self, images_seen: int) -> Path:
        assert self.dir is not None
        return self.dir / f"kimg-{images_seen / 1000:010.3f}.ckpt"

    def save(self, trainer: pl.Trainer, images_seen: int) -> None:
        """Writes one checkpoint (all processes call this); none of a trial (fast_dev_run)."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        path = self.path(images_seen)
        partial = path.with_suffix(".partial")
        if trainer.is_global_zero:
            path.parent.mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(partial, weights_only=False)
        if trainer.is_global_zero:
            _flush(partial)
            os.replace(partial, path)
            link = path.with_name("last.partial")
            link.unlink(missing_ok=True)
            link.symlink_to(path.name)
            os.replace(link, path.with_name("last.ckpt"))
            _flush(path.parent)
            self._prune()

    def _prune(self) -> None:
        assert self.dir is not None
        if self.keep:
            for old in sorted(self.dir.glob("kimg-*.ckpt"))[: -self.keep]:
                old.unlink()
        for stray in self.dir.glob("kimg-*.partial"):  # left by a killed run
            stray.unlink()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
