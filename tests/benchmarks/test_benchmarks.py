"""The benchmarks run, at sizes of seconds, and what they compare is the same."""

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
    """script(name) -> benchmarks/name.py as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@torch.no_grad()
def test_the_published_formulation_makes_our_image_part_by_part(script):
    forward = script("forward")
    model = forward.build(tiny=True)
    ours, theirs = forward.our_parts(*model), forward.published_parts(*model)
    assert set(ours) == set(theirs) == set(forward.PARTS)
    compared = {
        "image": (ours["all"](), theirs["all"]()),
        "planes": (ours["represent"]().planes, theirs["represent"]()),
        "features": (2 * ours["render"]().features.mT - 1, theirs["render"]().flatten(2)),
        "enlarged": (ours["super-resolution"]()[0], theirs["super-resolution"]()),
    }
    for name, (actual, expected) in compared.items():
        assert actual.std() > 1e-3, f"{name} shows nothing"
        torch.testing.assert_close(
            actual, expected, rtol=0, atol=1e-5 * float(expected.abs().max()), msg=name
        )


def test_the_forward_benchmark_writes_what_it_measured(tmp_path):
    command = [
        sys.executable,
        BENCHMARKS / "forward.py",
        "--tiny",
        "--repeats",
        "1",
        "--out",
        tmp_path,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "forward.json").read_text())
    for which in ("ours", "published"):
        parts = result[which]
        assert parts["all"]["gflop"] == pytest.approx(
            sum(parts[p]["gflop"] for p in parts if p != "all"), rel=1e-6
        )
        assert all(part["cpu_seconds"] > 0 for part in parts.values())
        assert result["extra_memory_gb"][which] > 0
    assert result["difference"] <= 1e-4
    assert result["threads"] == 1
    assert result["machine"]
    assert result["torch"] == torch.__version__


def test_representations_have_as_many_parameters_as_each_other(script):
    scene = script("single_scene")
    counts = [
        sum(p.numel() for p in cls(64).parameters()) for cls in scene.REPRESENTATIONS.values()
    ]
    assert max(counts) < 1.1 * min(counts)


@pytest.mark.parametrize("name", ["tri-plane", "voxels", "nerf mlp"])
def test_a_representation_learns_a_head(script, name):
    scene = script("single_scene")
    setting = scene.Setting(
        minutes=0.01, resolution=16, views=6, rays=64, samples=8, plane_resolution=16
    )
    images, camera = scene.head_views(setting)
    measured, views = scene.fit(name, setting, images, camera)
    truth = images[setting.views :]
    assert views.shape == truth.shape
    assert measured["psnr"] > 10 * torch.log10(1 / (1 - truth).square().mean()) + 2, (
        "no better than white"
    )
    assert measured["extra_memory_gb"] < 1
