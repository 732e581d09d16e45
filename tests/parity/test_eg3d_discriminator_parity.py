"""The dual discriminator against the published one's numbers, in every case folder that has a
discriminator.
"""

import json

import pytest
import torch

from gan3d.camera import Camera
from gan3d.discriminators import DualDiscriminator

cases = pytest.mark.golden_cases(
    "eg3d", "config.json", "weights_D.safetensors", "inputs.safetensors"
)


@pytest.fixture
def discriminator(folder, load, eg3d_discriminator) -> DualDiscriminator:
    """The discriminator that config.json describes, with the stored weights."""
    discriminator = eg3d_discriminator(json.loads((folder / "config.json").read_text()))
    discriminator.load_state_dict(load(folder / "weights_D*.safetensors"))
    return discriminator.eval()


@cases
def test_eg3d_logits_are_the_published_ones(discriminator, folder, load, near):
    given = load(folder / "inputs.safetensors")
    expected = load(folder / "outputs*.safetensors")["D.logits"]
    with torch.no_grad():
        judged = discriminator(
            given["d_image"], raw=given["d_image_raw"], camera=Camera.from_label(given["d_c"])
        )
    near(judged.logits[:, None], expected)


@cases
def test_eg3d_parameters_and_buffers_have_the_published_names_and_shapes(discriminator, folder):
    config = json.loads((folder / "config.json").read_text())
    assert {name: list(t.shape) for name, t in discriminator.state_dict().items()} == config[
        "state_dict_D"
    ]
    assert sum(p.numel() for p in discriminator.parameters()) == config["parameters_D"]


def test_eg3d_default_discriminator_is_the_published_ffhq512_one(golden):
    published = json.loads((golden / "eg3d/state_dict_ffhq512-128.json").read_text())["D"]
    with torch.device("meta"):
        discriminator = DualDiscriminator()
    assert sum(p.numel() for p in discriminator.parameters()) == 31_359_744
    ours = {name: list(p.shape) for name, p in discriminator.named_parameters()}
    assert ours == {
        name: fact["shape"] for name, fact in published.items() if fact["kind"] == "parameter"
    }
    ours = {name: list(b.shape) for name, b in discriminator.named_buffers()}
    assert ours == {
        name: fact["shape"] for name, fact in published.items() if fact["kind"] == "buffer"
    }
