"""gan3d.training.style_mixing: where the second latent begins, and how often."""

import torch

from gan3d.randomness import Randomness
from gan3d.training.style_mixing import mix_styles

B, N = 2000, 6
DRAW = Randomness(0, range(B))
FIRST, SECOND = torch.zeros(B, N, 2), torch.ones(B, N, 2)


def test_the_first_latent_is_never_mixed_and_a_mixed_tail_reaches_the_end():
    mixed = mix_styles(FIRST, SECOND, DRAW, 1.0)[..., 0]
    assert (mixed[:, 0] == 0).all()
    assert (mixed[:, -1] == 1).all()
    assert (mixed.diff(dim=1) >= 0).all()


def test_cuts_are_uniform_and_mixing_has_its_probability():
    lengths = mix_styles(FIRST, SECOND, DRAW, 0.5)[..., 0].sum(dim=1)
    counts = torch.bincount(lengths.long(), minlength=N).float() / B
    assert abs(counts[0] - 0.5) < 0.04
    assert (counts[1:] - 0.1).abs().max() < 0.03


def test_an_image_is_mixed_alike_in_any_batch():
    together = mix_styles(FIRST, SECOND, DRAW, 0.5)
    alone = mix_styles(FIRST[:1], SECOND[:1], Randomness(0, [7]), 0.5)
    assert torch.equal(together[7:8], alone)


def test_a_single_latent_can_not_be_mixed():
    assert torch.equal(mix_styles(FIRST[:, :1], SECOND[:, :1], DRAW, 1.0), FIRST[:, :1])
