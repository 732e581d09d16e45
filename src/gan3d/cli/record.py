"""The config goes with the run: into its folder, loggers and checkpoints; a changed one is refused
on resume.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import yaml

from gan3d.checkpoints.runs import CONFIG_KEY, checkpoints_in, pack_config, unpack_config
from gan3d.cli.messages import CommandError, say
from gan3d.cli.options import flat
from gan3d.cli.plan import interruption, plan
from gan3d.cli.run_folder import WANDB_FILE, WANDB_KEY, remove
from gan3d.training.callbacks.periodic import forget_later, images_seen
from gan3d.training.checkpoints import Checkpoints

if TYPE_CHECKING:
    from gan3d.training.gan import GAN

# Requests of one command, no part of the run: never saved, so that config.yaml can be used again.
REQUESTS = (
    "config",
    "ckpt_path",
    "weights_only",
    "overwrite",
    "allow_config_change",
    "dry_run",
)
# What a resumed run may change: where and how long it runs, what it shows. All else changes what is
# learnt.
FREE = (
    "run_dir",
    "logger",
    "wandb_mode",
    "wandb_project",
    "wandb_entity",
    "wandb_group",
    "wandb_tags",
    "snapshots",
    "evaluation",
    "checkpoints",
    "model.run.total_kimg",
    "model.run.log_every_kimg",
    "data.path",
    "data.num_workers",
    "trainer",
)
# ... of the trainer's arguments, these are not free.
FIXED_TRAINER = (
    "trainer.precision",
    "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val",
    "trainer.gradient_clip_algorithm",
    "trainer.limit_train_batches",
    "trainer.overfit_batches",
)


class RunRecord(pl.Callback):
    """Says the plan, and writes the config into the run folder, the loggers and every checkpoint.

    Nothing is written or removed before training begins: then all that can be refused was refused.
    It goes before all other callbacks.

    Args:
        config: the whole config, as plain values.
        dir: the run folder.
        wandb_id: W&B's run id, where the run has one.
        leftovers: files of a former run, to be removed.
        dry_run: stop when training would begin.

    Attributes:
        began_at: images seen when this session began.
        seconds: that training took.
    """

    def __init__(
        self,
        config: dict[str, Any],
        dir: Path,
        wandb_id: str | None = None,
        leftovers: Sequence[Path] = (),
        dry_run: bool = False,
    ):
        self.config, self.dir, self.wandb_id = config, dir, wandb_id
        self.leftovers, self.dry_run = leftovers, dry_run
        self.began_at, self.seconds = 0, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module, data = cast("GAN", pl_module), trainer.datamodule  # type: ignore[attr-defined]
        self.began_at, self._clock = images_seen(module), time.monotonic()
        say(plan(trainer, module, data, self.dir))
        if self.dry_run:
            raise DryRun
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._write(trainer)
        # Metrics from after the checkpoint that the run goes on from come again.
        forget_later(trainer, self.began_at)

    def _write(self, trainer: pl.Trainer) -> None:
        remove(self.leftovers)
        self.dir.mkdir(parents=True, exist_ok=True)
        (self.dir / "config.yaml").write_text(yaml.safe_dump(self.config, sort_keys=False))
        if self.wandb_id is not None:
            (self.dir / WANDB_FILE).write_text(self.wandb_id + "\n")
        for logger in trainer.loggers:
            logger.log_hyperparams(self.config)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds = time.monotonic() - self._clock

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Tells an interruption how far the run came."""
        if isinstance(exception, KeyboardInterrupt):
            module = cast("GAN", pl_module)
            saved = next(c for c in trainer.callbacks if isinstance(c, Checkpoints))  # type: ignore[attr-defined]
            newest = checkpoints_in(saved.dir) if saved.dir is not None else []
            text = interruption(images_seen(module), module.run.total_kimg, newest, self.dir)
            exception.args = (text,)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict[str, Any]) -> None:
        checkpoint[CONFIG_KEY] = pack_config(self.config)
        checkpoint[WANDB_KEY] = self.wandb_id


class DryRun(Exception):
    """Everything was checked, and nothing is to be done."""


def _is_free(name: str) -> bool:
    if name.startswith(FIXED_TRAINER):
        return False
    return any(name == free or name.startswith(f"{free}.") for free in FREE)


def differences(was: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """What changed and may not: (name, was, now)."""
    old, new = dict(flat(was)), dict(flat(now))
    names = [name for name in [*old, *(n for n in new if n not in old)] if not _is_free(name)]
    return [
        (n, old.get(n, "-"), new.get(n, "-")) for n in names if old.get(n, "-") != new.get(n, "-")
    ]


def refuse_changes(
    checkpoint: dict[str, Any], config: dict[str, Any], path: Path, *, models_only: bool = False
) -> None:
    """Refuses to load a checkpoint under another config than it was made with.

    Args:
        checkpoint: its content.
        config: the present config.
        path: of the checkpoint, for the message.
        models_only: only generator and discriminator must be the same (evaluation).
    """
    if CONFIG_KEY not in checkpoint:
        return
    try:
        was = unpack_config(checkpoint)
    except ValueError as error:
        raise CommandError(
            f"{path}: {error}", "go on all the same: --allow_config_change true"
        ) from error
    changed = differences(was, config)
    if models_only:
        changed = [
            row for row in changed if row[0].startswith(("model.generator", "model.discriminator"))
        ]
    if not changed:
        return
    width = min(max(len(name) for name, _, _ in changed), 60)
    rows = [f"  {name:{width}}  {was} -> {now}" for name, was, now in changed[:12]]
    more = [f"  ... and {len(changed) - 12} more"] if len(changed) > 12 else []
    raise CommandError(
        f"the config is not the one {path} was trained with (was -> now):",
        *rows,
        *more,
        f"keep it: --config {path.parent.parent / 'config.yaml'}; or go on all the same: "
        "--allow_config_change true",
    )
