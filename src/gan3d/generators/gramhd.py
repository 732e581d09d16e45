"""GRAM-HD: 3D-Consistent Image Generation at High Resolution with Generative Radiance Manifolds.

Xiang et al., ICCV 2023, arXiv:2206.07255.

    surfaces -> GRAM (stage 1, frozen) on an L x L grid of each -> maps of color, alpha, features
             -> super-resolution of each map -> maps of color and alpha, H x H
    rays     -> intersections with the surfaces -> lookup in the maps -> alpha compositing -> image

Super-resolution works on the surfaces, not on the image: all views of a point on a surface show the
same texel. `GRAMHD()` is the published 256 x 256 FFHQ model (11,399,012 parameters); 512 and 1024
are published too. Stage 1 has the parameter names of `GRAM`. Deviations are marked `unlike gramhd`.

Convention: as in `generators.gram`. Maps are [b k c H W], row 0 at the smallest y, the background
after the K levels.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from gan3d.camera import Camera, spanning_camera
from gan3d.generators.contract import Rendering, SurfaceLayer
from gan3d.generators.gram import GRAM
from gan3d.host import constant
from gan3d.layers.manifold_radiance import (
    NUM_FILM,
    ColorActivation,
    DensityActivation,
    ManifoldRadiance,
)
from gan3d.layers.manifold_superresolution import (
    BackgroundSuperResolution,
    ForegroundSuperResolution,
    StyleSource,
    Upsampling,
)
from gan3d.layers.precision import full_precision
from gan3d.ops.manifolds import composite_manifolds
from gan3d.randomness import Randomness
from gan3d.rendering.manifolds import (
    ManifoldRendering,
    Surfaces,
    background_coordinate,
    background_grid,
    foreground_grid,
    in_chunks,
    look_up_background,
    rendering_of,
    shade_surfaces,
    trace_surfaces,
    upsample_surfaces,
    view_directions,
    with_background,
)

# Grid points (per surface) per chunk that is recomputed in the backward pass, with checkpointing.
CHECKPOINTED_POINTS = 1024
# Rays composited per chunk without gradient.
COMPOSITED_RAYS = {"cpu": 2**13}
COMPOSITED_RAYS_ELSEWHERE = 2**18


class RadianceMaps(NamedTuple):
    """Scenes with locked view directions, which do not depend on a camera.

    Attributes:
        foreground: color and alpha of the K levels, [b k 4 H W].
        background: color of the plane, [b 3 H W].
        low_foreground: `foreground` before super-resolution, [b k 4 L L].
        low_background: `background` before super-resolution, [b 3 L L].
        ws: latents, for the raw image, [b 10 w].
    """

    foreground: Tensor
    background: Tensor
    low_foreground: Tensor
    low_background: Tensor
    ws: Tensor


class GRAMHD(GRAM):
    """GRAM with super-resolved surfaces.

    ws are the nine gains and phases of GRAM's layers and, as the tenth row, the style of the
    super-resolution; rows are padded with zeros to one size. The scene is ws itself, because colors
    depend on the view directions, and so do the maps. With `lock_view` they do not, and the scene
    is the maps (`RadianceMaps`), which render fast from further cameras.

    Args:
        z_dim: size of z.
        img_resolution: H, side of the maps, and default side of the image.
        lr_resolution: L, side of the grids and of the raw image; H / L is a power of two.
        hidden_dim, mapping_hidden_dim, w_avg_beta, predictor_width, predictor_layers,
            predictor_center, predictor_init_radius, color_activation, density_activation: as in
            `GRAM`.
        feature_dim: number of features on the grids, besides color and alpha.
        fg_channels: width of the trunk of the foreground's super-resolution.
        fg_blocks: number of its RRDBs.
        fg_growth: growth of its dense blocks.
        fg_up_channels: width after each doubling; None is the published rule, fg_channels twice,
            then halved each time.
        fg_style: network from z to the styles: "mapping", "affine", or "none" (no modulation).
        fg_last_kernel: side of its last kernel.
        bg_channels, bg_blocks, bg_growth: as above, for the background.
        bg_up_channels: width after each doubling; None is bg_channels, then halved each time.
        fg_upsampling, bg_upsampling: "bilinear", "bicubic", "nearest" or "shuffle".
        bg_residual: whether the network is added to a bicubic interpolation.
        separate_background: false makes the background an opaque map for the foreground's network.
        scene_extent, ray_start, ray_end, num_samples, num_manifolds, levels_start, levels_end,
            delta_alpha, white_back, last_back, shared_origin, ray_chunk: see
            `rendering.manifolds.ManifoldOptions`. With `shared_origin`, the view directions on the
            grids are also those of the first view.
        grid_extent: e; the grids cover [-e, e]. None is scene_extent / 2 (published: fov / 100).
        grid_heights: z of the first and the last sample of a grid; None is +-scene_extent / 2
            (published: 1 - ray limits).
        grid_delta_alpha: delta_alpha on the grids; published 0.04 for any `delta_alpha`.
        lock_view: see `GRAM`.
        geometry: intersections of rays and surfaces: "upsampled", interpolated between L x L rays
            (published), or "exact".
        lookup: placement of map texels: "official" (texels are areas although the grid includes the
            border, so contents shrink by 1 - 1/L) or "aligned" with the points of the grid. Use the
            one that the super-resolution was trained with.
        frozen: whether stage 1 except the feature heads is frozen. The predictor always is, because
            the image is not differentiable with respect to it.
        checkpointing: recompute the super-resolution and the radiance on the grids in the backward
            pass, to save memory.

    Raises:
        ValueError: H / L is not a power of two, or an argument is unknown.
    """

    has_raw: ClassVar[bool] = True
    starts_from: ClassVar[str] = "a run of GRAM, its stage 1"
    independent_pixels: bool = False
    parts = {
        "predictor": ("predictor.",),
        "radiance": (
            "mapping.",
            "radiance.network.",
            "radiance.color_layer.",
            "radiance.output_sigma.",
            "radiance.output_color.",
        ),
        "features": ("radiance.output_feature.",),
        "super_resolution": ("super_resolution.", "super_resolution_bg."),
    }
    style_parts = {
        "mapping": ("mapping.", "super_resolution.mapping_network.", "w_avg"),
        "predictor": ("predictor.",),
        "radiance": ("radiance.",),
        "super_resolution": (
            "super_resolution.conv_first.",
            "super_resolution.RRDB_trunk.",
            "super_resolution.trunk_conv.",
            "super_resolution.upconvs.",
            "super_resolution.HRconv.",
            "super_resolution.conv_last.",
            "super_resolution_bg.",
        ),
    }
    tiny: ClassVar[dict[str, Any]] = {
        **GRAM.tiny,
        "img_resolution": 32,
        "lr_resolution": 16,
        "feature_dim": 4,
        "fg_channels": 8,
        "fg_blocks": 1,
        "fg_growth": 4,
        "bg_channels": 4,
        "bg_blocks": 1,
        "bg_growth": 2,
    }

    def __init__(
        self,
        *,
        z_dim: int = 256,
        img_resolution: int = 256,
        lr_resolution: int = 64,
        hidden_dim: int = 256,
        feature_dim: int = 32,
        mapping_hidden_dim: int = 256,
        w_avg_beta: float = 0.998,
        predictor_width: int = 128,
        predictor_layers: int = 3,
        predictor_center: tuple[float, float, float] = (0.0, 0.0, -1.5),
        predictor_init_radius: float = 0.0,
        fg_channels: int = 64,
        fg_blocks: int = 8,
        fg_growth: int = 32,
        fg_up_channels: tuple[int, ...] | None = None,
        fg_upsampling: Upsampling = "shuffle",
        fg_style: StyleSource = "mapping",
        fg_last_kernel: int = 1,
        bg_channels: int = 64,
        bg_blocks: int = 4,
        bg_growth: int = 32,
        bg_up_channels: tuple[int, ...] | None = None,
        bg_upsampling: Upsampling = "bilinear",
        bg_residual: bool = True,
        separate_background: bool = True,
        scene_extent: float = 0.24,
        ray_start: float = 0.88,
        ray_end: float = 1.12,
        num_samples: int = 64,
        num_manifolds: int = 24,
        levels_start: float = 23.0,
        levels_end: float = 8.0,
        delta_alpha: float = 0.04,
        white_back: bool = False,
        last_back: bool = False,
        shared_origin: bool = False,
        ray_chunk: int | None = None,
        grid_extent: float | None = None,
        grid_heights: tuple[float, float] | None = None,
        grid_delta_alpha: float = 0.04,
        color_activation: ColorActivation = "widen_sigmoid",
        density_activation: DensityActivation = "softplus",
        lock_view: bool = False,
        geometry: Literal["upsampled", "exact"] = "upsampled",
        lookup: Literal["official", "aligned"] = "official",
        frozen: bool = True,
        checkpointing: bool = False,
    ):
        super().__init__(
            z_dim=z_dim,
            img_resolution=img_resolution,
            hidden_dim=hidden_dim,
            mapping_hidden_dim=mapping_hidden_dim,
            w_avg_beta=w_avg_beta,
            predictor_width=predictor_width,
            predictor_layers=predictor_layers,
            predictor_center=predictor_center,
            predictor_init_radius=predictor_init_radius,
            scene_extent=scene_extent,
            ray_start=ray_start,
            ray_end=ray_end,
            num_samples=num_samples,
            num_manifolds=num_manifolds,
            levels_start=levels_start,
            levels_end=levels_end,
            delta_alpha=delta_alpha,
            white_back=white_back,
            last_back=last_back,
            shared_origin=shared_origin,
            ray_chunk=ray_chunk,
            lock_view=lock_view,
        )
        scale = img_resolution // lr_resolution
        if scale * lr_resolution != img_resolution or scale & (scale - 1):
            raise ValueError(
                f"img_resolution {img_resolution} is not lr_resolution {lr_resolution} times a "
                f"power of two; use img_resolution {4 * lr_resolution}"
            )
        for name, value, known in (
            ("geometry", geometry, ("upsampled", "exact")),
            ("lookup", lookup, ("official", "aligned")),
        ):
            if value not in known:
                raise ValueError(f"{name} {value!r} is unknown; choose {' or '.join(known)}")
        self.raw_resolution = lr_resolution
        self.separate_background = separate_background
        self.geometry = geometry
        self.lookup = lookup
        self.grid_extent = scene_extent / 2 if grid_extent is None else grid_extent
        self.grid_heights = grid_heights
        self.grid_delta_alpha = grid_delta_alpha
        self.checkpointing = checkpointing

        # Radiance with feature heads, in place of GRAM's.
        self.radiance = ManifoldRadiance(
            hidden_dim,
            feature_dim,
            extent=scene_extent,
            color_activation=color_activation,
            density_activation=density_activation,
        )

        # Super-resolution.
        doublings = scale.bit_length() - 1
        if fg_up_channels is None:
            fg_up_channels = tuple(fg_channels >> max(i - 1, 0) for i in range(doublings))
        if bg_up_channels is None:
            bg_up_channels = tuple(bg_channels >> i for i in range(doublings))
        self.super_resolution = ForegroundSuperResolution(
            4 + feature_dim,
            4,
            z_dim,
            scale,
            channels=fg_channels,
            num_blocks=fg_blocks,
            growth=fg_growth,
            up_channels=fg_up_channels,
            upsampling=fg_upsampling,
            style=fg_style,
            mapping_hidden_dim=mapping_hidden_dim,
            last_kernel=fg_last_kernel,
            checkpointing=checkpointing,
        )
        if separate_background:
            self.super_resolution_bg = BackgroundSuperResolution(
                3,
                3,
                scale,
                channels=bg_channels,
                num_blocks=bg_blocks,
                growth=bg_growth,
                up_channels=bg_up_channels,
                upsampling=bg_upsampling,
                residual=bg_residual,
                checkpointing=checkpointing,
            )

        # Latents have the size of the larger of GRAM's and the super-resolution's.
        self.num_ws = NUM_FILM + 1
        self.w_dim = max(2 * hidden_dim, self.super_resolution.style_dim)
        self.register_buffer("w_avg", torch.zeros(self.num_ws, self.w_dim))
        frozen_parts = ("predictor", "radiance") if frozen else ("predictor",)
        for name, parameter in self.named_parameters():
            if self.is_part_of(name, frozen_parts):
                parameter.requires_grad_(False)

    # -- Latents and scenes ------------------------------------------------------------------------

    def latents(self, z: Tensor) -> Tensor:
        """z [b z_dim] -> [b 10 w]: GRAM's latents and the style of the super-resolution, padded."""
        rows = super().latents(z), self.super_resolution.map(z)[:, None]
        return torch.cat([F.pad(row, (0, self.w_dim - row.shape[-1])) for row in rows], 1)

    def represent(self, ws: Tensor, *, randomness: Randomness | None = None) -> Any:
        """The scene: its `RadianceMaps` if view directions are locked, else ws."""
        return self.radiance_maps(ws) if self.lock_view else ws

    def radiance_maps(self, ws: Tensor, camera: Camera | None = None) -> RadianceMaps:
        """Super-resolved maps of scenes.

        Args:
            ws: [b 10 w].
            camera: b cameras that define the view directions; None is (0, 0, -1) everywhere.
        """
        film = self._film(ws)
        style = ws[:, -1, : self.super_resolution.style_dim]
        low, low_background = self._grids(film, camera)
        if self.separate_background:
            high = self.super_resolution(low, style).to(low.dtype)
            background = self.super_resolution_bg(low_background[:, None])[:, 0].to(low.dtype)
        else:
            opaque = F.pad(low_background, (0, 0, 0, 0, 0, 1), value=1.0)
            plane = F.pad(opaque, (0, 0, 0, 0, 0, low.shape[2] - 4))
            maps = torch.cat([low, plane[:, None]], 1)
            high, plane = self.super_resolution(maps, style).to(low.dtype).tensor_split([-1], 1)
            background = plane[:, 0, :3]
        with full_precision(high):
            foreground = torch.cat([high[:, :, :3], high[:, :, 3:].sigmoid()], 2)
        return RadianceMaps(foreground, background, low[:, :, :4].contiguous(), low_background, ws)

    def _film(self, ws: Tensor) -> Tensor:
        """The gains and phases [b 9 2h] in ws [b 10 w]."""
        return ws[:, :NUM_FILM, : 2 * self.radiance.hidden_dim]

    @torch.no_grad()
    def surfaces(
        self, representation: Tensor | RadianceMaps, resolution: int | None = None
    ) -> list[SurfaceLayer]:
        """The surfaces of one scene, nearest first, the background last.

        Colors are those of locked view directions, for any `lock_view`.

        Args:
            representation: one scene.
            resolution: points per side; None is L.

        Raises:
            ValueError: there is more than one scene.
        """
        maps = representation
        if not isinstance(maps, RadianceMaps):
            maps = self.radiance_maps(maps)
        if len(maps.background) != 1:
            raise ValueError(f"got {len(maps.background)} scenes; expected one: represent(ws[:1])")
        side = resolution or self.raw_resolution
        points, valid = self._foreground_grid(side, maps.background)
        (behind,) = background_grid(side, self.options, maps.background)
        # Aligned lookups have -1 and 1 at the centers of the outer texels.
        shrink = 1 - 1 / self.img_resolution if self.lookup == "aligned" else 1.0

        def surface(
            name: str, points: Tensor, valid: Tensor, grid: Tensor, texture: Tensor
        ) -> SurfaceLayer:
            texture = torch.cat([2 * texture[:3] - 1, texture[3:]])
            points = points.unflatten(0, (side, side))
            valid = valid.unflatten(0, (side, side))
            grid = (shrink * grid).unflatten(0, (side, side))
            return SurfaceLayer(name, points, valid, grid, texture)

        # Levels.
        levels = zip(points[0].unbind(1), valid[0].unbind(1), maps.foreground[0])
        surfaces = [
            surface(f"level {i}", p, v, p[:, :2] / self.grid_extent, texture)
            for i, (p, v, texture) in enumerate(levels)
        ]

        # The background is valid everywhere and opaque.
        valid = torch.ones_like(valid[0, :, 0])
        grid = background_coordinate(behind[:, :2], self.scene_extent)
        texture = torch.cat([maps.background[0], torch.ones_like(maps.background[0, :1])])
        return [*surfaces, surface("background", behind, valid, grid, texture)]

    def _foreground_grid(self, side: int, like: Tensor) -> Surfaces:
        """The levels on side x side points."""
        return foreground_grid(
            self.predictor,
            side,
            self.options,
            like,
            half_extent=self.grid_extent,
            heights=self.grid_heights,
        )

    def _grids(self, film: Tensor, camera: Camera | None) -> tuple[Tensor, Tensor]:
        """Radiance on the grids, before super-resolution.

        Returns:
            color, alpha and features of the levels [b k 4+f L L], color of the background
            [b 3 L L].
        """
        b, side, options = len(film), self.raw_resolution, self.options
        with torch.no_grad():
            points, valid = self._foreground_grid(side, film)
            behind = background_grid(side, options, film)[:, :, None]

        def directions(points: Tensor) -> Tensor:
            if camera is None:
                return constant((0.0, 0.0, -1.0), points).expand(b, *points.shape[1:])
            origins = camera.origins[:1] if options.shared_origin else camera.origins
            return view_directions(points, origins.to(points)).expand(b, -1, -1, -1)

        def level(points: Tensor, valid: Tensor, directions: Tensor) -> tuple[Tensor]:
            flat = [rearrange(values, "b r k c -> b (r k) c") for values in (points, directions)]
            sample = self.radiance(*flat, film, features=self.radiance.feature_dim > 0)
            alpha = 1 - torch.exp(-self.grid_delta_alpha * sample.sigma)
            alpha = alpha * rearrange(valid, "b r k -> b (r k) 1")
            parts = [part for part in (sample.rgb, alpha, sample.features) if part is not None]
            return (rearrange(torch.cat(parts, -1), "b (r k) c -> b r k c", k=points.shape[2]),)

        def plane(points: Tensor, directions: Tensor) -> tuple[Tensor]:
            # unlike gramhd: the density of the background is not computed, because it is not used.
            return (self.radiance(points[:, :, 0], directions[:, :, 0], film, sigma=False).rgb,)

        chunk = options.ray_chunk
        if not chunk and self.checkpointing and torch.is_grad_enabled():
            chunk = CHECKPOINTED_POINTS
        inputs = points.expand(b, -1, -1, -1), valid.expand(b, -1, -1), directions(points)
        (foreground,) = in_chunks(level, inputs, chunk)
        (background,) = in_chunks(plane, (behind.expand(b, -1, -1, -1), directions(behind)), chunk)
        foreground = rearrange(foreground, "b (h w) k c -> b k c h w", h=side)
        background = rearrange(background, "b (h w) c -> b c h w", h=side)
        return foreground, background

    # -- Images ------------------------------------------------------------------------------------

    def render(
        self,
        representation: Tensor | RadianceMaps,
        camera: Camera | None = None,
        *,
        resolution: int | None = None,
        rays: Tensor | None = None,
        raw: bool = True,
        randomness: Randomness | None = None,
    ) -> Rendering:
        """Renders b scenes, or one scene from b cameras; deterministic, `randomness` is ignored.

        If the camera requires a gradient, it gets one through the intersections of its rays.

        Args:
            representation: result of `represent`.
            camera: b views.
            resolution: side of the image; None is H. The maps keep their size.
            rays: must be None, because every pixel is interpolated from several rays.
            raw: whether to render the image of stage 1 at L x L, which has the corner rays of the
                image.
            randomness: ignored.

        Returns:
            image, depth (sum of weights times camera z, not divided by the opacity), opacity and,
            if requested, raw (without gradient). Extras: "ray_depth" [b 1 h w], depth as distance
            along the ray; with raw also "maps" [b k+1 4 H W] and "raw_maps" [b k+1 4 L L], the K
            levels and the background, which has alpha 0 there.

        Raises:
            ValueError: there is no camera, or rays are given.
        """
        if camera is None:
            raise ValueError(
                "GRAMHD renders from a camera, got None; give render() a Camera of b views"
            )
        if rays is not None:
            raise ValueError(
                f"got {rays.numel()} rays, but GRAMHD renders whole images; leave out `rays`"
            )

        # Intersections.
        side = self.img_resolution if resolution is None else resolution
        coarse = spanning_camera(camera, side, self.raw_resolution)
        with torch.set_grad_enabled(torch.is_grad_enabled() and camera.label().requires_grad):
            low, high = self._surfaces(camera, coarse, side, raw)

        # Maps.
        maps = representation
        if not isinstance(maps, RadianceMaps):
            if self.lock_view:
                maps = self.radiance_maps(maps)
            else:
                maps = self.radiance_maps(maps.expand(len(camera), -1, -1), camera)

        # Image.
        seen, depth = self._composite(maps, high, camera)
        image, depth, opacity, ray_depth = (
            rearrange(values, "b (h w) c -> b c h w", h=side)
            for values in (2 * seen.rgb - 1, depth, seen.opacity, seen.depth)
        )
        extras = {"ray_depth": ray_depth}
        if not raw:
            return Rendering(image, None, depth, opacity, extras)

        # Image of stage 1.
        extras["maps"] = with_background(maps.foreground, maps.background)
        extras["raw_maps"] = with_background(maps.low_foreground, maps.low_background)
        assert low is not None
        return Rendering(image, self._raw(maps.ws, low, coarse), depth, opacity, extras)

    def _surfaces(
        self, camera: Camera, coarse: Camera, side: int, raw: bool
    ) -> tuple[Surfaces | None, Surfaces]:
        """Intersections of L x L rays (if needed) and side x side rays with all surfaces."""
        low = None
        upsampled = self.geometry == "upsampled"
        if raw or upsampled:
            low = trace_surfaces(self.predictor, coarse.rays(self.raw_resolution), self.options)
        if upsampled and low is not None:
            return low, upsample_surfaces(low, side)
        return low, trace_surfaces(self.predictor, camera.rays(side), self.options)

    def _composite(
        self, maps: RadianceMaps, surfaces: Surfaces, camera: Camera
    ) -> tuple[ManifoldRendering, Tensor]:
        """Looks up the maps at intersections and composites; also the depth in camera z [b r 1]."""
        b, options = len(surfaces.points), self.options
        aligned = self.lookup == "aligned"
        foreground = maps.foreground.to(surfaces.points.dtype).expand(b, -1, -1, -1, -1)
        background = maps.background.to(surfaces.points.dtype).expand(b, -1, -1, -1)
        # unlike gramhd: distances are from the camera of each image, unless `shared_origin`.
        origins = camera.origins[:1] if options.shared_origin else camera.origins

        def shade(points: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
            behind = look_up_background(
                background, points[:, :, -1], self.scene_extent, aligned=aligned
            )
            *seen, position = composite_manifolds(
                foreground,
                behind,
                points,
                valid,
                origins,
                half_extent=self.grid_extent,
                aligned=aligned,
                last_back=options.last_back,
            )
            view = rendering_of(*seen, white_back=options.white_back)
            # sum_i w_i (x_i - o) f of the camera's forward direction f
            center = (camera.origins * camera.forward).sum(-1)[:, None, None]
            depth = (position * camera.forward[:, None]).sum(-1, keepdim=True)
            return *view, depth - view.opacity * center

        chunk = None
        if not torch.is_grad_enabled():
            chunk = COMPOSITED_RAYS.get(foreground.device.type, COMPOSITED_RAYS_ELSEWHERE)
        with full_precision(foreground):
            *seen, depth = in_chunks(shade, surfaces, chunk)
        return ManifoldRendering(*seen), depth

    @torch.no_grad()
    def _raw(self, ws: Tensor, surfaces: Surfaces, camera: Camera) -> Tensor:
        """The image of stage 1, [b 3 L L]."""
        film = self._film(ws).expand(len(camera), -1, -1)

        def radiance(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
            if self.lock_view:
                directions = constant((0.0, 0.0, -1.0), directions).expand_as(directions)
            sample = self.radiance(points, directions, film)
            return sample.sigma, sample.rgb

        seen = shade_surfaces(radiance, surfaces, camera.rays(self.raw_resolution), self.options)
        return rearrange(2 * seen.rgb - 1, "b (h w) c -> b c h w", h=self.raw_resolution)
