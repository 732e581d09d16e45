"""Whether heads turn with the camera, and stay the same heads while they do.

HeadNet reads the yaw of every picture. Its slope over the yaw of the camera, at fixed conditioning,
is 1 for heads that turn as far as the camera moves, 0 for heads that keep facing the viewer, and -1
for heads that turn the other way, such as those of mirrored pictures.

    turn = sum_k (y_k - mean y) r_k / sum_k (y_k - mean y)^2  /  the same slope of true heads

y_k are the cameras' yaws, r_k what is read. Identity compares frontal and turned views by the
cosine of what HeadNet reads of the head's shape:

    identity = (same - different) / (1 - different)

with the mean cosine of views of the same head, and of different heads. It is 1 where nothing
changes at all, so it means something only beside the turn.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.metrics.exact import exact
from gan3d.metrics.frechet import ExactMetric
from gan3d.metrics.headnet import IDENTITY_NAMES, HeadNet, headnet

YAWS = (-0.5, -0.25, 0.0, 0.25, 0.5)  # radians, within the cameras of FFHQ and of wide sets


def turn_slope(read: Tensor, yaw: Tensor) -> Tensor:
    """Slope of the yaws that were read over those of the cameras, by least squares.

    Args:
        read: radians [b y].
        yaw: of the cameras, radians [y], at least two different ones.

    Returns:
        float64 [b].
    """
    read, yaw = exact(read), exact(yaw).to(exact(read).device)
    if read.ndim != 2 or read.shape[1:] != yaw.shape or not bool((yaw != yaw[0]).any()):
        raise ValueError(
            f"yaws read have shape {list(read.shape)}, those of the cameras {list(yaw.shape)}; "
            "expected [b y] and [y], y at least two different ones"
        )
    yaw = yaw - yaw.mean()
    return (read * yaw).sum(1) / yaw.square().sum()


class HeadTurn(ExactMetric):
    """Turn and identity of many heads, each seen at the same yaws.

    Its states are sums, so any split over batches and processes gives the same values.

    Args:
        yaws: of the cameras, radians, from the front on both sides; one is 0.
        network: reads the pictures; None is the HeadNet of gan3d.
    """

    higher_is_better = True
    yaw: Tensor
    num: Tensor
    turn: Tensor
    same: Tensor
    units: Tensor

    def __init__(self, yaws: Sequence[float] = YAWS, network: HeadNet | None = None):
        super().__init__()
        if 0.0 not in yaws or len(yaws) < 2:
            raise ValueError(f"yaws {list(yaws)}: expected 0 and at least one other")
        self.network = headnet() if network is None else network
        self.register_buffer("yaw", torch.tensor(yaws, dtype=torch.float64), persistent=False)
        self.front = list(yaws).index(0.0)
        shape = (len(yaws), len(IDENTITY_NAMES))
        for name, start in (
            ("num", torch.zeros(())),
            ("turn", torch.zeros(())),
            ("same", torch.zeros(())),
            ("units", torch.zeros(shape)),
        ):
            self.add_state(name, start.double(), dist_reduce_fx="sum")

    @torch.no_grad()
    def update(self, images: Tensor) -> None:
        """Adds b heads: images [b y 3 H W] in [-1, 1], at each of the yaws, from pitch 0."""
        if images.ndim != 5 or images.shape[1] != len(self.yaw):
            raise ValueError(
                f"images have shape {list(images.shape)}, expected [b {len(self.yaw)} 3 H W]: "
                f"each head at the yaws {self.yaw.tolist()}"
            )
        b, y = images.shape[:2]
        reading = self.network(images.flatten(0, 1))
        slope = turn_slope(reading.yaw.unflatten(0, (b, y)), self.yaw)
        unit = F.normalize(exact(reading.identity), dim=1).unflatten(0, (b, y)).to(self.num.device)
        self.num = self.num + b
        self.turn = self.turn + slope.sum().to(self.num) / self.network.true_slope(images.shape[-1])
        self.same = self.same + self._with_front(unit).sum()
        self.units = self.units + unit.sum(0)

    def compute(self) -> dict[str, Tensor]:
        """`turn` and `identity`, float64 scalars.

        Raises:
            ValueError: there are fewer than two heads to tell apart.
        """
        if self.num < 2:
            raise ValueError(
                f"{int(self.num)} heads; identity compares at least 2: call update with more"
            )
        # the sum over all pairs of heads contains those of a head with itself
        different = (self._with_front(self.units) - self.same) / (self.num * (self.num - 1))
        same = self.same / self.num
        return {"turn": self.turn / self.num, "identity": (same - different) / (1 - different)}

    def _with_front(self, unit: Tensor) -> Tensor:
        """Mean over turned views of the product with the frontal view, [.. y k] -> [..]."""
        products = (unit * unit[..., self.front : self.front + 1, :]).sum(-1)
        others = products.sum(-1) - products[..., self.front]
        return others / (unit.shape[-2] - 1)
