"""The benchmark of StyleGAN3 runs at a tiny size and compares equal images."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gan3d.generators import StyleGAN3

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"config": "R"},
        {"config": "R", "conv_kernel": 3, "filter_size": 4},
        {"lrelu_upsampling": 4, "conv_clamp": 0.5},
        {"lrelu_upsampling": 1, "num_critical": 0},
        {
            "num_layers": 8,
            "first_cutoff": 3.0,
            "first_stopband": 5.0,
            "channel_base": 77,
            "margin_size": 4,
        },
        {
            "c_dim": 25,
            "img_channels": 5,
            "output_scale": 1.0,
            "use_radial_filters": True,
            "conv_clamp": None,
        },
    ],
)
def test_the_plain_composition_makes_the_same_images_for_all_options(monkeypatch, options):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    plain_image = importlib.import_module("stylegan3").plain_image
    torch.manual_seed(0)
    generator = StyleGAN3(**{**StyleGAN3.tiny, "magnitude_ema_beta": 0.5, **options})
    z = torch.randn(3, generator.z_dim)
    generator.settle(generator.map(z))
    image = generator(z).image
    assert image.std() > 1e-3
    # The plain one normalizes styles over the batch, ours per image; demodulation cancels it.
    torch.testing.assert_close(image, plain_image(generator, z), atol=1e-5, rtol=1e-5)


def test_the_benchmark_writes_its_measurements(tmp_path):
    command = [sys.executable, BENCHMARKS / "stylegan3.py", "--tiny", "--repeats", "1"]
    options = ["--config", "R", "--out", tmp_path]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "stylegan3_r.json").read_text())
    assert result["difference"] <= 1e-5
    assert result["threads"] == 1
    for which in ("ours", "plain"):
        assert result[which]["cpu_seconds"] > 0
        assert result[which]["op"]["backward"] > 0
    ratio = result["ours"]["cpu_seconds"] / result["plain"]["cpu_seconds"]
    assert result["ratio"]["cpu_seconds"] == ratio
