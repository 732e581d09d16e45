"""The mapping network: inputs that it uses or ignores, truncation, and the running mean."""

import pytest
import torch

from gan3d.layers.mapping import MappingNetwork, MappingOptions, normalize_second_moment


def mapping_network(
    z_dim: int = 6, c_dim: int = 0, num_ws: int | None = 5, **options
) -> MappingNetwork:
    torch.manual_seed(0)
    network = MappingNetwork(z_dim, c_dim, 8, num_ws, MappingOptions(**options))
    if num_ws is not None:
        network.w_avg.copy_(torch.randn(8))
    return network


Z = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))


def test_all_slots_are_copies_of_one_latent():
    ws = mapping_network()(Z)
    assert ws.shape == (4, 5, 8)
    assert torch.equal(ws, ws[:, :1].expand_as(ws))
    assert mapping_network(num_ws=None)(Z).shape == (4, 8)


def test_the_length_of_z_does_not_matter():
    network = mapping_network()
    torch.testing.assert_close(network(Z), network(10 * Z), atol=1e-5, rtol=1e-5)


def test_a_label_changes_the_latent_only_if_the_network_is_conditional():
    label = torch.randn(4, 25, generator=torch.Generator().manual_seed(2))
    conditioned, plain = mapping_network(c_dim=25), mapping_network()
    assert (conditioned(Z, label) - conditioned(Z, label.flip(0))).abs().max() > 1e-3
    assert torch.equal(plain(Z, label), plain(Z))


def test_a_network_of_a_label_alone_needs_no_latent():
    network = mapping_network(z_dim=0, c_dim=25, num_ws=None)
    assert network(None, torch.randn(3, 25)).shape == (3, 8)


def test_a_network_of_nothing_is_refused():
    with pytest.raises(ValueError, match="z_dim and c_dim are both 0"):
        mapping_network(z_dim=0)


@pytest.mark.parametrize("psi", [0.0, 0.6, -0.5, 1.5])
def test_truncation_moves_latents_along_the_line_to_the_mean(psi):
    network = mapping_network()
    expected = network.w_avg + psi * (network(Z) - network.w_avg)
    torch.testing.assert_close(network(Z, truncation=psi), expected)


@pytest.mark.parametrize("cutoff", [0, 2, 5, None])
def test_truncation_stops_at_the_cutoff(cutoff):
    network = mapping_network()
    full, truncated = network(Z), network(Z, truncation=0.0, truncation_cutoff=cutoff)
    first = 5 if cutoff is None else cutoff
    torch.testing.assert_close(truncated[:, :first], network.w_avg.expand(4, first, 8))
    assert torch.equal(truncated[:, first:], full[:, first:])


def test_only_track_moves_the_mean_latent():
    network = mapping_network(w_avg_beta=0.9)
    before = network.w_avg.clone()
    ws = network.train()(Z)
    assert torch.equal(network.w_avg, before)
    network.track(ws)
    torch.testing.assert_close(network.w_avg, 0.9 * before + 0.1 * ws[:, 0].mean(dim=0))
    assert not network.w_avg.requires_grad


def test_tracking_converges_to_the_mean_latent():
    network = mapping_network(w_avg_beta=0.5)
    ws = network(Z)
    for _ in range(30):
        network.track(ws)
    torch.testing.assert_close(network.w_avg, ws[:, 0].mean(dim=0), atol=1e-6, rtol=1e-6)


def test_the_mean_latent_is_kept_only_where_it_can_be_used():
    assert "w_avg" in mapping_network().state_dict()
    assert "w_avg" not in mapping_network(num_ws=None).state_dict()
    untracked = MappingOptions(w_avg_beta=None)
    assert "w_avg" not in MappingNetwork(6, 0, 8, 5, untracked).state_dict()


def test_layers_have_the_widths_they_are_given():
    options = MappingOptions(num_layers=3, embed_features=5, layer_features=7)
    network = MappingNetwork(6, 25, 8, 3, options)
    shapes = {name: list(p.shape) for name, p in network.named_parameters()}
    assert {name: shape for name, shape in shapes.items() if name.endswith("weight")} == {
        "embed.weight": [5, 25],
        "fc0.weight": [7, 11],
        "fc1.weight": [7, 7],
        "fc2.weight": [8, 7],
    }


def test_autocast_does_not_lower_the_precision_of_latents():
    network = mapping_network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = network(Z)
    assert torch.equal(lowered, network(Z))


def test_normalized_vectors_have_mean_square_one_and_zero_stays_zero():
    torch.manual_seed(0)
    y = normalize_second_moment(100 * torch.randn(5, 7))
    torch.testing.assert_close(y.square().mean(dim=1), torch.ones(5))
    assert normalize_second_moment(torch.zeros(1, 3)).tolist() == [[0.0, 0.0, 0.0]]


def test_inputs_of_another_size_and_missing_ones_are_refused():
    network = mapping_network(c_dim=25)
    with pytest.raises(ValueError, match=r"got z: shape \(4, 5\); expected \[b 6\]"):
        network(Z[:, :5], torch.zeros(4, 25))
    with pytest.raises(ValueError, match=r"got c: None; expected \[b 25\]"):
        network(Z)


def test_truncation_without_a_mean_latent_is_refused():
    with pytest.raises(ValueError, match="keeps no mean"):
        MappingNetwork(6, 0, 8, 5, MappingOptions(w_avg_beta=None))(Z, truncation=0.5)
