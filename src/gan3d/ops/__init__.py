"""Operators: the equation, a reference implementation, and faster forms with the same numbers.

They are functions of tensors, and of use without the rest of gan3d:

    >>> import torch
    >>> from gan3d.ops import modfc
    >>> points, weight = torch.randn(2, 100, 16), torch.randn(16, 32)
    >>> modfc(points, weight, style=torch.randn(2, 16)).shape
    torch.Size([2, 100, 32])

`backend=` of an op says which implementation runs (`gan3d.ops.backend`); by default a Triton kernel
on a GPU, where there is one, else the fast form of torch.

A name here is the function; its file has the equation and the parts: `from gan3d.ops.modfc import
demodulation`.
"""

from gan3d.ops.bias_act import bias_act
from gan3d.ops.bicubic import bicubic_downsample
from gan3d.ops.composite import alpha_weights, composite, composite_alphas, left_alphas
from gan3d.ops.film_siren import film_siren
from gan3d.ops.filtered_lrelu import filtered_lrelu
from gan3d.ops.grid_sample import grid_sample
from gan3d.ops.left_point import composite_left
from gan3d.ops.manifolds import composite_manifolds
from gan3d.ops.modfc import modfc
from gan3d.ops.render_triplane import DecoderWeights, render_triplane, triplane_density
from gan3d.ops.resample import (
    conv2d_resample,
    downsample2d,
    filter2d,
    setup_filter,
    upfirdn2d,
    upsample2d,
)
from gan3d.ops.triplane import PlaneTable

__all__ = [
    "DecoderWeights",
    "PlaneTable",
    "alpha_weights",
    "bias_act",
    "bicubic_downsample",
    "composite",
    "composite_alphas",
    "composite_left",
    "composite_manifolds",
    "conv2d_resample",
    "downsample2d",
    "film_siren",
    "filter2d",
    "filtered_lrelu",
    "grid_sample",
    "left_alphas",
    "modfc",
    "render_triplane",
    "setup_filter",
    "triplane_density",
    "upfirdn2d",
    "upsample2d",
]
