"""Inception score of class probabilities, by hand."""

import math

import pytest
import torch

from gan3d.metrics import inception_score


def test_certain_and_even_over_all_classes_scores_their_number():
    mean, deviation = inception_score(torch.eye(5).repeat(20, 1), num_splits=10)
    assert mean.item() == pytest.approx(5)
    assert deviation.item() == pytest.approx(0, abs=1e-12)


def test_images_all_alike_score_one():
    mean, _ = inception_score(torch.tensor([[0.2, 0.3, 0.5]]).repeat(30, 1))
    assert mean.item() == pytest.approx(1)


def test_splits_are_consecutive_and_scored_by_themselves():
    certain = torch.eye(4)
    mean, deviation = inception_score(torch.cat([certain, certain[:1].expand(4, -1)]), num_splits=2)
    assert mean.item() == pytest.approx((4 + 1) / 2)
    assert deviation.item() == pytest.approx((4 - 1) / 2)


def test_two_half_certain_images_by_hand():
    p, q = torch.tensor([0.75, 0.25]), torch.tensor([0.25, 0.75])
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    mean, _ = inception_score(torch.stack([p, q]), num_splits=1)
    assert mean.item() == pytest.approx(math.exp(divergence))


def test_fewer_images_than_splits_are_refused():
    with pytest.raises(ValueError, match=r"\[3, 4\] for 10 splits"):
        inception_score(torch.ones(3, 4) / 4)
