"""The GRAM-HD benchmark runs at sizes of seconds, and what it compares is the same."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@torch.no_grad()
def test_the_published_order_of_operations_makes_our_maps(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module("gramhd")
    model = script.build(tiny=True)
    actual, expected = (
        script.parts_of(*model)["foreground"](),
        script.published_parts(*model)["foreground"](),
    )
    assert actual.std() > 1e-3
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_the_benchmark_writes_what_it_measured(tmp_path):
    command = [
        sys.executable,
        BENCHMARKS / "gramhd.py",
        "--tiny",
        "--repeats",
        "1",
        "--out",
        tmp_path,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "gramhd.json").read_text())
    parts = {name: part["gflop"] for name, part in result["ours"].items()}
    pieces = sum(
        parts[name] for name in ("surfaces", "grids", "foreground", "background", "compositing")
    )
    # mapping is the rest
    assert parts["all but raw"] == pytest.approx(pieces, rel=0.02)
    assert parts["all"] - parts["all but raw"] == pytest.approx(parts["raw image"], rel=1e-6)
    assert parts["another view"] == pytest.approx(
        parts["surfaces"] + parts["compositing"], rel=1e-3
    )
    assert result["difference"] <= 1e-4
    assert set(result["extra_memory_gb"]) == {"all", "another view"}
