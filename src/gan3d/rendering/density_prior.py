"""What a field looks like before it has learnt anything: densities that are added to its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Shape = Literal["none", "ball"]


@dataclass(frozen=True)
class DensityPrior:
    """A solid that stands in the scene from the start, in raw densities:

        sigma(x) + height tanh((radius - |x| / s) / softness),   s: side of the scene's cube

    A field that starts with the same density everywhere is first seen at its near end, as fog, and
    may carve a face into it from there: a mask. With a ball, the first surface is convex.

    Attributes:
        shape: "ball", or "none" for no prior.
        height: added to the raw density at the center, and taken away far from it.
        radius: of the ball, in sides of the scene's cube.
        softness: width of its surface, in sides of the scene's cube.

    Raises:
        ValueError: the shape is unknown, or a number is not positive.
    """

    shape: Shape = "none"
    height: float = 4.0
    radius: float = 0.3
    softness: float = 0.08

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise ValueError(
                f"density_prior.shape {self.shape!r} is unknown; choose "
                f"{' or '.join(get_args(Shape))}"
            )
        if min(self.height, self.radius, self.softness) <= 0:
            raise ValueError(
                f"density_prior has height {self.height}, radius {self.radius} and softness "
                f"{self.softness}; all must be positive. For no prior set density_prior.shape none"
            )

    def added(self, sigma: Tensor, points: Tensor, side: float) -> Tensor:
        """Raw density with the prior.

        Args:
            sigma: raw density of the field, [.. 1].
            points: where, world coordinates [.. 3].
            side: of the scene's cube, world units.

        Returns:
            [.. 1].
        """
        if self.shape == "none":
            return sigma
        distance = torch.linalg.vector_norm(points, dim=-1, keepdim=True) / side
        return sigma + self.height * torch.tanh((self.radius - distance) / self.softness)
