"""Results of one protocol as one table. Numbers of different protocols are never put together."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from scipy.special import stdtrit

from gan3d.bench.intervals import LEVEL
from gan3d.bench.measures import column_of, measure_of
from gan3d.bench.protocol import protocol_differences
from gan3d.bench.published import ANOTHER, DASH, published_cells
from gan3d.bench.published import HEADINGS as HEADINGS_OF_PAPERS
from gan3d.bench.results import Record


class Cell(NamedTuple):
    """A value of one row.

    Attributes:
        text: as it is shown.
        value: to sort by; None: there is none.
        why: why there is none.
    """

    text: str
    value: float | str | None = None
    why: str = ""


class Heading(NamedTuple):
    """A column.

    Attributes:
        text: short.
        says: what it tells.
        better: which is better; "" where that is no matter of better.
    """

    text: str
    says: str = ""
    better: Literal["low", "high", "one", ""] = ""


@dataclass(frozen=True)
class Row:
    """One model, of one or several seeds of training.

    Attributes:
        name: without the seed.
        results: file and content of each result.
    """

    name: str
    results: Sequence[tuple[Path, Record]]

    @property
    def first(self) -> Record:
        return self.results[0][1]

    def value(self, key: str) -> Cell:
        """A value with its interval: over samples, or over seeds where there are several."""
        found = [record["values"].get(key) for _, record in self.results]
        known = [value for value in found if value is not None]
        if len(known) < len(found):
            absent = next(r["absent"] for _, r in self.results if key not in r["values"])
            # a measure that failed as a whole is absent by the first part of its names
            said = (why for name, why in absent.items() if key.startswith(name))
            return Cell(DASH, why=next(said, "not measured"))
        values = [value["value"] for value in known]
        mean = statistics.mean(values)
        if len(values) == 1:
            low, high = known[0]["low"], known[0]["high"]
        else:
            spread = statistics.stdev(values) / math.sqrt(len(values))
            half = spread * float(stdtrit(len(values) - 1, (1 + LEVEL) / 2))
            low, high = mean - half, mean + half
        return Cell(f"{mean:.3g} [{low:.3g}, {high:.3g}]", mean)

    def facts(self) -> dict[str, Cell]:
        """Model, training and speed, by heading."""
        record, training, speed = self.first, self.first["training"] or {}, self.first["speed"]
        images, seconds = training.get("images"), self._mean("seconds")
        return {
            "model": Cell(self.name, self.name),
            "architecture": Cell(record["model"]["class"], record["model"]["class"]),
            "weights": Cell(record["model"]["origin"], record["model"]["origin"]),
            "by the suite": _cell("yes" if training.get("by_suite") else "no"),
            "seeds": _cell(len(self.results)),
            "images": _cell(images, "{:,}"),
            "training s": _cell(seconds, "{:,.0f}"),
            "training CPU s": _cell(self._mean("cpu_seconds"), "{:,.0f}"),
            "training images/s": _cell(self._mean("images_per_second"), "{:.3g}"),
            "images/s": _cell(speed["images_per_second"], "{:.3g}"),
            "cached images/s": _cell(speed["cached_images_per_second"], "{:.3g}"),
            "ms per view": _cell(speed["ms_per_view"], "{:.3g}"),
            "memory, GB": _cell(speed["peak_memory_gb"], "{:.3g}"),
            "parameters": _cell(speed["parameters"], "{:,}"),
            "GFLOP": _cell(speed["gflops_per_image"], "{:.3g}"),
        }

    def _mean(self, key: str) -> float | None:
        found = [(record["training"] or {}).get(key) for _, record in self.results]
        known = [float(value) for value in found if value is not None]
        return statistics.mean(known) if len(known) == len(found) else None


HEADINGS = {
    "model": Heading("model"),
    "architecture": Heading("architecture"),
    "weights": Heading("weights", "official ones, evaluated here, or trained here"),
    "by the suite": Heading("by the suite", "whether trained on its data under its budget"),
    "seeds": Heading("seeds", "of training; of several, values are means, intervals over seeds"),
    "images": Heading("images", "that training has seen, in all of its stages"),
    "training s": Heading(
        "training s", "seconds of training by the clock, its own pictures included"
    ),
    "training CPU s": Heading("training CPU s", "that its first process spent on a CPU"),
    "training images/s": Heading("training images/s", "", "high"),
    "images/s": Heading("images/s", "a scene and its picture, 4 at once", "high"),
    "cached images/s": Heading("cached images/s", "pictures of scenes that are there", "high"),
    "ms per view": Heading("ms per view", "of one scene that is there", "low"),
    "memory, GB": Heading("memory, GB", "peak above the loaded model, 4 images", "low"),
    "parameters": Heading("parameters"),
    "GFLOP": Heading("GFLOP", "per image: products and convolutions, 2 per multiply-add", "low"),
}
BEFORE_VALUES = 6  # of the facts; the others come after the values


@dataclass(frozen=True)
class Board:
    """A table of results of one protocol.

    Attributes:
        rows: the best `3d` distance first, then models without one.
        keys: of the values, in the order of the suite.
    """

    rows: Sequence[Row]
    keys: Sequence[str]

    @property
    def first(self) -> Record:
        return self.rows[0].first

    @property
    def records(self) -> list[Record]:
        return [record for row in self.rows for _, record in row.results]

    @property
    def title(self) -> str:
        return f"Leaderboard: {self.first['suite']}"

    def headings(self) -> list[Heading]:
        facts = list(HEADINGS.values())
        values = [Heading(*column_of(key)) for key in self.keys]
        return [*facts[:BEFORE_VALUES], *values, *facts[BEFORE_VALUES:]]

    def cells(self, row: Row) -> list[Cell]:
        facts = list(row.facts().values())
        values = [row.value(key) for key in self.keys]
        return [*facts[:BEFORE_VALUES], *values, *facts[BEFORE_VALUES:]]

    def _sections(self) -> dict[str | None, list[str]]:
        """Headings by section: of the models, of each measure, and of speed."""
        facts = list(HEADINGS)
        found: dict[str | None, list[str]] = {None: facts[1:BEFORE_VALUES]}
        for key in self.keys:
            title = measure_of(key).replace("_", " ").capitalize()
            found.setdefault(title, []).append(column_of(key).heading)
        return found | {"Training, speed and memory": facts[BEFORE_VALUES:]}

    def protocol(self) -> list[tuple[str, str]]:
        """What all values follow from, in words."""
        of = self.first["protocol"]
        real = f"{of['real']['images']:,} of {of['real_resolution']} px, {of['resize_filter']}"
        fakes = f"{of['num_fakes']:,}, psi {of['truncation']:g}, cameras: {of['cameras']}"
        distances = f"same: conditioned on the rendering camera; 3d: {of['conditioning'][1]}"
        features = ", ".join(f"{name} {digest[:8]}" for name, digest in of["features"].items())
        return [
            ("protocol", self.first["protocol_hash"][:16]),
            ("real images", real),
            ("fakes", fakes),
            ("distances", distances),
            ("heads", f"{of['num_heads']}; fields of {of['num_scenes']}, {of['fit_steps']} steps"),
            ("seed", f"{of['seed']}"),
            ("features", features),
            ("intervals", f"95 %, bootstrap of {of['resamples']} resamples, or over seeds"),
        ]

    def reasons(self) -> list[str]:
        """Why values are missing, each reason once, with the architectures it is said of."""
        of: dict[str, dict[str, None]] = {}
        for row in self.rows:
            name = row.first["model"]["class"]
            for cell in self.cells(row):
                if cell.why.startswith(f"{name} "):
                    of.setdefault(cell.why.removeprefix(name), {})[name] = None
                elif cell.why:
                    of.setdefault(cell.why, {})
        return [
            f"{', '.join(names)}:{why}" if len(names) > 1 else f"{''.join(names)}{why}"
            for why, names in of.items()
        ]

    def machines(self) -> list[str]:
        """What made each result."""
        lines = []
        for row in self.rows:
            for path, record in row.results:
                made = record["made_with"]
                lines.append(
                    f"{path.name}: {made['machine']} ({made['device']}), {made['threads']} "
                    f"thread, torch {made['torch']}, commit {made['commit']}, {made['date']}"
                )
        return lines

    def markdown(self) -> str:
        """A table per measure, the protocol and the footnotes."""
        lines = [
            f"# {self.title}",
            "",
            "Made by `gan3d bench table`; how it is measured: [benchmark](benchmark.md). "
            "In brackets 95 % intervals.",
            "",
        ]
        texts = [heading.text for heading in self.headings()]
        shown = [dict(zip(texts, self.cells(row), strict=True)) for row in self.rows]
        for title, names in self._sections().items():
            lines += [] if title is None else [f"## {title}", ""]
            lines += [f"| {' | '.join(['model', *names])} |", "|" + "---|" * (1 + len(names))]
            for cells in shown:
                texts = [cells[name].text.replace("|", "\\|") for name in ("model", *names)]
                lines.append(f"| {' | '.join(texts)} |")
            lines.append("")
        lines += [*(f"* {DASH}: {why}" for why in self.reasons()), ""]
        lines += ["| | |", "|---|---|", *(f"| {a} | {b} |" for a, b in self.protocol()), ""]
        lines += [f"* {line}" for line in self.machines()]
        lines += ["", f"## {ANOTHER}", "", "They compare with nothing above.", ""]
        lines += [
            "| " + " | ".join(HEADINGS_OF_PAPERS) + " |",
            "|---" * len(HEADINGS_OF_PAPERS) + "|",
        ]
        lines += ["| " + " | ".join(cells) + " |" for cells in published_cells(self.records)]
        return "\n".join(lines) + "\n"


def leaderboard(results: Sequence[tuple[Path, Record]]) -> Board:
    """A table of results.

    Raises:
        ValueError: they are not of one protocol; what differs is said.
    """
    refuse_mixed(results)
    rows: dict[tuple[str, ...], list[tuple[Path, Record]]] = {}
    for path, record in results:
        model = record["model"]
        rows.setdefault((_plain(record), model["class"], model["origin"]), []).append(
            (path, record)
        )
    keys = list(dict.fromkeys(key for _, r in results for key in [*r["values"], *r["absent"]]))
    keys = [key for key in keys if any(key in r["values"] for _, r in results)]
    made = [Row(name, found) for (name, *_), found in rows.items()]
    return Board(sorted(made, key=lambda row: _rank(row, keys)), keys)


def refuse_mixed(results: Sequence[tuple[Path, Record]]) -> None:
    """Refuses results of several protocols.

    Raises:
        ValueError: naming two files, and what differs between them.
    """
    first_path, first = results[0]
    for path, record in results[1:]:
        if record["protocol_hash"] != first["protocol_hash"]:
            said = protocol_differences(first["protocol"], record["protocol"])
            raise ValueError(
                f"{first_path} and {path} were measured by different protocols and are not ranked "
                f"together: {'; '.join(said)}"
            )


def _plain(record: Record) -> str:
    """The name of a model without the seed of its training."""
    seed = (record["training"] or {}).get("seed")
    return record["model"]["name"].removesuffix("" if seed is None else f"-seed{seed}")


def _rank(row: Row, keys: Iterable[str]) -> tuple[bool, float, str]:
    for pictures in ("3d", "same"):
        for key in keys:
            value: Any = row.value(key).value
            if key.startswith("fd_") and key.endswith(pictures) and value is not None:
                return pictures == "same", value, row.name
    return True, math.inf, row.name


def _cell(value: Any, form: str = "{}") -> Cell:
    return Cell(DASH) if value is None else Cell(form.format(value), value)
