"""Ablations of the papers at 32 px: each row is a config with overlays of `ablations/`.

    python benchmarks/ablations.py FOLDER                      # five hours of one core; or a part,
    python benchmarks/ablations.py FOLDER --tables eg3d --seeds 0
    python benchmarks/ablations.py FOLDER --only_write         # of what is finished

A row of one seed is

    gan3d bench run --suite ablations --model CONFIG --overlays A.yaml,B.yaml --seed 0 --out FOLDER

which trains for 10,000 images on one thread and evaluates. What was stopped goes on. Results are
kept in ablations/results, and are not made again; of the first seed's runs a picture is kept, too.
Writes the tables of docs/ablations.md.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from head_runs import gan3d
from machine import ROOT
from pages import write_between

from gan3d.bench.measures import column_of
from gan3d.bench.results import read_result

SUITE = "ablations"
OVERLAYS = Path(__file__).parent / "ablations"
RESULTS = OVERLAYS / "results"
PICTURES = ROOT / "docs" / "images" / "ablations"
COLUMNS = (
    "fd_headnet/same",
    "fd_headnet/3d",
    "face_slope",
    "body_convex",
    "turn",
    "identity",
    "drift",
    "mirror",
)


class Row(NamedTuple):
    """A model of a table.

    Attributes:
        name: in the table.
        published: the paper's number, with its name.
        overlays: of the table's config, in this order.
    """

    name: str
    published: str
    overlays: tuple[str, ...] = ()


class Table(NamedTuple):
    """An ablation.

    Attributes:
        source: paper and table.
        config: that the overlays change.
        rows: in the order of the paper.
    """

    source: str
    config: str
    rows: tuple[Row, ...]


def _gramhd(*overlays: str) -> tuple[str, ...]:
    return ("gramhd", *overlays)


TABLES = {
    "eg3d": Table(
        "EG3D, table 4 (FID at 512 px)",
        "eg3d_heads32",
        (
            Row("one discriminator, no pose conditioning", "5.5", ("eg3d_naive",)),
            Row("+ dual discrimination", "6.5", ("eg3d_dual",)),
            Row("+ pose conditioning", "4.7"),
        ),
    ),
    "axes": Table(
        "axes of the planes (specs of the official code)",
        "eg3d_heads32",
        (
            Row("XY, XZ, ZX", "", ("eg3d_official_axes",)),
            Row("XY, XZ, ZY", ""),
        ),
    ),
    "cips3d": Table(
        "CIPS-3D, table 2 (FID at 64 px)",
        "cips3d_heads32",
        (
            Row("(x, y, z) and d, encoded", "17.46", ("cips3d_encoded_directions",)),
            Row("(x, y, z), encoded", "16.25", ("cips3d_encoded",)),
            Row("(x, y, z), FC + sine", "18.77", ("cips3d_no_aux",)),
            Row("+ auxiliary discriminator", "16.46", ("cips3d",)),
        ),
    ),
    "rays": Table(
        "CIPS-3D, figure 12: rays with gradient",
        "cips3d_heads32",
        (
            Row("8 x 8 of 32 x 32", "", ("cips3d_8x8_rays",)),
            Row("12 x 12", "", ("cips3d_12x12_rays",)),
            Row("24 x 24", "", ("cips3d_24x24_rays",)),
            Row("all", "", ("cips3d",)),
        ),
    ),
    "gramhd": Table(
        "GRAM-HD, table 5 (FID at 256 px)",
        "gramhd_heads64",
        (
            Row("base architecture", "14.4", _gramhd("gramhd_base")),
            Row("+ sub-pixel convolutions", "14.1", _gramhd("gramhd_no_modulation")),
            Row("+ style modulation", "14.0", _gramhd("gramhd_no_features")),
            Row("+ features of stage 1", "13.3", _gramhd("gramhd_shared_background")),
            Row("+ network of the background", "12.0", _gramhd("gramhd_no_patch")),
            Row("+ loss of patches", "11.8", _gramhd()),
            Row("- loss of consistency", "16.9", _gramhd("gramhd_no_consistency")),
        ),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path, help="of data, runs and results")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--only_run", action="store_true", help="write no table")
    parser.add_argument("--only_write", action="store_true", help="no training: what is finished")
    args = parser.parse_args()
    if not args.only_write:
        for seed in args.seeds:
            for name in args.tables:
                for row in TABLES[name].rows:
                    run(args.folder, TABLES[name], row, seed)
    if not args.only_run:
        write_tables({name: results(table) for name, table in TABLES.items()})


def run(folder: Path, table: Table, row: Row, seed: int) -> None:
    """Trains, evaluates, and keeps the result; what is kept is left as it is."""
    name = _name(table, row, seed)
    if (RESULTS / f"{name}.json").exists():
        return
    overlays = ",".join(str(OVERLAYS / f"{name}.yaml") for name in row.overlays)
    more = ("--overlays", overlays) if overlays else ()
    model = ("--model", f"{table.config}.yaml", *more)
    gan3d("bench", "run", "--suite", SUITE, *model, "--seed", seed, "--out", folder)
    keep(folder / SUITE / f"{name}.json", with_picture=seed == 0)


def keep(result: Path, with_picture: bool) -> None:
    """Copies a result to the others, and its turned heads to the pictures of the docs."""
    RESULTS.mkdir(exist_ok=True)
    shutil.copyfile(result, RESULTS / result.name)
    if with_picture:
        PICTURES.mkdir(parents=True, exist_ok=True)
        sheet = result.parent / read_result(result)["pictures"]["sheet"]
        shutil.copyfile(sheet, PICTURES / f"{result.stem}.png")


def results(table: Table) -> list[dict[str, Any]]:
    """What is finished of a table: an entry per row and seed."""
    found = []
    for row in table.rows:
        for path in sorted(RESULTS.glob(f"{_name(table, row, '*')}.json")):
            record = read_result(path)
            found.append(
                {
                    "row": row.name,
                    "cpu_seconds": record["training"]["cpu_seconds"],
                    "protocol_hash": record["protocol_hash"],
                    "values": {name: value["value"] for name, value in record["values"].items()},
                }
            )
    return found


def write_tables(found: dict[str, list[dict[str, Any]]]) -> None:
    """The tables between the marks of the page: the mean over seeds, the extremes in brackets.

    Raises:
        ValueError: they were not measured by one protocol.
    """
    hashes = {entry["protocol_hash"] for entries in found.values() for entry in entries}
    if len(hashes) > 1:
        raise ValueError(
            f"the results in {RESULTS} are of {len(hashes)} protocols: {', '.join(sorted(hashes))}"
        )
    lines = []
    for name, table in TABLES.items():
        headings = ["published", "seeds", *(_heading(column) for column in COLUMNS), "CPU minutes"]
        lines += [f"### {table.source}", "", f"| | {' | '.join(headings)} |"]
        lines.append("|" + "---|" * (1 + len(headings)))
        for row in table.rows:
            runs = [entry for entry in found[name] if entry["row"] == row.name]
            cells = [_cell([run["values"].get(column) for run in runs]) for column in COLUMNS]
            minutes = [run["cpu_seconds"] / 60 for run in runs if run["cpu_seconds"]]
            spent = f"{statistics.mean(minutes):.0f}" if minutes else "–"
            words = [row.name, row.published or "–", str(len(runs)), *cells, spent]
            lines.append(f"| {' | '.join(words)} |")
        lines += ["", *_pictures(table), ""]
    write_between("ablations.md", "ablations", lines[:-1])


def _pictures(table: Table) -> list[str]:
    """A table of the pictures of the first seed."""
    lines = [f"| {table.source}: the first seed, from five sides, and its depth | |", "|---|---|"]
    for row in table.rows:
        path = PICTURES / f"{_name(table, row, 0)}.png"
        if path.exists():
            lines.append(f"| ![{row.name}](images/{PICTURES.name}/{path.name}) | {row.name} |")
    return lines if len(lines) > 2 else []


def _name(table: Table, row: Row, seed: int | str) -> str:
    """Of a result, as `gan3d bench run` calls it."""
    return f"{'+'.join((table.config, *row.overlays))}-seed{seed}"


def _heading(column: str) -> str:
    return column_of(column).heading


def _cell(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{statistics.mean(known):.2f}"
    return mean if len(known) == 1 else f"{mean} ({min(known):.2f}, {max(known):.2f})"


if __name__ == "__main__":
    main()
