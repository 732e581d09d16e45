"""`fit | validate | test | predict`: one LightningCLI over the harness, the data and the callbacks
of a run.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal

import yaml
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import gan3d.discriminators
import gan3d.generators  # noqa: F401 - register the models
from gan3d.apps.viewer import HOST, refuse_port
from gan3d.checkpoints.agreement import refuse_misfit
from gan3d.checkpoints.runs import newest_whole, read_checkpoint
from gan3d.cli.checks import check_values
from gan3d.cli.devices import asked_for, batches_of, choose, kind_of
from gan3d.cli.errors import explaining
from gan3d.cli.evaluation import lay_under, refuse_nothing_held_out
from gan3d.cli.loggers import loggers_of, words_of
from gan3d.cli.memory import warn_of_memory
from gan3d.cli.messages import CommandError, is_first_process, say
from gan3d.cli.options import Refusal, Refusing, explain, flat, naming_options
from gan3d.cli.plan import outcome
from gan3d.cli.present_folder import open_present_folder
from gan3d.cli.record import (
    REQUESTS,
    DryRun,
    RunRecord,
    keep_heldout,
    refuse_changes,
    refuse_other_data,
)
from gan3d.cli.run_folder import RunFolder, forget_empty_folder, free_folder
from gan3d.cli.run_lock import SILENCE, RunLock
from gan3d.cli.slurm import IgnoringRequeues, without_requeue
from gan3d.cli.threads import (
    default_threads,
    img_resolution_of,
    recorded_threads,
    use_threads,
)
from gan3d.data.datamodule import PosedImagesModule
from gan3d.training.callbacks import (
    Distributions,
    Evaluation,
    KimgProgressBar,
    LiveView,
    Predictions,
    Snapshots,
    Summary,
    TimeLimit,
    Watchdog,
)
from gan3d.training.checkpoints import Checkpoints
from gan3d.training.gan import GAN
from gan3d.training.loggers import finish_wandb
from gan3d.training.sampling import Sampling
from gan3d.training.signals import StopOnSignal, Stopped
from gan3d.training.strategies import refuse_strategy  # and registers ours

TRAINER_DEFAULTS = {
    # The data has its own sampler: its order follows from the images seen.
    "use_distributed_sampler": False,
    "max_epochs": -1,  # the run ends by model.run.total_kimg or trainer.max_time
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
}

# Arguments of Lightning's Trainer that a GAN cannot serve: (value that is accepted, ours instead).
CLIPPING = (
    "each network has its own: --model.optimizer_g.clip_norm and --model.optimizer_d.clip_norm"
)
LIGHTNINGS = {
    "default_root_dir": (None, "the folder of a run is --run_dir"),
    "gradient_clip_val": (None, CLIPPING),
    "gradient_clip_algorithm": (None, CLIPPING),
    "accumulate_grad_batches": (
        1,
        "a batch is split up by --model.run.micro_batch_size: as many images at once; the result "
        "stays that of the whole --data.batch_size",
    ),
}
# With these a command answers a question, and runs nothing.
ASKS_ONLY = {"--help", "-h", "--print_config"}

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
        for name, kind, default, text in (
            ("run_dir", str, f"runs/{stem}", "folder of all that the run leaves; auto: a new one"),
            ("overwrite", bool, False, "start over in a folder that holds a run"),
            ("dry_run", bool, False, "check everything, say the plan, and stop"),
            ("allow_config_change", bool, False, "load a checkpoint under a changed config"),
            ("threads", int | None, None, "of each process; null: 1 for small images on a CPU"),
            ("logger", str, "csv", "csv, tensorboard, wandb, with commas between them"),
            ("wandb_mode", Literal["offline", "online"], "online", "where W&B's record goes"),
            ("wandb_project", str, "gan3d", "project of W&B"),
            ("wandb_entity", str | None, None, "user or team of W&B"),
            ("wandb_group", str | None, None, "group of W&B's run, such as a sweep"),
            ("wandb_tags", str, "", "tags of W&B's run, with commas between them"),
        ):
            parser.add_argument(f"--{name}", type=kind, default=default, help=text)
        if self.verb == "fit":
            text = "auto: go on from the newest checkpoint of the folder, if there is one"
            parser.add_argument("--resume", type=Literal["auto"] | None, default=None, help=text)
            text = "port of a page that shows the average while it trains, such as 8080"
            parser.add_argument("--view", type=int | None, default=None, help=text)
        if self.verb == "predict":
            parser.add_argument("--num", type=int, default=16, help="scenes")
            parser.add_argument("--seed", type=int, default=0, help="of the scenes")
            parser.add_argument("--truncation", type=float, default=1.0, help="psi, 1 is none")
        parser.add_lightning_class_args(Snapshots, "snapshots")
        parser.add_lightning_class_args(Evaluation, "evaluation")
        parser.add_lightning_class_args(Distributions, "distributions")
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
        refuse_lightnings(given.trainer)
        words_of(given.logger)
        check_values({"threads": given.threads})
        if self.verb == "fit" and given.view is not None:
            check_values({"port": given.view})
            if is_first_process():
                refuse_port(HOST, given.view)
        self.limit = limit_of(given.trainer.max_time)
        if given.weights_only is False:
            raise CommandError(
                "--weights_only false would execute what stands in the checkpoint; leave it out"
            )
        given.weights_only = True

        # where it runs, and what it goes on from
        self.run_folder = self._folder(given)
        is_fresh = self.verb == "fit" and given.ckpt_path is None
        self.checkpoint = None if is_fresh else self._checkpoint(given)
        if self.verb == "fit" and is_first_process() and not given.trainer.fast_dev_run:
            self._refuse_used(given)

        # the record, which is that of the checkpoint
        self._resolve(given, self.checkpoint)
        self.record = self._plain_config()
        if self.checkpoint is not None and not given.allow_config_change:
            path = Path(given.ckpt_path)
            refuse_changes(self.checkpoint, self.record, path, models_only=self.verb != "fit")

        # what the run will write, and move
        self.wandb_id = None
        if self.verb == "fit" and "wandb" in words_of(given.logger) and is_first_process():
            self.wandb_id = self.run_folder.wandb_id(self.checkpoint)
        self.leftovers = self.run_folder.written() if is_fresh else None

    def _folder(self, given) -> RunFolder:
        resumes = given.get("resume") is not None
        if resumes:
            for name in ("ckpt_path", "overwrite"):
                if given[name]:
                    raise CommandError(
                        f"--resume auto and --{name} exclude one another",
                        "--resume auto goes on from the newest checkpoint of --run_dir, and starts "
                        "where there is none",
                    )
        if given.run_dir == "auto":
            if self.verb != "fit" or given.ckpt_path is not None or resumes:
                raise CommandError(
                    "--run_dir auto is a new folder",
                    "name the folder of the run: --run_dir runs/..",
                )
            stem = self.configs[0].stem if self.configs else "run"
            given.run_dir = str(free_folder(stem, reserve=not given.dry_run))
        folder = RunFolder(given.run_dir, given.checkpoints.dir)
        for option, path in (("run_dir", folder.dir), ("checkpoints.dir", folder.checkpoints_dir)):
            if path.exists() and not path.is_dir():
                raise CommandError(f"--{option} {path} is a file", "name a folder, or a new one")
        if resumes:
            if is_first_process():  # a killed job's folder is free when its host has been silent
                RunLock(folder.dir).refuse_held(patience=SILENCE + 10)
            newest = newest_whole(folder.checkpoints_dir)
            given.ckpt_path = None if newest is None else str(newest)
        return folder

    def _refuse_used(self, given) -> None:
        RunLock(self.run_folder.dir).refuse_held()
        if self.checkpoint is None:
            self.run_folder.refuse_used(given.overwrite or given.resume is not None)
        else:
            self.run_folder.refuse_other(self.checkpoint, Path(given.ckpt_path))

    def _checkpoint(self, given) -> dict[str, Any]:
        """The checkpoint to go on from; `last` becomes a path."""
        path = self.run_folder.newest() if given.ckpt_path == "last" else Path(given.ckpt_path)
        given.ckpt_path = str(path.expanduser())
        return read_checkpoint(given.ckpt_path)

    def _resolve(self, given, checkpoint: dict[str, Any] | None) -> None:
        """Puts numbers in place of defaults that depend on the machine or the command, so that the
        record alone tells what was trained.
        """
        if given.model.run.seed is None:
            given.model.run.seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        if given.threads is None:
            given.threads = recorded_threads(checkpoint) or default_threads(
                img_resolution_of(given.model),
                on_cpu=kind_of(given.trainer.accelerator) == "cpu",
                processes=asked_for(given.trainer),
            )
        use_threads(given.threads)

    def instantiate_classes(self) -> None:
        with naming_options(self.record):
            super().instantiate_classes()

    def _run_subcommand(self, subcommand: str) -> None:
        with (
            explaining(self.record, flat, lambda: self.trainer.strategy),
            naming_options(self.record),
        ):
            super()._run_subcommand(subcommand)

    def _plain_config(self) -> dict[str, Any]:
        text = self._parser(self.verb).dump(self.config[self.verb], skip_unset=False)
        return {name: value for name, value in yaml.safe_load(text).items() if name not in REQUESTS}

    def instantiate_trainer(self, **kwargs: Any):
        given = self.config_init[self.verb]
        if self.checkpoint is not None:
            self._refuse_misfit(given)
        kwargs["default_root_dir"] = str(self.run_folder.dir)
        kwargs["logger"] = False
        callbacks: list[Callback] = [KimgProgressBar()]
        if self.verb == "predict":
            callbacks.append(Predictions())
        if self.verb != "fit" and given.trainer.devices == "auto":
            kwargs["devices"] = 1
        if self.verb == "fit":
            chosen, said = choose(given.trainer, batches_of(self.model, self.datamodule))
            if said:
                say(said)
            kwargs |= chosen
            if not given.dry_run:
                kwargs["logger"] = loggers_of(given, self.run_folder.dir, self.wandb_id)
            summary = Summary(self._name_of_config())
            callbacks = [Watchdog(), self._record(given), StopOnSignal(), summary, *callbacks]
            if given.view is not None:
                callbacks.append(LiveView(given.view))
        if self.limit is not None:
            callbacks.append(self.limit)
        own = given.trainer.callbacks or []
        kwargs["callbacks"] = [*callbacks, *(own if isinstance(own, (list, tuple)) else [own])]
        kwargs["plugins"] = without_requeue(given.trainer.plugins)
        trainer = super().instantiate_trainer(max_time=None, **kwargs)
        trainer._checkpoint_connector = IgnoringRequeues(trainer)
        return trainer

    def _name_of_config(self) -> str:
        """That of the first config; the config.yaml of a run has the name of its folder."""
        stem = self.configs[0].stem if self.configs else "config"
        return self.run_folder.dir.resolve().name if stem == "config" else stem

    def _refuse_misfit(self, given) -> None:
        """Compares the checkpoint with the model and the images, before anything is loaded."""
        assert self.checkpoint is not None
        optimized = None
        if self.verb == "fit":
            networks = (self.model.generator, self.model.discriminator)
            optimized = [[p for p in net.parameters() if p.requires_grad] for net in networks]
        try:
            refuse_misfit(self.checkpoint, self.model.state_dict(), optimized)
        except ValueError as error:
            raise CommandError(
                f"{given.ckpt_path} does not fit this model: {error}",
                "train with the config beside it, or take its weights alone: "
                "--model.run.init_from FILE",
            ) from error
        if self.verb == "fit":
            refuse_other_data(self.checkpoint, self.datamodule, allowed=given.allow_config_change)
        else:
            keep_heldout(self.checkpoint, self.datamodule)
        self.checkpoint = None  # its file is open

    def _record(self, given) -> RunRecord:
        self.run_record = RunRecord(
            self.record, self.run_folder, self.wandb_id, self.leftovers, given.dry_run
        )
        return self.run_record

    def before_fit(self) -> None:
        if is_first_process():
            warn_of_memory(self.model, self.config_init.fit)

    def before_predict(self) -> None:
        given = self.config_init.predict
        check_values({"num": given.num, "seed": given.seed, "truncation": given.truncation})
        self.model.sampling = Sampling(given.seed, given.truncation)
        self.datamodule.num_scenes = given.num

    def before_validate(self) -> None:
        refuse_nothing_held_out(self.datamodule, self.verb)

    before_test = before_validate

    def after_fit(self) -> None:
        """Says how far the session came, and how to go on."""
        folder = self.run_folder.dir
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            say("fast_dev_run: it works; nothing was written")
            return
        total = self.model.run.total_kimg
        is_over = self.limit is not None and self.limit.seconds_left == 0
        why = "--trainer.max_time" if is_over else "--trainer.max_steps or a callback"
        say(outcome(int(self.model.images_seen), total, self.run_record.seconds, why, folder))
        say(f"the run is in {folder}; look at it: gan3d report {folder}")

    def after_predict(self) -> None:
        say(f"the pictures are in {self.run_folder.dir / 'predictions'}")


def run(verb: str, arguments: list[str], configs: list[Path]) -> int:
    """Runs one Trainer verb.

    Args:
        verb: fit, validate, test or predict.
        arguments: the words after it, configs as paths.
        configs: these paths.
    """
    hush()
    open_present_folder(arguments, configs)
    with tempfile.TemporaryDirectory() as folder:
        asks = any(word in ASKS_ONLY or word.endswith(".help") for word in arguments)
        if verb != "fit" and not asks:
            under, arguments = lay_under(verb, arguments, configs, Path(folder))
            configs = [under, *configs]
        try:
            TrainerCLI(verb, [verb, *arguments], configs)
        except DryRun:
            say("dry run: everything was checked, nothing was written")
        except Stopped as stopped:
            say(stopped.text)
            return int(stopped.code or 0)
        finally:
            finish_wandb()
            forget_empty_folder()
    return 0


def limit_of(max_time: Any) -> TimeLimit | None:
    """The time limit of `--trainer.max_time`.

    Raises:
        CommandError: it is no time.
    """
    try:
        return None if max_time is None else TimeLimit(max_time)
    except (MisconfigurationException, TypeError) as error:
        raise CommandError(
            f"--trainer.max_time {max_time} is no time",
            "write days:hours:minutes:seconds; eight minutes are 00:00:08:00",
        ) from error


def refuse_lightnings(trainer: Any) -> None:
    """Refuses arguments of Lightning's Trainer that have another name here, and strategies of it
    that cannot train a GAN.

    Raises:
        CommandError: naming the option.
        ValueError: naming the strategies that can.
    """
    strategy = trainer.get("strategy")
    refuse_strategy(str(getattr(strategy, "class_path", strategy)))
    for name, (unused, instead) in LIGHTNINGS.items():
        value = trainer.get(name)
        if value not in (None, unused):
            shown = f"{value:g}" if isinstance(value, float) else value
            raise CommandError(f"--trainer.{name} {shown} is not used", instead)


def hush() -> None:
    """Silences what the user can do nothing about, message by message."""
    for text in (
        r"Found \d+ module\(s\) in eval mode",  # the EMA generator
        r"torch\.distributed\.nn\.functional\.all_gather is deprecated",  # Lightning's
        # data go on at the images seen
        "You're resuming from a checkpoint that ended before the epoch ended",
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
