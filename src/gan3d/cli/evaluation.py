"""`validate`, `test` and `predict` need a checkpoint only: the config of its run lies under what
the command line gives.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from gan3d.checkpoints.runs import read_checkpoint, unpack_config
from gan3d.cli.messages import CommandError
from gan3d.cli.options import settings
from gan3d.cli.present_folder import content_of, refuse_foreign
from gan3d.cli.run_folder import RunFolder
from gan3d.discriminators import DISCRIMINATORS
from gan3d.generators import GENERATORS

if TYPE_CHECKING:
    from gan3d.data.datamodule import PosedImagesModule

# Of the Trainer's arguments only this belongs to the run: devices are those of this machine.
KEPT_TRAINER = ("precision",)
# What concerns training only.
DROPPED = ("logger", "threads", "checkpoints", "snapshots")


def checkpoint_of(verb: str, arguments: list[str], configs: list[Path]) -> Path:
    """The checkpoint that a command evaluates.

    Raises:
        CommandError: none is given, or it is not there.
    """
    given = {setting.name: setting.value for setting in settings(arguments, configs)}
    path, run_dir = given.get("ckpt_path"), given.get("run_dir")
    if path is None and run_dir is None:
        raise CommandError(
            f"{verb} needs a checkpoint",
            "--ckpt_path runs/NAME/checkpoints/last.ckpt, or --ckpt_path last --run_dir runs/NAME",
        )
    if path not in (None, "last"):
        return Path(path).expanduser()
    if run_dir is None and not configs:
        raise CommandError(
            "--ckpt_path last: of which run?", "name its folder: --run_dir runs/NAME"
        )
    return RunFolder(run_dir or f"runs/{configs[0].stem}").newest()


def config_in(checkpoint: Path) -> dict[str, Any]:
    """The config of a checkpoint's run, for evaluation on this machine.

    Raises:
        ValueError: there is no such checkpoint, or it holds no config.
    """
    content = read_checkpoint(checkpoint)
    try:
        config = unpack_config(content)
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from error
    config = {name: part for name, part in config.items() if name not in DROPPED}
    trainer = config.get("trainer") or {}
    config["trainer"] = {name: trainer[name] for name in KEPT_TRAINER if name in trainer}
    config["run_dir"] = str(_folder_of(checkpoint))
    try:
        config["model"]["run"]["init_from"] = None  # the weights are the checkpoint's
    except (LookupError, TypeError) as error:
        raise ValueError(f"{checkpoint}: its config has no section model.run") from error
    return config


def _folder_of(checkpoint: Path) -> Path:
    """The run folder of a checkpoint, which may have moved."""
    folder = checkpoint.parent
    return folder.parent if folder.name == "checkpoints" else folder


def lay_under(
    verb: str, arguments: list[str], configs: list[Path], folder: Path
) -> tuple[Path, list[str]]:
    """A file with the config of a command's checkpoint, and the arguments that begin with it.

    Args:
        verb: validate, test or predict.
        arguments: the words after it.
        configs: files among them.
        folder: for the file of that config.
    """
    checkpoint = checkpoint_of(verb, arguments, configs)
    config = config_in(checkpoint)
    given = [arguments, *map(content_of, configs)]
    refuse_foreign(config, given, [*GENERATORS.values(), *DISCRIMINATORS.values()])
    path = folder / "config of the checkpoint.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path, ["--config", str(path), *arguments, "--ckpt_path", str(checkpoint)]


def refuse_nothing_held_out(data: PosedImagesModule, verb: str) -> None:
    """Refuses to compare with images that are not there.

    Raises:
        CommandError: no images are held out.
    """
    if not data.heldout:
        raise CommandError(
            f"{verb} compares with images that were held out, and --data.heldout is 0",
            "hold some out before training: --data.heldout 500",
            "or compare with other images: --data.path OTHER.zip --data.heldout 500",
        )
