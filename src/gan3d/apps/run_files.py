"""The files of a run folder, read: metrics, pictures, videos, point clouds, plan and config.

A training may be running: what it has not finished writing is left out.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan3d.apps.page import MIME
from gan3d.results import MARKER

SUMMARY = "summary.json"
COMPARED = "zoo"  # folder in a run of pictures and videos of trained models, to be shown beside it


@dataclass(frozen=True)
class RunFiles:
    """The content of a run folder.

    Attributes:
        dir: the folder.
        columns: logged numbers: name -> list of (images seen, value), in order.
        pictures: key -> list of (images seen, file), in order.
        videos: key -> list of (images seen, file), in order.
        clouds: point clouds: key -> list of (images seen, .ply file), in order.
        compared: pictures and videos of trained models, `<model>/<what>.<suffix>`.
        plan: what was to be trained on what, by subject.
        config: text of the config, or of the hyperparameters if there is no config.
        options: the hyperparameters, nested by name.
        summary: what the run has said of itself at its end; empty before.
    """

    dir: Path
    columns: dict[str, list[tuple[int, float]]]
    pictures: dict[str, list[tuple[int, Path]]]
    videos: dict[str, list[tuple[int, Path]]]
    clouds: dict[str, list[tuple[int, Path]]]
    compared: list[Path]
    plan: dict[str, str]
    config: str
    options: dict[str, Any]
    summary: dict[str, str | float]


def read_run(run_dir: Path) -> RunFiles:
    """Reads the content of a run folder; missing parts are empty.

    What a link brings in from outside of the folder is left out: a report is made to be sent.
    """
    names = ("config.yaml", "hyperparameters.json")
    texts = [run_dir / name for name in names if _inside(run_dir / name, run_dir)]
    return RunFiles(
        dir=run_dir,
        columns=_columns(run_dir / "metrics.csv"),
        pictures=_media(run_dir / "pictures"),
        videos=_media(run_dir / "videos"),
        clouds=_media(run_dir / "clouds", (".ply",)),
        compared=[
            path
            for path in sorted((run_dir / COMPARED).glob("*/*"))
            if path.suffix in MIME and _inside(path, run_dir)
        ],
        plan=_plan(run_dir),
        config=next(
            (path.read_text(encoding="utf-8") for path in texts if _inside(path, run_dir)), ""
        ),
        options=_object(run_dir / "hyperparameters.json"),
        summary={
            name: value if isinstance(value, float | int) else str(value)
            for name, value in _object(run_dir / SUMMARY).items()
        },
    )


def _plan(run_dir: Path) -> dict[str, str]:
    """The plan in the marker of a run."""
    plan = _object(run_dir / MARKER).get("plan", {})
    if not isinstance(plan, dict):
        return {}
    return {str(subject): str(text) for subject, text in plan.items()}


def _object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none that is whole."""
    if not _inside(path, path.parent):
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _inside(path: Path, folder: Path) -> bool:
    """Whether a path is a file that lies in a folder, links followed."""
    return path.is_file() and path.resolve().is_relative_to(folder.resolve())


def _columns(table: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of all numbers in a table, by column; a last line that is not finished is left
    out.
    """
    columns: dict[str, list[tuple[int, float]]] = {}
    if not _inside(table, table.parent):
        return columns
    lines = table.read_text(encoding="utf-8", errors="replace")
    for row in csv.DictReader(io.StringIO(lines[: lines.rfind("\n") + 1])):
        step = row.get("step") or ""
        if not step.isdigit():
            continue
        for name, cell in row.items():
            if name not in (None, "step") and isinstance(cell, str) and _is_number(cell):
                columns.setdefault(name, []).append((int(step), float(cell)))
    return columns


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _media(
    folder: Path, suffixes: Iterable[str] = tuple(MIME)
) -> dict[str, list[tuple[int, Path]]]:
    """Files named `<key>_<step>.<suffix>`, by key."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted(folder.glob("*")):
        if not _inside(path, folder.parent):
            continue
        key, _, step = path.stem.rpartition("_")
        if path.suffix in suffixes and key and step.isdigit():
            found.setdefault(key, []).append((int(step), path))
    return found
