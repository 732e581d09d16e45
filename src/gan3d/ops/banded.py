"""A FIR filter along one axis with up- and downsampling, as products with a banded matrix.

    y_o = sum_i M_oi x_i,   M_oi = g[i up + before - o down]

where g are the taps in the order of correlation.

All blocks of outputs share one small dense block of M; at the borders, zero padding only removes
columns from it. The product does three to six times more multiplications than necessary, but at
many times their speed, in the usual memory layout, and no inserted zero is stored. The transpose
of a banded matrix is again a banded matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

# Outputs per block without downsampling. Measured: 48 to 64 is fastest for 6 to 24 taps.
BLOCK = 64


@dataclass(frozen=True, eq=False)
class Band:
    """The matrix M [size_out size_in] above.

    Attributes:
        taps: g, [n].
        up: upsampling factor; zeros are inserted between the samples.
        down: downsampling factor; every `down`-th sample is kept.
        before: zeros padded before the zero-inserted signal; negative values crop.
        size_in: length of x, which is zero beyond its ends.
        size_out: length of y.
    """

    taps: Tensor
    up: int
    down: int
    before: int
    size_in: int
    size_out: int

    def transposed(self) -> Band:
        """M^T: up and down change places, the taps are reversed."""
        before = len(self.taps) - 1 - self.before
        return Band(self.taps.flip(0), self.down, self.up, before, self.size_out, self.size_in)

    def along_x(self, x: Tensor) -> Tensor:
        """Filters along the last axis, [c h size_in] -> [c h size_out]; x must be contiguous."""
        c, h, _ = x.shape
        y = x.new_empty(c, h, self.size_out)
        rows_in = x.view(c * h, self.size_in)
        rows_out = y.view(c * h, self.size_out)
        for start, stop, first, last, block in self._blocks():
            torch.mm(rows_in[:, first:last], block.t(), out=rows_out[:, start:stop])
        return y

    def along_y(self, x: Tensor) -> Tensor:
        """Filters along the second axis, [c size_in w] -> [c size_out w]."""
        c, _, w = x.shape
        y = x.new_empty(c, self.size_out, w)
        for start, stop, first, last, block in self._blocks():
            torch.bmm(block.expand(c, -1, -1), x[:, first:last], out=y[:, start:stop])
        return y

    def _blocks(self) -> list[tuple[int, int, int, int, Tensor]]:
        """(first output, end of outputs, first input, end of inputs, M) of each block."""
        rows, columns = self._block.shape
        blocks = []
        for start in range(0, self.size_out, rows):
            stop = min(start + rows, self.size_out)
            # Inputs of the full block, then the part of them that exists.
            first = start * self.down // self.up + self._offset
            begin = max(first, 0)
            end = max(begin, min(first + columns, self.size_in))
            block = self._block[: stop - start, begin - first : end - first]
            blocks.append((start, stop, begin, end, block))
        return blocks

    @property
    def _offset(self) -> int:
        """First input that output 0 depends on."""
        return -(self.before // self.up)

    @cached_property
    def _block(self) -> Tensor:
        """M of one full block of outputs, starting at the first input that they depend on."""
        rows = _rows(self.size_out, self.up, self.down)
        # Tap that multiplies the first input in the first output.
        phase = self._offset * self.up + self.before
        columns = max((len(self.taps) - 1 - phase + (rows - 1) * self.down) // self.up + 1, 0)

        i = torch.arange(columns, device=self.taps.device)
        o = torch.arange(rows, device=self.taps.device)
        tap = i * self.up + phase - o[:, None] * self.down
        exists = (tap >= 0) & (tap < len(self.taps))
        return torch.where(exists, self.taps[tap.clamp(0, len(self.taps) - 1)], 0)


def _rows(size: int, up: int, down: int) -> int:
    """Outputs per block: about BLOCK, fewer with downsampling; blocks of one size and phase."""
    step = up // math.gcd(up, down)  # outputs after which the pattern of taps repeats
    wanted = max(BLOCK * up // max(up, down), step)
    share = math.ceil(size / math.ceil(size / wanted))
    return math.ceil(share / step) * step
