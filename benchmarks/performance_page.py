"""Writes the tables of docs/performance.md from the results that are committed.

    python benchmarks/performance_page.py

The text around the tables is written by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"
HEAD, FOOT = "<!-- tables: begin -->\n", "<!-- tables: end -->\n"

TITLES = {
    "eg3d-reduced": "EG3D at 128 px, raw 32 px with 48 + 48 samples, narrow",
    "eg3d-full": "EG3D as published for FFHQ at 512 px, raw 64 px with 48 + 48 samples",
    "stylegan2-reduced": "StyleGAN2 at 64 px",
    "stylegan2-full": "StyleGAN2 as published for FFHQ at 256 px",
    "stylegan3-reduced": "StyleGAN3-T at 64 px, R1 in every step",
    "cips3d-partial": "CIPS-3D at 64 px, 32 x 32 of its rays with gradient, R1 in every step",
    "gram-32": "GRAM's first stage at 32 px, R1 in every step",
    "pigan-32": "pi-GAN at 32 px, R1 in every step",
    "shared": "A discriminator's step with R1, at 32 px: its pass over the reals twice, and shared",
    "cips3d": "CIPS-3D",
    "gram": "GRAM and GRAM-HD",
    "pigan": "pi-GAN",
}


def tables() -> str:
    """The tables of all machines."""
    found = sorted(RESULTS.glob("*/train_step_*.json"))
    return "\n".join(table(json.loads(path.read_text())) for path in found)


def table(result: dict[str, Any]) -> str:
    """What was measured of one subject on one machine."""
    subject, settings = result["subject"], result["allocator"]
    baseline, memory = ("twice", False) if subject == "shared" else ("published", True)
    heads = [f"{setting}: {baseline} s | gan3d s | ratio" for setting in settings]
    heads += ["MB for backward | ratio | peak MB | ratio"] if memory else []
    batch = settings["default"].get("batch")
    lines = [
        f"### {TITLES[subject]}{f', batch {batch}' if batch else ''}",
        "",
        f"{result['machine']}, torch {result['torch']}, {result['threads']} thread, commit "
        f"{result['commit']}, {result['date']}, medians of {result['pairs']} pairs.",
        "",
        f"| | {' | '.join(heads)} |",
        f"|---{'|---' * (10 if memory else 6)}|",
    ]
    for name, row in settings["default"]["rows"].items():
        cells = [_seconds(settings[setting]["rows"][name], baseline) for setting in settings]
        cells += [_memory(row, "kept"), _memory(row, "peak")] if memory else []
        lines.append(f"| {TITLES.get(name, name)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _seconds(row: dict[str, float], baseline: str) -> str:
    return f"{row[baseline]:.3f} | {row['ours']:.3f} | {row['ratio']:.2f}"


def _memory(row: dict[str, float], kind: str) -> str:
    if f"ours_{kind}_mb" not in row:
        return "- | -"
    ours, theirs = row[f"ours_{kind}_mb"], row[f"published_{kind}_mb"]
    return f"{theirs:.0f} -> {ours:.0f} | {ours / theirs:.2f}"


def written(page: str) -> str:
    """A page with the tables of today in the place of its own."""
    before, _, rest = page.partition(HEAD)
    _, _, after = rest.partition(FOOT)
    return before + HEAD + tables() + FOOT + after


def main() -> None:
    PAGE.write_text(written(PAGE.read_text()))
    print(PAGE)


if __name__ == "__main__":
    main()
