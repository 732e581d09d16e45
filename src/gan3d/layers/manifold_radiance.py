"""The radiance generator of GRAM and GRAM-HD: a FiLM-SIREN whose every layer has a say (GRAM
section 3.3).

x_0 = film_0(2 x / E),   x_i = film_i(x_{i-1}),  i = 1..7
sigma = softplus(sum_j sigma_j(x_j)),  features = sum_j feature_j(x_j),                        j = 1..7
rgb = 1.002 sigmoid(sum_{j<7} color_j(x_j) + color_7(film_color([d, x_7]))) - 0.001
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan3d.layers.film_siren import FiLMSiren, siren_head
from gan3d.layers.precision import full_precision

NUM_TRUNK = 8
NUM_HEADS = NUM_TRUNK - 1
NUM_FILM = NUM_TRUNK + 1

ColorActivation = Literal["widen_sigmoid", "sigmoid"]
DensityActivation = Literal["softplus", "relu"]


class RadianceSample(NamedTuple):
    """What the generator says of points; None where it was not asked.

    Attributes:
        rgb: color in about [0, 1], [b p 3].
        sigma: density, not negative, [b p 1].
        features: [b p f].
    """

    rgb: Tensor
    sigma: Tensor | None
    features: Tensor | None


class ManifoldRadiance(nn.Module):
    """Points, view directions and latents to color, density and features.

    ws [b 9 2h] holds a gain and a phase [h] for each FiLM layer, those of the color layer last.

    Args:
        hidden_dim: h.
        feature_dim: f; 0 has no feature heads.
        extent: E, side of the scene's cube: its points are scaled to [-1, 1].
        color_activation: "widen_sigmoid" (1.002 sigmoid - 0.001) or "sigmoid".
        density_activation: "softplus" or "relu".
    """

    def __init__(
        self,
        hidden_dim: int = 256,
        feature_dim: int = 0,
        *,
        extent: float = 0.24,
        color_activation: ColorActivation = "widen_sigmoid",
        density_activation: DensityActivation = "softplus",
    ):
        super().__init__()
        if color_activation not in ("widen_sigmoid", "sigmoid"):
            raise ValueError(
                f"color_activation {color_activation!r} is unknown; choose widen_sigmoid or sigmoid"
            )
        if density_activation not in ("softplus", "relu"):
            raise ValueError(
                f"density_activation {density_activation!r} is unknown; choose softplus or relu"
            )
        self.hidden_dim, self.feature_dim, self.extent = hidden_dim, feature_dim, extent
        self.color_activation, self.density_activation = color_activation, density_activation
        trunk = [FiLMSiren(3, hidden_dim, first=True)] + [
            FiLMSiren(hidden_dim, hidden_dim) for _ in range(NUM_HEADS)
        ]
        self.network = nn.ModuleList(trunk)
        self.color_layer = FiLMSiren(hidden_dim + 3, hidden_dim)
        self.output_sigma = nn.ModuleList(siren_head(hidden_dim, 1) for _ in range(NUM_HEADS))
        self.output_color = nn.ModuleList(siren_head(hidden_dim, 3) for _ in range(NUM_HEADS))
        self.output_feature = nn.ModuleList(
            siren_head(hidden_dim, feature_dim) for _ in range(NUM_HEADS if feature_dim else 0)
        )

    def forward(
        self,
        points: Tensor,
        directions: Tensor,
        ws: Tensor,
        *,
        sigma: bool = True,
        features: bool = False,
    ) -> RadianceSample:
        """Radiance of b scenes at p points each.

        Args:
            points: world, [b p 3].
            directions: of view, unit length, [b p 3].
            ws: [b 9 2h].
            sigma: whether density is asked for.
            features: whether features are asked for.
        """
        if ws.shape[1:] != (NUM_FILM, 2 * self.hidden_dim) or len(ws) != len(points):
            raise ValueError(
                f"ws {tuple(ws.shape)} for points {tuple(points.shape)}; expected [{len(points)} "
                f"{NUM_FILM} {2 * self.hidden_dim}], a gain and a phase for each FiLM layer"
            )
        if features and not self.feature_dim:
            raise ValueError(
                "features were asked of a radiance generator without them; build it with "
                "feature_dim > 0"
            )
        films = [ws[:, i].chunk(2, -1) for i in range(NUM_FILM)]
        with full_precision(points):  # coordinates times 30 leave bfloat16 no digits
            x = self.network[0](points * (2 / self.extent), *films[0])
        total: Tensor | int = 0  # b p (3 + 1 + f), summed over the heads
        for j in range(NUM_HEADS - 1):
            x = self.network[j + 1](x, *films[j + 1])
            total = total + _together(
                x, [self.output_color[j], *self._colorless(j, sigma, features)]
            )
        x = self.network[NUM_HEADS](x, *films[NUM_HEADS])
        last = [
            self.output_color[-1](
                self.color_layer(torch.cat([directions.to(x), x], -1), *films[-1])
            )
        ]
        if sigma or features:
            last.append(_together(x, self._colorless(-1, sigma, features)))
        with full_precision(points):
            return self._activate((total + torch.cat(last, -1)).to(ws.dtype), sigma, features)

    def _colorless(self, j: int, sigma: bool, features: bool) -> list[nn.Module]:
        """The heads of layer j that do not see the view direction."""
        return [
            heads[j]
            for heads, wanted in ((self.output_sigma, sigma), (self.output_feature, features))
            if wanted
        ]

    def _activate(self, total: Tensor, sigma: bool, features: bool) -> RadianceSample:
        rgb = total[..., :3].sigmoid()
        if self.color_activation == "widen_sigmoid":
            rgb = 1.002 * rgb - 0.001
        density = None
        if sigma:
            density = (
                F.softplus(total[..., 3:4])
                if self.density_activation == "softplus"
                else total[..., 3:4].relu()
            )
        return RadianceSample(rgb, density, total[..., 3 + sigma :] if features else None)


def _together(x: Tensor, heads: list[nn.Module]) -> Tensor:
    """The outputs of several linear layers beside each other, reading x once."""
    weight, bias = (
        torch.cat([head.get_parameter(name) for head in heads]) for name in ("weight", "bias")
    )
    return F.linear(x, weight, bias)
