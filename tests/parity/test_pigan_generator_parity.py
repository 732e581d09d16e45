"""PiGAN against the published generators: every case folder of golden/cips3d that names a pi-GAN
model.
"""

import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gan3d.checkpoints.official.pigan import GENERATOR_NAMES
from gan3d.generators import PiGAN

cases = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("cips3d_cases.py"))))
DOUBLE = torch.float64

# Published models -> side of the box that their points are divided by; with a learned grid or not.
BOX_SIDES = {
    "SPATIALSIRENBASELINE": 0.24,
    "TALLSIREN": 2.0,
    "EmbeddingPiGAN128": 0.24,
    "EmbeddingPiGAN256": 0.24,
}
# Any published name of a learned grid.
GRID = re.compile(r"siren\.\w*(embedding|grid)\w*")
# fmt: off
# All keys of a configuration that are not descriptive (golden_cases.py).
KNOWN = {
    "batch", "hidden_dim", "img_size", "model", "n_params", "num_steps", "opts", "render",
    "weights", "z_dim",
}
KNOWN_OPTIONS = {
    "fov", "ray_start", "ray_end", "num_steps", "hierarchical_sample", "psi", "last_back",
    "white_back", "clamp_mode", "fill_mode", "lock_view_dependence", "h_mean", "h_stddev",
    "v_mean", "v_stddev", "sample_dist", "nerf_noise",
}
# fmt: on


def every_case(holds: str):
    """Runs a test for every case folder of pi-GAN with such a tensor in io.safetensors.

    Configurations of pi-GAN name a model, those of CIPS-3D a class.
    """
    found = sorted(file.parent for file in (cases.GOLDEN / "cips3d").glob("*/config.json"))
    found = [
        f
        for f in found
        if "model" in cases.read(f) and cases.golden.holds(f, "io.safetensors", "z", holds)
    ]
    return pytest.mark.parametrize("folder", found, ids=lambda folder: folder.name)


def renamed(name: str) -> str:
    return "siren.grid" if GRID.fullmatch(name) else GENERATOR_NAMES.ours(name)


def settings(config: dict) -> dict:
    """Everything that is said of rendering, in one place; unknown keys are refused."""
    found = {name: config[name] for name in ("num_steps",) if name in config}
    found |= config["render"] | config.get("opts", {})
    unknown = cases.golden.unheeded(config, KNOWN) + cases.golden.unheeded(found, KNOWN_OPTIONS)
    if found.get("psi", 1) != 1:
        unknown.append("psi other than 1")
    if unknown:
        raise ValueError(f"configuration keys {unknown} are not known to {Path(__file__).name}")
    return found


def generator(folder: Path, dtype: torch.dtype = torch.float32, **changes) -> PiGAN:
    """The generator of a case, with its weights and density noise."""
    config, options = cases.read(folder), settings(cases.read(folder))
    weights = {renamed(name): tensor for name, tensor in cases.official_state(folder).items()}
    grid = weights.get("siren.grid")
    arguments = {
        "img_resolution": config["img_size"],
        "z_dim": config["z_dim"],
        "hidden_dim": config["hidden_dim"],
        "grid_channels": 0 if grid is None else grid.shape[1],
        "grid_resolution": 1 if grid is None else grid.shape[2],
        "box_side": BOX_SIDES[config["model"]],
        "ray_start": options["ray_start"],
        "ray_end": options["ray_end"],
        "num_steps": options["num_steps"],
        "hierarchical": options.get("hierarchical_sample", True),
        "last_back": options.get("last_back", False),
        "white_back": options.get("white_back", False),
        "fill_mode": options.get("fill_mode"),
        "clamp_mode": options.get("clamp_mode", "relu"),
        "lock_view": options.get("lock_view_dependence", False),
    }
    model = PiGAN(**arguments | changes)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["w_avg"], [])
    model.density_noise = options.get("nerf_noise", 0.0)
    return model.to(dtype)


def case(folder: Path, dtype: torch.dtype = torch.float32, **changes):
    """(generator, config, recorded tensors, z, camera, draws) of a folder."""
    config, io = cases.read(folder), load_file(folder / "io.safetensors")
    views = cases.sphere_camera(settings(config), io, config["img_size"], dtype)
    draws = cases.draws(io, dtype)
    return generator(folder, dtype, **changes), config, io, io["z"].to(dtype), views, draws


def double(config: dict, io: dict[str, Tensor]) -> float:
    """How near images are in double precision."""
    return (
        1e-8
        if cases.pose_is_drawn(settings(config), io)
        else cases.tolerance(config, "float32_abs", 1e-4)
    )


@every_case("out64.img")
def test_images_in_double_precision(folder, near):
    model, config, io, z, views, draws = case(folder, DOUBLE)
    with torch.no_grad():
        near(model(z, views, randomness=draws).image, io["out64.img"], double(config, io))


@every_case("out.img")
def test_images_in_single_precision(folder, near):
    model, config, io, z, views, draws = case(folder)
    with torch.no_grad():
        shown = model(z, views, randomness=draws)
    near(shown.image, io["out.img"], cases.tolerance(config, "float32_abs", 1e-4))


@every_case("out.pitch_yaw")
def test_poses(folder, near):
    _, _, io, _, views, _ = case(folder)
    near(views.sphere_pose(), io["out.pitch_yaw"], 1e-5)


@every_case("mid.frequencies")
def test_the_mapping_network_gives_gains_and_phases_of_all_layers(folder, near):
    model, _, io, z, _, _ = case(folder)
    gains, phases = model.map(z).chunk(2, dim=-1)
    near(gains.flatten(1), io["mid.frequencies"])
    near(phases.flatten(1), io["mid.phase_shifts"])


@every_case("grad.*")
def test_gradients_of_the_latent_and_the_weights(folder):
    model, config, io, z, views, draws = case(folder, DOUBLE)
    z.requires_grad_()
    image = model(z, views, randomness=draws).image
    (image * io["proj"]).sum().div(image.numel()).backward()
    ours = {"z": z, "color_sine": model.siren.color_layer_sine.weight}
    ours |= {f"network{i}": layer.weight for i, layer in enumerate(model.siren.network)}
    ours |= dict(model.named_parameters())
    recorded = {name.removeprefix("grad."): t for name, t in io.items() if name.startswith("grad.")}
    for name, expected in recorded.items():
        error = (ours[renamed(name)].grad - expected).abs().max().item()
        allowed = cases.tolerance(config, "gradient_rel_to_max", 1e-3) * expected.abs().max().item()
        assert error <= allowed, f"{name}: largest error {error:.3g}, allowed {allowed:.3g}"


@every_case("out64.img")
def test_portions_of_rays_are_those_of_the_whole_image(folder, near):
    model, config, io, z, views, draws = case(folder, DOUBLE, ray_chunk=7)
    rays = torch.arange(config["img_size"] ** 2).flip(0)[::2]
    with torch.no_grad():
        scene = model.represent(model.map(z))
        near(
            model.render(scene, views, randomness=draws).image, io["out64.img"], double(config, io)
        )
        some = model.render(scene, views, rays=rays, randomness=draws)
    near(some.image[..., 0], io["out64.img"].flatten(2)[..., rays], double(config, io))


@every_case("z")
def test_parameters_are_as_many_as_published(folder):
    config = cases.read(folder)
    if "n_params" in config:
        assert sum(p.numel() for p in generator(folder).parameters()) == config["n_params"]


@pytest.mark.golden_file("cips3d/init_stats.json", "pigan_G_256")
def test_fresh_weights_are_as_the_published_ones(golden: Path):
    published = json.loads((golden / "cips3d/init_stats.json").read_text())["pigan_G_256"]
    torch.manual_seed(0)
    ours = dict(PiGAN().named_parameters())
    assert set(ours) == {renamed(name) for name in published}
    for name, facts in published.items():
        tensor = ours[renamed(name)]
        assert list(tensor.shape) == facts["shape"], name
        if tensor.numel() > 200:
            assert tensor.std().item() == pytest.approx(facts["std"], rel=0.15), name
            assert tensor.abs().max().item() == pytest.approx(facts["max_abs"], rel=0.2), name
        else:  # biases of the two heads: the largest of so few may be anything below the limit
            assert tensor.abs().max() <= 1 / 16, name
