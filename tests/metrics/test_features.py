"""Feature networks: their inputs, their flags, and the errors if they are not available."""

import importlib.util

import pytest
import torch

from gan3d.metrics import FidelityFeatures, FrechetDistance, ScriptedFeatures
from gan3d.metrics.features import (
    LPIPS,
    PROBABILITIES,
    inception_features,
    inception_probabilities,
    quantized,
    vgg_embedding,
    vgg_features,
)


def test_pictures_are_cut_to_eight_bits_as_published():
    x = torch.tensor([-1.5, -1.0, -1 + 0.49 / 127.5, -1 + 0.51 / 127.5, 0.0, 1.0, 2.0])
    assert quantized(x).tolist() == [0, 0, 0, 1, 128, 255, 255]


def test_every_stored_value_survives_a_round_trip():
    stored = torch.arange(256)
    assert torch.equal(quantized(stored.float() / 127.5 - 1).long(), stored)


def test_networks_for_sets_get_bytes_and_the_one_for_paths_gets_unrounded_values(stub):
    images = torch.full((2, 3, 8, 8), 0.5017)  # 191.47 of 255
    assert inception_features(stub)(images)[0].tolist() == [191, 1, 1, 0, 1, 0]
    assert inception_probabilities(stub)(images)[0].tolist() == [191, 1, 0, 1, 1, 0]
    assert vgg_features(stub)(images)[1].tolist() == [191, 1, 1, 0, 1, 0]
    assert vgg_embedding(stub)(images)[1].tolist() == pytest.approx([1.5017 * 127.5, 0, 0, 0, 0, 1])


def test_gray_pictures_are_repeated_and_other_channels_refused(plain):
    network = ScriptedFeatures(plain, {})
    assert network(torch.zeros(2, 1, 4, 4)).tolist() == [[128.0] * 3] * 2
    with pytest.raises(ValueError, match=r"\[2, 4, 8, 8\], expected \[b 3 H W\]"):
        network(torch.zeros(2, 4, 8, 8))


def test_the_network_fits_the_frechet_distance_of_a_run(stub):
    metric = FrechetDistance(ScriptedFeatures(stub))
    metric.update(torch.zeros(4, 3, 8, 8), real=True)
    metric.update(torch.full((4, 3, 8, 8), 0.5), real=False)
    assert metric.compute().item() == pytest.approx((191 - 128) ** 2)


def test_descriptions_of_two_files_differ(stub, plain):
    one, other = ScriptedFeatures(stub), ScriptedFeatures(plain, {})
    assert one.description.startswith("stub.pt (sha256 ")
    assert one.description.endswith("return_features=True")
    assert other.description.startswith("plain.pt (sha256 ")
    assert one.description.split()[2] != other.description.split()[2]


def test_networks_are_not_trained(stub):
    network = ScriptedFeatures(stub)
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("flags", [PROBABILITIES, LPIPS, {"features": True}])
def test_a_file_that_does_not_take_the_flags_is_refused(plain, flags):
    message = r"plain\.pt takes images alone, not .*give the file that this metric needs"
    with pytest.raises(ValueError, match=message):
        ScriptedFeatures(plain, flags)


def test_a_missing_or_broken_file_is_refused(tmp_path):
    message = r"there is no file .*none\.pt; expected a TorchScript network"
    with pytest.raises(ValueError, match=message):
        ScriptedFeatures(str(tmp_path / "none.pt"))
    (tmp_path / "broken.pt").write_bytes(b"not a network")
    message = r"broken\.pt is not a TorchScript file .*download it again"
    with pytest.raises(ValueError, match=message):
        ScriptedFeatures(str(tmp_path / "broken.pt"))


def test_without_a_file_vgg_is_refused_with_what_to_do():
    for make, purpose in ((vgg_features, "precision and recall"), (vgg_embedding, "path length")):
        message = rf"no VGG16 for {purpose}; give the file vgg16\.pt \(--vgg FILE\)"
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.skipif(
    importlib.util.find_spec("torch_fidelity") is not None, reason="torch-fidelity is installed"
)
@pytest.mark.parametrize("make", [inception_features, inception_probabilities, FidelityFeatures])
def test_without_a_file_and_without_torch_fidelity_inception_is_refused_with_what_to_do(make):
    message = r"InceptionV3 is not available here: .*inception-2015-12-05\.pt.*small"
    with pytest.raises(ValueError, match=message):
        make()
