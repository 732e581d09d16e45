"""The folder of a run: what a run leaves in it, and where a run goes on.

    <run>/.gan3d-run        the marker: who began it, and its number, which its checkpoints know
    <run>/old-1/            what was there before --overwrite true; the last two are kept

Only what lies beside a marker is taken for a run: other files of these names are never touched.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from gan3d import __version__
from gan3d.apps.run_files import SUMMARY
from gan3d.checkpoints.runs import LAST, checkpoints_in, newest_whole
from gan3d.cli.messages import CommandError, is_first_process, nearest
from gan3d.results import MARKER

WANDB_KEY, WANDB_FILE = "gan3d_wandb_id", "wandb_id.txt"  # of W&B's run id in checkpoint and folder
FOLDER_VARIABLE = "GAN3D_RUN_DIR"  # tells the processes that a run starts its folder

RUN_KEY = "gan3d_run"  # of the run's number in a checkpoint
MOST_OLD = 2

# All that a run writes; --overwrite moves these and nothing else.
OURS = (
    MARKER,
    "pictures",
    "videos",
    "clouds",
    "metrics.csv",
    "hyperparameters.json",
    SUMMARY,
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
        """Checkpoints, the last written first."""
        return checkpoints_in(self.checkpoints_dir)

    def number(self) -> str | None:
        """The number of the run in this folder; None: there is no marker."""
        try:
            return str(json.loads((self.dir / MARKER).read_text())["run"])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def mark(self, number: str, plan: Mapping[str, str] | None = None) -> None:
        """Makes the folder known as that of a run, with its plan, which the report shows."""
        began = datetime.now().astimezone().isoformat(timespec="seconds")
        facts = {"run": number, "began": began, "gan3d_version": __version__, "plan": plan or {}}
        (self.dir / MARKER).write_text(json.dumps(facts) + "\n")

    def newest(self) -> Path:
        """The newest checkpoint that is whole; says which ones are not."""
        if (found := newest_whole(self.checkpoints_dir)) is not None:
            return found
        others = [
            str(path.parent.parent)
            for path in self.dir.parent.glob("*/checkpoints/last.ckpt")
            if path.parent.parent != self.dir
        ]
        raise CommandError(
            f"--ckpt_path last: no whole checkpoint in {self.checkpoints_dir}",
            nearest(str(self.dir), others, like="--run_dir {}")
            or "start the run without --ckpt_path, or name its folder with --run_dir",
        )

    def refuse_used(self, overwrite: bool = False) -> None:
        """For a fresh run.

        Raises:
            CommandError: the folder holds another run, which may be moved only if `overwrite`; or
                files that may be a run's, and are not known to be one's.
        """
        written = self.written()
        if written and self.number() is None:
            named = [str(path) for path in written[:8]] + ["..."] * (len(written) > 8)
            raise CommandError(
                f"{self.dir} holds files that a run would write, and is not known as the folder of "
                f"one (it has no {MARKER}); nothing was touched:",
                *(f"  {name}" for name in named),
                "start in another folder: --run_dir ANOTHER_FOLDER, or --run_dir auto; or move "
                "these files",
            )
        if self.checkpoints() and not overwrite:
            raise CommandError(
                f"{self.dir} already holds a run ({self.checkpoints()[0].name})",
                "go on with it: --ckpt_path last",
                "start beside it: --run_dir ANOTHER_FOLDER, or --run_dir auto",
                f"start over in its place: --overwrite true (moves what it wrote to {self.dir}/"
                "old-1)",
            )

    def refuse_other(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        """For a run that goes on from a checkpoint.

        Raises:
            CommandError: the checkpoint is of another run than the one in this folder.
        """
        is_inside = self.checkpoints_dir.resolve() in path.resolve().parents
        number = self.number()
        is_same = number is not None and checkpoint.get(RUN_KEY) == number
        if is_inside or is_same or not self.written():
            return
        raise CommandError(
            f"{path} is not of the run in {self.dir}, which would lose its later checkpoints and "
            "metrics",
            "go on beside it, in a folder of its own: --run_dir ANOTHER_FOLDER",
        )

    def written(self) -> list[Path]:
        """What a run has written into the folder so far."""
        inside = self.checkpoints_dir
        found = [*inside.glob("kimg-*.ckpt"), *inside.glob("kimg-*.partial")]
        found += [inside / LAST, *inside.glob("abandoned-*")]
        for path in (self.dir / name for name in OURS):
            if not path.is_dir():
                found.append(path)
            elif path.name in SHARED:
                # Loggers of the next run write beside the files of the last one, before it begins.
                found += [entry for entry in path.iterdir() if not entry.is_symlink()]
            elif path.is_symlink() or not any(path.iterdir()):
                continue  # made by the user, or empty
            else:
                found.append(path)
        return [path for path in found if path.exists() or path.is_symlink()]

    def move_aside(self, paths: Iterable[Path]) -> Path | None:
        """Moves what a former run wrote to old-<n> in this folder; checkpoints on another disk, to
        old-<n> beside them. Of such folders the last `MOST_OLD` are kept.

        Returns:
            the folder; None: there was nothing to move.
        """
        paths = [path for path in paths if path.exists() or path.is_symlink()]
        if not paths:
            return None
        numbers = [
            int(path.name.removeprefix("old-"))
            for path in self.dir.glob("old-*")
            if path.name.removeprefix("old-").isdigit()
        ]
        name, root = f"old-{max(numbers, default=0) + 1}", self.dir.resolve()
        for path in paths:
            folder = path.parent.resolve()
            is_here = root in (folder, *folder.parents)
            place = root / name / folder.relative_to(root) if is_here else folder / name
            place.mkdir(parents=True, exist_ok=True)
            path.rename(place / path.name)
        ours = [n for n in sorted(numbers) if (self.dir / f"old-{n}" / MARKER).exists()]
        for number in ours[: -(MOST_OLD - 1)]:
            for old in (self.dir / f"old-{number}", self.checkpoints_dir / f"old-{number}"):
                shutil.rmtree(old, ignore_errors=True)
        return self.dir / name

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
