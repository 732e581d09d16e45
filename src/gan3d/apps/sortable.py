"""Tables whose columns sort by a click, for pages of one file (gan3d.apps.page)."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ColumnHead:
    """The heading of a column: plain text, and what it means."""

    text: str
    says: str = ""


@dataclass(frozen=True)
class Entry:
    """A cell of a table.

    Attributes:
        content: HTML.
        key: what the column sorts by, a number or text; empty cells go last.
        says: plain text to be shown on hovering.
        is_best: whether it stands out.
    """

    content: str
    key: str
    says: str = ""
    is_best: bool = False


def sortable_table(columns: Sequence[ColumnHead], rows: Sequence[Sequence[Entry]]) -> str:
    """A table as HTML; `SORTABLE` belongs to the head of its page."""
    head = "".join(
        f'<th title="{html.escape(column.says)}"><button type="button">{html.escape(column.text)}'
        "</button></th>"
        for column in columns
    )
    body = ""
    for row in rows:
        body += "<tr>" + "".join(map(_cell, row)) + "</tr>\n"
    return (
        f"<div class='wide'><table class='sortable'><thead><tr>{head}</tr></thead>\n"
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(entry: Entry) -> str:
    strong = " class='best'" if entry.is_best else ""
    key, says = html.escape(entry.key), html.escape(entry.says)
    return f'<td data-key="{key}" title="{says}"{strong}>{entry.content}</td>'


SORTABLE = """<style>
.hint { color: var(--soft); font-size: .88rem; }
.wide { overflow-x: auto; }
.sortable { white-space: nowrap; }
.sortable th { border-bottom: 2px solid var(--line); padding: 0 .9rem .3rem 0;
  vertical-align: bottom; }
.sortable td { border-bottom: 1px solid var(--line); padding: .35rem .9rem .35rem 0;
  font-variant-numeric: tabular-nums; }
.sortable button { font: inherit; color: inherit; background: none; border: 0; padding: 0;
  cursor: pointer; text-align: left; white-space: normal; min-width: 4.5rem; }
.sortable th[aria-sort] button { color: var(--ink); font-weight: 600; }
.sortable th[aria-sort=ascending] button::after { content: " \\2191"; }
.sortable th[aria-sort=descending] button::after { content: " \\2193"; }
.sortable :is(th, td):first-child { position: sticky; left: 0; background: var(--paper); }
.best { font-weight: 600; }
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
