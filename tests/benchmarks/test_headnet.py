"""The training of HeadNet runs at tiny sizes, and measures errors that are known."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gan3d.metrics.headnet import HeadNet, HeadReading

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """benchmarks/headnet.py as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("headnet")


def test_the_script_makes_its_sets_and_writes_weights_that_say_what_they_reach(tmp_path):
    out = tmp_path / "weights.safetensors"
    command = [sys.executable, BENCHMARKS / "headnet.py", tmp_path / "sets", "--tiny"]
    command += ["--epochs", "2", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "epoch 2/2: pose, attributes, depth, mask" in done.stdout
    network = HeadNet.load(out)
    assert network.facts["command"] == "python benchmarks/headnet.py FOLDER --epochs 2"
    assert set(network.facts["true_slope"]) == {"32", "64"}
    sizes = {f"{name}_{side}" for name in ("narrow", "wide", "gallery") for side in (32, 64)}
    assert set(network.facts["heldout"]) == sizes
    assert network.std.min() > 0
    assert network.std.max() > 1


def test_errors_are_those_of_the_readings(script):
    stream = torch.Generator().manual_seed(0)
    truth = script.Truth(
        images=torch.zeros(6, 3, 64, 64, dtype=torch.uint8),
        pose=torch.rand(6, 2, generator=stream),
        values=torch.rand(6, 111, generator=stream),
        depth=torch.full((6, 1, 16, 16), 2.5).masked_fill(torch.eye(16) > 0, torch.nan),
        mask=torch.ones(6, 1, 16, 16),
    )

    class Off:
        """Reads the truth but for known errors."""

        mean, std = truth.values.mean(0), truth.values.std(0)

        def __call__(self, images):
            assert images.shape[-1] == 32
            degrees = torch.tensor([1.0, -2.0, 3.0, -1.0, 2.0, -3.0])
            yaw, pitch = truth.pose.T + torch.deg2rad(torch.stack([degrees, degrees / 2]))
            still = torch.zeros(6, 111)  # the mean of all heads: nothing is read
            return HeadReading(yaw, pitch, still, truth.depth + 0.02, truth.mask)

    values = script.measure(Off(), truth, 32, torch.full((1, 16, 16), 2.6))
    assert values["yaw_degrees"] == pytest.approx(2, abs=1e-4)
    assert values["pitch_degrees"] == pytest.approx(1, abs=1e-4)
    assert values["depth"] == pytest.approx(0.02, abs=1e-5)
    assert values["depth_of_mean_map"] == pytest.approx(0.1, abs=1e-5)
    assert values["attributes_r2"] == pytest.approx(1 / 6, abs=1e-4)  # std is unbiased


def test_the_gallery_has_equal_colors_and_light_and_other_shapes(script, monkeypatch):
    seen = []
    monkeypatch.setattr(script, "pictures", lambda heads, yaw, pitch: seen.append(heads) or yaw)
    first, second = script.gallery(5)
    assert not torch.equal(first, second)
    for name in ("key_az", "skin_tone", "hair_r", "cloth_g", "back_low_b"):
        assert seen[0][name].unique().numel() == 1
    assert seen[0]["skull_w"].unique().numel() == 5
    assert torch.equal(seen[0].values, seen[1].values)
