"""Residual-in-residual dense blocks: sums by hand, names, derivatives."""

import pytest
import torch
from torch import nn

from gan3d.layers.rrdb import RRDB, ResidualDenseBlock, RRDBTrunk


def sum_channels(module: nn.Module) -> None:
    """Every convolution adds up the input channels of its pixel."""
    with torch.no_grad():
        for conv in module.modules():
            if isinstance(conv, nn.Conv2d):
                conv.weight.zero_()
                conv.weight[:, :, 1, 1] = 1
                conv.bias.zero_()


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (1.0, 1 + 0.2 * (1 + 1 + 2 + 4 + 8)),
        # -1 -> -0.2 -> 0.2 (-1.2) -> 0.2 (-1.44) -> 0.2 (-1.728)
        (-1.0, -1 + 0.2 * (-1 - 0.2 - 0.24 - 0.288 - 0.3456)),
    ],
)
def test_a_dense_block_by_hand(x, y):
    block = ResidualDenseBlock(1, 1)
    sum_channels(block)
    torch.testing.assert_close(block(torch.full((1, 1, 2, 3), x)), torch.full((1, 1, 2, 3), y))


def test_blocks_that_add_nothing_scale_their_input():
    block = RRDB(3, 2)
    with torch.no_grad():
        for dense in block.children():
            dense.conv5.weight.zero_()
            dense.conv5.bias.zero_()
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(block(x), 1.2 * x)


def test_a_trunk_adds_its_first_convolution_to_its_result():
    trunk = RRDBTrunk(1, 1, 2, 1)
    sum_channels(trunk)
    for block in trunk.RRDB_trunk:
        for dense in block.children():
            nn.init.zeros_(dense.conv5.weight)
    x = torch.rand(1, 1, 3, 3)
    torch.testing.assert_close(trunk.trunk(x), (1 + 1.2 * 1.2) * x)


def test_convolutions_pad_zeros():
    trunk = RRDBTrunk(1, 1, 0, 1)
    with torch.no_grad():
        for conv in (trunk.conv_first, trunk.trunk_conv):
            conv.weight.fill_(1)
            conv.bias.zero_()
        trunk.trunk_conv.weight.zero_()
    corner = trunk.trunk(torch.ones(1, 1, 5, 5))[0, 0, 0, :3]
    assert corner.tolist() == [4, 6, 6]


def test_names_are_the_published_ones():
    names = [name for name, _ in RRDBTrunk(9, 8, 1, 4).named_parameters()]
    weights = [name for name in names if name.endswith("weight")]
    dense = [f"RRDB_trunk.0.RDB{i}.conv{j}.weight" for i in (1, 2, 3) for j in (1, 2, 3, 4, 5)]
    assert weights == ["conv_first.weight", *dense, "trunk_conv.weight"]


def test_the_input_is_not_modified():
    block, x = RRDB(3, 2), torch.randn(1, 3, 4, 4)
    kept = x.clone()
    block(x)
    assert torch.equal(x, kept)


def test_first_and_second_derivatives():
    torch.manual_seed(0)
    block = ResidualDenseBlock(2, 1).double()
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    weights = tuple(block.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: block(x), (x, *weights))
    assert torch.autograd.gradgradcheck(lambda x, *_: block(x), (x, *weights))
