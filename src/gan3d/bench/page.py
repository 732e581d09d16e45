"""The table as one self-contained HTML page, with pictures and an orbit of every model."""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path

from gan3d.apps.page import page, shown
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
    parts += [f"<h2>{ANOTHER}</h2>", _papers(board)]
    parts += ["<h2>Pictures</h2>", _pictures(board), "<h2>Protocol</h2>", _protocol(board)]
    text = page(board.title, "\n".join(parts), generator=GENERATED, more=MORE)
    return write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _hint() -> str:
    return (
        "<p class='hint'>Click a heading to sort by it. In brackets: the interval of 95 %. Bold: "
        "the best value of its column.</p>"
    )


def _table(board: Board) -> str:
    headings = board.headings()
    columns = list(zip(*(board.cells(row) for row in board.rows)))
    best = [_best(heading, column) for heading, column in zip(headings, columns)]
    head = "".join(_heading(heading) for heading in headings)
    body = ""
    for k, row in enumerate(board.rows):
        cells = board.cells(row)
        body += "<tr>" + "".join(_cell(cell, k in b) for cell, b in zip(cells, best)) + "</tr>\n"
    return (
        f"<div class='wide'><table class='sortable'><thead><tr>{head}</tr></thead>\n"
        f"<tbody>{body}</tbody></table></div>"
    )


def _heading(heading: Heading) -> str:
    says = "; ".join(word for word in (heading.says, ARROWS[heading.better]) if word)
    return (
        f'<th title="{html.escape(says)}"><button type="button">{html.escape(heading.text)}'
        "</button></th>"
    )


def _cell(cell: Cell, is_best: bool) -> str:
    key = "" if cell.value is None else html.escape(str(cell.value))
    text = html.escape(cell.text)
    value, bracket, interval = text.partition(" [")
    if bracket:
        text = f"{value} <span class='interval'>[{interval}</span>"
    strong = " class='best'" if is_best else ""
    return f'<td data-key="{key}" title="{html.escape(cell.why)}"{strong}>{text}</td>'


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


MORE = """<style>
body { max-width: none; }
.hint { color: var(--soft); font-size: .88rem; }
.wide { overflow-x: auto; }
.sortable { white-space: nowrap; }
.sortable th { border-bottom: 2px solid var(--line); padding: 0 .9rem .3rem 0;
  vertical-align: bottom; }
.sortable td { border-bottom: 1px solid var(--line); padding: .35rem .9rem .35rem 0;
  font-variant-numeric: tabular-nums; }
.papers { font-size: .88rem; }
.papers :is(th, td) { text-align: left; padding: .2rem .9rem .2rem 0; vertical-align: bottom;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
.papers td:not(:last-child) { white-space: nowrap; }
.sortable button { font: inherit; color: inherit; background: none; border: 0; padding: 0;
  cursor: pointer; text-align: left; white-space: normal; min-width: 4.5rem; }
.sortable th[aria-sort] button { color: var(--ink); font-weight: 600; }
.sortable th[aria-sort=ascending] button::after { content: " \\2191"; }
.sortable th[aria-sort=descending] button::after { content: " \\2193"; }
.interval { color: var(--soft); font-size: .82rem; }
.best { font-weight: 600; }
.best .interval { font-weight: normal; }
.sortable :is(th, td):first-child { position: sticky; left: 0; background: var(--paper); }
.results { display: grid; gap: 1rem 1.4rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); }
.results video { margin-top: .5rem; }
</style>
<script>
addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    const key = (row, k) => row.cells[k].dataset.key;
    heads.forEach((head, k) => head.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows];
      const numbers = rows.every(row => !isNaN(key(row, k)));
      rows.sort((a, b) => {
        const x = key(a, k), y = key(b, k);
        if (x === "" || y === "") return (x === "") - (y === "");  // what is missing goes last
        const order = numbers ? x - y : x.localeCompare(y);
        return up ? order : -order;
      });
      body.append(...rows);
    }));
  }
});
</script>
"""
