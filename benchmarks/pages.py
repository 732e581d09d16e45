"""Tables in docs that benchmarks write, each between two marks of its page."""

from __future__ import annotations

from collections.abc import Sequence

from machine import ROOT

DOCS = ROOT / "docs"


def between(text: str, mark: str, body: str) -> str:
    """A page with another body between its lines `<!-- mark: begin -->` and `<!-- mark: end -->`.

    Args:
        text: of the page.
        mark: name of the place; it is there once.
        body: lines, the last one with its end.
    """
    begin, end = f"<!-- {mark}: begin -->\n", f"<!-- {mark}: end -->"
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    return f"{head}{begin}{body}{end}{tail}"


def write_between(page: str, mark: str, lines: Sequence[str]) -> None:
    """Writes lines into a page of docs, in the place of those between its marks."""
    path = DOCS / page
    body = "".join(f"{line}\n" for line in lines)
    path.write_text(between(path.read_text(encoding="utf-8"), mark, body), encoding="utf-8")
