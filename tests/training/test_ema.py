"""gan3d.training.ema: the average follows the published half-life."""

import pytest
import torch
from torch import nn

from gan3d.training.ema import EMA


def test_after_one_half_life_of_images_half_of_the_old_weight_is_left():
    ema, old, new = (
        EMA(half_life_kimg=0.1, ramp_up=0),
        nn.Linear(1, 1, bias=False),
        nn.Linear(1, 1, bias=False),
    )
    nn.init.ones_(old.weight)
    nn.init.zeros_(new.weight)
    for step in range(25):
        ema.update(old, new, images_seen=4 * step, batch_size=4)
    assert old.weight.item() == pytest.approx(0.5, abs=1e-6)


def test_the_ramp_up_copies_the_network_at_the_start():
    assert EMA().beta(images_seen=0, batch_size=8) == 0.0


def test_the_ramp_up_bounds_the_half_life_by_a_fraction_of_the_images_seen():
    assert EMA(half_life_kimg=10, ramp_up=0.05).beta(1000, 50) == pytest.approx(0.5)
    assert EMA(half_life_kimg=10, ramp_up=0.05).beta(10_000_000, 10_000) == pytest.approx(0.5)


def test_until_its_start_the_average_is_the_network_itself():
    ema = EMA(half_life_kimg=0.1, ramp_up=0, start_kimg=1.0)
    assert ema.beta(999, 100) == 0.0
    assert ema.beta(1000, 100) == pytest.approx(0.5)


def test_buffers_are_copied_not_averaged():
    old, new = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    new.running_mean.fill_(3.0)
    new.num_batches_tracked.fill_(7)
    EMA().update(old, new, images_seen=10**6, batch_size=1)
    assert torch.equal(old.running_mean, new.running_mean)
    assert old.num_batches_tracked == 7
