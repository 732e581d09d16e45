"""Import of StyleGAN3: state dicts and snapshots of every case give the official images."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gan3d.checkpoints.official.networks import Network, read_network
from gan3d.checkpoints.official.stylegan3 import generator_from_official, import_stylegan3
from gan3d.checkpoints.portable import load_generator

hostile = SimpleNamespace(
    **runpy.run_path(str(Path(__file__).parents[1] / "checkpoints/official/hostile.py"))
)
cases = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("stylegan3_cases.py"))))


@pytest.mark.parametrize("file", cases.files("generator"))
@pytest.mark.parametrize("form", ["snapshot", "state dict"])
def test_stylegan3_files_give_the_published_image(file, form, near, tmp_path):
    facts, stored = cases.facts_of(file), cases.tensors_of(file)
    weights = cases.state(stored, "sd.")
    if form == "snapshot":
        made = generator_from_official(Network(weights, facts["kwargs"])).eval()
        record = hostile.persistent(made, {"": {"_init_kwargs": facts["kwargs"]}})
        (tmp_path / "network.pkl").write_bytes(hostile.snapshot({"G_ema": record}))
        import_stylegan3(tmp_path / "network.pkl", discriminator=False)
        generator = load_generator(tmp_path / "network.safetensors")
        beta = facts["kwargs"].get("mapping_kwargs", {}).get("w_avg_beta", 0.998)
        assert generator.arguments["w_avg_beta"] == beta
    else:
        torch.save(weights, tmp_path / "network.pt")
        network = read_network(tmp_path / "network.pt")
        sizes = {"z_dim", "w_dim", "c_dim", "img_resolution", "img_channels"}
        sizes |= {"channel_base", "channel_max"}
        stated = {name: value for name, value in facts["kwargs"].items() if name not in sizes}
        generator = generator_from_official(Network(network.state, stated)).eval()
    assert facts.get("layer_names") in (None, list(generator.synthesis.layer_names))
    if "out.img" in stored:
        with torch.no_grad():
            near(generator.synthesize(stored["in.wsx"]), stored["out.img"])
    assert set(generator.state_dict()) == set(weights)
