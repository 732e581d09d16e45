"""One scene, three representations: tri-planes, a voxel grid and a NeRF MLP (EG3D, table 1).

    python benchmarks/single_scene.py [--minutes 1] [--resolution 64] [--views 40] [--out FOLDER]

Each is fitted to views of one procedural head, with about the same number of parameters, the same
renderer and the same CPU time on one thread, in its own process. Reported: PSNR and SSIM of
held-out views, rays per CPU second, parameters, peak memory. The picture shows held-out views: the
truth on top, then the three representations.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from machine import PeakMemory, facts, write
from PIL import Image
from torch import Tensor, nn
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from gan3d.apps.pictures import grid, to_uint8
from gan3d.camera import Camera, Rays
from gan3d.data.heads.attributes import sample_angles, sample_heads
from gan3d.data.heads.render import head_camera, render_heads
from gan3d.ops.triplane import PlaneTable
from gan3d.randomness import Randomness
from gan3d.rendering import RenderOptions, render_rays

HELD_OUT = 8  # views that are measured
SHOWN = 4  # views in the picture
BOX = 1.0  # side of the scene's cube


@dataclass(frozen=True)
class Setting:
    """Settings that all representations share.

    Attributes:
        minutes: CPU time of each fit.
        resolution: side of a view, pixels.
        views: number of views to fit.
        rays: rays per step.
        samples: coarse samples per ray, and the same number of importance samples.
        plane_resolution: side of a plane, which defines the number of parameters.
        seed: seed of the head, its views and all draws.
    """

    minutes: float = 1.0
    resolution: int = 64
    views: int = 40
    rays: int = 1024
    samples: int = 24
    plane_resolution: int = 64
    seed: int = 0


class TriPlane(nn.Module):
    """Features of three planes, decoded: 3 c R^2 parameters."""

    lr = 1e-2

    def __init__(self, resolution: int, channels: int = 16):
        super().__init__()
        self.planes = nn.Parameter(0.1 * torch.randn(1, 3, channels, resolution, resolution))
        self.decoder = decoder(channels)

    def forward(self, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        features = PlaneTable.of(self.planes, "fixed").features(points, box_warp=BOX)
        return density_and_color(self.decoder(features))


class Voxels(nn.Module):
    """Features of a dense grid, decoded: c D^3 parameters, about as many as the tri-planes."""

    lr = 1e-2

    def __init__(self, resolution: int, channels: int = 16):
        super().__init__()
        side = round((3 * resolution**2) ** (1 / 3))
        self.grid = nn.Parameter(0.1 * torch.randn(1, channels, side, side, side))
        self.decoder = decoder(channels)

    def forward(self, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        where = (points * (2 / BOX)).flatten(0, -2)[None, None, None]  # 1 1 1 p 3
        features = F.grid_sample(self.grid, where, align_corners=False)
        features = rearrange(features, "1 c 1 1 p -> p c").unflatten(0, points.shape[:-1])
        return density_and_color(self.decoder(features))


class NeRF(nn.Module):
    """MLP of encoded positions (sin, cos)(2^k pi x), with about as many parameters."""

    lr = 1e-3
    layers = 4

    def __init__(self, resolution: int, channels: int = 16, frequencies: int = 8):
        super().__init__()
        width = max(16, round((3 * channels * resolution**2 / (self.layers - 1)) ** 0.5))
        sizes = [3 + 6 * frequencies] + self.layers * [width]
        hidden = [layer for i, o in pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU())]
        self.net = nn.Sequential(*hidden, nn.Linear(width, 4))
        self.frequencies = frequencies

    def forward(self, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        scaled = points * (2 / BOX)
        frequencies = 2.0 ** torch.arange(self.frequencies) * torch.pi
        angles = (scaled[..., None] * frequencies).flatten(-2)
        return density_and_color(self.net(torch.cat([scaled, angles.sin(), angles.cos()], -1)))


REPRESENTATIONS = {"tri-plane": TriPlane, "voxels": Voxels, "nerf mlp": NeRF}


def decoder(channels: int) -> nn.Module:
    """EG3D's small decoder: one hidden layer of 64."""
    return nn.Sequential(nn.Linear(channels, 64), nn.Softplus(), nn.Linear(64, 4))


def density_and_color(out: Tensor) -> tuple[Tensor, Tensor]:
    """[.. 4] -> raw density [.. 1] and rgb [.. 3] in [0, 1]; the factor 10 speeds up learning."""
    return 10 * out[..., :1], torch.sigmoid(out[..., 1:])


def head_views(setting: Setting) -> tuple[Tensor, Camera]:
    """Views [b 3 H W] in [0, 1] of a head on white and their cameras; the held-out ones last."""
    total = setting.views + HELD_OUT
    yaw, pitch = sample_angles(setting.seed, [0], views=total, yaw_std=0.5, pitch_std=0.25)
    camera = head_camera(yaw[0], pitch[0])
    head = sample_heads(setting.seed, [0]).select([0] * total)
    # One ray per pixel at twice the size: every pixel is head or background, which is replaced.
    seen = render_heads(head, camera, 2 * setting.resolution, supersample=1)
    images = seen.image * seen.mask / 2 + (1 - seen.mask / 2)
    return F.avg_pool2d(images, 2).clamp(0, 1), camera


def fit(
    name: str, setting: Setting, images: Tensor, camera: Camera
) -> tuple[dict[str, float], Tensor]:
    """Fits one representation; returns measurements and its held-out views [b 3 H W]."""
    torch.set_num_threads(1)
    torch.manual_seed(setting.seed)
    options = RenderOptions(
        depth_samples=setting.samples,
        importance_samples=setting.samples,
        box_warp=BOX,
        background="white",
    )
    field = REPRESENTATIONS[name](setting.plane_resolution)
    optimizer = torch.optim.Adam(field.parameters(), lr=field.lr, betas=(0.9, 0.99))

    # All rays of the training views.
    kept = setting.views
    rays = camera.rays(setting.resolution)
    origins = rays.origins[:kept].flatten(0, 1)
    directions = rays.directions[:kept].flatten(0, 1)
    cosines = rays.cosines.expand(len(images), -1, -1)[:kept].flatten(0, 1)
    colors = rearrange(images[:kept], "b c h w -> (b h w) c")

    # Training.
    start = time.process_time()
    budget = 60 * setting.minutes
    steps = 0
    with PeakMemory() as peak:
        while (spent := time.process_time() - start) < budget:
            for group in optimizer.param_groups:
                group["lr"] = field.lr * 0.05 ** (spent / budget)
            draw = Randomness(setting.seed, [steps], name)
            index = draw.integers("rays", len(colors), setting.rays)[0]
            batch = Rays(origins[index][None], directions[index][None], cosines[index][None])
            shown = render_rays(field, batch, options, draw)
            optimizer.zero_grad()
            F.mse_loss(shown.features[0], colors[index]).backward()
            optimizer.step()
            steps += 1
    train_seconds = time.process_time() - start

    # Held-out views.
    start = time.process_time()
    with torch.no_grad():
        shown = render_rays(field, camera[kept:].rays(setting.resolution), options)
    render_seconds = time.process_time() - start
    views = rearrange(shown.features, "b (h w) c -> b c h w", h=setting.resolution)
    truth = images[kept:]
    measured = {
        "psnr": peak_signal_noise_ratio(views, truth, data_range=1.0).item(),
        "ssim": float(structural_similarity_index_measure(views, truth, data_range=1.0)),
        "parameters": sum(p.numel() for p in field.parameters()),
        "steps": steps,
        "train_rays_per_second": steps * setting.rays / train_seconds,
        "render_rays_per_second": HELD_OUT * setting.resolution**2 / render_seconds,
        "extra_memory_gb": peak.extra,
    }
    return measured, views.clamp(0, 1)


def run(setting: Setting) -> tuple[dict[str, Any], Tensor]:
    """The result, and held-out views of the truth and each representation, [4 b 3 H W]."""
    images, camera = head_views(setting)
    result: dict[str, Any] = {
        **facts(),
        "setting": asdict(setting),
        "held_out": HELD_OUT,
        "representations": {},
    }
    rows = [images[setting.views :]]
    for name in REPRESENTATIONS:
        with multiprocessing.get_context("spawn").Pool(1) as process:
            measured, views = process.apply(fit, (name, setting, images, camera))
        result["representations"][name] = measured
        rows.append(views)
    return result, torch.stack(rows)


def show(result: dict[str, Any]) -> None:
    """Prints the result as a table."""
    columns = {
        "PSNR": "psnr",
        "SSIM": "ssim",
        "train ray/s": "train_rays_per_second",
        "render ray/s": "render_rays_per_second",
        "parameters": "parameters",
        "peak GB": "extra_memory_gb",
    }
    print(f"{'':12}" + "".join(f"{title:>14}" for title in columns))
    for name, measured in result["representations"].items():
        print(f"{name:12}" + "".join(f"{measured[key]:14.5g}" for key in columns.values()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in asdict(Setting()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    out_help = "folder of JSON and picture; default benchmarks/results/<machine>"
    parser.add_argument("--out", type=Path, help=out_help)
    options = vars(parser.parse_args())
    out = options.pop("out")
    torch.set_num_threads(1)
    result, rows = run(Setting(**options))
    show(result)
    path = write("single_scene", result, out)
    views = rearrange(rows[:, :SHOWN], "k b c h w -> (k b) c h w")
    Image.fromarray(grid(to_uint8(2 * views - 1), SHOWN)).save(path.with_suffix(".png"))
    print(path)


if __name__ == "__main__":
    main()
