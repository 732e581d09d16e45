"""The table as one self-contained HTML page, with pictures and an orbit of every model."""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path

from gan3d.apps.page import page, shown
from gan3d.apps.sortable import SORTABLE, ColumnHead, Entry, sortable_table
from gan3d.bench.published import ANOTHER, HEADINGS, published_cells
from gan3d.bench.table import Board, Cell, Heading, Row
from gan3d.results import write_whole

GENERATED = '<meta name="generator" content="gan3d bench table">'
ARROWS = {"low": "lower is better", "high": "higher is better", "one": "1 is right", "": ""}


def write_page(path: Path, board: Board) -> Path:
    """Writes the page of a table.

    Args:
        path: of the page.
        board: its results; their pictures lie beside their files.

    Raises:
        ValueError: a picture that a result names is not there.
    """
    parts = [f"<h1>{html.escape(board.title)}</h1>", _hint(), _table(board), _reasons(board)]
    parts += ["<h2>Pictures</h2>", _pictures(board), "<h2>Protocol</h2>", _protocol(board)]
    parts += [f"<h2>{ANOTHER}</h2>", _papers(board)]
    text = page(board.title, "\n".join(parts), generator=GENERATED, more=MORE)
    return write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _hint() -> str:
    return (
        "<p class='hint'>Click a heading to sort by it. In brackets: the interval of 95 %. Bold: "
        "the best value of its column.</p>"
    )


def _table(board: Board) -> str:
    headings = board.headings()
    rows = [board.cells(row) for row in board.rows]
    best = [_best(heading, column) for heading, column in zip(headings, zip(*rows))]
    entries = [
        [_entry(cell, k in of_column) for cell, of_column in zip(cells, best)]
        for k, cells in enumerate(rows)
    ]
    return sortable_table([_column(heading) for heading in headings], entries)


def _column(heading: Heading) -> ColumnHead:
    says = "; ".join(word for word in (heading.says, ARROWS[heading.better]) if word)
    return ColumnHead(heading.text, says)


def _entry(cell: Cell, is_best: bool) -> Entry:
    text = html.escape(cell.text)
    value, bracket, interval = text.partition(" [")
    if bracket:
        text = f"{value} <span class='interval'>[{interval}</span>"
    return Entry(text, "" if cell.value is None else str(cell.value), cell.why, is_best)


def _best(heading: Heading, column: Iterable[Cell]) -> set[int]:
    """Rows with the best value of a column; none where nothing is better, or all are alike."""
    values = {
        k: cell.value for k, cell in enumerate(column) if isinstance(cell.value, (int, float))
    }
    if not heading.better or len(set(values.values())) < 2:
        return set()
    worth = {"low": lambda x: -x, "high": lambda x: x, "one": lambda x: -abs(x - 1)}
    worths = {k: worth[heading.better](value) for k, value in values.items()}
    return {k for k, value in worths.items() if value == max(worths.values())}


def _reasons(board: Board) -> str:
    lines = "".join(f"<li>{html.escape(why)}</li>" for why in board.reasons())
    return f"<p class='hint'>Not measured:</p><ul class='hint'>{lines}</ul>" if lines else ""


def _papers(board: Board) -> str:
    """What papers report, not sorted and not ranked."""
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in HEADINGS)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>\n"
        for cells in published_cells(board.records)
    )
    return (
        "<p class='hint'>Every paper measures otherwise: these numbers compare with none above. "
        "KID is times 1000.</p><div class='wide'><table class='papers'><thead>"
        f"<tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _pictures(board: Board) -> str:
    return f"<div class='results'>{''.join(_figure(row) for row in board.rows)}</div>"


def _figure(row: Row) -> str:
    """The pictures of the first seed of a model."""
    path, record = row.results[0]
    media = ""
    for what, name in record["pictures"].items():
        file = path.parent / Path(name).name  # beside the result, whatever it says
        if not file.is_file():
            raise ValueError(
                f"{path} names the picture {name}, which is not beside it; copy it too"
            )
        media += shown(file, what)
    caption = f"<b>{html.escape(row.name)}</b>, {html.escape(record['model']['class'])}."
    return f"<figure>{media}<figcaption>{caption}</figcaption></figure>"


def _protocol(board: Board) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(a)}</th><td>{html.escape(b)}</td></tr>" for a, b in board.protocol()
    )
    made = "".join(f"<li>{html.escape(line)}</li>" for line in board.machines())
    return f"<table>{rows}</table><ul class='hint'>{made}</ul>"


MORE = f"""{SORTABLE}<style>
body {{ max-width: none; }}
.papers {{ font-size: .88rem; }}
.papers :is(th, td) {{ text-align: left; padding: .2rem .9rem .2rem 0; vertical-align: bottom;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }}
.papers td:not(:last-child) {{ white-space: nowrap; }}
.interval {{ color: var(--soft); font-size: .82rem; }}
.best .interval {{ font-weight: normal; }}
.results {{ display: grid; gap: 1rem 1.4rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); }}
.results video {{ margin-top: .5rem; }}
</style>
"""
