"""Several runs on one self-contained page: curves over each other, pictures beside each other, and
a table that sorts.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gan3d.apps.clouds import read_cloud
from gan3d.apps.curves import Curve, curve_svg, finite
from gan3d.apps.dashboard_script import HEAD
from gan3d.apps.logged import KEYS, SECTIONS, Key, keys_in
from gan3d.apps.page import data_url, page, small_url
from gan3d.apps.report import spread
from gan3d.apps.run_files import RunFiles, read_run
from gan3d.apps.sortable import SORTABLE, ColumnHead, Entry, sortable_table
from gan3d.apps.summary import MEANING, Row, ordered, values_of
from gan3d.results import write_whole

GENERATED = '<meta name="generator" content="gan3d dashboard">'
NUM_COLORS = 8  # of gan3d.apps.page
MAX_VIDEO = 4_000_000  # bytes; larger ones are left out
MAX_POINTS = 8_000  # of a cloud
# Of a config, what says nothing of the training.
ELSEWHERE = ("run_dir", "logger", "wandb_", "threads", "trainer.", "data.path", "data.num_workers")


@dataclass(frozen=True)
class Shown:
    """A run of a dashboard.

    Attributes:
        name: of its folder, with as many folders above as tell it from the others.
        files: what is in its folder.
        row: its summary.
    """

    name: str
    files: RunFiles
    row: Row


def write_dashboard(
    path: Path, folders: Sequence[Path], *, moments: int = 8, side: int = 640
) -> list[str]:
    """Writes the page of some runs.

    Args:
        path: of the page.
        folders: of the runs; one that is still training is shown as far as it is.
        moments: pictures of each key and run, spread over its length.
        side: larger pictures are reduced to this, pixels.

    Returns:
        what was left out, in sentences.

    Raises:
        ValueError: no folder holds anything to show.
    """
    read = [read_run(folder) for folder in folders]
    left_out = [
        f"{run.dir} holds neither metrics.csv with a whole line nor pictures: no run, or one that "
        "has just begun"
        for run in read
        if not (run.columns or run.pictures)
    ]
    names = short_names([run.dir for run in read])
    runs = [
        Shown(name, run, row_of(run))
        for name, run in zip(names, read)
        if run.columns or run.pictures
    ]
    if not runs:
        raise ValueError("; ".join(left_out) + "; give the folders of runs")
    media, more = _media(runs, moments, side)
    left_out += more
    parts = [
        "<h1>Runs</h1>",
        _legend(runs),
        "".join(f"<p class='hint'>{html.escape(line)}.</p>" for line in left_out),
        _table(runs),
        media,
        _curves(runs),
        _configs(runs),
    ]
    title = ", ".join(run.name for run in runs)
    text = page(title, "\n".join(parts), generator=GENERATED, more=SORTABLE + HEAD)
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))
    return left_out


def row_of(run: RunFiles) -> Row:
    """The summary of a run; what a run that is not at its end has not said is read of its files."""
    row: Row = dict(run.summary)
    if not row:
        options = dict(flat(run.options))
        for role in ("generator", "discriminator"):
            if name := options.get(f"model.{role}.class_path"):
                row[role] = str(name).rpartition(".")[2]
    return ordered(row | values_of(run.columns))


def short_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of some paths, as many as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    most = max(map(len, parts))
    num = next((n for n in range(1, most) if len({p[-n:] for p in parts}) == len(parts)), most)
    return ["/".join(p[-num:]) for p in parts]


def flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested dictionaries under dotted names, without `init_args`."""
    if isinstance(tree, dict) and tree:
        for name, value in tree.items():
            inner = prefix if name == "init_args" else f"{prefix}.{name}".lstrip(".")
            yield from flat(value, inner)
    elif prefix:
        yield prefix, tree


# -- sections --------------------------------------------------------------------------------------


def _legend(runs: Sequence[Shown]) -> str:
    """A box for every run, which shows and hides its curves and pictures."""
    boxes = "".join(
        f'<label style="--own: var(--c{k % NUM_COLORS})"><input type="checkbox" checked '
        f'data-run="{k}"><i></i>{html.escape(run.name)}</label>'
        for k, run in enumerate(runs)
    )
    return f"<div class='legend'>{boxes}</div>"


def _table(runs: Sequence[Shown]) -> str:
    names = [name for name in MEANING if any(name in run.row for run in runs)]
    columns = [
        ColumnHead("run", "folder"),
        *(ColumnHead(n.replace("_", " "), MEANING[n]) for n in names),
    ]
    rows = [
        [Entry(html.escape(run.name), run.name), *(_entry(run.row.get(name)) for name in names)]
        for run in runs
    ]
    return sortable_table(columns, rows)


def _entry(value: str | float | None) -> Entry:
    if value is None:
        return Entry("", "")
    text = value if isinstance(value, str) else f"{value:,.4g}" if value % 1 else f"{value:,.0f}"
    return Entry(html.escape(text), str(value))


def _media(runs: Sequence[Shown], moments: int, side: int) -> tuple[str, list[str]]:
    """Pictures under a slider, the last videos and clouds; and what was left out."""
    every = [key.name for key in KEYS if key.kind == "picture"]
    found = {key: None for run in runs for key in run.files.pictures}
    keys = [key for key in every if key in found] + [key for key in found if key not in every]
    pictures: dict[str, list[list[tuple[float, str]]]] = {}
    num, total, smaller, broken = 0, 0, set(), []
    for key in keys:
        pictures[key] = []
        for run in runs:
            there = run.files.pictures.get(key, [])
            chosen = spread(there, moments)
            num, total = num + len(chosen), total + len(there)
            urls = []
            for step, path in chosen:
                try:
                    urls.append((step / 1000, small_url(path, side)))
                except OSError as error:
                    broken.append(f"{path} cannot be read ({error})")
            smaller |= {key for _, url in urls if url.startswith("data:image/jpeg")}
            pictures[key].append(urls)
    times = sorted({kimg for rows in pictures.values() for row in rows for kimg, _ in row})
    left_out = broken
    if num < total:
        left_out.append(f"{num} of {total} pictures are shown, spread over the runs (--moments)")
    if smaller:
        left_out.append(f"pictures are reduced to {side} pixels (--side): {', '.join(smaller)}")

    rows = ""
    for key in keys:
        rows += f"<h3>{html.escape(key)}</h3><p class='hint'>{_meaning(key)}</p>"
        rows += _beside(runs, "<img alt='' data-key='" + html.escape(key) + "'>")
    moving, clouds, more = _moving(runs)
    data = json.dumps({"pictures": pictures, "times": times, "clouds": clouds})
    data = data.replace("</", r"<\/")  # no end of the script
    slider = (
        "<div class='slider'><input type='range' id='kimg' min='0' step='1' "
        f"max='{max(len(times) - 1, 0)}' value='{max(len(times) - 1, 0)}' "
        "aria-label='thousand images'><output for='kimg'></output></div>"
    )
    head = f"<h2>Pictures</h2>{slider}" if keys else ""
    script = f"<script type='application/json' id='data'>{data}</script>"
    return f"<section>{head}{rows}</section>{moving}{script}", left_out + more


def _moving(runs: Sequence[Shown]) -> tuple[str, dict[str, list[Any]], list[str]]:
    """The last video and the last cloud of each key and run."""
    parts, left_out = "", []
    for key in dict.fromkeys(key for run in runs for key in run.files.videos):
        cells = []
        for run in runs:
            step, video = run.files.videos.get(key, [(0, None)])[-1]
            if video is not None and video.stat().st_size > MAX_VIDEO:
                left_out.append(f"{video} is larger than {MAX_VIDEO // 1_000_000} MB")
                video = None
            if video is None:
                cells.append(("", "has none"))
                continue
            moving = f"<video controls loop muted autoplay playsinline src='{data_url(video)}'>"
            cells.append((f"{moving}</video>", f"{step / 1000:,.6g} kimg"))
        parts += f"<h3>{html.escape(key)}</h3><p class='hint'>{_meaning(key)}</p>"
        parts += _beside(runs, cells)
    clouds: dict[str, list[Any]] = {}
    for key in dict.fromkeys(key for run in runs for key in run.files.clouds):
        clouds[key] = [packed(run.files.clouds.get(key, [])) for run in runs]
        parts += f"<h3>{html.escape(key)}</h3><p class='hint'>{_meaning(key)}; drag to turn</p>"
        parts += _beside(
            runs, f"<canvas width='360' height='360' data-key='{html.escape(key)}'></canvas>"
        )
    return parts, clouds, left_out


def packed(clouds: Sequence[tuple[int, Path]]) -> dict[str, str | float] | None:
    """The last cloud of some for the page: int16 positions around the center, uint8 colors."""
    if not clouds:
        return None
    step, path = clouds[-1]
    points = read_cloud(path)
    points = points[:: max(-(-len(points) // MAX_POINTS), 1)]
    center = np.median(points[:, :3], axis=0)
    reach = max(float(np.quantile(np.abs(points[:, :3] - center), 0.98)), 1e-6)
    places = ((points[:, :3] - center) / reach * 16000).clip(-32000, 32000).astype("<i2")
    return {
        "kimg": step / 1000,
        "places": base64.b64encode(places.tobytes()).decode(),
        "colors": base64.b64encode(points[:, 3:].astype(np.uint8).tobytes()).decode(),
    }


def _beside(runs: Sequence[Shown], content: str | Sequence[tuple[str, str]]) -> str:
    """A figure for every run: its content and a note; or one content, which the script notes."""
    cells = [(content, "")] * len(runs) if isinstance(content, str) else content
    figures = "".join(
        f"<figure data-run='{k}'>{cell}<figcaption style='--own: var(--c{k % NUM_COLORS})'><i></i>"
        f"{html.escape(run.name)} <span>{note}</span></figcaption></figure>"
        for k, (run, (cell, note)) in enumerate(zip(runs, cells))
    )
    return f"<div class='beside'>{figures}</div>"


def _curves(runs: Sequence[Shown]) -> str:
    known = {key.name for key in KEYS}
    others = dict.fromkeys(name for run in runs for name in run.files.columns if name not in known)
    sections = [(section, keys_in(section, "number")) for section in SECTIONS]
    sections.append(("Others", [Key(name, "Others", name) for name in others]))
    text = ""
    for section, keys in sections:
        plots = "".join(_plot(key, runs) for key in keys)
        if plots:
            text += f"<h2>{section}</h2><div class='curves'>{plots}</div>"
    return text


def _plot(key: Key, runs: Sequence[Shown]) -> str:
    """The curves of a key; empty where no run has two points."""
    curves = [
        Curve(run.name, points, color=k % NUM_COLORS, run=k)
        for k, run in enumerate(runs)
        if len(points := finite(run.files.columns.get(key.name, []))) > 1
    ]
    svg = curve_svg(key.name, curves, log=key.log, legend=False)
    if not svg:
        return ""
    unit = f", {key.unit}" if key.unit else ""
    caption = f"<b>{html.escape(key.name)}</b>{unit}: {_meaning(key.name)}"
    return f"<figure>{svg}<figcaption>{caption}</figcaption></figure>"


def _meaning(name: str) -> str:
    said = next((key.meaning for key in KEYS if key.name == name), "")
    return html.escape(said.replace("`", ""))


def _configs(runs: Sequence[Shown]) -> str:
    """Where the configs differ."""
    options = [dict(flat(run.files.options)) for run in runs]
    rows = []
    for name in dict.fromkeys(name for one in options for name in one):
        values = ["" if (v := one.get(name)) is None else str(v) for one in options]
        if len(set(values)) > 1 and not name.startswith(ELSEWHERE):
            rows.append([Entry(html.escape(text), text) for text in (name, *values)])
    if not rows:
        return ""
    columns = [ColumnHead("option"), *(ColumnHead(run.name) for run in runs)]
    table = sortable_table(columns, rows)
    return (
        f"<h2>Where the configs differ</h2><details><summary>{len(rows)} options</summary>{table}"
        "</details>"
    )
