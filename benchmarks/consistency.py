"""Strict 3D consistency of GRAM-HD, against an upsampler in image space on the same model (GRAM-HD,
section 4.3).

    ours      manifolds are super-resolved in 3D, then rendered at full resolution
    control   the low-resolution image of the same model, then an image-space network of about the same kind (an RRDB
              with a residual), trained here as image-space super-resolution is: its images shrink
              to the low-resolution ones, and a discriminator can not tell them from the model's own
              full-resolution images

Both show the same scenes from the same cameras; each view is warped into each other by the same
depth (gan3d.metrics.reprojection). Blur makes any pair of views agree, so the sharpness of both is
printed beside it (mean
|difference| of neighboring pixels), and the control is compared a second time at ours' sharpness, its detail (what it
adds to a bicubic enlargement) amplified. Resampling and translucent layers set a ceiling to all, so
only differences say something. The picture shows one row of the image while the camera turns (EPI):
straight lines are consistent.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from machine import RESULTS, facts, machine_name, write
from torch import Tensor
from tqdm import trange

from gan3d.apps.epi import sweep, write_epi
from gan3d.camera import Camera
from gan3d.cli.models import load_3d_generator
from gan3d.discriminators import GRAMDiscriminator
from gan3d.generators import Generator, Rendering
from gan3d.layers.manifold_superresolution import BackgroundSuperResolution
from gan3d.metrics.reprojection import pairwise_reprojection
from gan3d.randomness import Randomness
from gan3d.training.losses import CrossResolution, NonSaturating


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="a trained GRAMHD: portable file or .ckpt")
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument(
        "--yaw", type=float, default=0.3, help="largest angle of the views, radians"
    )
    parser.add_argument("--radius", type=float, default=2.7)
    parser.add_argument("--fov", type=float, default=18.83)
    parser.add_argument(
        "--steps", type=int, default=400, help="training steps of the control's upsampler"
    )
    parser.add_argument("--frames", type=int, default=64, help="of the EPI picture")
    parser.add_argument(
        "--out", type=Path, help="folder of the JSON and the picture; results/<machine> by default"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = strict(load_3d_generator(args.checkpoint, "cpu"))
    upsampler = train_upsampler(generator, args)
    seen = compared(generator, upsampler, args)
    result = facts() | {
        "checkpoint": args.checkpoint.name,
        "generator": type(generator).__name__,
        "resolution": [generator.raw_resolution, generator.img_resolution],
        "scenes": args.scenes,
        "views": args.views,
        "yaw": args.yaw,
        "upsampler_steps": args.steps,
        **seen,
    }
    write_lines(generator, upsampler, args)
    path = write("consistency", result, args.out)
    print(
        f"reprojection between {args.views} views, mean over {args.scenes} scenes "
        f"({seen['share_of_pixels']:.0%} of the pixels):"
    )
    rows = {
        "ours": "super-resolved in 3D",
        "control": "image-space upsampler",
        "matched": "the same, as sharp as ours",
    }
    for name, what in rows.items():
        print(
            f"  {name:8} {what:28} {seen[f'psnr_{name}']:6.2f} dB   sharpness "
            f"{seen[f'sharpness_{name}']:.4f}"
        )
    print(path)
    return 0 if seen["psnr_ours"] > seen["psnr_matched"] else 1


def strict(generator: Generator) -> Generator:
    """The generator with locked view directions and each sample's own camera: then its scenes are
    strictly 3D.
    """
    generator.lock_view = True
    generator.options = replace(generator.options, shared_origin=False)
    return generator.eval().requires_grad_(False)


def scene_of(generator: Generator, index: int, truncation: float = 1.0):
    z = Randomness(0, [index], "consistency").normal("z", generator.z_dim)
    return generator.represent(generator.map(z, truncation=truncation))


def cameras(args: argparse.Namespace, num: int) -> Camera:
    return sweep(num, yaw=args.yaw, radius=args.radius, fov=args.fov).to(torch.float32)


def train_upsampler(generator: Generator, args: argparse.Namespace) -> BackgroundSuperResolution:
    """An image-space network that makes images like the model's of its raw images,
    adversarially.
    """
    torch.manual_seed(0)
    scale = generator.img_resolution // generator.raw_resolution
    network = BackgroundSuperResolution(3, 3, scale, channels=32, num_blocks=2, growth=16)
    widths = [min(16 * 2**i, 64) for i in range(generator.img_resolution.bit_length() - 1)]
    judge = GRAMDiscriminator(
        img_resolution=generator.img_resolution, patch=True, channels=tuple(widths), patch_width=16
    )
    optimizers = [
        torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.0, 0.99)) for net in (network, judge)
    ]
    game, same = NonSaturating(), CrossResolution(10.0)

    def loss_of(images: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        judged = judge(images)
        assert judged.patch_logits is not None
        return loss(judged.logits).mean() + loss(judged.patch_logits.flatten()).mean()

    def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        for each in optimizers:
            each.zero_grad()
        loss.backward()
        optimizer.step()

    for number in trange(args.steps, desc="upsampler", unit="step", leave=False):
        draw = Randomness(1, range(4 * number, 4 * number + 4), "upsampler")
        camera = Camera.from_angles(
            args.yaw * (2 * draw.uniform("yaw") - 1),
            0.15 * (2 * draw.uniform("pitch") - 1),
            radius=args.radius,
            fov=args.fov,
        )
        with torch.no_grad():
            shown = generator(draw.normal("z", generator.z_dim), camera)
        assert shown.raw is not None
        fake, real = upsampled(network, shown.raw), shown.image.requires_grad_()
        step(optimizers[0], loss_of(fake, game.generator) + same(fake, shown.raw).mean())
        judged = judge(real)
        (gradient,) = torch.autograd.grad(judged.logits.sum(), real, create_graph=True)
        penalty = gradient.square().sum((1, 2, 3)).mean() / 2
        step(optimizers[1], loss_of(fake.detach(), game.fake) + loss_of(real, game.real) + penalty)
    return network.requires_grad_(False)


def upsampled(network: BackgroundSuperResolution, raw: Tensor) -> Tensor:
    return network(raw[:, None])[:, 0]


@torch.no_grad()
def compared(
    generator: Generator, upsampler: BackgroundSuperResolution, args: argparse.Namespace
) -> dict[str, float]:
    """Mean PSNR and sharpness of ours and of the control over all scenes and pairs of views."""
    camera, found = cameras(args, args.views), []
    for index in range(args.scenes):
        shown = generator.render(scene_of(generator, index), camera)
        assert shown.raw is not None
        control = replace(shown, image=upsampled(upsampler, shown.raw))
        matched = replace(shown, image=as_sharp_as(shown.image, control.image, shown.raw))
        kinds = (shown, control, matched)
        pairs = [pairwise_reprojection(views, camera) for views in kinds]
        values = [pair.mean_psnr for pair in pairs] + [sharpness(views.image) for views in kinds]
        found.append([*values, float(pairs[0].share.nanmean())])
    names = [
        f"{what}_{kind}"
        for what in ("psnr", "sharpness")
        for kind in ("ours", "control", "matched")
    ]
    return dict(zip([*names, "share_of_pixels"], torch.tensor(found).mean(0).tolist(), strict=True))


def as_sharp_as(wanted: Tensor, images: Tensor, raw: Tensor) -> Tensor:
    """Images whose detail, the difference to enlarged raw images, is amplified until they are as
    sharp as others.
    """
    smooth = F.interpolate(raw, size=images.shape[-2:], mode="bicubic", align_corners=False)
    low, high = 0.0, 64.0
    for _ in range(30):
        gain = (low + high) / 2
        if sharpness(smooth + gain * (images - smooth)) < sharpness(wanted):
            low = gain
        else:
            high = gain
    return smooth + low * (images - smooth)


def sharpness(images: Tensor) -> float:
    """Mean absolute difference of neighboring pixels."""
    return float((images.diff(dim=2).abs().mean() + images.diff(dim=3).abs().mean()) / 2)


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
