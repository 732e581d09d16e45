"""Explicit randomness: every draw is a pure function of (seed, image index, name).

Convention: an *image index* counts the images a run has seen since its start, over all processes.
Because a draw never depends on the rank, on the batch it sits in or on what was drawn before, a run
is the same on one process and on eight, with or without accumulation, resumed or not. `None` in
place of a `Randomness` means "no randomness": constant noise, bin mid-points.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def key(*parts: int | str) -> int:
    """A 63-bit seed from any labels, stable across machines, processes and Python versions."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


class Randomness:
    """Draws for one batch, one independent stream per (image, name).

    Args:
        seed: the run's seed.
        indices: image index of each batch element, [b].
        phase: label mixed into every stream, so that the phases of one iteration draw differently.
        device: where the draws are made and returned. Streams differ between device types, as
            torch's generators do.
        dtype: of the draws.
    """

    def __init__(
        self,
        seed: int,
        indices: Sequence[int],
        phase: str = "",
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.seed, self.indices, self.phase = seed, [int(index) for index in indices], phase
        self.device, self.dtype = torch.device(device), dtype

    def __len__(self) -> int:
        return len(self.indices)

    def in_phase(self, phase: str) -> Randomness:
        """The same images, other draws."""
        return Randomness(
            self.seed, self.indices, f"{self.phase}/{phase}", device=self.device, dtype=self.dtype
        )

    def chosen(self, elements: Tensor, total: int) -> Randomness:
        """The draws of some elements (rays): shapes start with their number, draws are those among
        all of them.

        Args:
            elements: their indices, [r].
            total: of all elements; chosen(arange(total), total) draws as without choosing.
        """
        return Chosen(self, elements, total)

    def normal(self, name: str, *shape: int) -> Tensor:
        """N(0, 1) draws, [b *shape]."""
        return self._draw(name, torch.randn, shape)

    def uniform(self, name: str, *shape: int) -> Tensor:
        """U[0, 1) draws, [b *shape]."""
        return self._draw(name, torch.rand, shape)

    def integers(self, name: str, high: int, *shape: int) -> Tensor:
        """Integers of [0, high), int64, [b *shape]."""
        return torch.stack(
            [
                torch.randint(high, shape, generator=g, device=self.device)
                for g in self._streams(name)
            ]
        )

    def _draw(self, name: str, sample, shape: tuple[int, ...]) -> Tensor:
        # Drawn in float32 whatever the dtype, so that a float64 run is the float32 run with less
        # rounding.
        draws = [
            sample(shape, generator=stream, device=self.device) for stream in self._streams(name)
        ]
        return torch.stack(draws).to(self.dtype)

    def _streams(self, name: str):
        for index in self.indices:
            stream = torch.Generator(self.device)
            stream.manual_seed(key(self.seed, index, self.phase, name))
            yield stream


class Chosen(Randomness):
    """The draws of some of many elements, see `Randomness.chosen`."""

    def __init__(self, whole: Randomness, elements: Tensor, total: int):
        super().__init__(
            whole.seed, whole.indices, whole.phase, device=whole.device, dtype=whole.dtype
        )
        self.whole, self.elements, self.total = whole, elements, total

    def in_phase(self, phase: str) -> Chosen:
        return Chosen(self.whole.in_phase(phase), self.elements, self.total)

    def normal(self, name: str, *shape: int) -> Tensor:
        return self._of_all(self.whole.normal, name, shape)

    def uniform(self, name: str, *shape: int) -> Tensor:
        return self._of_all(self.whole.uniform, name, shape)

    def integers(self, name: str, high: int, *shape: int) -> Tensor:
        return self._of_all(
            lambda name, *shape: self.whole.integers(name, high, *shape), name, shape
        )

    def _of_all(self, draw, name: str, shape: tuple[int, ...]) -> Tensor:
        if not shape or shape[0] != len(self.elements):
            raise ValueError(
                f"draw {name!r} of shape {shape} for {len(self.elements)} elements; they come first"
            )
        return draw(name, self.total, *shape[1:])[:, self.elements]


class Recorded(Randomness):
    """Given draws in place of random ones (parity tests, fixed noise): `draws[name]` has shape [b
    *shape].
    """

    def __init__(self, draws: Mapping[str, Tensor]):
        first = next(iter(draws.values()))
        super().__init__(0, range(len(first)), device=first.device, dtype=first.dtype)
        self.draws = dict(draws)

    def in_phase(self, phase: str) -> Recorded:
        return self

    def _draw(self, name: str, sample, shape: tuple[int, ...]) -> Tensor:
        if name not in self.draws:
            raise ValueError(
                f"no recorded draw named {name!r}; recorded: {', '.join(sorted(self.draws))}"
            )
        return self.draws[name].reshape(len(self), *shape)

    def integers(self, name: str, high: int, *shape: int) -> Tensor:
        return self._draw(name, None, shape)
