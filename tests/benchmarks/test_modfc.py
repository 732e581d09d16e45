"""The ModFC benchmark runs, at sizes of milliseconds, and says which targets are missed."""

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


def test_the_benchmark_writes_what_it_measured(tmp_path):
    command = [
        sys.executable,
        BENCHMARKS / "modfc.py",
        "--tiny",
        "--repeats",
        "1",
        "--out",
        tmp_path,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "modfc.json").read_text())
    assert result["threads"] == 1
    assert result["torch"] == torch.__version__
    assert result["targets_hold"] == (not result["missed"])
    assert [row["chosen"] for row in result["rows"]] == ["bmm", "scale"]
    for row in result["rows"]:
        assert row["difference"] <= 1e-4
        for phase in ("forward", "forward_backward"):
            assert set(row[phase]["ms"]) == {
                "grouped",
                "bmm",
                "scale",
                "published bmm",
                "published grouped",
            }
            assert all(ms > 0 for ms in row[phase]["ms"].values())


def test_the_published_formulations_are_compared_with_ours(script):
    inputs = [
        torch.randn(2, 3, 4, requires_grad=True),
        torch.randn(4, 5, requires_grad=True),
        torch.ones(2, 4),
    ]
    inputs[2].requires_grad_()
    assert script.largest_difference(script.layers(2, 4, 5), inputs, torch.randn(2, 3, 5)) < 1e-5
    wrong = {
        **script.layers(2, 4, 5),
        "wrong": lambda x, weight, style: (x * style[:, None]) @ weight,
    }
    assert script.largest_difference(wrong, inputs, torch.randn(2, 3, 5)) > 0.1


def times(**best: float) -> dict[str, list[float]]:
    return {name.replace("_", " "): [ms, 2 * ms] for name, ms in best.items()}


def row(script, chosen: str, **best: float) -> dict:
    phase = script.summary(times(**best), chosen)
    return {"size": (1, 1, 1, 1), "chosen": chosen, "forward": phase, "forward_backward": phase}


def test_a_missed_target_is_named(script):
    fine = row(script, "bmm", grouped=17, bmm=10, scale=9.5, published_bmm=10, published_grouped=17)
    slower_than_best = row(
        script, "bmm", grouped=17, bmm=10, scale=9, published_bmm=10, published_grouped=17
    )
    like_grouped = row(
        script, "bmm", grouped=17, bmm=10, scale=10, published_bmm=9, published_grouped=15
    )
    nothing_to_gain = row(
        script, "bmm", grouped=14, bmm=10, scale=10, published_bmm=10, published_grouped=14
    )
    assert script.missed([fine]) == script.missed([nothing_to_gain]) == []
    assert all("1.11 times the best" in text for text in script.missed([slower_than_best]))
    assert all(
        "only 1.50 times faster than grouped" in text for text in script.missed([like_grouped])
    )
    assert len(script.missed([slower_than_best, like_grouped])) == 4
