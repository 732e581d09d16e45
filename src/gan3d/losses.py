"""Losses and regularisers: each is an object with one call, given what it needs and nothing more.

All return one value per image, [b]; the harness averages. Equations in the letters of StyleGAN2 and EG3D.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.randomness import Randomness
from gan3d.schedules import fraction


class Adversarial(ABC):
    """The game between generator and discriminator, per image."""

    @abstractmethod
    def generator(self, fake_logits: Tensor) -> Tensor:
        """Loss of the generator, [b]."""

    @abstractmethod
    def fake(self, fake_logits: Tensor) -> Tensor:
        """Loss of the discriminator on fakes, [b]."""

    @abstractmethod
    def real(self, real_logits: Tensor) -> Tensor:
        """Loss of the discriminator on reals, [b]."""


class NonSaturating(Adversarial):
    """softplus(-D(G(z))) for G; softplus(D(G(z))) + softplus(-D(x)) for D (Goodfellow et al. 2014)."""

    def generator(self, fake_logits: Tensor) -> Tensor:
        return F.softplus(-fake_logits)

    def fake(self, fake_logits: Tensor) -> Tensor:
        return F.softplus(fake_logits)

    def real(self, real_logits: Tensor) -> Tensor:
        return F.softplus(-real_logits)


@dataclass(frozen=True)
class R1:
    """gamma/2 |grad_x D(x)|^2 on real images (Mescheder et al. 2018), over every image the discriminator sees.

    Args:
        gamma: weight; 0 is off.
        interval: computed every so many iterations (lazy regularisation), its gradient multiplied by the interval;
            1 adds it to the discriminator's own step.
    """

    gamma: float = 1.0
    interval: int = 16

    @property
    def lazy(self) -> bool:
        """Whether the penalty has an optimiser step of its own."""
        return self.gamma > 0 and self.interval > 1

    def __call__(self, judge: Callable[..., Tensor], image: Tensor, raw: Tensor | None = None) -> Tensor:
        """The penalty of each image, [b].

        The derivative is taken with respect to what enters the discriminator, after blur and augmentation, as EG3D's
        code does (specs/eg3d.md, Q3).

        Args:
            judge: (image, raw) -> logits [b].
            image: real images [b 3 H W].
            raw: real raw images [b 3 h w] for dual discrimination, else None.
        """
        inputs = [x.detach().requires_grad_(True) for x in (image, raw) if x is not None]
        logits = judge(inputs[0], inputs[1] if raw is not None else None)
        gradients = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
        return self.gamma / 2 * torch.stack([g.square().sum(dim=(1, 2, 3)) for g in gradients]).sum(dim=0)


@dataclass(frozen=True)
class DensityRegularisation:
    """Smooth density: mean |sigma(p) - sigma(p + delta)| at random points (EG3D, supplement "density regularisation").

    Args:
        weight: 0 is off. EG3D: 0.25.
        perturbation: standard deviation of delta, world units (the `l1` kind).
        interval: every so many iterations (EG3D: 4).
        kind: `l1`; or `monotonic-detach` / `monotonic-fixed`, which first ask the density not to fall from the front
            to the back of the scene, then smooth with delta = extent / 256.
        num_points: points per image, uniform in [-1, 1]^3 whatever the extent of the scene, as in EG3D.
    """

    weight: float = 0.0
    perturbation: float = 0.004
    interval: int = 4
    kind: Literal["l1", "monotonic-detach", "monotonic-fixed"] = "l1"
    num_points: int = 1000

    def __call__(self, sigma: Callable[[Tensor], Tensor], randomness: Randomness, extent: float = 1.0) -> Tensor:
        """The regulariser of each image, [b].

        Args:
            sigma: points [b p 3] -> density [b p 1] before activation.
            randomness: one stream per image.
            extent: side of the cube that holds the scene, world units.
        """
        if self.kind == "l1":
            return self.weight * self._smoothness(sigma, randomness, self.perturbation)
        monotonic = self._monotonicity(sigma, randomness, extent)
        return monotonic + self.weight * self._smoothness(sigma, randomness, extent / 256)

    def _smoothness(self, sigma, randomness: Randomness, scale: float) -> Tensor:
        points = 2 * randomness.uniform("density_points", self.num_points, 3) - 1
        moved = points + scale * randomness.normal("density_perturbation", self.num_points, 3)
        both = sigma(torch.cat([points, moved], dim=1))
        here, there = both.chunk(2, dim=1)
        return (here - there).abs().mean(dim=(1, 2))

    def _monotonicity(self, sigma, randomness: Randomness, extent: float) -> Tensor:
        points = 2 * randomness.uniform("monotonic_points", 2 * self.num_points, 3) - 1
        behind = points - points.new_tensor([0.0, 0.0, extent / 256])
        front, back = sigma(torch.cat([points, behind], dim=1)).chunk(2, dim=1)
        if self.kind == "monotonic-detach":
            front = front.detach()
        return 10 * F.relu(front - back).mean(dim=(1, 2))


@dataclass(frozen=True)
class PoseConditioning:
    """Generator pose conditioning (EG3D, section 4.4): the conditioning camera is another image's with p_swap.

    p_swap falls from 1 (the pose says nothing) to `swap` while the first `fade_kimg` thousand images are seen.

    Args:
        swap: final probability of a swapped conditioning camera.
        fade_kimg: length of the fall.
    """

    swap: float = 0.5
    fade_kimg: float = 1000.0

    def swap_probability(self, images_seen: int) -> float:
        alpha = fraction(images_seen, self.fade_kimg)
        return (1 - alpha) + alpha * self.swap
