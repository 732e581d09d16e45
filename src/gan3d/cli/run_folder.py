"""The folder of a run: what a run leaves in it, and where a run goes on."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from gan3d.checkpoints.runs import checkpoints_in, newest_whole
from gan3d.cli.messages import CommandError, nearest

WANDB_KEY = "gan3d_wandb_id"  # of W&B's run id in a checkpoint

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
    "wandb_id.txt",
)


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

    def start(self, *, overwrite: bool) -> None:
        """Makes room for a fresh run.

        Raises:
            CommandError: the folder holds the checkpoints of another run, and `overwrite` is not
            set.
        """
        if self.checkpoints() and not overwrite:
            raise CommandError(
                f"{self.dir} already holds a run ({self.checkpoints()[0].name})",
                "go on with it: --ckpt_path last",
                "start beside it: --run_dir ANOTHER_FOLDER",
                "start over in its place: --overwrite true (removes its checkpoints, metrics, "
                "pictures and videos)",
            )
        for stray in [*self.checkpoints(), self.checkpoints_dir / "last.ckpt"]:
            stray.unlink(missing_ok=True)
        for path in (self.dir / name for name in OURS):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def wandb_id(self, from_checkpoint: str | None = None) -> str:
        """W&B's run id: the one of this folder, else the checkpoint's, else a new one; kept in the
        folder.
        """
        path = self.dir / "wandb_id.txt"
        known = path.read_text().strip() if path.is_file() else from_checkpoint
        run_id = known or secrets.token_hex(4)
        self.dir.mkdir(parents=True, exist_ok=True)
        path.write_text(run_id + "\n")
        return run_id
