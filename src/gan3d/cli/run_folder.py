"""The folder of a run: what a run leaves in it, and where a run goes on."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gan3d.checkpoints.runs import checkpoints_in, newest_whole
from gan3d.cli.messages import CommandError, is_first_process, nearest

WANDB_KEY, WANDB_FILE = "gan3d_wandb_id", "wandb_id.txt"  # of W&B's run id in checkpoint and folder
FOLDER_VARIABLE = "GAN3D_RUN_DIR"  # tells the processes that a run starts its folder

# All that a run writes; --overwrite removes these and nothing else.
OURS = (
    "checkpoints",
    "pictures",
    "videos",
    "metrics.csv",
    "hyperparameters.json",
    "config.yaml",
    "report.html",
    "wandb",
    "tensorboard",
    WANDB_FILE,
)
SHARED = ("wandb", "tensorboard")  # of these folders, what is inside


class RunFolder:
    """One run's folder.

    Args:
        dir: the folder; it need not exist.
        checkpoints: folder of its checkpoints; None is `<dir>/checkpoints`.
    """

    def __init__(self, dir: str | Path, checkpoints: str | Path | None = None):
        self.dir = Path(dir).expanduser()
        self.checkpoints_dir = Path(checkpoints) if checkpoints else self.dir / "checkpoints"

    def checkpoints(self) -> list[Path]:
        """Checkpoints, the newest first (their names count images, in fixed width)."""
        return checkpoints_in(self.checkpoints_dir)

    def newest(self) -> Path:
        """The newest checkpoint that is whole; says which ones are not."""
        if (found := newest_whole(self.checkpoints_dir)) is not None:
            return found
        others = [
            str(path.parent.parent) for path in self.dir.parent.glob("*/checkpoints/last.ckpt")
        ]
        raise CommandError(
            f"--ckpt_path last: no whole checkpoint in {self.checkpoints_dir}",
            nearest(str(self.dir), others, like="--run_dir {}")
            or "start the run without --ckpt_path, or name its folder with --run_dir",
        )

    def refuse_used(self) -> None:
        """For a fresh run.

        Raises:
            CommandError: the folder holds the checkpoints of another run.
        """
        if self.checkpoints():
            raise CommandError(
                f"{self.dir} already holds a run ({self.checkpoints()[0].name})",
                "go on with it: --ckpt_path last",
                "start beside it: --run_dir ANOTHER_FOLDER, or --run_dir auto",
                "start over in its place: --overwrite true (removes its checkpoints, metrics, "
                "pictures and videos)",
            )

    def written(self) -> list[Path]:
        """What a run has written into the folder so far."""
        found = [*self.checkpoints(), self.checkpoints_dir / "last.ckpt"]
        for path in (self.dir / name for name in OURS):
            # Loggers of the next run write beside the files of the last one, before it begins.
            inside = path.iterdir() if path.name in SHARED and path.is_dir() else [path]
            found += [p for p in inside if not (path.name in SHARED and p.is_symlink())]
        return [path for path in found if path.exists() or path.is_symlink()]

    def wandb_id(self, checkpoint: Mapping[str, Any] | None) -> str:
        """W&B's run id. A resumed run keeps that of its folder, else of its checkpoint; in a sweep
        W&B gives one.
        """
        if os.environ.get("WANDB_SWEEP_ID") and os.environ.get("WANDB_RUN_ID"):
            return os.environ["WANDB_RUN_ID"]
        if checkpoint is None:
            return secrets.token_hex(4)
        path = self.dir / WANDB_FILE
        known = path.read_text().strip() if path.is_file() else checkpoint.get(WANDB_KEY)
        return known or secrets.token_hex(4)


def remove(paths: Iterable[Path]) -> None:
    """Removes files and folders, in any order."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def free_folder(stem: str, *, reserve: bool = True) -> Path:
    """A new folder runs/<stem>, runs/<stem>-2, ... Processes that a run starts have its folder.

    Args:
        stem: how the name begins.
        reserve: make it at once, so that of two runs that begin together each has its own; it goes
            when the program ends before anything is written into it.
    """
    if not is_first_process():
        return Path(os.environ.get(FOLDER_VARIABLE, f"runs/{stem}"))
    for number in itertools.count(1):
        folder = Path(f"runs/{stem}" if number == 1 else f"runs/{stem}-{number}")
        if folder.exists():
            continue
        if reserve:
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                continue
            os.environ[FOLDER_VARIABLE] = str(folder)
        return folder
    raise AssertionError("numbers do not end")


def forget_empty_folder() -> None:
    """Removes the folder that `free_folder` made, if nothing is in it."""
    folder = os.environ.pop(FOLDER_VARIABLE, None) if is_first_process() else None
    if folder is not None:
        with contextlib.suppress(OSError):  # it holds a run
            os.rmdir(folder)
