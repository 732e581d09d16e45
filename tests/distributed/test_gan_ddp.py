"""The number of processes, and the size of micro-batches, do not change a run."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "training" / "train_tiny.py"
TOLERANCE = 1e-10  # float64, 12 iterations; another data order gives 1e-2


def train(data: Path, out: Path, *options: str) -> dict[str, torch.Tensor]:
    command = [sys.executable, str(SCRIPT), str(data), "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out, weights_only=True)


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a if a[name].numel())


# What is on: see train_tiny.py. cips3d changes its resolution and its batch size and freezes its
# NeRF on the way.
@pytest.fixture(scope="module", params=["eg3d", "cips3d", "gramhd", "stylegan2", "stylegan3"])
def model(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def one_process(model, posed_zip, tmp_path_factory) -> dict[str, torch.Tensor]:
    return train(posed_zip, tmp_path_factory.mktemp("one") / "state.pt", "--model", model)


def test_two_processes_train_the_same_model_as_one(model, one_process, posed_zip, tmp_path):
    two = train(posed_zip, tmp_path / "state.pt", "--devices", "2", "--model", model)
    difference = distance(one_process, two)
    print(f"1 process against 2: {difference:.1e}")
    assert difference < TOLERANCE


def test_accumulated_gradients_are_those_of_the_whole_batch(
    model, one_process, posed_zip, tmp_path
):
    parts = train(posed_zip, tmp_path / "state.pt", "--micro", "4", "--model", model)
    difference = distance(one_process, parts)
    print(f"whole batch against two micro-batches: {difference:.1e}")
    assert difference < TOLERANCE


def test_the_comparison_sees_another_seed(model, one_process, posed_zip, tmp_path):
    other = train(posed_zip, tmp_path / "state.pt", "--seed", "1", "--model", model)
    assert distance(one_process, other) > 1e-4
