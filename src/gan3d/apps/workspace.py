"""A workspace of W&B with the panels of a dashboard, by the package wandb-workspaces."""

from __future__ import annotations

import json
from typing import Any

from gan3d.apps.logged import KEYS, SECTIONS, Key, keys_in
from gan3d.apps.summary import MEANING

AXIS = "kimg"
EXTRA = "pip install gan3d[dashboards]"


def workspace(entity: str, project: str, name: str) -> Any:
    """A `wandb_workspaces.workspaces.Workspace`: a section of panels for each of `SECTIONS`, over
    kimg, and the summary of every run as columns. Nothing is sent.

    Raises:
        ValueError: wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as spaces
    except ImportError as error:
        raise ValueError(
            f"a workspace of W&B needs the package wandb-workspaces; install it: {EXTRA}"
        ) from error
    media = [key for key in KEYS if key.kind != "number"]
    sections = []
    for section in SECTIONS:
        numbers = keys_in(section, "number")
        shown = [_line(panels, key) for key in numbers]
        shown += [
            panels.MediaBrowser(title=key.name, media_keys=[key.name], num_columns=2)
            for key in media
            if key.section == section
        ]
        sections.append(spaces.Section(name=section, panels=shown, is_open=True))
    return spaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=sections,
        settings=spaces.WorkspaceSettings(x_axis=AXIS),
        runset_settings=spaces.RunsetSettings(
            pinned_columns=["run:displayName", *(f"summary:summary/{name}" for name in MEANING)]
        ),
    )


def _line(panels: Any, key: Key) -> Any:
    """The curves of a key over kimg."""
    return panels.LinePlot(
        title=key.name, x=AXIS, y=[key.name], log_y=key.log or None, title_y=key.unit or None
    )


def workspace_text(entity: str, project: str, name: str) -> str:
    """The workspace as the JSON that W&B would get."""
    view = workspace(entity, project, name)._to_model()
    return json.dumps(view.model_dump(by_alias=True, exclude_none=True), indent=2, default=str)


def save_workspace(entity: str, project: str, name: str) -> str:
    """Makes the workspace in W&B; returns its address.

    Raises:
        ValueError: W&B has no key, cannot be reached, or refuses it.
    """
    made = workspace(entity, project, name)
    import wandb

    try:
        made.save()
    except (wandb.Error, OSError, ValueError) as error:
        why = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise ValueError(
            f"W&B did not take the workspace of {entity}/{project} ({why}): log in by wandb login, "
            "name a project that is there, or write it to a file by --out workspace.json"
        ) from error
    return str(made.url)
