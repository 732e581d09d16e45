"""CIPS-3D's layers, ray sampling and compositing against single recorded operations
(golden/cips3d/components).

Cameras are in test_camera_parity.py, the discriminator's parts and DiffAugment in
test_cips3d_discriminator_parity.py.
"""

import json
import math
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gan3d.camera import Camera
from gan3d.generators.cips3d import positional_encoding
from gan3d.layers.film_siren import FiLMSiren
from gan3d.layers.inr import INRBlock
from gan3d.layers.mod_fc import ModFC
from gan3d.layers.multi_head_mapping import MultiHeadMapping
from gan3d.layers.styled_siren import StyledSiren
from gan3d.ops.composite import Samples
from gan3d.ops.modfc import modfc
from gan3d.rendering import inverse_cdf
from gan3d.rendering.left_point import LeftPointOptions, coarse_depths, composite_left_point
from gan3d.training.ema import EMA

OPTIONS = ("clamp_mode", "fill_mode", "last_back", "white_back")
cases = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("cips3d_cases.py"))))


def recorded(group: str, file: str, prefix: str) -> Iterator:
    """(entry of components.json, tensors) of every case of a group, in all folders."""
    for folder in sorted(
        path.parent for path in (cases.GOLDEN / "cips3d").glob("*/components.json")
    ):
        if not (folder / f"{file}.safetensors").is_file():
            continue
        tensors = load_file(folder / f"{file}.safetensors")
        for k, facts in enumerate(
            json.loads((folder / "components.json").read_text()).get(group, ())
        ):
            start = f"{prefix}{k}."
            own = {
                name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)
            }
            yield pytest.param((facts, own), id=f"{folder.name}-{group}{k}")


def every(group: str, file: str, prefix: str):
    return pytest.mark.parametrize("component", list(recorded(group, file, prefix)))


def near(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert actual.shape == expected.shape
    error = (actual - expected).abs().max().item()
    assert error <= tolerance * max(1.0, expected.abs().max().item()), f"largest error {error:.3g}"


def known(facts: dict, *keys: str) -> None:
    unknown = cases.golden.unheeded(facts, keys)
    assert not unknown, f"facts {unknown} are not known to this test"


def state(component: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of a component's `sd.`: ModFC weights, bare or of a block, in our layout."""
    out = {}
    for name, tensor in component.items():
        if name.startswith("sd.") and ".norm." not in name:
            bare = name.removeprefix("sd.")
            inside = (
                bare if bare.startswith("mod1.") or bare.startswith("mod2.") else f"mod1.{bare}"
            )
            out[bare] = cases.our_tensor(f".{inside}", tensor)
    return out


@every("modfc", "modfc", "modfc")
def test_modulated_layer_and_all_its_gradients(component):
    facts, t = component
    known(facts, "b", "n", "d_in", "d_out", "style_dim", "demodulate", "use_group_conv")
    layer = ModFC(facts["d_in"], facts["d_out"], facts["style_dim"], demodulate=facts["demodulate"])
    layer.load_state_dict(state(t))
    x, w = t["x"].requires_grad_(), t["style"].requires_grad_()
    y = layer(x, layer.style(w))
    near(y, t["y"])
    (y * t["proj"]).sum().backward()
    weight = cases.our_tensor(".mod1.weight", t["dweight"])
    for ours, published in (
        (x.grad, t["dx"]),
        (w.grad, t["dstyle"]),
        (layer.weight.grad, weight),
        (layer.modulation.weight.grad, t["dmod_w"]),
        (layer.modulation.bias.grad, t["dmod_b"]),
    ):
        near(ours, published)


@pytest.mark.golden_cases("cips3d", holds=("modfc.safetensors", "modfc_old.y"))
def test_older_modulated_layer_after_conversion(folder, load):
    # Its weight is scaled at run time by 1 / sqrt(in), that of its modulation by 1 /
    # sqrt(style_dim) (section 7).
    stored = load(folder / "modfc.safetensors")
    t = {
        name.removeprefix("modfc_old."): v
        for name, v in stored.items()
        if name.startswith("modfc_old.")
    }
    modulation = t["sd.modulation.weight"] / math.sqrt(t["style"].shape[1])
    style = nn.functional.linear(t["style"], modulation, t["sd.modulation.bias"]) + 1
    near(modfc(t["x"], t["sd.weight"][0] / math.sqrt(t["x"].shape[2]), style), t["y"])


@every("film", "film", "film")
def test_film_siren_and_its_gradients(component):
    facts, t = component
    known(facts, "b", "n", "d_in", "d_out", "style_dim", "use_style_fc")
    x, style = t["x"].requires_grad_(), t["style"].requires_grad_()
    if facts["use_style_fc"]:
        layer = StyledSiren(facts["d_in"], facts["d_out"], facts["style_dim"])
        layer.load_state_dict(state(t))
        y, weight = layer(x, *layer.style(style)), layer.linear.weight
    else:
        plain = FiLMSiren(facts["d_in"], facts["d_out"])
        plain.load_state_dict({name.removeprefix("linear."): v for name, v in state(t).items()})
        y, weight = plain(x, *style.chunk(2, dim=1)), plain.weight
    near(y, t["y"], 1e-4)
    (y * t["proj"]).sum().backward()
    for ours, published in (
        (x.grad, t["dx"]),
        (style.grad, t["dstyle"]),
        (weight.grad, t["dweight"]),
    ):
        near(ours, published, 1e-4)


@every("block", "inr_block", "block")
def test_inr_block(component):
    facts, t = component
    known(facts, "d_in", "d_out", "skip")
    block = INRBlock(facts["d_in"], facts["d_out"], t["style0"].shape[1], residual=facts["skip"])
    block.load_state_dict(state(t))
    near(block(t["x"], (block.mod1.style(t["style0"]), block.mod2.style(t["style1"]))), t["y"])


@every("mapping", "mapping", "map")
def test_mapping_network(component):
    facts, t = component
    known(
        facts,
        "z_dim",
        "hidden_dim",
        "base_layers",
        "head_layers",
        "head_dim_dict",
        "add_norm",
        "norm_out",
    )
    mapping = MultiHeadMapping(
        facts["z_dim"],
        facts["hidden_dim"],
        facts["head_dim_dict"],
        base_layers=facts["base_layers"],
        head_layers=facts["head_layers"],
        add_norm=facts.get("add_norm", False),
        norm_out=facts.get("norm_out", False),
    )
    ours = {name.removeprefix("sd."): v for name, v in t.items() if name.startswith("sd.")}
    mapping.load_state_dict(
        {name if name.startswith("base_net.") else f"heads.{name}": v for name, v in ours.items()}
    )
    latents = mapping(t["z"])
    assert set(latents) == set(facts["head_dim_dict"])
    for name, w in latents.items():
        near(w, t[f"out.{name}"])


@every("integration", "integration", "integ")
def test_left_point_rule_and_its_gradient(component):
    facts, t = component
    known(facts, *OPTIONS, "noise_std")
    options = LeftPointOptions(**{key: value for key, value in facts.items() if key in OPTIONS})
    rgb_sigma = t["rgb_sigma"].requires_grad_()
    samples = Samples(t["z_vals"][..., 0], rgb_sigma[..., -1], rgb_sigma[..., :-1])
    seen = composite_left_point(
        samples, options=options, noise=facts.get("noise_std", 0.0) * t["noise"][..., 0]
    )
    near(seen.features, t["feature"])
    near(seen.depth, t["depth"])
    near(seen.weights[..., None], t["weights"])
    if "proj" in t:
        (seen.features * t["proj"]).sum().backward()
        near(rgb_sigma.grad, t["drgb_sigma"])


@every("sample_pdf", "sample_pdf", "pdf")
def test_importance_samples(component):
    facts, t = component
    known(facts, "det", "n_bins", "n_importance", "n_rays")
    u = t["u"]
    if facts["det"]:
        u = torch.linspace(0, 1, facts["n_importance"]).expand(facts["n_rays"], -1)
    near(inverse_cdf(t["bins"], t["weights"], u), t["samples"])


@every("rays", "camera", "rays")
def test_coarse_samples(component):
    facts, t = component
    known(facts, "fov", "num_steps", "ray_start", "ray_end", "res")
    options = LeftPointOptions(facts["ray_start"], facts["ray_end"], facts["num_steps"])
    near(coarse_depths(t["dirs"], options)[..., None], t["z_vals"])
    depths = coarse_depths(t["dirs"], options, t["jitter_u"][..., 0])
    near(depths[..., None], t["z_jittered"])
    # Recorded in the camera's frame, OpenGL axes: those of the frontal camera, moved to the origin.
    rays = Camera.from_sphere(math.pi / 2, math.pi / 2, facts["fov"], resolution=facts["res"]).rays(
        facts["res"]
    )
    points = depths[..., None] * rays.directions[:, :, None]
    near(points.expand_as(t["points_jittered"]), t["points_jittered"])


@pytest.mark.golden_cases("cips3d", "posenc.safetensors")
def test_positional_encoding(folder, load):
    t = load(folder / "posenc.safetensors")
    near(positional_encoding(t["x"], 10), t["xyz10"], 1e-4)
    near(positional_encoding(t["x"], 4), t["dir4"])


@pytest.mark.golden_cases("cips3d", "ema.safetensors", "components.json")
def test_average_of_weights_once_it_follows(folder, load):
    facts = json.loads((folder / "components.json").read_text())["ema"]
    known(facts, "decay", "start_itr")
    t = load(folder / "ema.safetensors")
    average = nn.Linear(3, 2, bias=False)
    network = nn.Linear(3, 2, bias=False)
    ema = EMA(half_life_kimg=1e-3 * math.log(0.5) / math.log(facts["decay"]), ramp_up=0)
    last = max(int(name.removeprefix("ema")) for name in t if name.startswith("ema"))
    assert last > facts["start_itr"]
    for itr in range(facts["start_itr"], last):  # before that ours copies, see gan3d.training.ema
        average.weight.data.copy_(t[f"ema{itr}"])
        network.weight.data.copy_(t[f"src{itr + 1}"])
        ema.update(average, network, images_seen=itr, batch_size=1)
        near(average.weight.detach(), t[f"ema{itr + 1}"])
