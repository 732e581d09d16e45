"""Bootstrap intervals over samples: what a value would be with other images of the same kind.

n images are drawn anew from the n that there are, with replacement (Efron 1979), `resamples` times;
a resample is the number of times that each image was drawn, w [n], sum w = n. The interval of a
mean are the quantiles of 2.5 % and 97.5 % of the resamples; that of a distance is

    value + quantile(statistic - mean statistic)

because a distance of a resample is larger on the average: it has fewer different images. That bias
is none of the value's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gan3d.metrics.exact import exact
from gan3d.metrics.frechet import feature_moments, frechet_distance
from gan3d.metrics.kernel import polynomial_kernel
from gan3d.randomness import Randomness

LEVEL = 0.95


class Interval(NamedTuple):
    """A value and its interval of 95 %."""

    value: float
    low: float
    high: float


def resampled(num: int, resamples: int, seed: int, name: str) -> Tensor:
    """How often each of `num` images is drawn in each resample, float64 [resamples num].

    Args:
        name: of the images; others are drawn independently.
    """
    draw = Randomness(seed, range(resamples), f"bootstrap/{name}")
    drawn = draw.integers("image", num, num)
    counts = torch.zeros(resamples, num, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(counts))


def around(value: float, statistics: Tensor) -> Interval:
    """The interval around a value, from the statistics of resamples [resamples]."""
    low, high = _edges(exact(statistics) - exact(statistics).mean())
    return Interval(value, value + low, value + high)


def mean_interval(values: Tensor, resamples: int, seed: int, name: str) -> Interval:
    """Of the mean of values [n], or the share of True."""
    x = exact(values).cpu()
    weights = resampled(len(x), resamples, seed, name)
    return Interval(float(x.mean()), *_edges(weights @ x / len(x)))


def frechet_interval(real: Tensor, fake: Tensor, resamples: int, seed: int) -> Interval:
    """Of the Frechet distance between features [n c] and [m c]; both are drawn anew."""
    value = frechet_distance(*feature_moments(real), *feature_moments(fake))
    pairs = zip(
        resampled(len(real), resamples, seed, "real"),
        resampled(len(fake), resamples, seed, "fake"),
    )
    x, y = exact(real).cpu(), exact(fake).cpu()
    x, y = x - x.mean(0), y - x.mean(0)  # the same distance of smaller numbers
    if min(len(x), len(y)) > x.shape[1]:
        found = [frechet_distance(*_moments(x, v), *_moments(y, w)) for v, w in pairs]
    else:
        products = x @ y.mT
        found = [frechet_of_samples(x, y, v, w, products) for v, w in pairs]
    return around(float(value), torch.stack(found))


def frechet_of_samples(x: Tensor, y: Tensor, v: Tensor, w: Tensor, products: Tensor) -> Tensor:
    """Squared Frechet distance of weighted features, without their covariances.

    With the centered rows X = sqrt(v / n) (x - m1) and Y = sqrt(w / m) (y - m2), C1 = X^T X and
    C2 = Y^T Y. The eigenvalues of C1 C2 that are not 0 are those of (X Y^T)(X Y^T)^T, so

        tr((C1 C2)^(1/2)) = sum of the singular values of X Y^T

    whose size is the number of different images, not that of the features.

    Args:
        x, y: features [n c] and [m c], float64.
        v, w: how often each image counts, [n] and [m]; sums n and m.
        products: x y^T, [n m], the same for all weights.

    Returns:
        A float64 scalar.
    """
    p, q = v / v.sum(), w / w.sum()
    mean1, mean2 = p @ x, q @ y
    spread = p @ x.square().sum(1) - mean1.square().sum()
    spread = spread + q @ y.square().sum(1) - mean2.square().sum()

    # X Y^T, of the images that were drawn; the shorter side squared
    i, j = v.nonzero()[:, 0], w.nonzero()[:, 0]
    centered = products[i][:, j] - (x[i] @ mean2)[:, None] - y[j] @ mean1 + mean1 @ mean2
    across = p[i].sqrt()[:, None] * centered * q[j].sqrt()
    square = across @ across.mT if len(i) <= len(j) else across.mT @ across
    singular = torch.linalg.eigvalsh(square).clamp(min=0).sqrt()
    return (mean1 - mean2).square().sum() + spread - 2 * singular.sum()


def kernel_interval(real: Tensor, fake: Tensor, resamples: int, seed: int) -> Interval:
    """Of the kernel distance (MMD^2) between features [n c] and [m c]; both are drawn anew.

    Pairs of an image with itself are left out, those with its own copies too: a resample is then as
    unbiased as the value.
    """
    weights = [
        torch.cat(
            [
                torch.ones(1, len(rows), dtype=torch.float64),
                resampled(len(rows), resamples, seed, n),
            ]
        )
        for rows, n in ((real, "real"), (fake, "fake"))
    ]
    x, y = real.float().cpu(), fake.float().cpu()
    within = [_within(rows, w) for rows, w in zip((x, y), weights)]
    between = ((weights[0] @ polynomial_kernel(x, y)) * weights[1]).sum(1)
    found = within[0] + within[1] - 2 * between / (len(x) * len(y))
    return around(float(found[0]), found[1:])


def states_interval(
    compute: Callable[[Tensor], Tensor], states: Tensor, resamples: int, seed: int, name: str
) -> list[Interval]:
    """Of values that follow from a sum over images: around the value, as not all of them are means
    (identity), but never beyond what a resample has had (a share of 1 is the largest).

    Args:
        compute: a sum of states [k] -> values [v].
        states: of each image, [n k].
    """
    x = exact(states).cpu()
    values = compute(x.sum(0))
    sums = resampled(len(x), resamples, seed, name) @ x
    found = torch.stack([compute(row) for row in sums])
    return [_kept(around(float(v), column), column) for v, column in zip(values, found.T)]


def _kept(interval: Interval, statistics: Tensor) -> Interval:
    """An interval within what statistics and value span."""
    value, low, high = interval
    least, most = min(value, float(statistics.min())), max(value, float(statistics.max()))
    return Interval(value, max(low, least), min(high, most))


def _edges(statistics: Tensor) -> tuple[float, float]:
    """The quantiles that hold LEVEL of some statistics."""
    edges = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = torch.quantile(exact(statistics), edges).tolist()
    return low, high


def _moments(rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [c] and covariance [c c] of features [n c], counted by weights [n]."""
    mean = weights @ rows / weights.sum()
    centered = rows - mean
    return mean, (centered * weights[:, None]).mT @ centered / weights.sum()


def _within(rows: Tensor, weights: Tensor) -> Tensor:
    """Mean kernel of pairs of different images, [resamples]."""
    kernel = polynomial_kernel(rows, rows)
    kernel.fill_diagonal_(0)
    pairs = weights.sum(1).square() - weights.square().sum(1)
    return ((weights @ kernel) * weights).sum(1) / pairs
