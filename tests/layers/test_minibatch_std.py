"""Minibatch standard deviation: its groups, values, precision and derivatives."""

import pytest
import torch

from gan3d.layers.minibatch_std import MinibatchStd


def test_groups_are_strided():
    """Six images in groups of three: image 0 is grouped with 2 and 4, image 1 with 3 and 5."""
    x = torch.tensor([0.0, 10.0, 3.0, 10.0, 6.0, 40.0]).reshape(6, 1, 1, 1).expand(6, 1, 2, 2)
    y = MinibatchStd(3)(x)
    assert torch.equal(y[:, :1], x)
    even = torch.tensor([0.0, 3.0, 6.0]).std(unbiased=False)
    odd = torch.tensor([10.0, 10.0, 40.0]).std(unbiased=False)
    torch.testing.assert_close(y[:, 1, 0, 0], torch.stack([even, odd] * 3))
    assert torch.equal(y[:, 1], y[:, 1, :1, :1].expand(6, 2, 2))


def test_identical_images_have_no_deviation():
    x = torch.randn(1, 4, 3, 3).expand(4, -1, -1, -1)
    torch.testing.assert_close(MinibatchStd(4)(x)[:, 4], torch.full((4, 3, 3), 1e-4))


def test_each_map_is_the_deviation_of_its_own_channels():
    torch.manual_seed(0)
    x = torch.randn(4, 6, 3, 3)
    y = MinibatchStd(2, num_channels=2)(x)
    for number, half in enumerate((x[:, :3], x[:, 3:])):
        torch.testing.assert_close(y[:, 6 + number], MinibatchStd(2)(half)[:, 3])


@pytest.mark.parametrize(("group_size", "same_as"), [(None, 6), (8, 6), (1, 1)])
def test_a_group_is_at_most_the_batch(group_size, same_as):
    torch.manual_seed(0)
    x = torch.randn(6, 2, 3, 3)
    torch.testing.assert_close(MinibatchStd(group_size)(x), MinibatchStd(same_as)(x))


def test_a_batch_that_does_not_divide_into_groups_is_refused():
    with pytest.raises(ValueError, match=r"6 images .* groups of 4"):
        MinibatchStd(4)(torch.randn(6, 2, 3, 3))


def test_statistics_of_half_precision_do_not_overflow():
    x = torch.tensor([-300.0, 300.0], dtype=torch.float16).reshape(2, 1, 1, 1)
    y = MinibatchStd(2)(x)
    assert y.dtype == torch.float16
    assert y[:, 1].flatten().tolist() == [300.0, 300.0]


def test_minibatch_std_is_twice_differentiable():
    torch.manual_seed(0)
    x = torch.randn(4, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: MinibatchStd(2)(x), x)
    assert torch.autograd.gradgradcheck(lambda x: MinibatchStd(2)(x), x)
