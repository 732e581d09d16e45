"""The hash of a protocol: what changes it, and what does not."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from gan3d.bench.protocol import (
    network_hash,
    protocol_differences,
    protocol_hash,
    protocol_of,
)
from gan3d.bench.subject import HeadFeatures, networks_of
from gan3d.bench.suites import Changes
from gan3d.data.dataset import PosedImages
from gan3d.data.heads import write_heads
from gan3d.metrics.features import ScriptedFeatures


@pytest.fixture
def protocol(heads, suite):
    def made(data=heads, of=suite) -> dict:
        return protocol_of(of, PosedImages(data), networks_of(of))

    return made


def test_the_same_protocol_has_the_same_hash(protocol):
    assert protocol_hash(protocol()) == protocol_hash(protocol())


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"seed": 1}, "seed"),
        ({"resize_filter": "box"}, "resize_filter"),
        ({"conditioning": "independent"}, "conditioning"),
        ({"truncation": 0.7}, "truncation"),
        ({"num_fakes": 13}, "num_fakes"),
        ({"num_heads": 5}, "num_heads"),
    ],
)
def test_whatever_the_numbers_follow_from_changes_the_hash(protocol, suite, change, name):
    one, other = protocol(), protocol(of=Changes(**change).of(suite))
    assert protocol_hash(one) != protocol_hash(other)
    (said,) = protocol_differences(one, other)
    assert said.startswith(f"{name}: ")


def test_other_real_images_and_other_features_change_the_hash(protocol, suite, tmp_path):
    write_heads(tmp_path / "b.zip", num=24, resolution=32, seed=906, workers=1, supersample=1)
    others = protocol(tmp_path / "b.zip")
    assert protocol_hash(others) != protocol_hash(protocol())
    assert any(said.startswith("real.") for said in protocol_differences(protocol(), others))
    fewer = protocol(of=replace(suite, features=("small",)))
    (said,) = protocol_differences(protocol(), fewer)
    assert said.startswith("features.headnet: ")


def test_of_two_lists_what_only_one_has_is_said(protocol, suite):
    fewer = protocol(of=replace(suite, measures=("frechet", "kernel")))
    (said,) = protocol_differences(protocol(), fewer)
    assert said == f"measures: {', '.join(suite.measures[2:])} / none"
    assert "precision_recall, relief" in said
    other = protocol(of=replace(suite, conditioning="independent"))
    assert protocol_differences(protocol(), other) == ["conditioning: frontal / independent"]


def test_one_number_of_a_network_changes_its_hash():
    one, other = HeadFeatures(), HeadFeatures()
    assert network_hash(one) == network_hash(other)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
    assert network_hash(one) != network_hash(other)


class Scaled(nn.Module):
    """A program without weights."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        return img * self.factor


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the published networks are TorchScript
def test_a_network_in_a_file_is_known_by_all_its_bytes_and_not_by_its_name(tmp_path):
    files = [tmp_path / f"{name}.pt" for name in "abc"]
    torch.jit.script(Scaled(1.0)).save(str(files[0]))
    files[1].write_bytes(files[0].read_bytes())
    torch.jit.script(Scaled(2.0)).save(str(files[2]))
    one, same, other = (network_hash(ScriptedFeatures(file)) for file in files)
    assert one == same
    assert one != other
