"""Strict 3D consistency of GRAM-HD, against an upsampler in image space on the same model (GRAM-HD, section 4.3).

    ours      manifolds are super-resolved in 3D, then rendered at full resolution
    control   the low-resolution image of the same model, then an image-space network of about the same kind (an RRDB
              with sub-pixel steps), trained here on pairs of low- and full-resolution images of the model itself

Both show the same scenes from the same cameras; each view is warped into each other by the same depth
(gan3d.metrics.reprojection). Resampling and translucent layers set a ceiling to both, so only the difference says
something. The picture shows one row of the image while the camera turns (EPI): straight lines are consistent.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from machine import RESULTS, facts, machine_name, write
from torch import Tensor
from tqdm import trange

from gan3d.apps.epi import sweep, write_epi
from gan3d.camera import Camera
from gan3d.cli.export import load_3d_generator
from gan3d.generators import Generator, Rendering
from gan3d.layers.manifold_superresolution import BackgroundSuperResolution
from gan3d.metrics.reprojection import pairwise_reprojection
from gan3d.randomness import Randomness


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a trained GRAMHD: portable file or .ckpt")
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--yaw", type=float, default=0.3, help="largest angle of the views, radians")
    parser.add_argument("--radius", type=float, default=2.7)
    parser.add_argument("--fov", type=float, default=18.83)
    parser.add_argument("--steps", type=int, default=400, help="training steps of the control's upsampler")
    parser.add_argument("--frames", type=int, default=64, help="of the EPI picture")
    parser.add_argument("--out", type=Path, help="folder of the JSON and the picture; results/<machine> by default")
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = strict(load_3d_generator(args.checkpoint, "cpu"))
    upsampler, loss = train_upsampler(generator, args)
    ours, control, share = compared(generator, upsampler, args)
    result = facts() | {
        "checkpoint": args.checkpoint.name,
        "generator": type(generator).__name__,
        "resolution": [generator.raw_resolution, generator.img_resolution],
        "scenes": args.scenes,
        "views": args.views,
        "yaw": args.yaw,
        "psnr_ours": ours,
        "psnr_control": control,
        "share_of_pixels": share,
        "upsampler_psnr_on_its_task": loss,
    }
    write_lines(generator, upsampler, args)
    path = write("consistency", result, args.out)
    print(f"reprojection between {args.views} views, mean over {args.scenes} scenes ({share:.0%} of the pixels):")
    print(f"  ours, super-resolved in 3D           {ours:6.2f} dB")
    print(f"  control, image-space upsampler       {control:6.2f} dB   (its images against ours: {loss:.1f} dB)")
    print(path)
    return 0 if ours > control else 1


def strict(generator: Generator) -> Generator:
    """The generator with locked view directions and each sample's own camera: then its scenes are strictly 3D."""
    generator.lock_view = True
    generator.options = replace(generator.options, shared_origin=False)
    return generator.eval().requires_grad_(False)


def scene_of(generator: Generator, index: int, truncation: float = 1.0):
    z = Randomness(0, [index], "consistency").normal("z", generator.z_dim)
    return generator.represent(generator.map(z, truncation=truncation))


def cameras(args: argparse.Namespace, num: int) -> Camera:
    return sweep(num, yaw=args.yaw, radius=args.radius, fov=args.fov).to(torch.float32)


def train_upsampler(generator: Generator, args: argparse.Namespace) -> tuple[BackgroundSuperResolution, float]:
    """An image-space network that makes the model's images of its raw images, and its PSNR on the last ones."""
    torch.manual_seed(0)
    scale = generator.img_resolution // generator.raw_resolution
    network = BackgroundSuperResolution(3, 3, scale, channels=32, num_blocks=2, growth=16)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    errors = []
    for step in trange(args.steps, desc="upsampler", unit="step", leave=False):
        draw = Randomness(1, range(4 * step, 4 * step + 4), "upsampler")
        camera = Camera.from_angles(
            args.yaw * (2 * draw.uniform("yaw") - 1),
            0.15 * (2 * draw.uniform("pitch") - 1),
            radius=args.radius,
            fov=args.fov,
        )
        with torch.no_grad():
            shown = generator(draw.normal("z", generator.z_dim), camera)
        assert shown.raw is not None
        loss = F.mse_loss(upsampled(network, shown.raw), shown.image)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    last = torch.tensor(errors[-20:]).mean()
    return network.requires_grad_(False), float(10 * torch.log10(4 / last))


def upsampled(network: BackgroundSuperResolution, raw: Tensor) -> Tensor:
    return network(raw[:, None])[:, 0]


@torch.no_grad()
def compared(generator: Generator, upsampler, args: argparse.Namespace) -> tuple[float, float, float]:
    """Mean PSNR of ours and of the control over all scenes and pairs of views, and the share of pixels compared."""
    camera, found = cameras(args, args.views), []
    for index in range(args.scenes):
        shown = generator.render(scene_of(generator, index), camera)
        assert shown.raw is not None
        control = replace(shown, image=upsampled(upsampler, shown.raw))
        pairs = [pairwise_reprojection(views, camera) for views in (shown, control)]
        found.append([pairs[0].mean_psnr, pairs[1].mean_psnr, float(pairs[0].share.nanmean())])
    ours, control_psnr, share = torch.tensor(found).mean(0).tolist()
    return ours, control_psnr, share


@torch.no_grad()
def write_lines(generator: Generator, upsampler, args: argparse.Namespace) -> None:
    """consistency_epi.png: the middle row while the camera turns, ours above, the control below."""
    scene, path = scene_of(generator, 0), cameras(args, args.frames)
    rows: list[list[Tensor]] = [[], []]
    for i in range(len(path)):
        shown: Rendering = generator.render(scene, path[i : i + 1])
        assert shown.raw is not None
        for row, image in zip(rows, (shown.image, upsampled(upsampler, shown.raw)), strict=True):
            row.append(image[0, :, image.shape[2] // 2])
    lines = torch.stack([torch.stack(row, 1) for row in rows])  # 2 3 frames W
    lines = F.interpolate(lines, scale_factor=4, mode="nearest")
    write_epi((args.out or RESULTS / machine_name()) / "consistency_epi.png", lines)


if __name__ == "__main__":
    sys.exit(main())
