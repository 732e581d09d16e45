"""Losses and regularisers: each is an object with one call, given what it needs and nothing more.

All return one value per image, [b]; the harness averages. Equations in the letters of StyleGAN2 and EG3D.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.camera import Camera
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
class PathLength:
    """Path length regularisation (StyleGAN2, section 3.2): weight (|J_w^T y| - a)^2, a the running mean of the lengths.

    Twice differentiated through the generator. In the penalty the mean is that after this micro-batch, and carries
    gradient, as published; what is remembered is the mean over the whole batch and all processes.

    Args:
        weight: 0 is off. StyleGAN2: 2.
        interval: every so many iterations (StyleGAN2: 4).
        decay: share of the new mean.
        batch_shrink: one image in so many is used.
    """

    weight: float = 0.0
    interval: int = 4
    decay: float = 0.01
    batch_shrink: int = 2

    def lengths(self, ws: Tensor, image: Tensor, randomness: Randomness) -> Tensor:
        """sqrt(mean over latents of |d(sum image y)/dw|^2), y ~ N(0, 1) / sqrt(H W).

        Args:
            ws: the latents that the images were made of, [b n w].
            image: [b 3 H W].
            randomness: one stream per image.

        Returns:
            [b].
        """
        y = randomness.normal("path_noise", *image.shape[1:]) / math.sqrt(image.shape[2] * image.shape[3])
        (gradient,) = torch.autograd.grad((image * y).sum(), ws, create_graph=True)
        return gradient.square().sum(dim=2).mean(dim=1).sqrt()

    def __call__(self, lengths: Tensor, mean: Tensor) -> Tensor:
        """The penalty of each image, [b], of its length [b] and the running mean, a scalar."""
        return self.weight * (lengths - mean.lerp(lengths.mean(), self.decay)).square()


def lazy_interval(density: DensityRegularisation, path_length: PathLength) -> int:
    """The interval of the generator's lazy regulariser, 0 if there is none; two at once have no common correction."""
    on = [regulariser.interval for regulariser in (density, path_length) if regulariser.weight > 0]
    if len(on) > 1:
        raise ValueError("density and path_length are both on; the generator has one lazy regulariser: turn one off")
    return on[0] if on else 0


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

    def __call__(self, camera: Camera, other: Camera, randomness: Randomness, images_seen: int) -> Camera:
        """The conditioning camera of each image: its rendering camera, or another one.

        unlike eg3d: the other pose is a draw of the prior, not the batch neighbour's (a roll by one), so that it does
        not depend on how the batch is split; the published roll does nothing at micro-batch 1.

        Args:
            camera: rendering cameras, b of them.
            other: cameras to swap with.
            randomness: one stream per image, draw "swap".
            images_seen: by the run.
        """
        swapped = randomness.uniform("swap", 1) < self.swap_probability(images_seen)
        return Camera.from_label(torch.where(swapped, other.label(), camera.label()))

    def swap_probability(self, images_seen: int) -> float:
        alpha = fraction(images_seen, self.fade_kimg)
        return (1 - alpha) + alpha * self.swap
