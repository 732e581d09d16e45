"""Strict 3D consistency of GRAM-HD, against an image-space upsampler on the same model.

(GRAM-HD, section 4.3.)

    ours      manifolds are super-resolved in 3D, then rendered at full resolution
    control   the low-resolution image of the same model, then a similar network in image space (an
              RRDB with a residual). It is trained here like image-space super-resolution: its
              images must downsample to the low-resolution ones, and a discriminator compares them
              with the model's own full-resolution images

Both render the same scenes from the same cameras, and all pairs of views are warped into each other
by the same depth (gan3d.metrics.reprojection). Blur makes any pair of views agree. Therefore the
sharpness (mean absolute difference of neighboring pixels) is printed too, and the control is
compared a second time at the sharpness of ours, with its detail (the difference to a bicubic
enlargement) amplified. Resampling and translucent layers limit all PSNRs, so only differences are
meaningful. The picture shows one row of the image while the camera moves (EPI): consistent scenes
have straight lines.
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
from gan3d.cli.models import load_with_view
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
    add = parser.add_argument
    add("checkpoint", type=Path, help="a trained GRAMHD: portable file or .ckpt")
    add("--scenes", type=int, default=8)
    add("--views", type=int, default=8)
    add("--yaw", type=float, default=0.3, help="largest angle of the views, radians")
    add("--radius", type=float, default=2.7)
    add("--fov", type=float, default=18.83)
    add("--steps", type=int, default=400, help="training steps of the control's upsampler")
    add("--frames", type=int, default=64, help="frames of the EPI picture")
    add("--out", type=Path, help="folder of JSON and picture; default results/<machine>")
    args = parser.parse_args()

    # Measure.
    torch.set_num_threads(1)
    generator = strict(load_with_view(args.checkpoint, "cpu")[0])
    upsampler = train_upsampler(generator, args)
    measured = compare(generator, upsampler, args)

    # Write.
    result = facts() | {
        "checkpoint": args.checkpoint.name,
        "generator": type(generator).__name__,
        "resolution": [generator.raw_resolution, generator.img_resolution],
        "scenes": args.scenes,
        "views": args.views,
        "yaw": args.yaw,
        "upsampler_steps": args.steps,
        **measured,
    }
    write_epi_picture(generator, upsampler, args)
    path = write("consistency", result, args.out)

    # Print.
    share = measured["share_of_pixels"]
    print(f"reprojection between {args.views} views ({share:.0%} of the pixels),")
    print(f"mean over {args.scenes} scenes:")
    for name, description in (
        ("ours", "super-resolved in 3D"),
        ("control", "image-space upsampler"),
        ("matched", "the same, as sharp as ours"),
    ):
        psnr, sharp = measured[f"psnr_{name}"], measured[f"sharpness_{name}"]
        print(f"  {name:8} {description:28} {psnr:6.2f} dB   sharpness {sharp:.4f}")
    print(path)
    return 0 if measured["psnr_ours"] > measured["psnr_matched"] else 1


def strict(generator: Generator) -> Generator:
    """The generator with locked view directions and separate origins: strictly 3D scenes."""
    generator.lock_view = True
    generator.options = replace(generator.options, shared_origin=False)
    return generator.eval().requires_grad_(False)


def scene_of(generator: Generator, index: int, truncation: float = 1.0):
    z = Randomness(0, [index], "consistency").normal("z", generator.z_dim)
    return generator.represent(generator.map(z, truncation=truncation))


def cameras(args: argparse.Namespace, num: int) -> Camera:
    return sweep(num, yaw=args.yaw, radius=args.radius, fov=args.fov).to(torch.float32)


def train_upsampler(generator: Generator, args: argparse.Namespace) -> BackgroundSuperResolution:
    """An image-space upsampler of the model's raw images, trained adversarially."""
    torch.manual_seed(0)
    side = generator.img_resolution
    scale = side // generator.raw_resolution
    network = BackgroundSuperResolution(3, 3, scale, channels=32, num_blocks=2, growth=16)
    widths = tuple(min(16 * 2**i, 64) for i in range(side.bit_length() - 1))
    judge = GRAMDiscriminator(img_resolution=side, patch=True, channels=widths, patch_width=16)
    optimizers = [
        torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.0, 0.99)) for net in (network, judge)
    ]
    adversarial = NonSaturating()
    cross_resolution = CrossResolution(10.0)

    def loss_of(images: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        output = judge(images)
        assert output.patch_logits is not None
        return loss(output.logits).mean() + loss(output.patch_logits.flatten()).mean()

    def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        for each in optimizers:
            each.zero_grad()
        loss.backward()
        optimizer.step()

    for number in trange(args.steps, desc="upsampler", unit="step", leave=False):
        # Four images of the model.
        draw = Randomness(1, range(4 * number, 4 * number + 4), "upsampler")
        yaw = args.yaw * (2 * draw.uniform("yaw") - 1)
        pitch = 0.15 * (2 * draw.uniform("pitch") - 1)
        camera = Camera.from_angles(yaw, pitch, radius=args.radius, fov=args.fov)
        with torch.no_grad():
            shown = generator(draw.normal("z", generator.z_dim), camera)
        assert shown.raw is not None
        real = shown.image.requires_grad_()

        # Upsampler.
        fake = upsampled(network, shown.raw)
        similarity = cross_resolution(fake, shown.raw).mean()
        step(optimizers[0], loss_of(fake, adversarial.generator) + similarity)

        # Discriminator, with R1.
        (gradient,) = torch.autograd.grad(judge(real).logits.sum(), real, create_graph=True)
        penalty = gradient.square().sum((1, 2, 3)).mean() / 2
        d_loss = loss_of(fake.detach(), adversarial.fake) + loss_of(real, adversarial.real)
        step(optimizers[1], d_loss + penalty)
    return network.requires_grad_(False)


def upsampled(network: BackgroundSuperResolution, raw: Tensor) -> Tensor:
    return network(raw[:, None])[:, 0]


@torch.no_grad()
def compare(
    generator: Generator, upsampler: BackgroundSuperResolution, args: argparse.Namespace
) -> dict[str, float]:
    """PSNR and sharpness of ours and of the control, mean over scenes and pairs of views."""
    camera = cameras(args, args.views)
    rows = []
    for index in range(args.scenes):
        shown = generator.render(scene_of(generator, index), camera)
        assert shown.raw is not None
        control = replace(shown, image=upsampled(upsampler, shown.raw))
        matched = replace(shown, image=as_sharp_as(shown.image, control.image, shown.raw))
        row = {}
        for name, views in (("ours", shown), ("control", control), ("matched", matched)):
            pairs = pairwise_reprojection(views, camera)
            row[f"psnr_{name}"] = pairs.mean_psnr
            row[f"sharpness_{name}"] = sharpness(views.image)
            if name == "ours":
                row["share_of_pixels"] = float(pairs.share.nanmean())
        rows.append(row)
    means = torch.tensor([list(row.values()) for row in rows]).mean(0).tolist()
    return dict(zip(rows[0], means, strict=True))


def as_sharp_as(wanted: Tensor, images: Tensor, raw: Tensor) -> Tensor:
    """Amplifies detail (the difference to enlarged raw images) to the sharpness of `wanted`."""
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
def write_epi_picture(generator: Generator, upsampler, args: argparse.Namespace) -> None:
    """Writes consistency_epi.png: the middle row of all frames, ours above the control."""
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
