"""`fit | validate | test | predict`: one LightningCLI over the harness, the data and the callbacks
of a run.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, WandbLogger

import gan3d.discriminators
import gan3d.generators
import gan3d.training.strategies  # noqa: F401 - registers gan_ddp
from gan3d.checkpoints.runs import read_checkpoint
from gan3d.cli.messages import CommandError, is_first_process, say
from gan3d.cli.options import Refusal, Refusing, explain
from gan3d.cli.record import REQUESTS, RunRecord, refuse_changes
from gan3d.cli.run_folder import WANDB_KEY, RunFolder
from gan3d.data.datamodule import PosedImagesModule
from gan3d.training.callbacks import Evaluation, KimgProgressBar, Predictions, Snapshots
from gan3d.training.checkpoints import Checkpoints
from gan3d.training.gan import GAN
from gan3d.training.loggers import DiskLogger

TRAINER_DEFAULTS = {
    "use_distributed_sampler": False,  # the data has its own sampler: its order follows from the images seen
    "max_epochs": -1,  # the run ends by model.run.total_kimg or trainer.max_time
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
}


# What Lightning tells that is no news.
CHATTER = (
    "GPU available",
    "TPU available",
    "HPU available",
    "💡 Tip",
    "Seed set to",
    "Restoring states",
    "`weights_only` was",
)


class TrainerParser(Refusing, LightningArgumentParser):
    """Refuses what it does not know: abbreviations too, as they would hide a misspelling."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})


class TrainerCLI(LightningCLI):
    """The command line of one Trainer verb.

    Args:
        verb: fit, validate, test or predict; only its parser is built.
        arguments: the words from the verb on, configs as paths.
        configs: these paths.
    """

    def __init__(self, verb: str, arguments: list[str], configs: list[Path]):
        self.verb, self.configs = verb, configs
        self.record: dict[str, Any] = {}
        super().__init__(
            GAN,
            PosedImagesModule,
            save_config_callback=None,  # RunRecord does it
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=0,
            parser_kwargs={"prog": "lightning"},
            parser_class=TrainerParser,
            args=arguments,
            auto_configure_optimizers=False,  # the harness has two, as arguments
            load_from_checkpoint_support=False,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        return {self.verb: LightningCLI.subcommands()[self.verb]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        stem = self.configs[0].stem if self.configs else "run"
        parser.add_argument(
            "--run_dir", type=str, default=f"runs/{stem}", help="folder of all that the run leaves"
        )
        parser.add_argument(
            "--overwrite", type=bool, default=False, help="start over in a folder that holds a run"
        )
        parser.add_argument(
            "--allow_config_change",
            type=bool,
            default=False,
            help="load a checkpoint under a changed config",
        )
        parser.add_argument(
            "--wandb",
            type=Literal["off", "offline", "online"],
            default="off",
            help="log to Weights & Biases, too",
        )
        parser.add_argument("--wandb_project", type=str, default="gan3d", help="project of W&B")
        parser.add_lightning_class_args(Snapshots, "snapshots")
        parser.add_lightning_class_args(Evaluation, "evaluation")
        parser.add_lightning_class_args(Checkpoints, "checkpoints")

    def parse_arguments(self, parser: LightningArgumentParser, args) -> None:
        try:  # the stock method warns of arguments that are not sys.argv
            self.config = parser.parse_args(args)
        except Refusal as refusal:
            options = self._parser(self.verb)
            raise explain(
                str(refusal), options, args, self.configs, f"lightning {self.verb}"
            ) from refusal

    def _parse_ckpt_path(self) -> None:
        """Nothing: the stock method puts the checkpoint's arguments over the user's without a
        word.
        """

    def before_instantiate_classes(self) -> None:
        given = self.config[self.verb]
        if given.trainer.default_root_dir is not None:
            raise CommandError(
                "--trainer.default_root_dir is not used", "the folder of a run is --run_dir"
            )
        self.run_folder = RunFolder(given.run_dir, given.checkpoints.dir)
        self.record = self._plain_config()
        if given.weights_only is None:
            given.weights_only = True
        checkpoint = self._checkpoint(given)
        self.wandb_id: str | None = None
        if self.verb == "fit" and checkpoint is None and is_first_process():
            self.run_folder.start(overwrite=given.overwrite)
        if self.verb == "fit" and given.wandb != "off" and is_first_process():
            self.wandb_id = self.run_folder.wandb_id((checkpoint or {}).get(WANDB_KEY))

    def _plain_config(self) -> dict[str, Any]:
        text = self._parser(self.verb).dump(self.config[self.verb], skip_unset=False)
        return {name: value for name, value in yaml.safe_load(text).items() if name not in REQUESTS}

    def _checkpoint(self, given) -> dict[str, Any] | None:
        """The checkpoint to go on from, checked against the config; `last` becomes a path."""
        if given.ckpt_path is None:
            if self.verb == "fit":
                return None
            raise CommandError(
                f"{self.verb} needs a checkpoint", "--ckpt_path last (of --run_dir), or a file"
            )
        path = (
            self.run_folder.newest()
            if given.ckpt_path == "last"
            else Path(given.ckpt_path).expanduser()
        )
        given.ckpt_path = str(path)
        content = read_checkpoint(path)
        if not given.allow_config_change:
            refuse_changes(content, self.record, path, models_only=self.verb != "fit")
        return content

    def instantiate_trainer(self, **kwargs: Any):
        given = self.config_init[self.verb]
        callbacks = given.trainer.callbacks or []
        callbacks = list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
        record = RunRecord(self.record, self.run_folder.dir, self.wandb_id)
        return super().instantiate_trainer(
            default_root_dir=str(self.run_folder.dir),
            logger=self._loggers(given),
            callbacks=[
                *(callbacks if isinstance(callbacks, list) else [callbacks]),
                KimgProgressBar(),
                Predictions(),
                record,
            ],
            **kwargs,
        )

    def after_fit(self) -> None:
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()

    def _loggers(self, given) -> list[Logger]:
        # What evaluates a checkpoint prints its result: at step 0 it would replace the rows of the
        # training.
        loggers: list[Logger] = [DiskLogger(self.run_folder.dir)] if self.verb == "fit" else []
        if self.verb == "fit" and given.wandb != "off":
            wandb = WandbLogger(
                name=self.run_folder.dir.name,
                save_dir=str(
                    self.run_folder.dir.resolve()
                ),  # W&B's service has a working folder of its own
                project=given.wandb_project,
                id=self.wandb_id,
                offline=given.wandb == "offline",
                resume="allow",
            )
            wandb._wandb_init.pop("anonymous", None)  # W&B warns of this setting whatever its value
            loggers.append(wandb)
        more = given.trainer.logger
        if isinstance(more, bool) or more is None:
            return loggers
        return [*loggers, *(more if isinstance(more, (list, tuple)) else [more])]


def run(arguments: list[str], configs: list[Path]) -> int:
    """Runs one Trainer verb.

    Args:
        arguments: the words from the verb on, configs as paths.
        configs: these paths.
    """
    hush()
    sys.path.append(
        os.getcwd()
    )  # a generator of the user's own, by its path; last, so that it hides nothing
    try:
        cli = TrainerCLI(arguments[0], arguments, configs)
    finally:
        if "wandb" in sys.modules:
            sys.modules[
                "wandb"
            ].finish()  # whole on disk, and out of the way of another run in this process
    if cli.verb == "fit" and is_first_process():
        say(f"the run is in {cli.run_folder.dir}; look at it: gan3d report {cli.run_folder.dir}")
    if cli.verb == "predict" and is_first_process():
        say(f"the pictures are in {cli.run_folder.dir / 'predictions'}")
    return 0


def hush() -> None:
    """Silences what the user can do nothing about, message by message."""
    for text in (
        r"Found \d+ module\(s\) in eval mode",  # the EMA generator
        r"torch\.distributed\.nn\.functional\.all_gather is deprecated",  # Lightning's
        "You're resuming from a checkpoint that ended before the epoch ended",  # data go on at the images seen
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",
        "`training_step` returned `None`",  # manual optimization
    ):
        warnings.filterwarnings("ignore", message=text)
    for name in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector"):
        logging.getLogger(f"lightning.pytorch.{name}").addFilter(_is_news)
    logging.getLogger("lightning.fabric.utilities.seed").addFilter(_is_news)


def _is_news(entry: logging.LogRecord) -> bool:
    message = entry.getMessage()
    return not any(words in message for words in CHATTER)
