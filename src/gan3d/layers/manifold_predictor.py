"""The scalar field whose level sets are GRAM's surfaces (GRAM section 3.2, `manifold
predictor`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gan3d.layers.precision import full_precision


class ManifoldPredictor(nn.Module):
    """s(x) = output(relu(.. relu(network_0(x / (E/2) - center)))), shared by all instances of a
    model.

    It starts as s ~ 10 |x / (E/2) - center| - init_radius: concentric spheres about (E/2) center
    (Atzmon & Lipman, CVPR 2020).

    Args:
        width: of the hidden layers.
        num_layers: of them, each a linear layer and a ReLU.
        center: of the initial spheres, in half extents.
        init_radius: subtracted from s at the start.
        extent: E, side of the scene's cube.
    """

    def __init__(
        self,
        width: int = 128,
        num_layers: int = 3,
        *,
        center: Sequence[float] = (0.0, 0.0, -1.5),
        init_radius: float = 0.0,
        extent: float = 0.24,
    ):
        super().__init__()
        if num_layers < 1 or len(center) != 3:
            raise ValueError(
                f"num_layers {num_layers} and center {tuple(center)}; expected 1 or more, and 3 "
                "numbers"
            )
        self.center, self.extent = tuple(float(value) for value in center), extent
        layers: list[nn.Module] = []
        for i in range(num_layers):
            linear = nn.Linear(width if i else 3, width)
            nn.init.normal_(linear.weight, std=math.sqrt(2 / width))
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.ReLU(inplace=True)]
        self.network = nn.Sequential(*layers)
        self.output_layer = nn.Linear(width, 1)
        nn.init.constant_(self.output_layer.weight, 10 * math.sqrt(math.pi / width))
        nn.init.constant_(self.output_layer.bias, -init_radius)

    def forward(self, points: Tensor) -> Tensor:
        """points [.. 3] (world) -> s [..], never in half precision: surfaces are found by comparing
        it.
        """
        with full_precision(points):
            center = torch.tensor(self.center, dtype=points.dtype, device=points.device)
            return self.output_layer(self.network(points * (2 / self.extent) - center))[..., 0]
