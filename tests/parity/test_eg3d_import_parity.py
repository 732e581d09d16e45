"""Import of official EG3D files: the booby-trapped snapshot of golden/eg3d, and state dicts of
every case folder.
"""

import json
import os
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from gan3d.camera import Camera
from gan3d.checkpoints.official.eg3d import export_eg3d, generator_from_official, import_eg3d
from gan3d.checkpoints.official.networks import Network, read_network
from gan3d.checkpoints.official.stylegan2 import discriminator_from_official
from gan3d.checkpoints.official.unpickle import Record, UnsafePickleError, load, state_dict
from gan3d.checkpoints.portable import load_discriminator, load_generator

hostile = SimpleNamespace(
    **runpy.run_path(str(Path(__file__).parents[1] / "checkpoints/official/hostile.py"))
)
NETWORKS = ("G", "D", "G_ema", "augment_pipe")
MUTATIONS = int(os.environ.get("GAN3D_MUTATIONS", "2500"))  # 10,000 take one core a minute


@pytest.fixture(scope="module")
def snapshot(golden) -> Path:
    return golden / "eg3d/snapshot_layout.pkl"


def test_eg3d_snapshot_is_read_without_tripping_and_all_tensors_are_equal(snapshot):
    load(snapshot)
    with hostile.watching() as seen:
        content = load(snapshot)
        read = {
            f"{key}/{name}": t for key in NETWORKS for name, t in state_dict(content[key]).items()
        }
    assert seen == []
    expected = load_file(snapshot.with_suffix(".safetensors"))
    assert len(expected) == 263
    assert set(read) == set(expected)
    assert all(
        torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype
        for name, tensor in expected.items()
    )


@pytest.mark.parametrize("which", ["G", "G_ema"])
def test_eg3d_snapshot_imports_and_export_gives_back_equal_tensors(snapshot, which, tmp_path):
    ours = tmp_path / "model.safetensors"
    import_eg3d(snapshot, ours, which=which)
    expected = load_file(snapshot.with_suffix(".safetensors"))
    for network, prefix in (("generator", which), ("discriminator", "D")):
        out = tmp_path / f"official_{network}.pt"
        export_eg3d(ours, out, which=network)
        state = torch.load(out, weights_only=True)
        official = {
            name.partition("/")[2]: t
            for name, t in expected.items()
            if name.startswith(f"{prefix}/")
        }
        assert set(state) == set(official)
        assert all(torch.equal(state[name], tensor) for name, tensor in official.items())
    loaded = load_generator(ours)
    assert loaded.arguments["render"].depth_clamp == "batch"
    assert loaded.arguments["superresolution"].legacy_raw
    assert loaded.raw_resolution == 16
    image = loaded(
        torch.zeros(1, loaded.z_dim), Camera.from_angles(torch.zeros(1), torch.zeros(1))
    ).image
    assert image.isfinite().all()
    assert load_discriminator(ours).arguments["c_dim"] == 25


@pytest.mark.golden_cases("eg3d", "config.json", "weights_G*.safetensors", "outputs*.safetensors")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_eg3d_state_dict_imports_and_gives_the_published_image(
    folder, suffix, load, near, tmp_path
):
    config = json.loads((folder / "config.json").read_text())
    weights = load(folder / "weights_G*.safetensors")
    path = tmp_path / f"official{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(weights, path)
    options, rendering = config["generator_kwargs"], config["rendering_kwargs"]
    generator = generator_from_official(
        Network(read_network(path).state, options, rendering)
    ).eval()
    inputs, expected = load(folder / "inputs.safetensors"), load(folder / "outputs*.safetensors")
    with torch.no_grad():
        ws = generator.map(inputs["z"], Camera.from_label(inputs["c_cond"]))
        camera, side = Camera.from_label(inputs["c"]), config["neural_rendering_resolution"]
        shown = generator.render(generator.represent(ws), camera, resolution=side)
    near(shown.image, expected["image"])
    near(shown.raw, expected["image_raw"])
    near(shown.extras["ray_depth"], expected["image_depth"])


@pytest.mark.golden_cases("eg3d", "config.json", "weights_D.safetensors")
def test_eg3d_discriminator_state_dict_gives_the_published_logits(folder, load, near):
    config = json.loads((folder / "config.json").read_text())
    inputs = load(folder / "inputs.safetensors")
    network = Network(load(folder / "weights_D.safetensors"), config["discriminator_kwargs"])
    judge = discriminator_from_official(network).eval()
    camera = Camera.from_label(inputs["d_c"])
    logits = judge(inputs["d_image"], raw=inputs["d_image_raw"], camera=camera).logits
    near(logits, load(folder / "outputs*.safetensors")["D.logits"].flatten())


def test_eg3d_snapshots_that_were_mutated_execute_nothing_and_are_loaded_or_refused(snapshot):
    data, outcomes = snapshot.read_bytes(), {"read": 0, "refused": 0}
    state_dict(load(data)["G_ema"])
    with hostile.watching() as seen:
        for mutated in hostile.mutations(data, MUTATIONS, seed=0):
            try:
                content = load(mutated)
                if type(content) is dict and type(content.get("G_ema")) is Record:
                    state_dict(content["G_ema"])
                outcomes["read"] += 1
            except UnsafePickleError:
                outcomes["refused"] += 1
    assert seen == []
    assert min(outcomes.values()) > 100, outcomes
