"""Banded products: against the full matrix, and its transpose."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gan3d.ops.banded import Band


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def full_matrix(band: Band) -> torch.Tensor:
    """M_oi = g[i up + before - o down], entry by entry."""
    matrix = torch.zeros(band.size_out, band.size_in, dtype=torch.float64)
    for o in range(band.size_out):
        for i in range(band.size_in):
            place = i * band.up + band.before - o * band.down
            if 0 <= place < len(band.taps):
                matrix[o, i] = band.taps[place]
    return matrix


def check(band: Band) -> None:
    matrix = full_matrix(band)
    x = noise(2, 3, band.size_in)
    torch.testing.assert_close(band.along_x(x), x @ matrix.T)
    torch.testing.assert_close(band.along_y(x.mT), matrix @ x.mT)
    torch.testing.assert_close(full_matrix(band.transposed()), matrix.T)


@settings(max_examples=60, deadline=None)
@given(
    taps=st.integers(1, 9),
    up=st.integers(1, 4),
    down=st.integers(1, 4),
    before=st.integers(-6, 12),
    size_in=st.integers(1, 40),
    size_out=st.integers(1, 40),
)
def test_products_equal_those_with_the_full_matrix(taps, up, down, before, size_in, size_out):
    check(Band(noise(taps), up, down, before, size_in, size_out))


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (3, 2), (4, 1), (2, 3)])
def test_signals_of_many_blocks_have_no_seams(up, down):
    size_in = 400
    check(Band(noise(12), up, down, 7, size_in, (size_in * up + 3) // down))


def test_outputs_that_reach_no_input_are_zero():
    band = Band(noise(3), 1, 1, 50, 4, 5)
    assert torch.equal(band.along_x(noise(1, 1, 4)), torch.zeros(1, 1, 5, dtype=torch.float64))
    assert torch.equal(band.along_y(noise(1, 4, 2)), torch.zeros(1, 5, 2, dtype=torch.float64))
