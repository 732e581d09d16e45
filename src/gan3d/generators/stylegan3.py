"""StyleGAN3 (Karras et al. 2021), configurations T and R: equivariant to translation and rotation.

z, c --mapping--> ws --alias-free synthesis--> image
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

from torch import Tensor

from gan3d.camera import Camera
from gan3d.generators.contract import UNBOUNDED, Generator, Rendering, check_whole, label_of
from gan3d.layers.alias_free import AliasFreeSynthesis, Picture
from gan3d.layers.alias_free_filters import AliasFreeLayers
from gan3d.layers.mapping import MappingNetwork, MappingOptions
from gan3d.randomness import Randomness


class StyleGAN3(Generator):
    """StyleGAN3; its representation is a `Picture`: the image, and the magnitudes for `track`.

    The defaults are the published ones of configuration T at 256 px. Names in the state dict are
    the published ones. There is no noise: images depend on ws (and the transform) only.

    Args:
        config: "T" (translation) or "R" (translation and rotation); "R" has 1x1 kernels, radial
            filters, and twice the given channel_base and channel_max.
        z_dim: size of z.
        c_dim: 0, or 25 to condition on the camera's label (zeros without a camera).
        w_dim: size of a latent.
        img_resolution: a power of two.
        img_channels: 3, or more if the image is a feature image.
        channel_base: a layer has channel_base / (2 f_c) channels, at most channel_max (in
            configuration T).
        channel_max: largest number of channels (in configuration T).
        num_layers: number of layers, without the input and the last one, which makes the image.
        num_critical: number of layers at the end that are critically sampled.
        first_cutoff: f_c of the first layer, per image width.
        first_stopband: f_t of the first layer.
        last_stopband_rel: f_t / f_c of the last layer.
        margin_size: pixels beyond the image.
        output_scale: factor of the image.
        conv_kernel: side of the kernels; None for the one of the configuration, 3 or 1.
        filter_size: taps at the lower sampling rate.
        lrelu_upsampling: sampling rate of the activation, relative to its layer.
        use_radial_filters: radially symmetric downsampling filters; None as in the configuration.
        conv_clamp: largest magnitude of activations; None does not clamp.
        num_fp16_res: number of doublings of resolution, counted from the finest, that run in low
            precision under autocast.
        mapping_layers: number of layers in the mapping network.
        mapping_lr_multiplier: learning rate multiplier of the mapping network.
        w_avg_beta: decay of the mean latent per `track`.
        magnitude_ema_beta: decay of the running magnitudes per `track` and `settle`; None computes
            it from the batch size and magnitude_half_life_kimg.
        magnitude_half_life_kimg: half-life of the running magnitudes in kimg.

    Raises:
        ValueError: an argument is unknown or out of range.
    """

    has_camera = False
    style_affine = "affine.weight"
    movable = True
    tiny: ClassVar[dict[str, Any]] = {
        "z_dim": 8,
        "w_dim": 16,
        "img_resolution": 32,
        "channel_base": 128,
        "channel_max": 12,
        "num_layers": 5,
    }

    def __init__(
        self,
        *,
        config: Literal["T", "R"] = "T",
        z_dim: int = 512,
        c_dim: int = 0,
        w_dim: int = 512,
        img_resolution: int = 256,
        img_channels: int = 3,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_layers: int = 14,
        num_critical: int = 2,
        first_cutoff: float = 2.0,
        first_stopband: float = 2**2.1,
        last_stopband_rel: float = 2**0.3,
        margin_size: int = 10,
        output_scale: float = 0.25,
        conv_kernel: int | None = None,
        filter_size: int = 6,
        lrelu_upsampling: int = 2,
        use_radial_filters: bool | None = None,
        conv_clamp: float | None = 256,
        num_fp16_res: int = 4,
        mapping_layers: int = 2,
        mapping_lr_multiplier: float = 0.01,
        w_avg_beta: float = 0.998,
        magnitude_ema_beta: float | None = None,
        magnitude_half_life_kimg: float = 20.0,
    ):
        super().__init__()
        if config not in ("T", "R"):
            raise ValueError(f"config {config!r} is unknown; choose T or R")
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.camera_conditioned = c_dim > 0
        self.no_float16 = "" if conv_clamp is not None else UNBOUNDED
        self.magnitude_ema_beta = magnitude_ema_beta
        self.magnitude_half_life_kimg = magnitude_half_life_kimg

        # The published configurations, with single options replaced.
        schedule = AliasFreeLayers(
            channel_base=channel_base,
            channel_max=channel_max,
            num_layers=num_layers,
            num_critical=num_critical,
            first_cutoff=first_cutoff,
            first_stopband=first_stopband,
            last_stopband_rel=last_stopband_rel,
            margin_size=margin_size,
            filter_size=filter_size,
            lrelu_upsampling=lrelu_upsampling,
            num_fp16_res=num_fp16_res,
        )
        schedule = schedule.turning() if config == "R" else schedule
        if conv_kernel is not None:
            schedule = replace(schedule, conv_kernel=conv_kernel)
        if use_radial_filters is not None:
            schedule = replace(schedule, use_radial_filters=use_radial_filters)

        self.synthesis = AliasFreeSynthesis(
            w_dim,
            img_resolution,
            img_channels,
            schedule,
            output_scale=output_scale,
            conv_clamp=conv_clamp,
        )
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(
            z_dim,
            c_dim,
            w_dim,
            self.num_ws,
            MappingOptions(
                num_layers=mapping_layers,
                lr_multiplier=mapping_lr_multiplier,
                w_avg_beta=w_avg_beta,
            ),
        )

    def map(
        self,
        z: Tensor,
        camera: Camera | None = None,
        *,
        truncation: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        c = label_of(z, camera, self.c_dim)
        return self.mapping(z, c, truncation=truncation, truncation_cutoff=truncation_cutoff)

    def represent(self, ws: Tensor, *, randomness: Randomness | None = None) -> Picture:
        return self.synthesis.picture(ws)

    def synthesize(self, ws: Tensor, transform: Tensor | None = None) -> Tensor:
        """The image of ws, with transformed input coordinates.

        Args:
            ws: [b num_ws w_dim].
            transform: from output to input coordinates (the inverse of the image's motion), in
                image widths, y down, [3 3] or [b 3 3]; None for the buffer
                `synthesis.input.transform`. A translation by (-dx, -dy) moves the image by
                (dx, dy).

        Returns:
            [b img_channels H W].
        """
        return self.synthesis(ws, transform)

    def render(
        self,
        representation: Picture,
        camera: Camera | None = None,
        *,
        resolution: int | None = None,
        rays: Tensor | None = None,
        raw: bool = True,
        randomness: Randomness | None = None,
    ) -> Rendering:
        check_whole(self, resolution, rays)
        return Rendering(representation.image)

    def statistics(self, representation: Picture) -> Tensor:
        return representation.magnitudes

    def track(self, ws: Tensor, statistics: Tensor | None = None, *, batch_size: int = 32) -> None:
        # unlike stylegan3: magnitudes are updated after the forward pass, which changes no state,
        # so its gains are from earlier batches. `settle` has the published order.
        self.mapping.track(ws)
        if statistics is not None:
            self.synthesis.track(statistics, self.magnitude_decay(batch_size))

    def settle(self, ws: Tensor, *, batch_size: int = 32) -> Tensor:
        """The image [b c H W] of ws; updates each running magnitude before its layer uses it.

        Changes state. This is the published forward pass with update_emas, except for w_avg, which
        `track` updates. A few passes also calibrate a network that was not trained: the input of
        every layer then has unit magnitude.
        """
        return self.synthesis.settle(ws, self.magnitude_decay(batch_size))

    def magnitude_decay(self, batch_size: int) -> float:
        """Decay of the running magnitudes per batch: magnitude_ema_beta, or by the half-life."""
        if self.magnitude_ema_beta is not None:
            return self.magnitude_ema_beta
        return 0.5 ** (batch_size / (self.magnitude_half_life_kimg * 1000))
