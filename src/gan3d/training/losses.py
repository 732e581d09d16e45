"""Losses and regularizers: each is an object with one call, given what it needs and nothing more.

All return one value per image, [b]; the harness averages. Equations in the letters of StyleGAN2 and
EG3D.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.camera import Camera
from gan3d.layers.precision import full_precision
from gan3d.ops.bicubic import bicubic_downsample
from gan3d.randomness import Randomness
from gan3d.schedules import fraction


class Adversarial(ABC):
    """The game between generator and discriminator, per image.

    A *paired* game compares the logit of each fake with that of a real image. In an unpaired one
    the two sides of the discriminator's loss are summands, so that each can run backward alone.
    """

    paired: ClassVar[bool] = True

    @abstractmethod
    def generator(
        self, fake_logits: Tensor, images_seen: int = 0, real_logits: Tensor | None = None
    ) -> Tensor:
        """Loss of the generator, [b].

        Args:
            fake_logits: [b].
            images_seen: by the run, for a game that changes.
            real_logits: [b], without gradient; given to paired games only.
        """

    @abstractmethod
    def discriminator(self, fake_logits: Tensor, real_logits: Tensor) -> Tensor:
        """Loss of the discriminator, [b]."""


class Unpaired(Adversarial):
    """A game whose discriminator loss is the sum of one on fakes and one on reals."""

    paired = False

    @abstractmethod
    def fake(self, fake_logits: Tensor) -> Tensor:
        """Loss of the discriminator on fakes, [b]."""

    @abstractmethod
    def real(self, real_logits: Tensor) -> Tensor:
        """Loss of the discriminator on reals, [b]."""

    def discriminator(self, fake_logits: Tensor, real_logits: Tensor) -> Tensor:
        return self.fake(fake_logits) + self.real(real_logits)


class NonSaturating(Unpaired):
    """softplus(-D(G(z))) for G; softplus(D(G(z))) + softplus(-D(x)) for D.

    Goodfellow et al. 2014.
    """

    def generator(
        self, fake_logits: Tensor, images_seen: int = 0, real_logits: Tensor | None = None
    ) -> Tensor:
        return F.softplus(-fake_logits)

    def fake(self, fake_logits: Tensor) -> Tensor:
        return F.softplus(fake_logits)

    def real(self, real_logits: Tensor) -> Tensor:
        return F.softplus(-real_logits)


class Relativistic(Adversarial):
    """softplus(-(D(G(z)) - D(x))) for G; softplus(-(D(x) - D(G(z)))) for D.

    The relativistic pairing game (Jolicoeur-Martineau 2018; R3GAN, Huang et al. 2024, eq. 2), which
    is stable together with R1 and R2.
    """

    def generator(
        self, fake_logits: Tensor, images_seen: int = 0, real_logits: Tensor | None = None
    ) -> Tensor:
        if real_logits is None:
            raise ValueError("the relativistic game compares fakes with reals; got no real_logits")
        return F.softplus(real_logits - fake_logits)

    def discriminator(self, fake_logits: Tensor, real_logits: Tensor) -> Tensor:
        return F.softplus(fake_logits - real_logits)


class Selective(NonSaturating):
    """The non-saturating game in which fakes weigh by how they are judged beside the other fakes of
    the batch.

    Where a batch is split into micro-batches or over processes, the harness judges all fakes first,
    without gradient, so that the split has no effect.
    """

    @abstractmethod
    def weights(self, logits: Tensor, among: Tensor, images_seen: int) -> Tensor:
        """Weights of some fakes, [b]; their mean over the whole batch is 1.

        Args:
            logits: of these fakes, [b].
            among: logits of all fakes of the batch, [n].
            images_seen: by the run.
        """

    def generator(
        self, fake_logits: Tensor, images_seen: int = 0, real_logits: Tensor | None = None
    ) -> Tensor:
        weights = self.weights(fake_logits.detach(), fake_logits.detach(), images_seen)
        return self.weighted(fake_logits, weights)

    def weighted(self, fake_logits: Tensor, weights: Tensor) -> Tensor:
        """Loss of the generator with given weights, [b]."""
        return weights * super().generator(fake_logits)


class TopK(Selective):
    """The non-saturating game in which the generator learns from its best fakes only (Sinha et al.
    2020, pi-GAN).

    The share k of fakes, those with the largest logits of the batch, falls with the images seen:
    k = max(0.99^(kimg / interval_kimg), smallest). The loss of a kept fake is divided by k, so that
    the mean over all is the mean over the kept ones.

    unlike pi-GAN: the best of the whole batch, not of each forward pass and process, so that the
    split of a batch has no effect.

    Args:
        interval_kimg: thousands of images in which k falls by one per cent. pi-GAN on CelebA: 2000
            steps of 56 images.
        smallest: lower bound of k. pi-GAN on CelebA: 0.6.
    """

    def __init__(self, interval_kimg: float = 112.0, smallest: float = 0.6):
        if interval_kimg <= 0 or not 0 < smallest <= 1:
            raise ValueError(
                f"TopK got interval_kimg {interval_kimg}, smallest {smallest}; expected > 0 and "
                "(0, 1]"
            )
        self.interval_kimg, self.smallest = interval_kimg, smallest

    def weights(self, logits: Tensor, among: Tensor, images_seen: int) -> Tensor:
        share = max(0.99 ** (images_seen / (1000 * self.interval_kimg)), self.smallest)
        kept = max(math.ceil(share * len(among)), 1)
        least = among.topk(kept).values[-1]
        return (logits >= least).to(logits) * (len(among) / (among >= least).sum())


@dataclass(frozen=True)
class R1:
    """gamma/2 |grad_x D(x)|^2 on real images (Mescheder et al. 2018), over every image the
    discriminator sees.

    Args:
        gamma: weight; 0 is off, None is the rule of StyleGAN2-ADA, 0.0002 resolution^2 / batch
            size: a first guess, of which factors 2 and 4 either way are worth a try.
        interval: iterations between two steps (lazy regularization); the gradient is multiplied
            by the interval; 1 adds it to the discriminator's own step.
        of: the derivative is with respect to what enters the discriminator, after blur and
            augmentation ("input", as EG3D's code does, specs/eg3d.md Q3), or to the image before
            them ("image": StyleGAN2, StyleGAN3, CIPS-3D).
    """

    gamma: float | None = 1.0
    interval: int = 16
    of: Literal["input", "image"] = "input"

    def __post_init__(self) -> None:
        if (self.gamma is not None and self.gamma < 0) or self.interval < 1:
            raise ValueError(
                f"r1 has gamma {self.gamma} and interval {self.interval}; expected a weight of 0 "
                "(off) or more, or null for the rule, and an interval of at least 1"
            )

    def weighted(self, gamma: float | None, resolution: int, batch_size: int) -> R1:
        """This penalty with a number for its weight: that given, else its own, else that of the
        rule.
        """
        own = self.gamma if gamma is None else gamma
        if own is None:
            own = 0.0002 * resolution**2 / batch_size
        return self if own == self.gamma else replace(self, gamma=own)

    def __call__(
        self, judge: Callable[..., Tensor], image: Tensor, raw: Tensor | None = None
    ) -> Tensor:
        """The penalty of each image, [b].

        Args:
            judge: (image, raw) -> logits [b].
            image: real images [b 3 H W].
            raw: real raw images [b 3 h w] for dual discrimination, else None.
        """
        if self.gamma is None:
            raise ValueError(
                "R1 has no gamma yet; `weighted` gives it one for a resolution and a batch size"
            )
        inputs = [x.detach().requires_grad_(True) for x in (image, raw) if x is not None]
        logits = judge(inputs[0], inputs[1] if raw is not None else None)
        with full_precision(logits):  # every operation's gradient has its own precision
            gradients = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
        return (
            self.gamma
            / 2
            * torch.stack([g.square().sum(dim=(1, 2, 3)) for g in gradients]).sum(dim=0)
        )


@dataclass(frozen=True)
class R2:
    """gamma/2 |grad_x D(x)|^2 on fakes (Mescheder et al. 2018), at the interval of R1.

    Args:
        gamma: weight; 0 is off. R3GAN: that of R1.
    """

    gamma: float = 0.0

    def __post_init__(self) -> None:
        if self.gamma < 0:
            raise ValueError(f"r2.gamma is {self.gamma}; expected 0 (off) or a positive weight")


@dataclass(frozen=True)
class DensityRegularization:
    """Smooth density: mean |sigma(p) - sigma(p + delta)| at random points (EG3D, supplement
    "density regularization").

    Args:
        weight: 0 is off. EG3D: 0.25.
        perturbation: standard deviation of delta, world units (the `l1` kind).
        interval: iterations between two steps (EG3D: 4).
        kind: `l1`; or `monotonic-detach` / `monotonic-fixed`, which first ask the density not to
            fall from the front to the back of the scene, then smooth with delta = extent / 256.
        num_points: points per image, uniform in [-1, 1]^3 whatever the extent of the scene, as in
            EG3D.
    """

    weight: float = 0.0
    perturbation: float = 0.004
    interval: int = 4
    kind: Literal["l1", "monotonic-detach", "monotonic-fixed"] = "l1"
    num_points: int = 1000

    def __call__(
        self, sigma: Callable[[Tensor], Tensor], randomness: Randomness, extent: float = 1.0
    ) -> Tensor:
        """The regularizer of each image, [b].

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
    """Path length regularization (StyleGAN2, section 3.2): weight (|J_w^T y| - a)^2, a the running
    mean of the lengths.

    Twice differentiated through the generator. In the penalty the mean is that after this batch,
    and carries gradient, as published; it is taken over the whole batch and all processes.

    Args:
        weight: 0 is off. StyleGAN2: 2.
        interval: iterations between two steps (StyleGAN2: 4).
        decay: share of the new mean.
        batch_shrink: one in this many images of the batch is used.
    """

    weight: float = 0.0
    interval: int = 4
    decay: float = 0.01
    batch_shrink: int = 2

    def __post_init__(self) -> None:
        if self.weight < 0 or min(self.interval, self.batch_shrink) < 1 or not 0 <= self.decay <= 1:
            raise ValueError(
                f"path_length has weight {self.weight}, interval {self.interval}, decay "
                f"{self.decay} and batch_shrink {self.batch_shrink}; expected a weight of 0 (off) "
                "or more, an interval and a batch_shrink of at least 1, a decay in [0, 1]"
            )

    def lengths(
        self, ws: Tensor, image: Tensor, randomness: Randomness, *, differentiable: bool = True
    ) -> Tensor:
        """sqrt(mean over latents of |d(sum image y)/dw|^2), y ~ N(0, 1) / sqrt(H W).

        Args:
            ws: the latents that the images were made of, [b n w].
            image: [b 3 H W].
            randomness: one stream per image.
            differentiable: whether the lengths carry gradient.

        Returns:
            [b].
        """
        y = randomness.normal("path_noise", *image.shape[1:]) / math.sqrt(
            image.shape[2] * image.shape[3]
        )
        with full_precision(image):
            (gradient,) = torch.autograd.grad((image * y).sum(), ws, create_graph=differentiable)
        return gradient.square().sum(dim=2).mean(dim=1).sqrt()

    def __call__(self, lengths: Tensor, mean: Tensor, of_batch: Tensor | None = None) -> Tensor:
        """The penalty of each image, [b].

        The mean over the batch has the published gradient, that through a included,

            d/dl_i sum_j (l_j - a)^2 = 2 (l_i - a) - 2 decay (L - a),   a = m + decay (L - m)

        Args:
            lengths: l of some images of the batch, [b].
            mean: m, the running mean, a scalar.
            of_batch: L, the mean length over the whole batch, a scalar; None: over these images.
        """
        whole = lengths.detach().mean() if of_batch is None else of_batch
        a = mean.lerp(whole, self.decay)
        through_a = 2 * self.decay * (whole - a) * (lengths - lengths.detach())  # is 0
        return self.weight * ((lengths - a).square() - through_a)


@dataclass(frozen=True)
class PosePrediction:
    """The discriminator predicts pitch and yaw, |pose(x) - (pitch, yaw)|^2, mean over both angles
    (GRAM eq. 10, pi-GAN).

    Both players minimize it on fakes, the discriminator on reals, too. Angles are those of
    Camera.sphere_pose, radians.

    Args:
        weight: on fakes; 0 is off. GRAM and pi-GAN: 15.
        real_weight: on reals, which then need cameras. GRAM: 15, pi-GAN: 0.
    """

    weight: float = 0.0
    real_weight: float = 0.0

    @property
    def enabled(self) -> bool:
        return self.weight > 0 or self.real_weight > 0

    def __call__(self, pose: Tensor, camera: Camera) -> Tensor:
        """Squared error of predicted poses [b 2], without weight, [b]."""
        return (pose - camera.sphere_pose()).square().mean(dim=1)


@dataclass(frozen=True)
class LatentPrediction:
    """The discriminator predicts z of fakes, weight |latent(x) - z|^2, mean over the dimensions
    (pi-GAN; its recipes: 0).

    Args:
        weight: 0 is off.
    """

    weight: float = 0.0

    def __call__(self, latent: Tensor, z: Tensor) -> Tensor:
        """Weighted squared error of each image, [b]."""
        return self.weight * (latent - z).square().mean(dim=1)


@dataclass(frozen=True)
class Patches:
    """The adversarial game on patches, beside that on whole images (GRAM-HD eq. 9): weight * mean
    over patches.

    Args:
        weight: 0 is off. GRAM-HD: 0.1.
        in_r1: whether R1 differentiates the patches' logits, too.
    """

    weight: float = 0.0
    in_r1: bool = True

    def __call__(self, loss: Callable[..., Tensor], *patch_logits: Tensor) -> Tensor:
        """Weighted mean over the patches of each image of an adversarial loss, [b].

        Args:
            loss: of logits [n] of one side, or of both sides of a paired game.
            patch_logits: of that side, or of both, [b 1 h w].
        """
        values = loss(*(logits.flatten() for logits in patch_logits))
        return self.weight * values.view(len(patch_logits[0]), -1).mean(dim=1)

    def realness(self, patch_logits: Tensor) -> Tensor:
        """What R1 differentiates beside the logit of the image: weight * mean of the patches'
        logits, [b].
        """
        return self.weight * patch_logits.flatten(1).mean(dim=1)


@dataclass(frozen=True)
class CrossResolution:
    """Shrunk, a super-resolved image is the raw image, and its radiance maps are the raw maps
    (GRAM-HD eq. 12, 13):

        weight (mean |down(image) - raw|^2 + mean |down(maps) - raw_maps|^2)

    where `down` is an anti-aliased bicubic filter.

    Args:
        weight: 0 is off. GRAM-HD: 1, 3, 10 at 256, 512, 1024 px.
    """

    weight: float = 0.0

    def __call__(
        self, image: Tensor, raw: Tensor, maps: Tensor | None = None, raw_maps: Tensor | None = None
    ) -> Tensor:
        """The penalty of each image, [b].

        Args:
            image: [b 3 H W].
            raw: [b 3 h w].
            maps: [b k c H W], of models that have them.
            raw_maps: [b k c h w].
        """
        pairs = [(image[:, None], raw[:, None])]
        if maps is not None and raw_maps is not None:
            pairs.append((maps, raw_maps))
        return self.weight * torch.stack([self._difference(*pair) for pair in pairs]).sum(dim=0)

    @staticmethod
    def _difference(large: Tensor, small: Tensor) -> Tensor:
        shrunk = bicubic_downsample(large.flatten(0, 1), large.shape[-1] // small.shape[-1])
        return (shrunk.view_as(small) - small).square().mean(dim=(1, 2, 3, 4))


def lazy_interval(density: DensityRegularization, path_length: PathLength) -> int:
    """The interval of the generator's lazy regularizer, 0 if there is none; two at once have no
    common correction.
    """
    on = [regularizer.interval for regularizer in (density, path_length) if regularizer.weight > 0]
    if len(on) > 1:
        raise ValueError(
            "density and path_length are both on; the generator has one lazy regularizer: turn one "
            "off"
        )
    return on[0] if on else 0


@dataclass(frozen=True)
class PoseConditioning:
    """Generator pose conditioning (EG3D, section 4.4): the conditioning camera is another image's
    with p_swap.

    p_swap falls from 1 (the pose says nothing) to `swap` while the first `fade_kimg` thousand
    images are seen.

    Args:
        swap: final probability of a swapped conditioning camera.
        fade_kimg: length of the fall.
    """

    swap: float = 0.5
    fade_kimg: float = 1000.0

    def __call__(
        self, camera: Camera, other: Camera, randomness: Randomness, images_seen: int
    ) -> Camera:
        """The conditioning camera of each image: its rendering camera, or another one.

        unlike eg3d: the other pose is a draw of the prior, not the batch neighbor's (a roll by
        one), so that it does not depend on how the batch is split; the published roll does nothing
        at micro-batch 1.

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


@dataclass(frozen=True)
class Losses:
    """The losses of both players and their regularizers.

    Args:
        adversarial: the game; None is the non-saturating loss.
        r1: gradient penalty on real images.
        r2: gradient penalty on fakes.
        density: density regularization (needs a generator with a field).
        path_length: path length regularization (StyleGAN2).
        pose: pose prediction by the discriminator (GRAM, pi-GAN).
        latent: prediction of z by the discriminator (pi-GAN).
        patch: the game on patches, beside the one on images (GRAM-HD).
        consistency: the downsampled image equals the raw image (GRAM-HD).
    """

    adversarial: Adversarial | None = None
    r1: R1 = R1()
    r2: R2 = R2()
    density: DensityRegularization = DensityRegularization()
    path_length: PathLength = PathLength()
    pose: PosePrediction = PosePrediction()
    latent: LatentPrediction = LatentPrediction()
    patch: Patches = Patches()
    consistency: CrossResolution = CrossResolution()

    @property
    def game(self) -> Adversarial:
        return self.adversarial or NonSaturating()

    @property
    def penalized(self) -> bool:
        """Whether there is a gradient penalty at all."""
        return self.r1.gamma != 0 or self.r2.gamma != 0

    @property
    def lazy_g(self) -> int:
        """Interval of the generator's lazy regularizer, 0 if there is none."""
        return lazy_interval(self.density, self.path_length)

    @property
    def lazy_d(self) -> int:
        """Interval of the gradient penalties if they have a step of their own, else 0."""
        return self.r1.interval if self.penalized and self.r1.interval > 1 else 0
