"""What papers report of the members, beside what is measured here.

Each paper has a protocol of its own, so these numbers stand in a table of their own, without ranks
or bold values. Beside the paper's FID stand those of the results at hand that were measured with
Inception at the same resolution: of official weights, and of models trained here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gan3d.bench.evaluation import HERE, OFFICIAL
from gan3d.bench.results import Record
from gan3d.zoo.configs import read

FILE = Path(__file__).parent / "published.yaml"
ANOTHER = "Published, by other protocols"
COLUMNS = ("FID", "KID", "ID", "depth", "pose", "PSNR", "SSIM", "EQ-T", "EQ-R")
INCEPTION = "fd_inception/same"
DASH = "–"
HEADINGS = (
    "architecture",
    "data",
    "px",
    *(f"{name}, paper" for name in COLUMNS),
    f"FID, {OFFICIAL}",
    f"FID, {HERE}",
    "fakes",
    "source",
)


@dataclass(frozen=True)
class Published:
    """A row of a paper.

    Attributes:
        architecture: class of the generator.
        variant: of it; "" where there is one.
        data: that it was trained on.
        resolution: pixels.
        values: by name, of `COLUMNS`; KID is times 1000.
        fakes: pictures of the distances.
        source: paper and table.
    """

    architecture: str
    data: str
    resolution: int
    values: Mapping[str, float]
    fakes: int
    source: str
    variant: str = ""

    def cells(self, records: Iterable[Record]) -> list[str]:
        """The row as text, in the order of `HEADINGS`.

        Args:
            records: results at hand.
        """
        here = [record for record in records if self._is_of(record)]
        name = f"{self.architecture} {self.variant}".strip()
        return [
            name,
            self.data,
            f"{self.resolution}",
            *(f"{self.values[c]:g}" if c in self.values else DASH for c in COLUMNS),
            *(_best(here, origin) for origin in (OFFICIAL, HERE)),
            f"{self.fakes:,}",
            self.source,
        ]

    def _is_of(self, record: Record) -> bool:
        size = record["protocol"]["real_resolution"]
        return record["model"]["class"] == self.architecture and size == self.resolution


@cache
def published() -> tuple[Published, ...]:
    """All rows, by architecture, data and resolution."""
    rows = [
        Published(**row, fakes=paper["fakes"], source=paper["source"])
        for paper in read(FILE)["papers"]
        for row in paper["rows"]
    ]
    order = [(row.architecture, row.data, row.resolution, row.variant) for row in rows]
    return tuple(row for _, row in sorted(zip(order, rows), key=lambda pair: pair[0]))


def published_cells(records: Iterable[Record]) -> list[list[str]]:
    """The table beside some results: rows of text, in the order of `HEADINGS`."""
    known = list(records)
    return [row.cells(known) for row in published()]


def _best(records: Iterable[Record], origin: str) -> str:
    """The FID of the results of an origin, the best of several."""
    found = [
        record["values"][INCEPTION]["value"]
        for record in records
        if record["model"]["origin"] == origin and INCEPTION in record["values"]
    ]
    return f"{min(found):.3g}" if found else DASH
