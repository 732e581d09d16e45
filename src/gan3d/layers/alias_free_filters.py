"""Filters and layer schedule of the alias-free generator (Karras et al. 2021, StyleGAN3).

Section 3 and appendices C and F. For layer i of L, of which the last K are critically sampled,

    cutoff       f_c(i) = f_c,0 (f_c,N / f_c,0)^min(i / (L - K), 1),   f_c,N = R / 2
    stopband     f_t(i) = f_t,0 (f_t,N / f_t,0)^min(i / (L - K), 1)
    sampling     s(i)   = 2^ceil(log2(min(2 f_t, R)))
    half width   f_h(i) = max(f_t, s / 2) - f_c

Convention: the image has width 1, so that a sampling rate is a number of pixels; every map has a
margin of some pixels beyond the image on each side. Everything is computed in float64; the filters
are stored in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Signal(NamedTuple):
    """The signal between two layers.

    Attributes:
        sampling_rate: s.
        cutoff: f_c.
        half_width: f_h.
        size: side of the map in pixels, with margins.
        channels: channels of the map.
    """

    sampling_rate: int
    cutoff: float
    half_width: float
    size: int
    channels: int


@dataclass(frozen=True)
class LayerSpec:
    """One synthesis layer.

    Attributes:
        name: name of the module.
        inside: the input signal.
        outside: the output signal.
        is_rgb: whether the layer makes the image.
        is_critical: whether the layer is critically sampled.
        kernel_size: side of the convolution's kernel.
        tmp_sampling_rate: sampling rate of the activation.
        up: upsampling factor before the activation.
        up_taps: taps of the upsampling filter.
        down: downsampling factor after the activation.
        down_taps: taps of the downsampling filter.
        down_radial: whether the downsampling filter is radially symmetric.
        in_low_precision: whether the layer may run in low precision under autocast.
    """

    name: str
    inside: Signal
    outside: Signal
    is_rgb: bool
    is_critical: bool
    kernel_size: int
    tmp_sampling_rate: int
    up: int
    up_taps: int
    down: int
    down_taps: int
    down_radial: bool
    in_low_precision: bool

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros (before, after) the zero-inserted signal, per axis; negative values crop.

        The total turns the inside.size + k - 1 samples after the convolution into outside.size.
        """
        fine_out = (self.outside.size - 1) * self.down + 1
        fine_in = (self.inside.size + self.kernel_size - 1) * self.up
        total = fine_out - fine_in + self.up_taps + self.down_taps - 2
        before = (total + self.up) // 2
        return before, total - before

    def up_filter(self) -> Tensor | None:
        """The upsampling filter, [up_taps], or None for one tap."""
        width = 2 * self.inside.half_width
        return lowpass(self.up_taps, self.inside.cutoff, width, self.tmp_sampling_rate)

    def down_filter(self) -> Tensor | None:
        """The downsampling filter, [n], [n n] if radial, or None for one tap; n is down_taps."""
        width = 2 * self.outside.half_width
        rate = self.tmp_sampling_rate
        return lowpass(self.down_taps, self.outside.cutoff, width, rate, radial=self.down_radial)


@dataclass(frozen=True)
class AliasFreeLayers:
    """Options of the schedule, by their published names.

    Attributes:
        channel_base: a layer has channel_base / (2 f_c) channels, at most channel_max.
        channel_max: largest number of channels.
        num_layers: L, without the input and the last layer, which makes the image.
        num_critical: K, number of layers at the end with cutoff R / 2 (critical sampling).
        first_cutoff: f_c,0.
        first_stopband: f_t,0.
        last_stopband_rel: f_t,N / f_c,N.
        margin_size: pixels beyond the image, on each side.
        conv_kernel: side of the convolution kernels; 1 for rotation equivariance.
        filter_size: taps at the lower of the two sampling rates.
        lrelu_upsampling: sampling rate of the activation, relative to the higher one of input and
            output.
        use_radial_filters: radially symmetric downsampling filters, except in critical layers.
        num_fp16_res: number of doublings of resolution, counted from the finest, that may run in
            low precision under autocast.

    Raises:
        ValueError: all layers are critical.
    """

    channel_base: int = 32768
    channel_max: int = 512
    num_layers: int = 14
    num_critical: int = 2
    first_cutoff: float = 2.0
    first_stopband: float = 2**2.1
    last_stopband_rel: float = 2**0.3
    margin_size: int = 10
    conv_kernel: int = 3
    filter_size: int = 6
    lrelu_upsampling: int = 2
    use_radial_filters: bool = False
    num_fp16_res: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.num_critical < self.num_layers:
            raise ValueError(
                f"num_critical is {self.num_critical} and num_layers {self.num_layers}; expected "
                "0 <= num_critical < num_layers"
            )

    def turning(self) -> AliasFreeLayers:
        """Configuration R from T: 1x1 kernels, radial filters, twice the channels."""
        return replace(
            self,
            channel_base=2 * self.channel_base,
            channel_max=2 * self.channel_max,
            conv_kernel=1,
            use_radial_filters=True,
        )

    def signals(self, img_resolution: int, img_channels: int) -> list[Signal]:
        """Output signals of the layers, [num_layers + 1]; the first one is also the input."""
        # Cutoffs and stopbands grow geometrically up to the critical layers.
        last_cutoff = img_resolution / 2
        last_stopband = last_cutoff * self.last_stopband_rel
        layers = np.arange(self.num_layers + 1)
        exponents = np.minimum(layers / (self.num_layers - self.num_critical), 1)
        cutoffs = self.first_cutoff * (last_cutoff / self.first_cutoff) ** exponents
        stopbands = self.first_stopband * (last_stopband / self.first_stopband) ** exponents

        rates = np.exp2(np.ceil(np.log2(np.minimum(stopbands * 2, img_resolution))))
        half_widths = np.maximum(stopbands, rates / 2) - cutoffs

        # The last two maps have no margin.
        sizes = rates + self.margin_size * 2
        sizes[-2:] = img_resolution
        channels = np.rint(np.minimum(self.channel_base / 2 / cutoffs, self.channel_max))
        channels[-1] = img_channels

        columns = zip(rates, cutoffs, half_widths, sizes, channels, strict=True)
        return [
            Signal(int(s), float(f_c), float(f_h), int(size), int(c))
            for s, f_c, f_h, size, c in columns
        ]

    def layers(self, img_resolution: int, img_channels: int) -> list[LayerSpec]:
        """The layers, [num_layers + 1]; the input of layer 0 is the first signal."""
        signals = self.signals(img_resolution, img_channels)
        return [
            self._layer(i, signals[max(i - 1, 0)], signal, img_resolution)
            for i, signal in enumerate(signals)
        ]

    def _layer(self, i: int, inside: Signal, outside: Signal, img_resolution: int) -> LayerSpec:
        is_rgb = i == self.num_layers
        is_critical = i >= self.num_layers - self.num_critical
        coarse = max(inside.sampling_rate, outside.sampling_rate)
        fine = coarse if is_rgb else coarse * self.lrelu_upsampling
        up = fine // inside.sampling_rate
        down = fine // outside.sampling_rate
        return LayerSpec(
            name=f"L{i}_{outside.size}_{outside.channels}",
            inside=inside,
            outside=outside,
            is_rgb=is_rgb,
            is_critical=is_critical,
            kernel_size=1 if is_rgb else self.conv_kernel,
            tmp_sampling_rate=fine,
            up=up,
            up_taps=1 if is_rgb or up == 1 else self.filter_size * up,
            down=down,
            down_taps=1 if is_rgb or down == 1 else self.filter_size * down,
            down_radial=self.use_radial_filters and not is_critical,
            in_low_precision=outside.sampling_rate * 2**self.num_fp16_res > img_resolution,
        )


def lowpass(
    taps: int, cutoff: float, width: float, sampling_rate: float, *, radial: bool = False
) -> Tensor | None:
    """A Kaiser-windowed low-pass filter with sum 1 (appendix C, equations 5 to 7).

        h_j = 2 f_c/s sinc(2 f_c/s (j - (n-1)/2)) k_j                               separable
        h_ij = J_1(2 pi f_c r) / (pi r) k_i k_j,   r = |((i, j) - (n-1)/2) / s|     radial

    Args:
        taps: n.
        cutoff: f_c.
        width: width of the transition band, 2 f_h.
        sampling_rate: s of the filtered signal.
        radial: whether the filter is radially symmetric (before windowing).

    Returns:
        [n], or [n n] if radial, float32; None for one tap.
    """
    if taps == 1:
        return None
    window = np.kaiser(taps, kaiser_beta(taps, width / (sampling_rate / 2)))
    place = np.arange(taps) - (taps - 1) / 2
    if not radial:
        h = np.sinc(2 * cutoff / sampling_rate * place) * window
        return torch.tensor(h / h.sum(), dtype=torch.float32)
    r = np.hypot(*np.meshgrid(place, place)) / sampling_rate
    r = np.maximum(r, 1e-9)  # the center of an odd number of taps, where J_1(x) / x -> 1/2
    disc = torch.special.bessel_j1(torch.from_numpy(2 * np.pi * cutoff * r)).numpy() / (np.pi * r)
    h = disc * np.outer(window, window)
    return torch.tensor(h / h.sum(), dtype=torch.float32)


def kaiser_beta(taps: int, width: float) -> float:
    """beta of the Kaiser window for a transition band of `width` half sampling rates."""
    attenuation = 2.285 * (taps - 1) * math.pi * width + 7.95  # dB
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21:
        return 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    return 0.0
