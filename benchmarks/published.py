"""EG3D's forward pass in the published order of operations: the baseline of `forward.py`, and its
renderer that of `train_step.py`, with gradient and draws.

Written from the papers, for the weights of `gan3d.generators.EG3D`. The numbers are the same, but
computed as published: one kernel per sample in a grouped convolution, FIR filters on zero-inserted
signals, coordinates projected by matrix products and sampled with grid_sample, all rays at once,
features sorted with the depths. Super-resolution layouts 8X and 8XDC.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from gan3d.camera import Camera, Rays
from gan3d.generators.eg3d import EG3D, Decoder
from gan3d.layers.superresolution import SuperResolution
from gan3d.layers.synthesis import SynthesisBlock, SynthesisLayer, SynthesisNetwork, ToRGB
from gan3d.ops.composite import Samples, interval_weights, optical_depths, reference
from gan3d.ops.resample import upfirdn2d_reference
from gan3d.randomness import Randomness
from gan3d.rendering import RenderOptions, importance_depths, ray_limits, stratified_depths
from gan3d.rendering.volume import Field, RayRendering

# Rows are the two axes of a plane, then its normal: (x,y), (x,z), (z,x).
PLANE_AXES = (
    ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    ((1, 0, 0), (0, 0, 1), (0, 1, 0)),
    ((0, 0, 1), (1, 0, 0), (0, 1, 0)),
)


def planes_of(synthesis: SynthesisNetwork, ws: Tensor) -> Tensor:
    """[b n w] -> [b 3 c h w]."""
    x = img = None
    first = 0
    for block in synthesis.blocks:
        block_ws = list(ws[:, first : first + block.num_ws].unbind(1))
        x, img = _block(block, x, img, block_ws, noise="const")
        first += block.num_conv
    assert img is not None
    return rearrange(img, "b (k c) h w -> b k c h w", k=3)


def features_of(
    decoder: Decoder, options: RenderOptions, planes: Tensor, camera: Camera, side: int
) -> Tensor:
    """Feature image [b f h w] in [-1, 1], without chunks."""

    def field(points: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        return decoder(plane_features(planes, points, options.box_warp))

    features = 2 * render_rays(field, camera.rays(side), options).features - 1
    return rearrange(features, "b (h w) f -> b f h w", h=side)


def render_rays(
    field: Field, rays: Rays, options: RenderOptions, randomness: Randomness | None = None
) -> RayRendering:
    """Rays rendered all at once; arguments as for `gan3d.rendering.render_rays`."""
    count, jitter, u = rays.origins.shape[1], None, None
    if randomness is not None:
        jitter = randomness.uniform("depth_jitter", count, options.depth_samples)
        u = randomness.uniform("importance", count, options.importance_samples)

    def query(depths: Tensor) -> Samples:
        offsets = depths[..., None] * rays.directions[:, :, None]
        sigma, rgb = field(rays.origins[:, :, None] + offsets, rays.directions[:, :, None])
        return Samples(depths, sigma[..., 0], rgb)

    # Coarse samples. The published code also composites their features, and uses the weights only.
    near, far = ray_limits(rays, options)
    coarse = query(stratified_depths(near, far, options.depth_samples, jitter=jitter))
    reference(coarse)
    weights = interval_weights(optical_depths(coarse.sigma, coarse.depths))

    # Importance samples, sorted together with the coarse ones.
    fine = query(importance_depths(coarse.depths, weights, options.importance_samples, u=u))
    depths, order = torch.cat([coarse.depths, fine.depths], -1).sort(-1)
    sigma = torch.cat([coarse.sigma, fine.sigma], -1).gather(-1, order)
    rgb = torch.cat([coarse.rgb, fine.rgb], -2)
    rgb = rgb.gather(-2, order[..., None].expand(-1, -1, -1, rgb.shape[-1]))
    color, depth, opacity = reference(Samples(depths, sigma, rgb))
    return RayRendering(color, depth[..., None], opacity[..., None])


def plane_features(planes: Tensor, points: Tensor, box_warp: float) -> Tensor:
    """Mean over the planes at points [b .. 3], [b .. c]."""
    sampled = _sample_planes(planes, points.flatten(1, -2), box_warp)
    return sampled.mean(1).unflatten(1, points.shape[1:-1])


def superresolve(network: SuperResolution, features: Tensor, w: Tensor) -> Tensor:
    """Feature image [b f h w] of the network's input size -> image [b 3 H W]."""
    x, img = _block(network.block0, features, features[:, :3], [w] * 3, noise="none")
    _, img = _block(network.block1, x, img, [w] * 3, noise="none")
    assert img is not None
    return img


def forward(generator: EG3D, z: Tensor, camera: Camera) -> Tensor:
    """z [b z_dim] and cameras -> image [b 3 H W]."""
    ws = generator.map(z, camera)
    planes = planes_of(generator.backbone.synthesis, ws)
    side = generator.raw_resolution
    features = features_of(generator.decoder, generator.options, planes, camera, side)
    assert generator.superresolution is not None
    return superresolve(generator.superresolution, features, ws[:, -1])


def _block(
    block: SynthesisBlock, x: Tensor | None, img: Tensor | None, ws: list[Tensor], noise: str
) -> tuple[Tensor, Tensor | None]:
    latents = iter(ws)
    if x is None:
        x = block.const.expand(len(ws[0]), -1, -1, -1)
    else:
        x = _layer(block.conv0, x, next(latents), noise)
    x = _layer(block.conv1, x, next(latents), noise)
    if img is not None:
        img = upfirdn2d_reference(img, block.resample_filter, up=2, padding=(2, 1, 2, 1), gain=4)
    y = _torgb(block.torgb, x, next(latents))
    return x, y if img is None else img + y


def _layer(layer: SynthesisLayer, x: Tensor, w: Tensor, noise: str) -> Tensor:
    """Modulated convolution with one kernel per sample; each later operation is a separate pass."""
    weight = layer.weight * layer.affine(w)[:, None, :, None, None]  # b o i k k
    weight = weight * (weight.square().sum([2, 3, 4], keepdim=True) + 1e-8).rsqrt()
    y = _grouped(x, weight, layer.resample_filter, layer.up)
    if noise == "const":
        y = y + layer.noise_const * layer.noise_strength
    y = F.leaky_relu(y + layer.bias[:, None, None], 0.2) * math.sqrt(2)
    return y if layer.conv_clamp is None else y.clamp(-layer.conv_clamp, layer.conv_clamp)


def _torgb(layer: ToRGB, x: Tensor, w: Tensor) -> Tensor:
    styles = layer.affine(w) * layer.weight_gain
    weight = layer.weight * styles[:, None, :, None, None]
    y = _grouped(x, weight, None, 1) + layer.bias[:, None, None]
    return y if layer.conv_clamp is None else y.clamp(-layer.conv_clamp, layer.conv_clamp)


def _grouped(x: Tensor, weight: Tensor, f: Tensor | None, up: int) -> Tensor:
    """Grouped convolution of sample b with weight b; upsamples by a transposed one and a filter."""
    b = len(x)
    x = rearrange(x, "b i h w -> 1 (b i) h w")
    if up == 1:
        y = F.conv2d(x, weight.flatten(0, 1), padding=weight.shape[-1] // 2, groups=b)
    else:
        y = F.conv_transpose2d(x, rearrange(weight, "b o i k l -> (b i) o k l"), stride=2, groups=b)
        y = upfirdn2d_reference(y, f, padding=1, gain=4)
    return rearrange(y, "1 (b o) h w -> b o h w", b=b)


def _sample_planes(planes: Tensor, points: Tensor, box_warp: float) -> Tensor:
    """Features of every plane at points [b p 3], [b 3 p c]."""
    b, k, c, h, w = planes.shape
    axes = torch.tensor(PLANE_AXES, dtype=points.dtype)
    scaled = (2 / box_warp) * points
    repeated = scaled[:, None].expand(-1, k, -1, -1).reshape(b * k, -1, 3)
    inverse = torch.linalg.inv(axes)[None].expand(b, -1, -1, -1).reshape(b * k, 3, 3)
    grid = torch.bmm(repeated, inverse)[..., :2]
    sampled = F.grid_sample(planes.reshape(b * k, c, h, w), grid[:, None], align_corners=False)
    return sampled.permute(0, 3, 2, 1).reshape(b, k, -1, c)
