"""`gan3d dashboard`: runs beside each other, on a page or in W&B (docs/dashboards.md)."""

from __future__ import annotations

from pathlib import Path

from gan3d.apps.dashboard import write_dashboard
from gan3d.apps.workspace import save_workspace, workspace_text
from gan3d.cli.checks import existing, file_for
from gan3d.cli.messages import CommandError, say


def make_dashboard(
    runs: list[Path] | None = None,
    out: Path | None = None,
    wandb: str | None = None,
    name: str = "gan3d",
    dry_run: bool = False,
    moments: int = 8,
    side: int = 640,
    overwrite: bool = False,
) -> int:
    """Puts runs beside each other: on a self-contained page, or in W&B.

    Args:
        runs: folders of runs, also of those that are still training; none with --wandb.
        out: the page, dashboard.html by default; with --wandb a .json file, which gets the
            workspace in place of W&B.
        wandb: entity/project of W&B, where a workspace with the same panels is made.
        name: of the workspace.
        dry_run: say what would be made, and stop.
        moments: pictures of each kind and run on the page, spread over its length.
        side: pictures of the page are reduced to this, pixels.
        overwrite: replace a file that is there.
    """
    folders = [Path(run).expanduser() for run in runs or []]
    if bool(folders) == (wandb is not None):
        raise CommandError(
            "a dashboard needs runs, or a project of W&B, not both",
            "gan3d dashboard runs/a runs/b, or gan3d dashboard --wandb ENTITY/PROJECT",
        )
    if wandb is not None:
        return _workspace(wandb, name, out, dry_run, overwrite)
    for option, value in (("moments", moments), ("side", side)):
        if value < 1:
            raise CommandError(f"--{option} {value} is out of range; give a number 1 or more")
    path = file_for(out or Path("dashboard.html"), ".html", overwrite=overwrite)
    for folder in folders:
        if not existing("runs", folder).is_dir():
            raise CommandError(f"runs {folder} is a file; give the folders of runs")
    if dry_run:
        say(f"dry run: {len(folders)} runs would go to {path}; nothing was written")
        return 0
    for sentence in write_dashboard(path, folders, moments=moments, side=side):
        say(sentence)
    megabytes = path.stat().st_size / 1e6
    say(f"the page of {len(folders)} runs is {path} ({megabytes:.1f} MB)")
    return 0


def _workspace(wandb: str, name: str, out: Path | None, dry_run: bool, overwrite: bool) -> int:
    """Makes the workspace of a project of W&B, or a file of it."""
    entity, slash, project = wandb.partition("/")
    if not (entity and slash and project) or "/" in project:
        raise CommandError(f"--wandb {wandb} is not ENTITY/PROJECT", "for example --wandb me/gan3d")
    path = None if out is None else file_for(out, ".json", overwrite=overwrite)
    text = workspace_text(entity, project, name)
    if path is not None and not dry_run:
        path.write_text(text, encoding="utf-8")
        say(f"the workspace is {path}; nothing was sent to W&B")
    elif dry_run:
        print(text)
    else:
        say(f"the workspace is {save_workspace(entity, project, name)}")
    return 0
