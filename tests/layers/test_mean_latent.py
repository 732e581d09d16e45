"""Truncation, and the mean of latents of fixed codes."""

import pytest
import torch

from gan3d.layers.mean_latent import mean_of_codes, truncated


def test_truncation_interpolates_from_the_mean_to_the_latents():
    ws = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    mean = torch.arange(12.0).view(4, 3)
    assert truncated(ws, mean, 1.0) is ws
    assert torch.equal(truncated(ws, mean, 0.0), mean.expand(2, 4, 3))
    assert torch.allclose(truncated(ws, mean, 0.5), (mean + ws) / 2)
    assert torch.allclose(truncated(ws, mean[0], 0.5), (mean[0] + ws) / 2)


def test_latents_after_the_cutoff_are_unchanged():
    ws, mean = torch.ones(2, 4, 3), torch.zeros(4, 3)
    assert truncated(ws, mean, 0.0, cutoff=1)[:, :, 0].tolist() == [[0, 1, 1, 1]] * 2
    assert torch.equal(truncated(ws, mean, 0.0, cutoff=0), ws)


def test_the_mean_of_codes_is_the_mean_of_their_latents_and_reproducible():
    chunks = []

    def latents(z):
        chunks.append(z)
        return torch.stack([z, z.square()], 1)

    like = torch.zeros((), dtype=torch.float64)
    mean = mean_of_codes(latents, 5, like, num_codes=2500, seed=3)
    assert [len(z) for z in chunks] == [1000, 1000, 500]
    assert torch.allclose(mean[0], torch.cat(chunks).mean(0))
    assert torch.allclose(mean[1], torch.ones(5, dtype=torch.float64), atol=0.15)  # E z^2
    assert torch.equal(mean, mean_of_codes(latents, 5, like, 2500, 3))


def test_a_negative_cutoff_is_refused():
    ws, mean = torch.ones(1, 4, 2), torch.zeros(2)
    assert truncated(ws, mean, 0.0, cutoff=0).equal(ws)
    with pytest.raises(ValueError, match=r"truncation_cutoff is -1; expected .* 0 or more"):
        truncated(ws, mean, 0.0, cutoff=-1)
