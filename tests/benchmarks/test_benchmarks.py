"""The benchmarks run at tiny sizes and compare equal results."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gan3d.generators import GENERATORS

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """script(name) imports benchmarks/name.py."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@torch.no_grad()
def test_the_published_formulation_agrees_part_by_part(script):
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
        tolerance = 1e-5 * float(expected.abs().max())
        assert actual.std() > 1e-3, f"{name} is constant"
        torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance, msg=name)


def test_the_forward_benchmark_writes_its_measurements(tmp_path):
    command = [sys.executable, BENCHMARKS / "forward.py", "--tiny", "--repeats", "1"]
    done = subprocess.run([*command, "--out", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "forward.json").read_text())
    for which in ("ours", "published"):
        parts = result[which]
        total = sum(part["gflop"] for name, part in parts.items() if name != "all")
        assert parts["all"]["gflop"] == pytest.approx(total, rel=1e-6)
        assert all(part["cpu_seconds"] > 0 for part in parts.values())
        assert result["extra_memory_gb"][which] > 0
    assert result["difference"] <= 1e-4
    assert result["threads"] == 1
    assert result["machine"]
    assert result["torch"] == torch.__version__


def test_representations_have_about_the_same_number_of_parameters(script):
    classes = script("single_scene").REPRESENTATIONS.values()
    counts = [sum(p.numel() for p in cls(64).parameters()) for cls in classes]
    assert max(counts) < 1.1 * min(counts)


@pytest.mark.parametrize("name", ["tri-plane", "voxels", "nerf mlp"])
def test_a_representation_learns_a_head(script, name):
    scene = script("single_scene")
    sizes = {"resolution": 16, "views": 6, "rays": 64, "samples": 8, "plane_resolution": 16}
    # In a second, one seed in five leaves the voxels empty.
    setting = scene.Setting(minutes=0.01, seed=4, **sizes)
    images, camera = scene.head_views(setting)
    measured, views = scene.fit(name, setting, images, camera)
    truth = images[setting.views :]
    psnr_of_white = 10 * torch.log10(1 / (1 - truth).square().mean())
    assert views.shape == truth.shape
    assert measured["psnr"] > psnr_of_white + 2
    assert measured["extra_memory_gb"] < 1


def test_the_share_of_the_draws_is_measured(tmp_path):
    command = [sys.executable, BENCHMARKS / "draws.py", "--iterations", "5", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "draws.json").read_text())
    assert 0 < result["draws_ms"] < result["iteration_ms"]
    # In one pass per phase: generator and discriminator, and at times density and r1.
    assert 2 <= result["passes_per_iteration"] <= 4


def test_errors_in_bfloat16_are_measured_for_every_generator(script, monkeypatch, tmp_path):
    bf16 = script("bf16")
    monkeypatch.setattr(bf16, "SEEDS", 1)
    monkeypatch.setattr(sys, "argv", ["bf16.py", "--out", str(tmp_path)])
    assert bf16.main() == 0
    errors = json.loads((tmp_path / "bf16.json").read_text())["errors"]
    assert set(errors) == set(GENERATORS)
    assert all(maps["image"]["largest"] <= 0.05 for maps in errors.values())
    assert errors["StyleGAN2"]["image"]["rms"] > 1e-4  # it was run in bfloat16


def test_the_viewer_s_frames_are_measured_at_rest_and_moving(script):
    viewer = script("viewer")
    row = viewer.measure(viewer.Case("eg3d_heads32"), frames=1)
    assert row["generator"] == "EG3D"
    assert row["rest"]["side"] == 16
    assert row["moving"]["side"] in (8, 16)
    assert row["rest"]["image"] == 32
    assert row["rest"]["seconds"] > 0
