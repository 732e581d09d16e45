"""MultiHeadMapping: its layout, its heads, its errors."""

import pytest
import torch
from torch import nn

from gan3d.layers.multi_head_mapping import MultiHeadMapping


def kinds(network: nn.Sequential) -> str:
    names = {nn.Linear: "fc", nn.LayerNorm: "norm", nn.LeakyReLU: "lrelu"}
    return " ".join(names[type(module)] for module in network)


@pytest.mark.parametrize(
    ("options", "layout"),
    [
        ({"base_layers": 2}, "fc lrelu fc"),
        ({"base_layers": 2, "add_norm": True}, "fc norm lrelu fc"),
        ({"base_layers": 2, "add_norm": True, "norm_out": True}, "fc norm lrelu fc norm"),
        ({"base_layers": 1, "norm_out": True, "head_layers": 1}, "fc lrelu"),
        ({"base_layers": 1, "add_norm": True, "head_layers": 2}, "fc norm lrelu"),
    ],
)
def test_the_base_is_laid_out_as_published(options, layout):
    assert kinds(MultiHeadMapping(6, 8, {"a": 8}, **options).base_net) == layout


def test_without_head_layers_all_names_share_one_latent():
    latents = MultiHeadMapping(6, 8, {"a": 8, "b": 8}, base_layers=2)(torch.randn(3, 6))
    assert latents["a"] is latents["b"]


def test_heads_have_their_own_layers_and_widths():
    mapping = MultiHeadMapping(6, 8, {"a": 5, "b": 3}, base_layers=2, head_layers=2, norm_out=True)
    assert kinds(mapping.heads["b"]) == "fc lrelu fc norm"
    latents = mapping(torch.randn(4, 6))
    assert {name: tuple(w.shape) for name, w in latents.items()} == {"a": (4, 5), "b": (4, 3)}


def test_only_the_direction_of_z_matters():
    mapping = MultiHeadMapping(6, 8, {"a": 8}, base_layers=2)
    z = torch.randn(3, 6)
    assert torch.allclose(mapping(z)["a"], mapping(10 * z)["a"], atol=1e-5)


def test_one_layer_by_hand():
    mapping = MultiHeadMapping(2, 1, {"a": 1}, base_layers=1)
    with torch.no_grad():
        mapping.base_net[0].weight.copy_(torch.tensor([[1.0, 2.0]]))
        mapping.base_net[0].bias.fill_(0.5)
    z = torch.tensor([[3.0, 4.0]])  # root mean square sqrt(12.5)
    assert mapping(z)["a"].item() == pytest.approx(11 / 12.5**0.5 + 0.5)


def test_latents_are_exact_under_autocast():
    mapping = MultiHeadMapping(6, 8, {"a": 8}, base_layers=3, add_norm=True, norm_out=True)
    z = torch.randn(3, 6)
    exact = mapping(z)["a"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mapping(z)["a"], exact)


def test_invalid_arguments_are_refused():
    with pytest.raises(ValueError, match=r"sizes \{'b': 3\}; .* all have size hidden_dim 8"):
        MultiHeadMapping(6, 8, {"a": 8, "b": 3}, base_layers=2)
    with pytest.raises(ValueError, match="base_layers is 0"):
        MultiHeadMapping(6, 8, {"a": 8}, base_layers=0)
    with pytest.raises(ValueError, match=r"expected \[b 6\]"):
        MultiHeadMapping(6, 8, {"a": 8}, base_layers=1)(torch.randn(3, 5))
