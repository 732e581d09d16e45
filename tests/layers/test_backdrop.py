"""The backdrop of a scene: a sigmoid of a plane over the picture, per channel."""

import torch
from torch import Tensor

from gan3d.layers.backdrop import Backdrop

PLACES = torch.tensor([[[-1.0, -1.0], [0.0, 0.0], [0.5, -0.25], [1.0, 1.0]]])


def backdrop(w_dim: int = 5, channels: int = 4) -> Backdrop:
    torch.manual_seed(0)
    return Backdrop(w_dim, channels)


def latents(num: int = 2, w_dim: int = 5) -> Tensor:
    return torch.randn(num, w_dim, generator=torch.Generator().manual_seed(1))


def test_each_channel_is_the_sigmoid_of_a_plane_over_the_picture():
    layer = backdrop(channels=2)
    with torch.no_grad():
        layer.affine.weight.zero_()
        #                                 1     1     u    u     v     v
        layer.affine.bias.copy_(torch.tensor([0.0, 1.0, 2.0, 0.0, 0.0, -3.0]))
        seen = layer(latents(1), PLACES)
    expected = torch.stack(
        [torch.sigmoid(2 * PLACES[..., 0]), torch.sigmoid(1 - 3 * PLACES[..., 1])], -1
    )
    assert torch.allclose(seen, expected, atol=1e-6)


def test_scenes_have_backdrops_of_their_own_and_one_scene_may_be_seen_by_many():
    layer, w = backdrop(), latents()
    places = PLACES.expand(2, -1, -1)
    both = layer(w, places)
    assert both.shape == (2, 4, 4)
    assert (both[0] - both[1]).abs().min() > 1e-4
    assert torch.allclose(layer(w[:1], places), both[:1].expand(2, -1, -1))


def test_gradients_of_latent_and_weights_are_those_of_finite_differences():
    layer = backdrop().double()
    w = latents().double().requires_grad_()
    places = PLACES.double().expand(2, -1, -1)
    weights = [layer.affine.weight, layer.affine.bias]
    assert torch.autograd.gradcheck(lambda w, *_: layer(w, places), (w, *weights))
    assert torch.autograd.gradgradcheck(lambda w: layer(w, places), (w,))
