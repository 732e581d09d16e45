"""Writes the tables of docs/performance.md from the results that are committed.

    python benchmarks/performance_page.py

The text around the tables is written by hand.
"""

from __future__ import annotations

import json
from typing import Any

from machine import RESULTS, ROOT
from pages import between

from ops import cases

PAGE = ROOT / "docs" / "performance.md"
NOT_MEASURED = "not measured"
# What `on_gpu.sh` measures, as shown where no GPU has: files, and their rows.
ON_GPU = {
    "forward_on_device": ("one view of the full-size EG3D", ("form", "part", "batch")),
    "train_step_on_device": ("phases of a training iteration", ("subject", "form", "phase")),
    "ops": ("ops", ("op", "size", "precision", "form")),
}
FORMS = ("float32", "tf32", "bf16", "bf16, kernels", "fp16, kernels", "published, tf32")
PARTS = ("map", "represent", "render", "super-resolution", "all")
PHASES = ("generator", "density", "discriminator", "r1")

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


# ------------------------------------------------------------ GPUs


def launch_table() -> str:
    """Launches counted on a pretended GPU."""
    (path,) = RESULTS.glob("*/launches.json")
    result = json.loads(path.read_text())
    lines = [
        f"Counted at commit {result['commit']}, {result['date']}.",
        "",
        "| | | commit 8105125 | without kernels | with kernels |",
        "|---|---|---|---|---|",
    ]
    off, on = result["kernels off"], result["kernels on"]
    for subject, counts in on.items():
        before = result["before"][subject]
        for part, number in counts.items():
            cells = [str(before.get(part, "-")), str(off[subject][part]), str(number)]
            lines.append(f"| {subject} | {part} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def gpu_tables() -> str:
    """What was measured on GPUs, or the empty tables."""
    sections = [launch_table()]
    for name, (title, keys) in ON_GPU.items():
        found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"*/{name}.json"))]
        sections += [gpu_table(title, keys, result) for result in found if is_gpu(result)]
        if not any(map(is_gpu, found)):
            sections.append(gpu_table(title, keys, {"rows": unmeasured(name)}))
    return "\n".join(sections)


def is_gpu(result: dict[str, Any]) -> bool:
    """Whether a result is of a GPU."""
    return result["device"] != "cpu"


def unmeasured(name: str) -> list[dict[str, Any]]:
    """Rows without numbers."""
    if name == "forward_on_device":
        return [{"form": f, "part": p, "batch": 1} for f in FORMS for p in PARTS]
    if name == "train_step_on_device":
        return [{"subject": "eg3d-full", "form": f, "phase": p} for f in FORMS for p in PHASES]
    anything = {"precision": "all", "form": "all"}
    return [{"op": case.op, "size": case.size, **anything} for case in cases(tiny=False)]


def gpu_table(title: str, keys: tuple[str, ...], result: dict[str, Any]) -> str:
    """The rows of a result: milliseconds, quantiles, peak memory, and of ops the floor."""
    where = f"{NOT_MEASURED}: no GPU was at hand"
    if "rows" in result and "device" in result:
        ceilings = ", ".join(f"{k} {v:.0f}" for k, v in result.get("ceilings", {}).items())
        where = (
            f"{result['device']}, torch {result['torch']}, commit {result['commit']}, "
            f"{result['date']}{'; ' if ceilings else ''}{ceilings}"
        )
    columns = [*keys, "ms (10 to 90 %)", "peak MB", "with backward: ms", "peak MB", "of the floor"]
    lines = [f"### On a GPU: {title}", "", f"{where}.", "", f"| {' | '.join(columns)} |"]
    lines.append(f"|{'---|' * len(columns)}")
    for row in result["rows"]:
        cells = [str(row[key]) for key in keys] + _gpu_cells(row)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _gpu_cells(row: dict[str, Any]) -> list[str]:
    """The numbers of a row."""
    if why := row.get("failed") or row.get("not_measured"):
        return [why[:80], "-", "-", "-", "-"]
    if "forward" in row:
        share = f"{row['of_floor']['forward']:.0%}, {row['of_floor']['both']:.0%}"
        return [
            _quantiles(row["forward"]),
            f"{row['forward_peak_mb']:.0f}",
            _quantiles(row["both"]),
            f"{row['both_peak_mb']:.0f}",
            share,
        ]
    if "ms" in row:
        peak = f"{row['peak_mb']:.0f}" if "peak_mb" in row else "-"
        return [_quantiles(row), peak, "-", "-", "-"]
    return [NOT_MEASURED, "-", "-", "-", "-"]


def _quantiles(took: dict[str, float]) -> str:
    return f"{took['ms']:.3f} ({took['ms_10']:.3f} to {took['ms_90']:.3f})"


# ------------------------------------------------------------ the page


def _seconds(row: dict[str, float], baseline: str) -> str:
    return f"{row[baseline]:.3f} | {row['ours']:.3f} | {row['ratio']:.2f}"


def _memory(row: dict[str, float], kind: str) -> str:
    if f"ours_{kind}_mb" not in row:
        return "- | -"
    ours, theirs = row[f"ours_{kind}_mb"], row[f"published_{kind}_mb"]
    return f"{theirs:.0f} -> {ours:.0f} | {ours / theirs:.2f}"


def written(page: str) -> str:
    """A page with the tables of today in the place of its own."""
    return between(between(page, "tables", tables()), "gpu", gpu_tables())


def main() -> None:
    PAGE.write_text(written(PAGE.read_text()))
    print(PAGE)


if __name__ == "__main__":
    main()
