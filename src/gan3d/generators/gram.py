"""GRAM: Generative Radiance Manifolds for 3D-Aware Image Generation.

Deng et al., CVPR 2022, arXiv:2112.08867.

    z    -> mapping -> ws (a gain and a phase per FiLM layer)
    rays -> intersections with 23 level sets of s(x), shared by all scenes, and a background plane
         -> FiLM-SIREN radiance there -> alpha compositing -> image

`GRAM()` is the published FFHQ model at 64 x 64 (1,950,621 parameters). It is stage 1 of GRAM-HD,
which has these parameters under the same names. Deviations are marked `unlike gram` here and in
`rendering.manifolds`.

Convention: the published cameras are at distance 1 with a field of view of 12 degrees
(`Camera.from_sphere`); for other cameras set `scene_extent`, `ray_start` and `ray_end`. Densities
are meaningful on the surfaces only, so there is no `field`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor

from gan3d.camera import Camera
from gan3d.generators.contract import Generator, Rendering, cast_rays
from gan3d.host import constant
from gan3d.layers.film_mapping import FiLMMapping
from gan3d.layers.manifold_predictor import ManifoldPredictor
from gan3d.layers.manifold_radiance import (
    NUM_FILM,
    ColorActivation,
    DensityActivation,
    ManifoldRadiance,
)
from gan3d.layers.mean_latent import follow, mean_of_codes, truncated
from gan3d.randomness import Randomness
from gan3d.rendering.manifolds import ManifoldOptions, render_manifolds


class GRAM(Generator):
    """Radiance on learned surfaces, at any resolution, with independent pixels.

    Args:
        z_dim: size of z.
        img_resolution: default side of the image.
        hidden_dim: h, width of the radiance generator; ws are [b 9 2h].
        mapping_hidden_dim: width of the mapping network.
        w_avg_beta: decay of the mean latent per `track`.
        predictor_width: width of the manifold predictor.
        predictor_layers: number of its hidden layers.
        predictor_center: center of its initial spheres, in half extents of the scene.
        predictor_init_radius: offset of its initial levels.
        scene_extent, ray_start, ray_end, num_samples, num_manifolds, levels_start, levels_end,
            background, delta_alpha, white_back, last_back, shared_origin, ray_chunk: see
            `rendering.manifolds.ManifoldOptions`.
        color_activation, density_activation: see `layers.manifold_radiance`.
        lock_view: whether the radiance generator receives view direction (0, 0, -1) instead of the
            ray's, so that colors do not depend on the camera. May be changed later
            (`generator.lock_view = True`).
    """

    w_avg: Tensor
    strict_3d: bool = True
    any_resolution: ClassVar[bool] = True
    no_float16: str = ""
    independent_pixels: bool = True
    parts = {"predictor": ("predictor.",), "radiance": ("mapping.", "radiance.")}
    style_parts = {
        "mapping": ("mapping.", "w_avg"),
        "predictor": ("predictor.",),
        "radiance": ("radiance.",),
    }
    tiny: ClassVar[dict[str, Any]] = {
        "z_dim": 16,
        "img_resolution": 32,
        "hidden_dim": 16,
        "mapping_hidden_dim": 32,
        "predictor_width": 16,
        "scene_extent": 1.0,
        "ray_start": 2.2,
        "ray_end": 3.2,
        "num_samples": 10,
        "num_manifolds": 4,
    }

    def __init__(
        self,
        *,
        z_dim: int = 256,
        img_resolution: int = 64,
        hidden_dim: int = 256,
        mapping_hidden_dim: int = 256,
        w_avg_beta: float = 0.998,
        predictor_width: int = 128,
        predictor_layers: int = 3,
        predictor_center: tuple[float, float, float] = (0.0, 0.0, -1.5),
        predictor_init_radius: float = 0.0,
        scene_extent: float = 0.24,
        ray_start: float = 0.88,
        ray_end: float = 1.12,
        num_samples: int = 64,
        num_manifolds: int = 24,
        levels_start: float = 23.0,
        levels_end: float = 8.0,
        background: bool = True,
        delta_alpha: float = 0.04,
        white_back: bool = False,
        last_back: bool = False,
        shared_origin: bool = False,
        ray_chunk: int | None = None,
        color_activation: ColorActivation = "widen_sigmoid",
        density_activation: DensityActivation = "softplus",
        lock_view: bool = False,
    ):
        super().__init__()
        self.z_dim = z_dim
        self.w_dim = 2 * hidden_dim
        self.num_ws = NUM_FILM
        self.img_resolution = img_resolution
        self.scene_extent = scene_extent
        self.lock_view = lock_view
        self.w_avg_beta = w_avg_beta
        self.ray_limits = ray_start, ray_end
        self.options = ManifoldOptions(
            scene_extent=scene_extent,
            ray_start=ray_start,
            ray_end=ray_end,
            num_samples=num_samples,
            num_manifolds=num_manifolds,
            levels_start=levels_start,
            levels_end=levels_end,
            background=background,
            delta_alpha=delta_alpha,
            white_back=white_back,
            last_back=last_back,
            shared_origin=shared_origin,
            ray_chunk=ray_chunk,
        )
        self.predictor = ManifoldPredictor(
            predictor_width,
            predictor_layers,
            center=predictor_center,
            init_radius=predictor_init_radius,
            extent=scene_extent,
        )
        self.mapping = FiLMMapping(z_dim, self.num_ws * self.w_dim, mapping_hidden_dim)
        self.radiance = ManifoldRadiance(
            hidden_dim,
            extent=scene_extent,
            color_activation=color_activation,
            density_activation=density_activation,
        )
        self.register_buffer("w_avg", torch.zeros(self.num_ws, self.w_dim))

    def map(
        self,
        z: Tensor,
        camera: Camera | None = None,
        *,
        truncation: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """ws [b n w], truncated `latents`; the camera is ignored."""
        return truncated(self.latents(z), self.w_avg, truncation, truncation_cutoff)

    def latents(self, z: Tensor) -> Tensor:
        """z [b z_dim] -> [b 9 2h]: gain and phase of each FiLM layer."""
        # The network returns all gains first, then all phases.
        return rearrange(self.mapping(z), "b (two n h) -> b n (two h)", two=2, n=NUM_FILM)

    def represent(self, ws: Tensor, *, randomness: Randomness | None = None) -> Tensor:
        """The scene is ws: surfaces are shared, and their radiance is a function of ws."""
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
        """Renders b scenes, or one scene from b cameras; deterministic, `randomness` is ignored.

        Returns:
            image, depth (sum of weights times camera z, not divided by the opacity), opacity, and
            as extra "ray_depth" [b 1 h w], the same with distances along the ray.
        """
        view = cast_rays(self, camera, resolution or self.img_resolution, rays, randomness)
        ws = representation.expand(len(view.rays.origins), -1, -1)

        def radiance(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
            if self.lock_view:
                directions = constant((0.0, 0.0, -1.0), directions).expand_as(directions)
            sample = self.radiance(points, directions, ws)
            return sample.sigma, sample.rgb

        seen = render_manifolds(self.predictor, radiance, view.rays, self.options)
        return Rendering(
            view.maps(2 * seen.rgb - 1),
            depth=view.maps(seen.depth * view.rays.cosines),
            opacity=view.maps(seen.opacity),
            extras={"ray_depth": view.maps(seen.depth)},
        )

    def batch_bound(self) -> str:
        return "shared_origin true" if self.options.shared_origin else ""

    def track(self, ws: Tensor, statistics: Tensor | None = None, *, batch_size: int = 32) -> None:
        follow(self.w_avg, ws, self.w_avg_beta)

    @torch.no_grad()
    def estimate_w_avg(self, num_codes: int = 10_000, seed: int = 0) -> None:
        """Sets w_avg to the mean latents of `num_codes` codes, the same codes in every call.

        unlike gram: not redrawn at each use (its Q12), because an image must not depend on earlier
        draws.
        """
        self.w_avg.copy_(mean_of_codes(self.latents, self.z_dim, self.w_avg, num_codes, seed))
