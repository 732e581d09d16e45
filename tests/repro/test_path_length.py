"""Path length in micro-batches of two and one images is that of the whole batch (trial 14)."""

import pytest
import torch

from gan3d.discriminators import StyleGAN2Discriminator
from gan3d.generators import StyleGAN2
from gan3d.training.gan import GAN
from gan3d.training.losses import PathLength
from gan3d.training.micro_batches import Part


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_micro_batches_of_single_images_have_the_gradient_of_the_whole_batch(decay):
    torch.manual_seed(0)
    module = GAN(
        StyleGAN2(**StyleGAN2.tiny),
        StyleGAN2Discriminator(**StyleGAN2Discriminator.tiny | {"group_size": 1}),
        path_length=PathLength(weight=2.0, decay=decay),
    ).double()
    phases = module.phases
    phases.path_mean = phases.path_mean.double()
    phases.batch_size = 4

    def gradient(size):
        module.generator.zero_grad()
        image = torch.zeros(size, 3, 32, 32).double()
        starts = range(0, 4, size)
        parts = [Part(image, None, list(range(k, k + size)), size / 4) for k in starts]
        phases.measure_lengths(parts if size < 4 else [], lambda value: value)
        for part in parts:
            for term in phases.path_length_loss(part, {}):
                (term * part.share).backward()
        grads = [p.grad.flatten() for p in module.generator.parameters() if p.grad is not None]
        return torch.cat(grads)

    whole = gradient(4)
    for size in (2, 1):
        off = float((gradient(size) - whole).norm() / whole.norm())
        print(f"parts of {size}: relative difference {off:.1e}")
        assert off <= 1e-9
