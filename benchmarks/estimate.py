"""`gan3d estimate` beside what training takes, on the CPU: the table of docs/estimate.md.

    python benchmarks/estimate.py [--configs eg3d_heads32 ..] [--no_page]

Each config runs in a process of its own, twice: once for the peak of live tensor bytes (torch's
profiler), once for the resident memory with the default allocator (two iterations, all phases in
both). Batches of large configs are small; the estimate is of the same batch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from machine import PeakMemory, facts, write
from pages import write_between

from gan3d.bench.machine import resident
from gan3d.cli.configs import resolve
from gan3d.cli.estimate import EstimateCLI
from gan3d.training.estimate.measured import live_peak, train_twice
from gan3d.training.estimate.needs import Estimator

# config: images per iteration; None is the config's own
CONFIGS = {
    "eg3d_heads32": None,
    "eg3d_heads64": None,
    "cips3d_heads64": None,
    "gram_heads64": None,
    "gramhd_heads64": None,
    "pigan_heads64": None,
    "stylegan2_heads64": None,
    "stylegan3t_heads64": None,
    "stylegan3r_heads64": None,
    "stylegan2_ffhq256": 8,
    "eg3d_shapenet128": 4,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--configs", nargs="+", default=list(CONFIGS))
    parser.add_argument("--no_page", action="store_true", help="write nothing")
    parser.add_argument("--measure", choices=("live", "resident"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.configs[0], args.measure)))
        return
    rows = []
    for name in args.configs:
        row: dict[str, Any] = {"config": name}
        for kind in ("live", "resident"):
            words = [sys.executable, __file__, "--configs", name, "--measure", kind]
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            row |= json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
        print(line(row), flush=True)
    if args.no_page:
        return
    write("estimate", {**facts(), "rows": rows})
    write_table(rows)


def measure(name: str, kind: str) -> dict[str, Any]:
    """Estimate and measurement of one kind, bytes."""
    words = ["--config", name, "--threads", "1"]
    if CONFIGS.get(name) is not None:
        words += ["--data.batch_size", str(CONFIGS[name]), "--model.run.micro_batch_size", "null"]
    resolved, paths = resolve(words)
    cli = EstimateCLI(resolved, paths)
    spread, gan = cli.spread, cli.model
    needs = Estimator(gan, context=resident()).needs(spread)
    about = {"batch": spread.batch_size, "phase": needs.phase}
    if kind == "live":
        taken = live_peak(gan, spread.batch_size, posed=spread.posed)
        return about | {"live_estimated": needs.live, "live": taken}
    before = resident()
    with PeakMemory() as peak:
        train_twice(gan, spread.batch_size, posed=spread.posed)
    return about | {"resident_estimated": needs.total, "resident": before + peak.extra * 1e9}


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    cells = [f"`{row['config']}`", str(row["batch"]), row["phase"]]
    for kind in ("live", "resident"):
        estimated, taken = row[f"{kind}_estimated"], row[kind]
        cells += [f"{estimated / 1e6:,.0f}", f"{taken / 1e6:,.0f}", f"{estimated / taken:.2f}"]
    return f"| {' | '.join(cells)} |"


def write_table(rows: list[dict[str, Any]]) -> None:
    """The table, in its page."""
    lines = [
        "| config | images | phase of the peak | tensors: estimated, MB | taken, MB | ratio "
        "| resident: estimated, MB | taken, MB | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
        *map(line, rows),
    ]
    write_between("estimate.md", "estimate", lines)


if __name__ == "__main__":
    main()
