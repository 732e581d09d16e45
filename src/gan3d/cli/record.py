"""The config goes with the run: into its folder, loggers and checkpoints; a changed one is refused
on resume.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import yaml

from gan3d.checkpoints.runs import CONFIG_KEY, checkpoints_in, pack_config, unpack_config
from gan3d.cli.messages import CommandError, say
from gan3d.cli.options import flat
from gan3d.cli.plan import in_lines, interruption, plan, stop
from gan3d.cli.run_folder import RUN_KEY, WANDB_FILE, WANDB_KEY, RunFolder
from gan3d.cli.run_lock import RunLock
from gan3d.data.fingerprint import changes, fingerprint
from gan3d.training.callbacks.periodic import forget_later, images_seen
from gan3d.training.signals import Stopped, checkpoints_of

if TYPE_CHECKING:
    from gan3d.data.datamodule import PosedImagesModule
    from gan3d.training.gan import GAN

# Of the data set in a checkpoint: its fingerprint, the names of the images held out, and whether
# they are those of another set, which was there before.
DATA_KEY, HELDOUT_KEY, KEPT_KEY = "gan3d_data", "gan3d_heldout", "gan3d_heldout_kept"

# Requests of one command, no part of the run: never saved, so that config.yaml can be used again.
REQUESTS = (
    "config",
    "ckpt_path",
    "weights_only",
    "overwrite",
    "allow_config_change",
    "dry_run",
    "resume",
    "view",
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
    "distributions",
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

    Nothing is written or moved before training begins: then all that can be refused was refused.
    It goes before all other callbacks.

    Args:
        config: the whole config, as plain values.
        folder: of the run.
        wandb_id: W&B's run id, where the run has one.
        leftovers: what a former run wrote, to be moved aside; None: the run goes on.
        dry_run: stop when training would begin.

    Attributes:
        began_at: images seen when this session began.
        seconds: that training took.
    """

    def __init__(
        self,
        config: dict[str, Any],
        folder: RunFolder,
        wandb_id: str | None = None,
        leftovers: Sequence[Path] | None = None,
        dry_run: bool = False,
    ):
        self.config, self.folder, self.wandb_id = config, folder, wandb_id
        self.leftovers, self.dry_run = leftovers, dry_run
        self.began_at, self.seconds = 0, 0.0
        self.number = secrets.token_hex(8)
        self._lock = RunLock(folder.dir)
        self._data: dict[str, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module, data = cast("GAN", pl_module), trainer.datamodule  # type: ignore[attr-defined]
        self.began_at, self._clock = images_seen(module), time.monotonic()
        planned = plan(trainer, module, data)
        say(in_lines(planned, self.folder.dir))
        if self.dry_run:
            raise DryRun
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._begin(trainer, planned)
            self._data = facts_of(data)
        # Metrics from after the checkpoint that the run goes on from come again.
        forget_later(trainer, self.began_at)

    def _begin(self, trainer: pl.Trainer, planned: Mapping[str, str]) -> None:
        folder = self.folder
        folder.dir.mkdir(parents=True, exist_ok=True)
        self._lock.take()
        if self.leftovers is None:
            self.number = folder.number() or self.number
            if (checkpoints := checkpoints_of(trainer)) is not None:
                checkpoints.leave_branch(trainer, self.began_at)
        else:
            if set(folder.checkpoints()) - set(self.leftovers):  # of a run that began meanwhile
                folder.refuse_used()
            aside = folder.move_aside(self.leftovers)
            if aside is not None:
                say(f"what the former run wrote is now in {aside}")
        folder.mark(self.number, planned)
        (folder.dir / "config.yaml").write_text(yaml.safe_dump(self.config, sort_keys=False))
        if self.wandb_id is not None:
            (folder.dir / WANDB_FILE).write_text(self.wandb_id + "\n")
        for logger in trainer.loggers:
            logger.log_hyperparams(self.config)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds = time.monotonic() - self._clock

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Tells an interruption how far the run came."""
        self._lock.release()
        module, checkpoints = cast("GAN", pl_module), checkpoints_of(trainer)
        is_asked = isinstance(exception, (KeyboardInterrupt, Stopped))
        if not is_asked or checkpoints is None or checkpoints.dir is None:
            return
        newest = checkpoints_in(checkpoints.dir)
        where = (images_seen(module), module.run.total_kimg, newest, self.folder.dir)
        if isinstance(exception, Stopped):
            exception.text = stop(exception.signal, exception.checkpoint, *where)
        else:
            exception.args = (interruption(*where),)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._lock.release()

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict[str, Any]) -> None:
        checkpoint[CONFIG_KEY] = pack_config(self.config)
        checkpoint[WANDB_KEY] = self.wandb_id
        checkpoint[RUN_KEY] = self.number
        checkpoint.update(self._data)


def facts_of(data: PosedImagesModule) -> dict[str, Any]:
    """What a checkpoint holds of its data set: the fingerprint, and which images are held out."""
    names = data.images.names
    heldout = [names[item] for item in data.heldout_items.tolist()]
    is_kept = data.heldout_names is not None
    return {DATA_KEY: fingerprint(data.images), HELDOUT_KEY: heldout, KEPT_KEY: is_kept}


def refuse_other_data(
    checkpoint: Mapping[str, Any], data: PosedImagesModule, *, allowed: bool = False
) -> None:
    """Refuses to go on with other images.

    If that is allowed, what was held out stays held out, by its file names, and nothing else is:
    what was trained on is no measure of what was learned.

    Raises:
        CommandError: saying what differs.
    """
    if DATA_KEY not in checkpoint:
        return
    said = changes(checkpoint[DATA_KEY], fingerprint(data.images))
    if not said:
        keep_heldout(checkpoint, data)
        return
    if not allowed:
        raise CommandError(
            f"the images in {data.path} are not those that the checkpoint was trained with: "
            f"{', '.join(said)}",
            "go on with those: --data.path FORMER_SET; or with these all the same: "
            "--allow_config_change true (images that were held out stay held out)",
        )
    say(f"warning: the run goes on with other images: {', '.join(said)}")
    if data.heldout:
        data.heldout_names = checkpoint[HELDOUT_KEY]


def keep_heldout(checkpoint: Mapping[str, Any], data: PosedImagesModule) -> None:
    """Holds out what a run does whose data set changed once; of another set nothing is known."""
    if not (data.heldout and checkpoint.get(KEPT_KEY)):
        return
    if not changes(checkpoint[DATA_KEY], fingerprint(data.images)):
        data.heldout_names = checkpoint[HELDOUT_KEY]


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
