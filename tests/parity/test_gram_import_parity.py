"""Import of GRAM and GRAM-HD files: weights of every case folder, as official files, give the
official images.
"""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from gan3d.camera import Camera
from gan3d.checkpoints.official import gram
from gan3d.checkpoints.official.networks import Network, read_state

cases = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("gram_cases.py"))))
hostile = SimpleNamespace(
    **runpy.run_path(str(Path(__file__).parents[1] / "checkpoints/official/hostile.py"))
)
WITH_WEIGHTS = cases.folders(
    lambda meta: "renderer_kwargs" in meta and "generator_kwargs" in meta,
    *("weights_G.safetensors", "inputs*.safetensors"),
    holds=("outputs*.safetensors", "b1.0.*img"),
)
OF_FORMULA = cases.folders(cases.is_generator_of_formula)


def options_of(meta, network):
    """The options that do not follow from the weights; the others must agree with the case."""
    stated = cases.shared_arguments(meta)
    stated["z_dim"] = meta["generator_kwargs"].get("z_dim", 256)
    imported = gram.generator_arguments(network)
    common = {name: value for name, value in stated.items() if name in imported}
    assert common == {name: value for name, value in imported.items() if name in stated}
    options = {name: value for name, value in stated.items() if name not in imported}
    if gram.is_high_resolution(network):
        options.pop("background", None)
        bg = meta["super_resolution_kwargs"].get("bg", {})
        modes = [bg[name] for name in cases.INTERPOLATION if name in bg]
        if modes and not bg.get("use_pixel_shuffle"):
            options["bg_upsampling"] = modes[0]
        hd = cases.hd_arguments(meta)
        options |= {name: hd[name] for name in ("grid_extent", "grid_heights") if name in hd}
        options["bg_residual"] = bg.get("global_residual", True)
    return options


@pytest.mark.parametrize("folder", WITH_WEIGHTS)
@pytest.mark.parametrize("form", ["state dict", "module", "average"])
def test_gram_files_give_the_published_images(folder, form, near, tmp_path):
    meta, weights = cases.read_meta(folder), load_file(folder / "weights_G.safetensors")
    inputs, outputs = (
        cases.tensors(folder, f"{name}*.safetensors") for name in ("inputs", "outputs")
    )
    file = tmp_path / ("step000100_ema.pth" if form == "average" else "step000100_generator.pth")
    if form == "average":
        high = any(name.startswith("super_resolution.") for name in weights)
        trained = [name for name in weights if not high or name.startswith(gram.TRAINED_IN_STAGE_2)]
        file.write_bytes(
            hostile.saved_average([weights[name] for name in gram.official_order(trained)])
        )
        wrong = {name: torch.zeros_like(t) if name in trained else t for name, t in weights.items()}
        if high:
            (tmp_path / "step000100_generator.pth").write_bytes(hostile.saved(wrong))
    elif form == "module":
        file.write_bytes(hostile.saved_module(weights, "generators.gram", "Generator"))
    else:
        file.write_bytes(hostile.saved(weights))
    network = gram.read_generator(file)
    side = meta["generator_kwargs"]["img_size"]
    low = (
        meta["generator_kwargs"].get("lr_img_size") or side // 4
        if gram.is_high_resolution(network)
        else side
    )
    generator = gram.generator_from_official(network, low, **options_of(meta, network))
    assert generator.img_resolution == side
    pitch, yaw = inputs["poses"][:1].unbind(-1)
    camera = Camera.from_sphere(pitch, yaw, cases.fov_of(meta), resolution=side)
    with torch.no_grad():
        shown = generator(inputs["z"][:1], camera)
    near(shown.image, outputs["b1.0.hr_img" if gram.is_high_resolution(network) else "b1.0.img"])


@pytest.mark.parametrize("folder", OF_FORMULA)
def test_gram_full_size_tensors_are_in_official_order(folder):
    """Rows of the official table: for what is frozen, trained, and the whole."""
    meta = cases.read_meta(folder)
    names = list(meta["table"])
    assert gram.official_order(sorted(names)) == names
    if not any(name.startswith("super_resolution") for name in names):
        assert gram.stage_1_names(3) == names
    state = {name: torch.empty(shape, device="meta") for name, (shape, *_) in meta["table"].items()}
    with torch.device("meta"):
        made = gram.generator_to_official(built(Network(state)))
    assert {name: t.shape for name, t in made.items()} == {
        name: t.shape for name, t in state.items()
    }


def built(network):
    arguments = gram.generator_arguments(network)
    if not gram.is_high_resolution(network):
        return gram.GRAM(**arguments)
    arguments |= gram.super_resolution_arguments(network)
    return gram.GRAMHD(**arguments, img_resolution=64 * 2 ** len(arguments["fg_up_channels"]))


@pytest.mark.golden_cases(
    "gramhd",
    "weights_D.safetensors",
    "inputs.safetensors",
    holds=("outputs.safetensors", "D.logit", "D.pose"),
)
def test_gram_discriminator_files_give_the_published_logits(folder, near, tmp_path):
    state = load_file(folder / "weights_D.safetensors")
    inputs = load_file(folder / "inputs.safetensors")
    (tmp_path / "D.pth").write_bytes(hostile.saved(state))
    judge = gram.discriminator_from_official(read_state(tmp_path / "D.pth"))
    outputs = load_file(folder / "outputs.safetensors")
    with torch.no_grad():
        judged = judge(inputs["real"])
    near(judged.logits[:, None], outputs["D.logit"])
    near(judged.pose, outputs["D.pose"])
    assert set(gram.DISCRIMINATOR_NAMES.to_official(judge.state_dict())) == set(state)
