"""pi-GAN: Periodic Implicit Generative Adversarial Networks for 3D-Aware Image Synthesis.

Chan et al., CVPR 2021, arXiv:2012.00926, as in the CIPS-3D repository (specs/cips3d.md 20).

    z   -> mapping network -> gains and phases of 9 layers
    ray -> 12 + 12 points -> eight FiLM-SIREN layers -> sigma
                          -> a ninth layer with the view direction -> color
        -> volume rendering -> image

Pixels are independent: any subset of rays can be rendered, at any resolution. `PiGAN()` is the
published model for CelebA and Cats ("spatial", a field in a box); `PiGAN(box_side=2.0)` is the one
for CARLA ("tall"), whose points are not scaled.

Convention: the scene is around the origin; cameras of the published models are on the unit sphere,
with the pixel grid of `Camera.from_sphere(.., resolution=..)`. Directions are unit vectors away
from the camera, in world coordinates.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from gan3d.camera import Camera
from gan3d.generators.contract import Generator, Rendering, cast_rays
from gan3d.host import constant
from gan3d.layers.film_mapping import FiLMMapping
from gan3d.layers.film_siren import FiLMSiren, siren_head
from gan3d.layers.mean_latent import follow, mean_of_codes, truncated
from gan3d.layers.precision import full_precision
from gan3d.randomness import Randomness
from gan3d.rendering.left_point import Clamp, Fill, LeftPointOptions, render_left_point

GRID_SPREAD = 0.01


class PiGANField(nn.Module):
    """Raw density and color in [0, 1] at points of the box [-1, 1]^3 (pi-GAN 3.1 and figure 2).

        h_0 = x,   h_{i+1} = siren_i(h_i)
        sigma = final(h_L),   rgb = sigmoid(linear(siren_L([d, h_L])))

    With a grid, h_0 = [features of the grid at x, x], interpolated trilinearly with corners
    aligned, zero outside the box.

    Args:
        hidden_dim: width of the layers.
        layers: L, number of FiLM-SIREN layers before the density.
        grid_channels: features of the learned grid; 0 for no grid.
        grid_resolution: side of the grid.

    Raises:
        ValueError: there is no layer, or the grid is invalid.
    """

    def __init__(
        self, hidden_dim: int, layers: int, grid_channels: int = 0, grid_resolution: int = 96
    ):
        super().__init__()
        if layers < 1:
            raise ValueError(
                f"hidden_layers is {layers}; the density needs 1 or more FiLM-SIREN layers"
            )
        if grid_channels < 0 or grid_resolution < 1:
            raise ValueError(
                f"got a grid of {grid_channels} x {grid_resolution}^3; use 32 x 96^3, or "
                "grid_channels 0"
            )
        self.grid: nn.Parameter | None = None
        if grid_channels:
            # The initialization of the published grid is not specified.
            grid = torch.randn(1, grid_channels, *[grid_resolution] * 3)
            self.grid = nn.Parameter(GRID_SPREAD * grid)
        first = FiLMSiren(grid_channels + 3, hidden_dim, first=True)
        others = [FiLMSiren(hidden_dim, hidden_dim) for _ in range(layers - 1)]
        self.network = nn.ModuleList([first, *others])
        self.final_layer = siren_head(hidden_dim, 1)
        self.color_layer_sine = FiLMSiren(3 + hidden_dim, hidden_dim)
        self.color_layer_linear = siren_head(hidden_dim, 3)

    def forward(self, points: Tensor, directions: Tensor, ws: Tensor) -> tuple[Tensor, Tensor]:
        """Density and color at points.

        Args:
            points: coordinates in the box, [b p 3].
            directions: unit vectors, [b p 3].
            ws: [b n 2h].

        Returns:
            sigma [b p 1] and rgb [b p 3].
        """
        gains, phases = (half.unbind(1) for half in ws.chunk(2, dim=-1))
        h = points
        if self.grid is not None:
            h = torch.cat([self._grid_features(self.grid, points), points], -1)
        for layer, gain, phase in zip(self.network, gains, phases):
            h = layer(h, gain, phase)
        color = self.color_layer_sine(torch.cat([directions, h], -1), gains[-1], phases[-1])
        return self.final_layer(h), self.color_layer_linear(color).sigmoid()

    @staticmethod
    def _grid_features(grid: Tensor, points: Tensor) -> Tensor:
        """Features [b p c] of the grid [1 c z y x] at points [b p 3]."""
        where = rearrange(points, "b p c -> 1 1 b p c")
        features = F.grid_sample(
            grid, where, mode="bilinear", padding_mode="zeros", align_corners=True
        )
        return rearrange(features, "1 c 1 b p -> b p c")


class PiGAN(Generator):
    """pi-GAN with one FiLM-SIREN field.

    ws has one row per FiLM layer, the color layer last: its gain (before gamma = 15 gain + 30),
    then its phase. A scene is its ws. Parameters have their published names (specs/cips3d.md,
    appendix C), except

        published                       here
        siren.mapping_network           mapping_network
        siren.network.N.layer           siren.network.N
        siren.color_layer_sine.layer    siren.color_layer_sine
        siren.color_layer_linear.0      siren.color_layer_linear

    Args:
        img_resolution: default side of the image.
        z_dim: size of z.
        hidden_dim: h, width of the FiLM-SIREN layers.
        hidden_layers: number of FiLM-SIREN layers before the density.
        mapping_hidden_dim: width of the mapping network.
        mapping_hidden_layers: number of its layers before the last one.
        grid_channels: features of a learned grid, an additional input of the field; 0 for no grid.
            The published variants with a grid have 32.
        grid_resolution: side of the grid, 96 or 64.
        w_avg_beta: decay of the mean latents per `track`.
        box_side: side of the scene's cube; points are divided by half of it, so that 2 does not
            scale them.
        ray_start, ray_end, num_steps, hierarchical, last_back, white_back, fill_mode, clamp_mode,
            ray_chunk: see `rendering.left_point.LeftPointOptions`.
        lock_view: whether the field receives view direction (0, 0, -1) everywhere.

    Raises:
        ValueError: an argument is out of range.
    """

    w_avg: Tensor
    has_field: ClassVar[bool] = True
    strict_3d: bool = True
    any_resolution: ClassVar[bool] = True
    no_float16: str = ""
    independent_pixels: bool = True
    parts = {"mapping": ("mapping_network.",), "field": ("siren.",)}
    style_parts = {"mapping": ("mapping_network.", "w_avg"), "field": ("siren.",)}
    tiny: ClassVar[dict[str, Any]] = {
        "img_resolution": 32,
        "z_dim": 12,
        "hidden_dim": 24,
        "hidden_layers": 3,
        "mapping_hidden_dim": 16,
        "box_side": 1.0,
        "ray_start": 2.25,
        "ray_end": 3.3,
        "num_steps": 6,
    }

    def __init__(
        self,
        *,
        img_resolution: int = 64,
        z_dim: int = 256,
        hidden_dim: int = 256,
        hidden_layers: int = 8,
        mapping_hidden_dim: int = 256,
        mapping_hidden_layers: int = 3,
        grid_channels: int = 0,
        grid_resolution: int = 96,
        w_avg_beta: float = 0.998,
        box_side: float = 0.24,
        ray_start: float = 0.88,
        ray_end: float = 1.12,
        num_steps: int = 12,
        hierarchical: bool = True,
        last_back: bool = False,
        white_back: bool = False,
        fill_mode: Fill | None = None,
        clamp_mode: Clamp = "relu",
        lock_view: bool = False,
        ray_chunk: int | None = None,
    ):
        super().__init__()
        if box_side <= 0:
            raise ValueError(
                f"box_side {box_side} is not positive; it is the side of the scene's cube, and 2 "
                "does not scale points"
            )
        self.lock_view = lock_view
        self.ray_limits = ray_start, ray_end
        self.options = LeftPointOptions(
            ray_start=ray_start,
            ray_end=ray_end,
            num_steps=num_steps,
            hierarchical=hierarchical,
            last_back=last_back,
            white_back=white_back,
            fill_mode=fill_mode,
            clamp_mode=clamp_mode,
            ray_chunk=ray_chunk,
        )
        self.z_dim = z_dim
        self.w_dim = 2 * hidden_dim
        self.num_ws = hidden_layers + 1
        self.img_resolution = img_resolution
        self.box_side = box_side
        self.w_avg_beta = w_avg_beta
        # Points outside the limits of the rays are never sampled.
        self.scene_extent = min(box_side, ray_end - ray_start)
        self.mapping_network = FiLMMapping(
            z_dim,
            self.num_ws * self.w_dim,
            mapping_hidden_dim,
            mapping_hidden_layers,
            last_scale=0.25,
        )
        self.siren = PiGANField(hidden_dim, hidden_layers, grid_channels, grid_resolution)
        self.register_buffer("w_avg", torch.zeros(self.num_ws, self.w_dim))

    def map(
        self,
        z: Tensor,
        camera: Camera | None = None,
        *,
        truncation: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        # The network returns all gains first, then all phases.
        ws = rearrange(self.mapping_network(z), "b (k n h) -> b n (k h)", k=2, n=self.num_ws)
        return truncated(ws, self.w_avg, truncation, truncation_cutoff)

    def represent(self, ws: Tensor, *, randomness: Randomness | None = None) -> Tensor:
        if ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(
                f"ws has shape {tuple(ws.shape)}; expected [b {self.num_ws} {self.w_dim}], use "
                "map(z)"
            )
        return ws

    def render(
        self,
        representation: Tensor,
        camera: Camera | None = None,
        *,
        resolution: int | None = None,
        rays: Tensor | None = None,
        raw: bool = True,
        randomness: Randomness | None = None,
    ) -> Rendering:
        """Renders a scene, image = 2 sum_i w_i rgb_i - 1.

        Args:
            representation: result of `represent`, b scenes, or one for all cameras.
            camera: b views.
            resolution: side of the image; None is `img_resolution`.
            rays: pixel indices [r] to render; all maps are then [b c r 1].
            raw: ignored, there is one image.
            randomness: jitter, importance and density noise, see `rendering.left_point`; None is
                deterministic.

        Returns:
            image, depth, opacity, and as extra "ray_depth" [b 1 h w], the published depth: the sum
            of weighted distances. `depth` also counts the light that is not absorbed, at the last
            sample.
        """
        view = cast_rays(self, camera, resolution or self.img_resolution, rays, randomness)

        def query(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
            r, s = points.shape[1:3]
            flat_directions = rearrange(directions.expand_as(points), "b r s c -> b (r s) c")
            flat_points = rearrange(points, "b r s c -> b (r s) c")
            sigma, rgb = self._query(representation, flat_points, flat_directions)
            return sigma.unflatten(1, (r, s)), rgb.unflatten(1, (r, s))

        # A gain of 30 before the sine needs full precision.
        with full_precision(view.rays.origins):
            seen = render_left_point(
                query,
                view.rays,
                self.options,
                view.randomness,
                density_noise=self.density_noise,
                lock_view=self.lock_view,
            )

        return Rendering(
            view.maps(2 * seen.features - 1),
            depth=view.maps(seen.distance * view.rays.cosines),
            opacity=view.maps(seen.opacity),
            extras={"ray_depth": view.maps(seen.depth)},
        )

    def field(
        self, representation: Tensor, points: Tensor, directions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Raw density [b p 1] and color [b p 3] in [0, 1] at world points [b p 3].

        Without `directions`, the view direction is (0, 0, -1).
        """
        if directions is None:
            directions = constant((0.0, 0.0, -1.0), points)
        with full_precision(points):
            return self._query(representation, points, directions.expand_as(points))

    def track(self, ws: Tensor, statistics: Tensor | None = None, *, batch_size: int = 32) -> None:
        follow(self.w_avg, ws, self.w_avg_beta)

    @torch.no_grad()
    def estimate_w_avg(self, num_codes: int = 10_000, seed: int = 0) -> None:
        """Sets w_avg to the mean latents of `num_codes` codes.

        The published code recomputes them in each truncated call.

        Args:
            num_codes: number of codes.
            seed: seed of the codes, which are drawn on the CPU, so that the mean does not depend on
                the device of the model.
        """
        self.w_avg.copy_(mean_of_codes(self.map, self.z_dim, self.w_avg, num_codes, seed))

    def _query(self, ws: Tensor, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """World points and directions [b p 3] -> sigma [b p 1], rgb [b p 3]."""
        return self.siren(points * (2 / self.box_side), directions, ws)
