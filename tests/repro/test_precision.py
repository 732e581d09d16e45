"""bf16-true would freeze the average of the generator and ADA's p (trial 09).

The refusal is the right answer: the figures below are why.
"""

import pytest
import torch

from gan3d.augment import ADA, AdaptiveP
from gan3d.generators import StyleGAN2
from gan3d.training.ema import EMA
from gan3d.training.precisions import refuse_unfit

RIGHT, RIGHT_P = 0.588, 0.2756


def moved(dtype: torch.dtype) -> float:
    """Share of its way that the average goes in 12,800 images, in batches of 32."""
    torch.manual_seed(0)
    network, average = (StyleGAN2(**StyleGAN2.tiny).to(dtype) for _ in range(2))
    average.load_state_dict(network.state_dict())
    before = [p.clone() for p in average.parameters()]
    with torch.no_grad():
        for p in network.parameters():
            p.mul_(1.25)
    ema = EMA(half_life_kimg=10, ramp_up=0)
    for step in range(400):
        ema.update(average, network, images_seen=10**6 + 32 * step, batch_size=32)
    triples = zip(average.parameters(), before, network.parameters())
    way = [((a - b) / (p - b))[(p != b)] for a, b, p in triples]
    return torch.cat([w.flatten() for w in way]).float().mean().item()


def p_of_ada(dtype: torch.dtype) -> float:
    """p, from 0.25, after 12,800 reals that were all judged real."""
    controller = AdaptiveP(ADA(preset="bgc", kimg=500)).to(dtype)
    controller.p.fill_(0.25)
    for step in range(400):
        controller.collect(torch.ones(32))
        controller.update(controller.take_signs(), step, 32)
    return float(controller.p)


def test_bf16_true_is_refused_because_the_average_and_p_would_stand_still():
    assert abs(moved(torch.float32) - RIGHT) <= 0.05
    assert abs(p_of_ada(torch.float32) - RIGHT_P) <= 1e-3
    frozen, p = moved(torch.bfloat16), p_of_ada(torch.bfloat16)
    print(f"bf16-true: the average goes {frozen:.3f} of its way, ADA's p 0.25 -> {p:.4f}")
    assert abs(frozen - RIGHT) > 0.05
    assert abs(p - RIGHT_P) > 1e-3
    with pytest.raises(ValueError, match="bf16-true is not possible: the average of the generator"):
        refuse_unfit("bf16-true", torch.device("cpu"))
