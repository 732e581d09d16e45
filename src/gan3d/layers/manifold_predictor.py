"""The manifold predictor: the scalar field whose level sets are GRAM's surfaces (section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from gan3d.host import constant
from gan3d.layers.precision import full_precision


class ManifoldPredictor(nn.Module):
    """s(x) = output(relu(.. relu(network_0(x / (E/2) - center)))), shared by all scenes of a model.

    Initially s ~ 10 |x / (E/2) - center| - init_radius: the level sets are concentric spheres
    around (E/2) center (Atzmon & Lipman, CVPR 2020).

    Args:
        width: width of the hidden layers.
        num_layers: number of hidden layers, each a linear layer and a ReLU.
        center: center of the initial spheres, in half extents.
        init_radius: subtracted from the initial s.
        extent: E, side of the scene's cube.

    Raises:
        ValueError: there is no hidden layer, or `center` does not have 3 numbers.
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
                f"got num_layers {num_layers} and center {tuple(center)}; expected 1 or more "
                "layers, and 3 numbers"
            )
        self.center = tuple(float(value) for value in center)
        self.extent = extent
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
        """World points [.. 3] -> s [..]."""
        # Surfaces are found by comparing s, for which half precision is too coarse.
        with full_precision(points):
            center = constant(self.center, points)
            return self.output_layer(self.network(points * (2 / self.extent) - center))[..., 0]
