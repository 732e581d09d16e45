"""Alias-free synthesis network (Karras et al. 2021, StyleGAN3): Fourier features, then filtered
layers.

    input:  x_c(p) = sin(2 pi (f_c . p + phi_c)), rotated and translated by w, mixed by a matrix
    layer:  x <- down(clamp(sqrt(2) lrelu(up(modconv(g x, A w) + b)))),   g = 1 / sqrt(E[x^2])
    image:  output_scale clamp(modconv(g x, A w) + b), without demodulation

g keeps the signal at unit magnitude: E[x^2] is a running mean, one number per layer. A forward pass
returns the magnitudes of its own signals and changes no state; `track` updates the running means
with them. `settle` does both at once, as published. Parameters and buffers have the names of the
published weights. The schedule is in `layers.alias_free_filters`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan3d.layers.alias_free_filters import AliasFreeLayers, LayerSpec, Signal
from gan3d.layers.linear import EqualizedLinear
from gan3d.layers.modulated import demodulation
from gan3d.layers.precision import full_precision
from gan3d.ops.filtered_lrelu import filtered_lrelu


class Picture(NamedTuple):
    """Result of a forward pass.

    Attributes:
        image: [b c H W].
        magnitudes: mean square of the input of every layer, [b num_layers + 1].
    """

    image: Tensor
    magnitudes: Tensor


class FourierInput(nn.Module):
    """Samples of the continuous input signal, Fourier features (section 3.1).

    Args:
        w_dim: size of w.
        signal: number of channels, side of the map, sampling rate s, and cutoff B, the largest
            frequency.
    """

    transform: Tensor
    freqs: Tensor
    phases: Tensor

    def __init__(self, w_dim: int, signal: Signal):
        super().__init__()
        self.signal = signal
        direction = torch.randn(signal.channels, 2)
        radius = direction.square().sum(1, keepdim=True).sqrt()
        # |f| = B exp(-radius^2 / 4) is uniform over the disc.
        frequencies = direction / (radius * radius.square().exp() ** 0.25) * signal.cutoff
        self.weight = nn.Parameter(torch.randn(signal.channels, signal.channels))
        self.affine = EqualizedLinear(w_dim, 4)
        with torch.no_grad():
            self.affine.weight.zero_()
            self.affine.get_parameter("bias").copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", frequencies)
        self.register_buffer("phases", torch.rand(signal.channels) - 0.5)

    def forward(self, w: Tensor, transform: Tensor | None = None) -> Tensor:
        """The input signal, computed without autocast.

        Args:
            w: [b w_dim].
            transform: from output to input coordinates (the inverse of the image's motion), in
                image widths, y down, [3 3] or [b 3 3]; None for the buffer `transform`.

        Returns:
            [b c h w].

        Raises:
            ValueError: the transform has another shape.

        Convention: pixel j of n is at ((j + 1/2) - n / 2) / s, so that the image spans [-1/2, 1/2]
        with the margin outside.
        """
        user = self.transform if transform is None else transform.to(self.transform)
        if user.shape not in ((3, 3), (len(w), 3, 3)):
            raise ValueError(
                f"transform has shape {tuple(user.shape)}; expected [3 3] or [{len(w)} 3 3]"
            )
        with full_precision(w):
            matrix = self._motion(w.to(self.weight.dtype)) @ user  # b 3 3
            frequencies = self.freqs @ matrix[:, :2, :2]  # b c 2
            phases = self.phases + (self.freqs @ matrix[:, :2, 2:])[..., 0]  # b c
            x = self._sampled(frequencies, phases) * self._amplitude(frequencies)[..., None, None]
            mix = self.weight / math.sqrt(self.signal.channels)
            return (mix @ x.flatten(2)).unflatten(2, x.shape[2:])

    def _motion(self, w: Tensor) -> Tensor:
        """Learned rotation times translation, [b 3 3], from t = affine(w) / |t_1 t_2|."""
        t = self.affine(w)
        cos, sin, x, y = (t / t[:, :2].norm(dim=1, keepdim=True)).unbind(1)
        one = torch.ones_like(x)
        zero = torch.zeros_like(x)
        rotation = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], 1)
        translation = torch.stack([one, zero, -x, zero, one, -y, zero, zero, one], 1)
        return rotation.unflatten(1, (3, 3)) @ translation.unflatten(1, (3, 3))

    def _amplitude(self, frequencies: Tensor) -> Tensor:
        """1 up to B, 0 from s / 2 on: frequencies that a transform moves above Nyquist fade."""
        cutoff = self.signal.cutoff
        nyquist = self.signal.sampling_rate / 2
        return (1 - (frequencies.norm(dim=2) - cutoff) / (nyquist - cutoff)).clamp(0, 1)

    def _sampled(self, frequencies: Tensor, phases: Tensor) -> Tensor:
        """sin(2 pi (f_x x + f_y y + phi)) on the grid, [b c h w]."""
        size = self.signal.size
        pixels = torch.arange(size, device=phases.device, dtype=phases.dtype)
        place = (pixels + 0.5 - size / 2) / self.signal.sampling_rate
        along_x = 2 * math.pi * (frequencies[..., :1] * place + phases[..., None])  # b c w
        along_y = 2 * math.pi * frequencies[..., 1:] * place  # b c h

        # sin(a + b) = cos b sin a + sin b cos a.
        rows = torch.stack([along_y.cos(), along_y.sin()], 3)  # b c h 2
        columns = torch.stack([along_x.sin(), along_x.cos()], 2)  # b c 2 w
        return rows @ columns


class AliasFreeLayer(nn.Module):
    """One layer: modulated convolution, then the activation on a finer grid.

    Args:
        spec: input and output signals, filters and sampling rates.
        w_dim: size of w.
        conv_clamp: largest magnitude of the activations; None does not clamp.
    """

    magnitude_ema: Tensor
    up_filter: Tensor | None
    down_filter: Tensor | None

    def __init__(self, spec: LayerSpec, *, w_dim: int, conv_clamp: float | None = 256):
        super().__init__()
        self.spec = spec
        self.conv_clamp = conv_clamp
        i, o, k = spec.inside.channels, spec.outside.channels, spec.kernel_size
        self.affine = EqualizedLinear(w_dim, i, bias_init=1)
        self.weight = nn.Parameter(torch.randn(o, i, k, k))
        self.bias = nn.Parameter(torch.zeros(o))
        self.register_buffer("magnitude_ema", torch.ones(()))
        self.register_buffer("up_filter", spec.up_filter())
        self.register_buffer("down_filter", spec.down_filter())

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [b i h w], w [b w_dim] -> [b o H W].

        Raises:
            ValueError: x does not have the channels and the size of the layer's input.
        """
        spec = self.spec
        channels, size = spec.inside.channels, spec.inside.size
        if x.shape[1:] != (channels, size, size):
            raise ValueError(
                f"layer {spec.name} got {tuple(x.shape)}; expected [b {channels} {size} {size}]"
            )
        with full_precision(x):
            styles = self.affine(w.to(self.affine.weight.dtype))
            if spec.is_rgb:
                styles = styles / math.sqrt(channels * spec.kernel_size**2)

        gain = self.magnitude_ema.rsqrt()
        demodulate = not spec.is_rgb
        if spec.in_low_precision:
            y = modulated_conv(x, self.weight, styles, gain, demodulate=demodulate)
        else:
            with full_precision(x):
                x = x.to(styles.dtype)
                y = modulated_conv(x, self.weight, styles, gain, demodulate=demodulate)

        before, after = spec.padding
        return filtered_lrelu(
            y,
            self.up_filter,
            self.down_filter,
            self.bias,
            up=spec.up,
            down=spec.down,
            padding=(before, after, before, after),
            gain=1 if spec.is_rgb else math.sqrt(2),
            slope=1 if spec.is_rgb else 0.2,
            clamp=self.conv_clamp,
        )

    def extra_repr(self) -> str:
        spec = self.spec
        inside, outside, k = spec.inside, spec.outside, spec.kernel_size
        kind = "critical" if spec.is_critical else "radial" if spec.down_radial else "separable"
        rates = f"{inside.sampling_rate}->{spec.tmp_sampling_rate}->{outside.sampling_rate}"
        return (
            f"{inside.channels}, {outside.channels}, {k}x{k}, "
            f"size={inside.size}->{outside.size}, rate={rates}, {kind}"
        )


class AliasFreeSynthesis(nn.Module):
    """From ws to an image, or to the planes of a tri-plane (with output_scale 1).

    `forward` and `picture` change no state. `picture` also returns the magnitudes for `track`.
    `settle` updates the running magnitudes layer by layer, as published; it also calibrates a
    network that was not trained.

    Args:
        w_dim: size of a latent.
        img_resolution: R, a power of two.
        img_channels: channels of the image.
        schedule: channels, sizes and filters of the layers.
        output_scale: factor of the image.
        conv_clamp: largest magnitude of the activations; None does not clamp.

    Raises:
        ValueError: the resolution is not a power of two.
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        schedule: AliasFreeLayers = AliasFreeLayers(),
        *,
        output_scale: float = 0.25,
        conv_clamp: float | None = 256,
    ):
        super().__init__()
        if img_resolution < 4 or img_resolution & (img_resolution - 1):
            raise ValueError(
                f"img_resolution {img_resolution} is not a power of two of at least 4; use 64, "
                "128, 256, .."
            )
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.output_scale = output_scale
        specs = schedule.layers(img_resolution, img_channels)
        self.input = FourierInput(w_dim, specs[0].inside)
        self.layer_names = [spec.name for spec in specs]
        for spec in specs:
            self.add_module(spec.name, AliasFreeLayer(spec, w_dim=w_dim, conv_clamp=conv_clamp))
        self.num_ws = len(specs) + 1

    @property
    def layers(self) -> list[AliasFreeLayer]:
        """The layers from coarse to fine; the last one makes the image."""
        return [getattr(self, name) for name in self.layer_names]

    def forward(self, ws: Tensor, transform: Tensor | None = None) -> Tensor:
        """ws [b num_ws w_dim] -> [b img_channels H W]; `transform` as in `FourierInput.forward`."""
        return self.picture(ws, transform).image

    def picture(self, ws: Tensor, transform: Tensor | None = None) -> Picture:
        """The image and the magnitudes of the signals; arguments as for `forward`."""
        x = self._start(ws, transform)
        magnitudes = []
        for layer, w in zip(self.layers, ws.unbind(1)[1:], strict=True):
            magnitudes.append(mean_square(x))
            x = layer(x, w)
        return Picture(self._image(x), torch.stack(magnitudes, 1))

    def settle(self, ws: Tensor, beta: float, transform: Tensor | None = None) -> Tensor:
        """The image; updates each running magnitude by this batch before its layer uses it.

        Changes state.

        Args:
            ws: [b num_ws w_dim].
            beta: decay of the running magnitudes; 0 replaces them by those of this batch.
            transform: as for `forward`.

        Returns:
            [b img_channels H W].
        """
        x = self._start(ws, transform)
        for layer, w in zip(self.layers, ws.unbind(1)[1:], strict=True):
            _move(layer.magnitude_ema, mean_square(x).mean(), beta)
            x = layer(x, w)
        return self._image(x)

    def track(self, magnitudes: Tensor, beta: float) -> None:
        """magnitude_ema <- m + beta (magnitude_ema - m), m the batch mean of the magnitudes.

        Changes state.

        Args:
            magnitudes: [b num_layers + 1], from `picture`.
            beta: decay.

        Raises:
            ValueError: the number of magnitudes does not match the layers.
        """
        if magnitudes.ndim != 2 or magnitudes.shape[1] != len(self.layer_names):
            raise ValueError(
                f"magnitudes have shape {tuple(magnitudes.shape)}; expected [b "
                f"{len(self.layer_names)}]"
            )
        for layer, mean in zip(self.layers, magnitudes.mean(0), strict=True):
            _move(layer.magnitude_ema, mean, beta)

    def _start(self, ws: Tensor, transform: Tensor | None) -> Tensor:
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(
                f"ws have shape {tuple(ws.shape)}; expected [b {self.num_ws} {self.w_dim}]"
            )
        return self.input(ws[:, 0], transform)

    def _image(self, x: Tensor) -> Tensor:
        return x.to(self.input.weight.dtype) * self.output_scale


def modulated_conv(
    x: Tensor, weight: Tensor, styles: Tensor, gain: Tensor, *, demodulate: bool
) -> Tensor:
    """Modulated convolution of StyleGAN3 (appendix F); zero padding enlarges the map by k - 1.

        w''_noik = g d_no s_ni w_oik,   d_no = 1 / sqrt(sum_ik (s_ni w_oik)^2 + 1e-8)

    With demodulation, w and s are first normalized to unit magnitude.

    Args:
        x: [b i h w].
        weight: w, [o i k k].
        styles: s, [b i].
        gain: g, one number, which demodulation does not cancel.
        demodulate: whether to normalize w and s and to multiply by d.

    Returns:
        [b o h+k-1 w+k-1].
    """
    with full_precision(x):
        scale = gain.expand(len(x), 1)
        if demodulate:
            weight = weight * weight.square().mean([1, 2, 3], keepdim=True).rsqrt()
            # unlike stylegan3: per image, not over the batch, so that images are independent of
            # each other. Demodulation cancels the difference up to its 1e-8.
            styles = styles * styles.square().mean(1, keepdim=True).rsqrt()
            scale = scale * demodulation(weight, styles)
    k = weight.shape[-1]

    # Several images: scaled maps and one shared kernel are fastest.
    if k > 1 and len(x) > 1:
        y = F.conv2d(x * styles.to(x.dtype)[:, :, None, None], weight.to(x.dtype), padding=k - 1)
        return y * scale.to(y.dtype)[:, :, None, None]

    # Kernels of 1x1, or a single image: scaled kernels.
    kernels = weight * styles[:, None, :, None, None] * scale[:, :, None, None, None]  # b o i k k
    kernels = kernels.to(x.dtype)
    if k == 1:
        return (kernels.flatten(2) @ x.flatten(2)).unflatten(2, x.shape[2:])
    return F.conv2d(x, kernels[0], padding=k - 1)


@torch.no_grad()
def mean_square(x: Tensor) -> Tensor:
    """Mean of x^2 over c h w, [b], in float32 at least and without a gradient."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    # Row by row, because one sum over all samples would lose digits.
    rows = torch.linalg.vector_norm(x, dim=3, dtype=dtype).square()
    return rows.mean([1, 2]) / x.shape[3]


@torch.no_grad()
def _move(mean: Tensor, value: Tensor, beta: float) -> None:
    """mean <- value + beta (mean - value), in place."""
    mean.copy_(value.to(mean).lerp(mean, beta))
