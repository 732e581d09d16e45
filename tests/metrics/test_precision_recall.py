"""Precision and recall of sets, counted by hand."""

import pytest
import torch

from gan3d.metrics import precision_recall
from gan3d.metrics.precision_recall import covered, neighbor_distances, precision_and_recall


def cloud(num: int, seed: int, dim: int = 8):
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


def test_identical_sets_have_both():
    assert [float(x) for x in precision_and_recall(cloud(63, 0), cloud(63, 0))] == [1, 1]


def test_disjoint_clusters_have_neither():
    assert [float(x) for x in precision_and_recall(cloud(50, 0), cloud(40, 1) + 100)] == [0, 0]


def test_fakes_of_one_of_two_clusters_are_precise_and_recall_half():
    real = torch.cat([cloud(100, 0), cloud(100, 1) + 100])
    precision, recall = precision_and_recall(real, real[:100])
    assert precision == 1
    assert recall == 0.5


def test_fakes_with_a_quarter_off_the_manifold_are_three_quarters_precise():
    real = cloud(100, 0)
    precision, recall = precision_and_recall(real, torch.cat([real[:75], cloud(25, 1) + 100]))
    assert precision == 0.75
    assert recall >= 0.75


def test_a_ball_reaches_to_the_kth_neighbor_and_includes_its_border():
    manifold = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert neighbor_distances(manifold, 1).tolist() == [1, 1, 2, 4]
    assert neighbor_distances(manifold, 2).tolist() == [3, 2, 3, 6]
    probes = torch.tensor([[-1.0], [-1.5], [2.5], [11.0], [11.5]])
    assert covered(manifold, probes, neighbors=1) == 3 / 5


def test_a_repeated_feature_is_its_own_neighbor():
    assert neighbor_distances(torch.tensor([[0.0], [0.0], [1.0]]), 1).tolist() == [0, 0, 1]


def test_blocks_do_not_matter(monkeypatch):
    real, fake = cloud(63, 0), cloud(100, 1) * 1.2
    whole = precision_and_recall(real, fake)
    monkeypatch.setattr(precision_recall, "BLOCK", 7)
    assert precision_and_recall(real, fake) == whole
    assert 0 < whole[0] < 1


def test_features_are_rounded_to_half_precision_by_default():
    near = torch.tensor([[1.0], [1.00001], [1.00002], [1.00003]])
    assert precision_and_recall(near, near + 4e-4)[0] == 1
    assert precision_and_recall(near, near + 4e-4, half=False)[0] < 1


@pytest.mark.parametrize("scale", [1e4, 1e5, 1e20])
def test_features_beyond_float16_keep_their_precision_and_recall(scale):
    real, fake = cloud(63, 0), cloud(100, 1) * 1.2
    expected = [float(x) for x in precision_and_recall(real, fake)]
    scaled = [float(x) for x in precision_and_recall(scale * real, scale * fake)]
    assert scaled == pytest.approx(expected, abs=0.02)  # rounded at other places
    assert [float(x) for x in precision_and_recall(scale * real, scale * real)] == [1, 1]


def test_features_that_are_not_finite_are_refused():
    bad = cloud(9, 0)
    bad[2, 3] = float("nan")
    with pytest.raises(ArithmeticError, match="features of the fakes are not finite"):
        precision_and_recall(cloud(9, 1), bad)
    with pytest.raises(ArithmeticError, match="features of the real images are not finite"):
        precision_and_recall(bad, cloud(9, 1))


def test_too_few_features_and_unlike_ones_are_refused():
    with pytest.raises(ValueError, match="3 features have no 3 neighbors each; use more images"):
        precision_and_recall(cloud(3, 0), cloud(9, 1))
    with pytest.raises(ValueError, match=r"\[9, 8\] and \[9, 4\], expected \[n c\] and \[m c\]"):
        precision_and_recall(cloud(9, 0), cloud(9, 1, dim=4))
