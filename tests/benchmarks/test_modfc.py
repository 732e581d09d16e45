"""The ModFC benchmark runs at tiny sizes and names missed targets."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """benchmarks/modfc.py as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("modfc")


def test_the_benchmark_writes_its_measurements(tmp_path):
    command = [sys.executable, BENCHMARKS / "modfc.py", "--tiny", "--repeats", "1"]
    done = subprocess.run([*command, "--out", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "modfc.json").read_text())
    assert result["threads"] == 1
    assert result["torch"] == torch.__version__
    assert result["targets_hold"] == (not result["missed"])
    assert [row["chosen"] for row in result["rows"]] == ["bmm", "scale"]
    forms = {"grouped", "bmm", "scale", "published bmm", "published grouped"}
    for row in result["rows"]:
        assert row["difference"] <= 1e-4
        for phase in ("forward", "forward_backward"):
            assert set(row[phase]["ms"]) == forms
            assert all(ms > 0 for ms in row[phase]["ms"].values())


def test_all_forms_are_compared(script):
    x, weight, style = torch.randn(2, 3, 4), torch.randn(4, 5), torch.ones(2, 4)
    inputs = [tensor.requires_grad_() for tensor in (x, weight, style)]
    layers = script.layers(2, 4, 5)
    assert script.largest_difference(layers, inputs, torch.randn(2, 3, 5)) < 1e-5
    layers["wrong"] = lambda x, weight, style: (x * style[:, None]) @ weight
    assert script.largest_difference(layers, inputs, torch.randn(2, 3, 5)) > 0.1


def row(script, **best: float) -> dict:
    """A row with these best times, in which bmm is chosen and takes 10 ms."""
    best |= {"bmm": 10}
    times = {name.replace("_", " "): [ms, 2 * ms] for name, ms in best.items()}
    phase = script.summary(times, "bmm")
    return {"size": (1, 1, 1, 1), "chosen": "bmm", "forward": phase, "forward_backward": phase}


def test_a_missed_target_is_named(script):
    fine = row(script, grouped=17, scale=9.5, published_bmm=10, published_grouped=17)
    slow = row(script, grouped=17, scale=9, published_bmm=10, published_grouped=17)
    like_grouped = row(script, grouped=17, scale=10, published_bmm=9, published_grouped=15)
    no_gain_possible = row(script, grouped=14, scale=10, published_bmm=10, published_grouped=14)
    assert script.missed([fine]) == script.missed([no_gain_possible]) == []
    assert all("1.11 times the best" in text for text in script.missed([slow]))
    grouped = "only 1.50 times faster than grouped"
    assert all(grouped in text for text in script.missed([like_grouped]))
    assert len(script.missed([slow, like_grouped])) == 4
