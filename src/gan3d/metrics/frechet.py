"""Frechet distance between two sets of images, on any features.

With Inception features this is the FID. `SmallFeatures` are fixed random features: they need no
download, and rank runs on one data set at one resolution. Their numbers must not be called FID or
compared with published ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torchmetrics import Metric

from gan3d.metrics.exact import check_finite, exact

BLOCK = 4096  # features held in float64 at once


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> Tensor:
    """Squared Frechet distance of two Gaussians.

        d^2 = |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2))

    (Dowson and Landau 1982; Heusel et al. 2017). C1 C2 has the eigenvalues of the symmetric
    C1^(1/2) C2 C1^(1/2), which are real and not negative. So the trace of its root needs neither a
    general matrix root nor an epsilon, even for singular covariances.

    Args:
        mean1, mean2: [c].
        cov1, cov2: [c c], symmetric, positive semi-definite.

    Returns:
        A float64 scalar.
    """
    mean1, cov1, mean2, cov2 = (exact(x) for x in (mean1, cov1, mean2, cov2))
    values, vectors = torch.linalg.eigh(cov1)
    root1 = vectors * values.clamp(min=0).sqrt() @ vectors.mT
    product = root1 @ cov2 @ root1
    trace_root = torch.linalg.eigvalsh((product + product.mT) / 2).clamp(min=0).sqrt().sum()
    return (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * trace_root


def feature_moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [c] and covariance [c c] of features [n c], float64.

    The covariance is divided by n, as in the FID.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(
            f"features have shape {list(features.shape)}, expected [n c] of at least 2 images"
        )
    check_finite(features, "images")
    rows = features.float()  # every protocol keeps features in float32; only the sums are float64
    sums = [exact(block).sum(dim=0) for block in rows.split(BLOCK)]
    mean = torch.stack(sums).sum(dim=0) / len(rows)
    outer = mean.new_zeros(len(mean), len(mean))
    for block in rows.split(BLOCK):
        centered = exact(block) - mean
        outer += centered.mT @ centered
    return mean, outer / len(rows)


class ExactMetric(Metric):
    """A metric with float64 states, which stay on the CPU where the device has no float64."""

    is_differentiable = False
    full_state_update = False

    def _apply(self, fn: Callable, exclude_state: Sequence[str] = "") -> nn.Module:
        try:
            fn(torch.zeros((), dtype=torch.float64))
        except TypeError:
            return nn.Module._apply(self, fn)
        return super()._apply(fn, exclude_state)


class FrechetDistance(ExactMetric):
    """Frechet distance between real and fake images, reduced exactly over processes.

    The states are sums (n, sum x, sum x x^T, in float64), so any split of the images over batches
    and processes gives the same result. The distance is biased upwards for few images: report n,
    and compare at equal n only.

    Args:
        features: images [b 3 H W] in [-1, 1] -> features [b c].
        reset_real: whether `reset` also clears the real side; False keeps its statistics for many
            sets of fakes.
        img_resolution: side of the images, with which the number of features is found. None finds
            it with the first images; in a run of several processes, each must then see some.

    Raises:
        ValueError: the network does not take images of `img_resolution`.
    """

    higher_is_better = False

    def __init__(
        self, features: nn.Module, reset_real: bool = True, img_resolution: int | None = None
    ):
        super().__init__()
        self.reset_real = reset_real
        self.features = features.eval().requires_grad_(False)
        # Scalars become vectors and matrices by the first sum.
        dim = () if img_resolution is None else (self._num_features(img_resolution),)
        for kind in ("real", "fake"):
            for state, shape in (("n", ()), ("sum", dim), ("outer", 2 * dim)):
                zeros = torch.zeros(shape, dtype=torch.float64)
                self.add_state(f"{kind}_{state}", zeros, dist_reduce_fx="sum")

    @torch.no_grad()
    def update(self, images: Tensor, real: bool) -> None:
        """Adds images [b 3 H W] in [-1, 1] to the real or the fake side."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images have shape {list(images.shape)}, expected [b 3 H W] in [-1, 1]"
            )
        if len(images) == 0:
            return
        x = self.features(images).to(self.real_n.device).double()  # b c
        kind = "real" if real else "fake"
        for state, value in (("n", len(x)), ("sum", x.sum(0)), ("outer", x.mT @ x)):
            setattr(self, f"{kind}_{state}", getattr(self, f"{kind}_{state}") + value)

    def compute(self) -> Tensor:
        """The distance, a float64 scalar."""
        return frechet_distance(*self.moments(real=True), *self.moments(real=False))

    def reset(self) -> None:
        """Clears the fakes, and the reals unless `reset_real` is False."""
        real = {name: getattr(self, name) for name in self._defaults if name.startswith("real")}
        super().reset()
        if not self.reset_real:
            for name, value in real.items():
                setattr(self, name, value)

    def moments(self, real: bool) -> tuple[Tensor, Tensor]:
        """Mean [c] and covariance [c c] of the features of one side; divided by n, as published.

        Raises:
            ValueError: there are fewer than two images.
            ArithmeticError: a feature is not finite.
        """
        kind = "real" if real else "fake"
        n = getattr(self, f"{kind}_n")
        total = getattr(self, f"{kind}_sum")
        if n < 2:
            raise ValueError(
                f"{int(n)} {kind} images: a covariance needs at least 2; call update first"
            )
        check_finite(total, f"{kind} images")
        mean = total / n
        return mean, getattr(self, f"{kind}_outer") / n - torch.outer(mean, mean)

    def _num_features(self, img_resolution: int) -> int:
        first = next(chain(self.features.parameters(), self.features.buffers()), torch.zeros(()))
        probe = torch.zeros(1, 3, img_resolution, img_resolution, device=first.device)
        try:
            with torch.no_grad():
                return self.features(probe).shape[1]
        except RuntimeError as error:
            raise ValueError(
                f"{type(self.features).__name__} does not take images of {img_resolution} px "
                f"({error}); give a feature network that does, or one that resizes them"
            ) from error


class SmallFeatures(nn.Module):
    """Fixed random features for small images, the same on every machine.

    Two layers of random zero-mean 3x3 filters on each of three scales (the image, halved, halved
    again). The features are the mean of every response over each quadrant, its standard deviation
    over the image, and the image itself at 4x4. Means and deviations respond to texture, sharpness
    and noise, quadrants and pixels to layout and color.

    Larger images are first reduced to `resolution` by area averaging, so finer detail has no
    effect.

    Args:
        resolution: side of the finest scale in pixels.
        num_filters: filters per layer and scale.
        seed: seed of the filters.
    """

    num_scales = 3
    # Balanced on heads of 32 px, so that blur, noise, color and layout all count.
    gains = (3.0, 2.5, 1.5)

    def __init__(self, resolution: int = 64, num_filters: int = 8, seed: int = 2023):
        super().__init__()
        self.resolution = resolution
        stream = torch.Generator().manual_seed(seed)
        self.filters = nn.ParameterList()
        for in_channels in (3, num_filters) * self.num_scales:
            weight = torch.randn((num_filters, in_channels, 3, 3), generator=stream)
            weight = weight - weight.mean(dim=(2, 3), keepdim=True)  # ignores flat color
            weight = weight / weight.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
            self.filters.append(nn.Parameter(weight, requires_grad=False))

    def forward(self, images: Tensor) -> Tensor:
        """Features [b c] of images [b 3 H W] in [-1, 1]."""
        x = images.to(self.filters[0])
        if x.shape[-1] > self.resolution:
            x = F.interpolate(x, size=(self.resolution, self.resolution), mode="area")
        pixels = rearrange(F.adaptive_avg_pool2d(x, 4), "b c h w -> b (c h w)")
        columns = [pixels / 2]
        for scale in range(self.num_scales):
            y = x if scale == 0 else F.avg_pool2d(x, 2**scale)
            for weight in self.filters[2 * scale : 2 * scale + 2]:
                y = F.conv2d(F.pad(y, (1, 1, 1, 1), mode="replicate"), weight).abs()
            y = self.gains[scale] * y
            columns.append(rearrange(F.adaptive_avg_pool2d(y, 2), "b c h w -> b (c h w)"))
            columns.append(y.std(dim=(2, 3), correction=0))
        return torch.cat(columns, dim=1)
