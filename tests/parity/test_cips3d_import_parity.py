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
from gan3d.checkpoints.portable import from_pretrained

cases = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("cips3d_cases.py"))))
hostile = SimpleNamespace(
    **runpy.run_path(str(Path(__file__).parents[1] / "checkpoints/official/hostile.py"))
)
STORED = ("io.safetensors", "weights.safetensors")


def every(key):
    """Folders with weights and images whose configuration has this key: `ctor` of CIPS-3D, `model`
    of pi-GAN.
    """
    found = sorted(file.parent for file in (cases.GOLDEN / "cips3d").glob("*/config.json"))
    found = [
        f for f in found if key in cases.read(f) and all((f / name).is_file() for name in STORED)
    ]
    found = [f for f in found if cases.golden.holds(f, "io.safetensors", "out64.img")]
    return pytest.mark.parametrize("folder", found, ids=lambda folder: folder.name)


def from_shapes(made, told):
    """What the importer read off the tensors, where the case's own description says it, too."""
    return {name: value for name, value in made.items() if name in told}


@every("ctor")
@pytest.mark.parametrize("as_module", [False, True])
def test_cips3d_files_give_the_published_images(folder, as_module, near, tmp_path):
    config, io, weights = (
        cases.read(folder),
        load_file(folder / "io.safetensors"),
        cases.official_state(folder),
    )
    path = tmp_path / "G_ema.pth"
    data = hostile.saved(weights)
    if as_module:
        data = hostile.saved_module(weights, "exp.cips3d.models.generator", "GeneratorNerfINR")
    path.write_bytes(data)
    told, network = cases.arguments(config), read_state(path)
    made = cips3d.generator_arguments(network)
    assert made == from_shapes(told, made)
    options = {name: value for name, value in told.items() if name not in made}
    generator = cips3d.generator_from_official(network, **options).double()
    generator.density_noise = config["render"].get("nerf_noise", config.get("nerf_noise", 0.0))
    z, camera = (
        torch.cat(cases.latents(io, torch.float64), 1),
        cases.camera(config, io, torch.float64),
    )
    with torch.no_grad():
        shown = generator(z, camera, randomness=cases.draws(io, torch.float64))
    tolerance = (
        1e-8
        if cases.pose_is_drawn(config["render"], io)
        else cases.tolerance(config, "float32_abs", 1e-4)
    )
    near(shown.image, io["out64.img"], tolerance)
    if "out64.aux_img" in io:
        near(shown.raw, io["out64.aux_img"], tolerance)
    assert set(cips3d.generator_to_official(generator)) == set(weights)


@every("model")
def test_pigan_files_give_the_published_images(folder, near, tmp_path):
    config, io, weights = (
        cases.read(folder),
        load_file(folder / "io.safetensors"),
        cases.official_state(folder),
    )
    options = {
        **({"num_steps": config["num_steps"]} if "num_steps" in config else {}),
        **config["render"],
        **config.get("opts", {}),
    }
    zeros = {name: torch.zeros_like(weights[name]) for name in sorted(weights, reverse=True)}
    (tmp_path / "generator.pth").write_bytes(
        hostile.saved_module(zeros, "generators.generators", "Implicit3d")
    )
    order = list(read_state(tmp_path / "generator.pth").state)  # the module's, whatever that is
    (tmp_path / "ema.pth").write_bytes(hostile.saved_average([weights[name] for name in order]))
    preset = "carla" if config["model"] == "TALLSIREN" else "celeba"
    pigan.import_pigan(
        tmp_path / "ema.pth",
        preset=preset,
        img_resolution=config["img_size"],
        last_back=options.get("last_back", False),
    )
    loaded = from_pretrained(tmp_path / "ema.safetensors")
    told = {
        "ray_start",
        "ray_end",
        "num_steps",
        "hierarchical_sample",
        "white_back",
        "clamp_mode",
        "fill_mode",
    }
    ours = {
        {"hierarchical_sample": "hierarchical"}.get(name, name): options[name]
        for name in told
        if name in options
    }
    ours["lock_view"] = options.get("lock_view_dependence", False)
    arguments = {name: value for name, value in loaded.arguments.items() if name not in ours}
    generator = type(loaded)(**arguments, **ours).double()
    generator.load_state_dict(loaded.state_dict())
    generator.density_noise = options.get("nerf_noise", 0.0)
    camera = cases.sphere_camera(options, io, config["img_size"], torch.float64)
    tolerance = (
        1e-8 if cases.pose_is_drawn(options, io) else cases.tolerance(config, "float32_abs", 1e-4)
    )
    with torch.no_grad():
        shown = generator(io["z"].double(), camera, randomness=cases.draws(io, torch.float64))
    near(shown.image, io["out64.img"], tolerance)


@pytest.mark.golden_file("cips3d/init_stats.json", "pigan_G_256")
def test_every_published_name_of_pigan_and_cips3d_is_known(golden):
    """Initial weights of full-size networks: what is there by name is what we write."""
    published = json.loads((golden / "cips3d/init_stats.json").read_text())
    with torch.device("meta"):
        written = pigan.generator_to_official(pigan.PiGAN())
    facts = published["pigan_G_256"]
    assert {name: list(t.shape) for name, t in written.items()} == {
        name: f["shape"] for name, f in facts.items()
    }
    assert all(re.match(r"siren\.", name) for name in facts)
