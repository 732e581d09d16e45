"""The GRAM-HD benchmark runs at a tiny size and compares equal results."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@torch.no_grad()
def test_the_published_order_of_operations_makes_the_same_maps(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module("gramhd")
    model = script.build(tiny=True)
    actual = script.parts_of(*model)["foreground"]()
    expected = script.published_parts(*model)["foreground"]()
    assert actual.std() > 1e-3
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_the_benchmark_writes_its_measurements(tmp_path):
    command = [sys.executable, BENCHMARKS / "gramhd.py", "--tiny", "--repeats", "1"]
    done = subprocess.run([*command, "--out", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "gramhd.json").read_text())
    gflop = {name: part["gflop"] for name, part in result["ours"].items()}
    view = gflop["surfaces"] + gflop["compositing"]
    image = view + gflop["grids"] + gflop["foreground"] + gflop["background"]
    assert gflop["all but raw"] == pytest.approx(image, rel=0.02)  # the rest is the mapping
    assert gflop["all"] - gflop["all but raw"] == pytest.approx(gflop["raw image"], rel=1e-6)
    assert gflop["another view"] == pytest.approx(view, rel=1e-3)
    assert result["difference"] <= 1e-4
    assert set(result["extra_memory_gb"]) == {"all", "another view"}
