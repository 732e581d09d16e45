"""The dual discriminator against the published one's numbers, in every case folder that has a discriminator."""

import json

import pytest
import torch

from gan3d.camera import Camera
from gan3d.discriminators import DualDiscriminator

cases = pytest.mark.golden_cases("eg3d", "config.json", "weights_D.safetensors", "inputs.safetensors")


def discriminator_of(folder, load) -> DualDiscriminator:
    """The discriminator that config.json describes, with the stored weights."""
    official = json.loads((folder / "config.json").read_text())["discriminator_kwargs"]
    mapping, epilogue = official["mapping_kwargs"], official["epilogue_kwargs"]
    discriminator = DualDiscriminator(
        img_resolution=official["img_resolution"],
        img_channels=official["img_channels"],
        c_dim=official["c_dim"],
        channel_base=official["channel_base"],
        channel_max=official["channel_max"],
        conv_clamp=official["conv_clamp"],
        architecture=official.get("architecture", "resnet"),
        cmap_dim=official.get("cmap_dim"),
        mapping_layers=mapping.get("num_layers", 8),
        mapping_lr_multiplier=mapping.get("lr_multiplier", 0.01),
        group_size=epilogue.get("mbstd_group_size", 4),
        mbstd_channels=epilogue.get("mbstd_num_channels", 1),
        freeze_layers=official["block_kwargs"].get("freeze_layers", 0),
        disc_c_noise=official["disc_c_noise"],
    )
    discriminator.load_state_dict(load(folder / "weights_D.safetensors"))
    return discriminator.eval()


@cases
def test_eg3d_logits_are_the_published_ones(folder, load, near):
    discriminator = discriminator_of(folder, load)
    given, expected = load(folder / "inputs.safetensors"), load(folder / "outputs*.safetensors")["D.logits"]
    with torch.no_grad():
        judged = discriminator(given["d_image"], raw=given["d_image_raw"], camera=Camera.from_label(given["d_c"]))
    near(judged.logits[:, None], expected)


@cases
def test_eg3d_parameters_and_buffers_have_the_published_names_and_shapes(folder, load):
    config = json.loads((folder / "config.json").read_text())
    discriminator = discriminator_of(folder, load)
    assert {name: list(t.shape) for name, t in discriminator.state_dict().items()} == config["state_dict_D"]
    assert sum(p.numel() for p in discriminator.parameters()) == config["parameters_D"]


def test_eg3d_default_discriminator_is_the_published_ffhq512_one(golden):
    published = json.loads((golden / "eg3d/state_dict_ffhq512-128.json").read_text())["D"]
    with torch.device("meta"):
        discriminator = DualDiscriminator()
    assert sum(p.numel() for p in discriminator.parameters()) == 31_359_744
    ours = {name: list(p.shape) for name, p in discriminator.named_parameters()}
    assert ours == {name: fact["shape"] for name, fact in published.items() if fact["kind"] == "parameter"}
    ours = {name: list(b.shape) for name, b in discriminator.named_buffers()}
    assert ours == {name: fact["shape"] for name, fact in published.items() if fact["kind"] == "buffer"}
