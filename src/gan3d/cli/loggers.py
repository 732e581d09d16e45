"""Loggers by a word: `--logger csv,tensorboard,wandb`. Metrics, pictures and videos on disk (csv)
are always there.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from gan3d.cli.messages import CommandError, nearest
from gan3d.training.loggers import DiskLogger, KimgTensorBoardLogger, KimgWandbLogger

WORDS = ("csv", "tensorboard", "wandb")


def words_of(text: str) -> list[str]:
    """Loggers of `--logger`, csv first.

    Raises:
        CommandError: a word is none of them, or needs a package that is not there.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in WORDS:
            raise CommandError(
                f"--logger: there is no logger {word}",
                nearest(word, WORDS, like="{}"),
                f"there is: {', '.join(WORDS)}; several with commas between them",
            )
    packages = ("tensorboard", "tensorboardX")
    if "tensorboard" in words and not any(map(importlib.util.find_spec, packages)):
        raise CommandError(
            "--logger tensorboard needs the package tensorboard", "pip install tensorboard"
        )
    return list(dict.fromkeys(["csv", *words]))


def loggers_of(given: Any, folder: Path, wandb_id: str | None) -> list[Logger]:
    """The loggers of a run.

    Args:
        given: the parsed options: logger, wandb_mode and the others of W&B.
        folder: of the run.
        wandb_id: W&B's run id.
    """
    words = words_of(given.logger)
    loggers: list[Logger] = [DiskLogger(folder)]
    if "tensorboard" in words:
        board = KimgTensorBoardLogger(
            str(folder), name="tensorboard", version="", default_hp_metric=False
        )
        loggers.append(board)
    if "wandb" in words:
        tags = [tag.strip() for tag in given.wandb_tags.split(",") if tag.strip()]
        logger = KimgWandbLogger(
            name=folder.name,
            save_dir=str(folder.resolve()),  # W&B's service has a working folder of its own
            project=given.wandb_project,
            entity=given.wandb_entity,
            group=given.wandb_group,
            tags=tags or None,
            id=wandb_id,
            offline=given.wandb_mode == "offline",
            resume="allow",
        )
        logger._wandb_init.pop("anonymous", None)  # W&B warns of it whatever its value
        loggers.append(logger)
    more = given.trainer.logger
    if isinstance(more, bool) or more is None:
        return loggers
    return [*loggers, *(more if isinstance(more, (list, tuple)) else [more])]
