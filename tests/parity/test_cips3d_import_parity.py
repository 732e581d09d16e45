"""Import of CIPS-3D and pi-GAN files: the weights of every case folder, as official files, give the
official images.
"""

import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from gan3d.checkpoints.official import cips3d, pigan
from gan3d.checkpoints.official.networks import read_state
from gan3d.checkpoints.portable import load_generator

cases = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("cips3d_cases.py"))))
hostile = SimpleNamespace(
    **runpy.run_path(str(Path(__file__).parents[1] / "checkpoints/official/hostile.py"))
)
STORED = ("io.safetensors", "weights.safetensors")


def every(key):
    """Folders with weights and images, by a key of their configuration.

    The key is `ctor` for CIPS-3D and `model` for pi-GAN.
    """
    found = sorted(file.parent for file in (cases.GOLDEN / "cips3d").glob("*/config.json"))
    found = [f for f in found if key in cases.read(f)]
    found = [f for f in found if all((f / name).is_file() for name in STORED)]
    found = [f for f in found if cases.golden.holds(f, "io.safetensors", "out64.img")]
    return pytest.mark.parametrize("folder", found, ids=lambda folder: folder.name)


def common(ours, others):
    """The arguments that are among the others, too."""
    return {name: value for name, value in ours.items() if name in others}


@every("ctor")
@pytest.mark.parametrize("as_module", [False, True])
def test_cips3d_files_give_the_published_images(folder, as_module, near, tmp_path):
    config = cases.read(folder)
    io = load_file(folder / "io.safetensors")
    weights = cases.official_state(folder)
    path = tmp_path / "G_ema.pth"
    data = hostile.saved(weights)
    if as_module:
        data = hostile.saved_module(weights, "exp.cips3d.models.generator", "GeneratorNerfINR")
    path.write_bytes(data)
    stated = cases.arguments(config)
    network = read_state(path)
    imported = cips3d.generator_arguments(network)
    assert imported == common(stated, imported)
    options = {name: value for name, value in stated.items() if name not in imported}
    generator = cips3d.generator_from_official(network, **options).double()
    generator.density_noise = config["render"].get("nerf_noise", config.get("nerf_noise", 0.0))
    z = torch.cat(cases.latents(io, torch.float64), 1)
    camera = cases.camera(config, io, torch.float64)
    with torch.no_grad():
        shown = generator(z, camera, randomness=cases.draws(io, torch.float64))
    exact = cases.pose_is_drawn(config["render"], io)
    tolerance = 1e-8 if exact else cases.tolerance(config, "float32_abs", 1e-4)
    near(shown.image, io["out64.img"], tolerance)
    if "out64.aux_img" in io:
        near(shown.raw, io["out64.aux_img"], tolerance)
    assert set(cips3d.generator_to_official(generator)) == set(weights)


@every("model")
def test_pigan_files_give_the_published_images(folder, near, tmp_path):
    config = cases.read(folder)
    io = load_file(folder / "io.safetensors")
    weights = cases.official_state(folder)
    options = {
        **({"num_steps": config["num_steps"]} if "num_steps" in config else {}),
        **config["render"],
        **config.get("opts", {}),
    }
    zeros = {name: torch.zeros_like(weights[name]) for name in sorted(weights, reverse=True)}
    data = hostile.saved_module(zeros, "generators.generators", "Implicit3d")
    (tmp_path / "generator.pth").write_bytes(data)
    order = list(read_state(tmp_path / "generator.pth").state)
    (tmp_path / "ema.pth").write_bytes(hostile.saved_average([weights[name] for name in order]))
    preset = "carla" if config["model"] == "TALLSIREN" else "celeba"
    pigan.import_pigan(
        tmp_path / "ema.pth",
        preset=preset,
        img_resolution=config["img_size"],
        last_back=options.get("last_back", False),
    )
    loaded = load_generator(tmp_path / "ema.safetensors")
    # fmt: off
    names = {
        "ray_start", "ray_end", "num_steps", "hierarchical_sample", "white_back", "clamp_mode",
        "fill_mode",
    }
    # fmt: on
    ours = {name: value for name, value in options.items() if name in names}
    if "hierarchical_sample" in ours:
        ours["hierarchical"] = ours.pop("hierarchical_sample")
    ours["lock_view"] = options.get("lock_view_dependence", False)
    arguments = {name: value for name, value in loaded.arguments.items() if name not in ours}
    generator = type(loaded)(**arguments, **ours).double()
    generator.load_state_dict(loaded.state_dict())
    generator.density_noise = options.get("nerf_noise", 0.0)
    camera = cases.sphere_camera(options, io, config["img_size"], torch.float64)
    exact = cases.pose_is_drawn(options, io)
    tolerance = 1e-8 if exact else cases.tolerance(config, "float32_abs", 1e-4)
    with torch.no_grad():
        shown = generator(io["z"].double(), camera, randomness=cases.draws(io, torch.float64))
    near(shown.image, io["out64.img"], tolerance)


@pytest.mark.golden_file("cips3d/init_stats.json", "pigan_G_256")
def test_every_published_name_of_pigan_and_cips3d_is_known(golden):
    """Names of the initial weights of full-size networks are the names that we export."""
    published = json.loads((golden / "cips3d/init_stats.json").read_text())
    with torch.device("meta"):
        written = pigan.generator_to_official(pigan.PiGAN())
    facts = published["pigan_G_256"]
    shapes = {name: fact["shape"] for name, fact in facts.items()}
    assert {name: list(t.shape) for name, t in written.items()} == shapes
    assert all(re.match(r"siren\.", name) for name in facts)
