"""Kernel distance by hand, its lack of bias, and the subsets of the protocol."""

import numpy as np
import pytest
import torch

from gan3d.metrics import kernel_distance
from gan3d.metrics.kernel import squared_mmd


def cloud(num: int, seed: int, dim: int = 6):
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


def test_two_pairs_of_numbers_by_hand():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    # k(0, 1) = 1, k(2, 3) = 7^3; across 1, 1, 3^3, 4^3
    assert squared_mmd(x, y).item() == 1 + 343 - 2 * (1 + 1 + 27 + 64) / 4


def test_it_is_the_double_sum_of_the_definition():
    x, y = cloud(9, 0), cloud(9, 1) + 0.5

    def k(a, b) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    def within(s) -> float:
        return sum(k(s[i], s[j]) for i in range(9) for j in range(9) if i != j) / (9 * 8)

    across = sum(k(a, b) for a in x for b in y) / 81
    expected = within(x) + within(y) - 2 * across
    assert squared_mmd(x, y).item() == pytest.approx(expected, rel=1e-5)


def test_two_samples_of_one_distribution_are_zero_apart_on_average_at_any_size():
    for size in (5, 40):
        pairs = [(cloud(size, 2 * i), cloud(size, 2 * i + 1)) for i in range(600)]
        values = torch.stack([squared_mmd(x, y) for x, y in pairs])
        assert abs(values.mean()) < 3 * values.std() / 600**0.5
        assert values.min() < 0 < values.max()


def test_distance_grows_with_the_shift_of_the_mean():
    values = [
        kernel_distance(cloud(200, 0), cloud(200, 1) + shift, num_subsets=20).item()
        for shift in (0, 0.5, 1, 2)
    ]
    assert values == sorted(values)
    assert values[-1] > 100 * abs(values[0])


def test_subsets_are_drawn_fakes_first_by_the_seed_of_the_protocol():
    real, fake = cloud(30, 0), cloud(20, 1)
    draws = np.random.RandomState(909)
    expected = 0.0
    for _ in range(4):
        x = fake[draws.choice(20, 12, replace=False)]
        y = real[draws.choice(30, 12, replace=False)]
        expected += squared_mmd(x, y).item() / 4
    value = kernel_distance(real, fake, num_subsets=4, max_subset_size=12)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    other = kernel_distance(real, fake, num_subsets=4, max_subset_size=12, seed=1)
    assert other.item() != pytest.approx(expected)


def test_a_subset_is_no_larger_than_the_smaller_set():
    real, fake = cloud(30, 0), cloud(20, 1)
    draws = np.random.RandomState(909)
    x = fake[draws.choice(20, 20, replace=False)]
    y = real[draws.choice(30, 20, replace=False)]
    value = kernel_distance(real, fake, num_subsets=1)
    assert value.item() == pytest.approx(squared_mmd(x, y).item(), rel=1e-12)


def test_too_few_features_and_unlike_ones_are_refused():
    with pytest.raises(ValueError, match=r"1 real and 9 fake features.*use 2 of each or more"):
        kernel_distance(cloud(1, 0), cloud(9, 1))
    with pytest.raises(ValueError, match=r"\[9, 6\] and \[9, 4\], expected \[n c\] and \[m c\]"):
        kernel_distance(cloud(9, 0), cloud(9, 1, dim=4))


def test_features_that_are_not_finite_are_refused():
    bad = torch.ones(9, 4)
    bad[2, 3] = float("inf")
    with pytest.raises(ArithmeticError, match="features of the fakes are not finite"):
        kernel_distance(torch.ones(9, 4), bad)
