"""Mixed INR layers against the published stylization: every folder of golden/cips3d that has it."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from gan3d.apps.stylize import stylize

cases = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("cips3d_cases.py"))))
KNOWN = {"cases", "weights_of_base"}
KNOWN_CASE = {"gamma", "layers"}


@pytest.fixture
def folder_of_base(folder) -> Path:
    """The folder whose weights, inputs, cameras and draws a case is about."""
    assert cases.golden.unheeded(cases.read(folder), KNOWN) == []
    return cases.base_of(folder)


@pytest.mark.parametrize("folder", cases.stylized(), ids=lambda folder: folder.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_stylized_images(folder, folder_of_base, near, dtype):
    described, expected = cases.read(folder), load_file(folder / "io.safetensors")
    config, io = cases.read(folder_of_base), load_file(folder_of_base / "io.safetensors")
    base, target = (cases.generator(folder_of_base, dtype) for _ in range(2))
    tuned = {
        f"inr_net.{name}": t for name, t in load_file(folder / "target_inr_net.safetensors").items()
    }
    target.load_state_dict(cases.our_state(tuned), strict=False)
    with (
        torch.no_grad()
    ):  # fine-tuning changes the appearance mapping network, too; the published mix keeps base's
        for parameter in target.mapping_network_inr.parameters():
            parameter.add_(0.1)
    z = torch.cat(cases.latents(io, dtype), 1)
    camera = cases.camera(config, io, dtype)
    draws = cases.draws(io, dtype)
    assert described["cases"]
    for number, case in enumerate(described["cases"]):
        assert cases.golden.unheeded(case, KNOWN_CASE) == []
        model = stylize(base, target, [str(name) for name in case["layers"]], gamma=case["gamma"])
        with torch.no_grad():
            shown = model(z, camera, randomness=draws)
            original = base(z, camera, randomness=draws)
        near(
            shown.image,
            expected[f"case{number}.img"],
            cases.tolerance(described, "float32_abs", 1e-4),
        )
        assert torch.equal(shown.raw, original.raw), (
            "the NeRF is base's, and with it the auxiliary image"
        )
        assert (shown.image - original.image).abs().max() > 1e-3
