"""Trains HeadNet on the truth of procedural heads, and measures it on heads it has not seen.

    python benchmarks/headnet.py FOLDER [--epochs 20] [--out headnet.safetensors] [--tiny]
    python benchmarks/headnet.py FOLDER --only_measure [--out headnet.safetensors]

FOLDER keeps the sets, which are made where they are missing (ten minutes of one core): for training
5000 heads with wide cameras and 3000 with those of FFHQ, for the test 200 and 100 other heads, two
views each. One thread; 20 epochs take 10 minutes of CPU. --only_measure measures the weights of
--out again; --tiny tries the script in seconds.

Reported at 64 and 32 px, and written into the metadata of the weights: mean errors of yaw and pitch
in degrees, of depth in world units (beside them what the mean depth map gets), the share of the
attributes' variance that is read (R2), and retrieval: for a view of each of 200 heads of equal
colors and light, whether the nearest of 200 other views shows the same head, by the cosine of
identity and, beside it, by the distance of the pixels.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from machine import facts
from safetensors.torch import save_file
from torch import Tensor

from gan3d.data.archive import open_archive
from gan3d.data.heads import (
    ATTRIBUTE_NAMES,
    RADIUS,
    HeadAttributes,
    head_camera,
    render_heads,
    sample_angles,
    sample_heads,
    write_heads,
)
from gan3d.data.heads.attributes import COLORS
from gan3d.data.images import decode
from gan3d.metrics.headnet import GRID, SIDE, WEIGHTS, HeadNet, sized
from gan3d.metrics.turn import YAWS, turn_slope

WIDE, FFHQ = (0.7, 0.3), (0.3, 0.15)  # standard deviations of yaw and pitch
# name: (heads, views, seed, cameras)
SETS = {
    "train_wide": (5000, 1, 71, WIDE),
    "train_narrow": (3000, 1, 72, FFHQ),
    "test_narrow": (200, 2, 971, FFHQ),
    "test_wide": (100, 2, 972, WIDE),
}
GALLERY, TURNING, GALLERY_SEED = 200, 48, 973
BATCH = 64
LEARNING_RATE = 2e-3
# Errors that count as one: of angles in radians, of depth in HeadNet's unit of 0.1.
ANGLE, DEPTH = 0.15, 0.3


@dataclass(frozen=True)
class Truth:
    """n images and what is true of them.

    Attributes:
        images: uint8 [n 3 64 64].
        pose: yaw and pitch, radians [n 2].
        values: attributes [n a].
        depth: camera z [n 1 16 16], NaN where the cell is not covered by the head alone.
        mask: share of the cell that the head covers, [n 1 16 16].
    """

    images: Tensor
    pose: Tensor
    values: Tensor
    depth: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.images)


def read(path: Path) -> Truth:
    """A set of `gan3d data heads`."""
    archive = open_archive(path)
    records = json.loads(archive.read("attributes.json"))["images"]
    images, depths, masks = [], [], []
    for record in records:
        stem = record["file"].removesuffix(".png")
        images.append(decode(archive.read(record["file"]), record["file"]))
        depths.append(torch.from_numpy(np.load(io.BytesIO(archive.read(f"depth/{stem}.npy")))))
        hit = depths[-1].isfinite().float()
        masks.append(F.avg_pool2d(hit[None], SIDE // GRID))
        depths[-1] = F.avg_pool2d(depths[-1].float()[None], SIDE // GRID)  # inf beside the head
    depth = torch.stack(depths)
    return Truth(
        images=torch.stack(images),
        pose=torch.tensor([[record["yaw"], record["pitch"]] for record in records]),
        values=torch.tensor([record["values"] for record in records]),
        depth=torch.where(depth.isfinite(), depth, torch.nan),
        mask=torch.stack(masks),
    )


def joined(parts: list[Truth]) -> Truth:
    names = ("images", "pose", "values", "depth", "mask")
    return Truth(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


# -- training --------------------------------------------------------------------------------------


def train(truth: Truth, epochs: int, out: Path) -> HeadNet:
    """AdamW with a cosine schedule; half of every batch is seen at 32 px, some of it blurred.

    After every epoch the weights are written to `out`.
    """
    torch.manual_seed(0)
    network = HeadNet().to(memory_format=torch.channels_last)
    network.mean, network.std = truth.values.mean(0), truth.values.std(0).clamp(min=0.01)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    batch = min(BATCH, len(truth))
    steps = len(truth) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=epochs * steps, pct_start=0.1
    )
    network.train()
    for epoch in range(epochs):
        start, total = time.monotonic(), torch.zeros(4)
        for rows in torch.randperm(len(truth))[: steps * batch].split(batch):
            parts = losses(network, truth, rows)
            optimizer.zero_grad(set_to_none=True)
            parts.sum().backward()
            optimizer.step()
            schedule.step()
            total += parts.detach()
        means = ", ".join(f"{value:.3f}" for value in (total / steps).tolist())
        seconds = time.monotonic() - start
        print(f"epoch {epoch + 1}/{epochs}: pose, attributes, depth, mask {means}; {seconds:.0f} s")
        sys.stdout.flush()
        save(network, out, {})
    return network.eval()


def losses(network: HeadNet, truth: Truth, rows: Tensor) -> Tensor:
    """Losses of pose, attributes, depth and mask, [4]."""
    seen = network(disturbed(truth.images[rows].float() / 127.5 - 1))
    pose = torch.stack([seen.yaw, seen.pitch], dim=1)
    target = (truth.values[rows] - network.mean) / network.std
    depth, mask = truth.depth[rows], truth.mask[rows]
    known = depth.isfinite()
    return torch.stack(
        [
            F.smooth_l1_loss(pose / ANGLE, truth.pose[rows] / ANGLE, beta=0.3),
            F.mse_loss(seen.attributes, target),
            (seen.depth - depth)[known].abs().mean() / (0.1 * DEPTH),
            F.binary_cross_entropy(seen.mask.clamp(1e-4, 1 - 1e-4), mask),
        ]
    )


def disturbed(images: Tensor) -> Tensor:
    """Pictures [b 3 64 64] as generators make them: half at 32 px, some blurred, all with noise."""
    images = images.clone()
    half = len(images) // 2
    images[:half] = sized(F.avg_pool2d(images[:half], 2))
    blurred = slice(half // 2, half + half // 2)
    images[blurred] = F.avg_pool2d(F.pad(images[blurred], (1, 1, 1, 1), mode="replicate"), 3, 1)
    noise = 0.06 * torch.rand(len(images), 1, 1, 1) * torch.randn_like(images)
    return (images + noise).contiguous(memory_format=torch.channels_last)


# -- measurement -----------------------------------------------------------------------------------


@torch.no_grad()
def measure(network: HeadNet, truth: Truth, side: int, mean_depth: Tensor) -> dict[str, float]:
    """Errors on held-out heads at a size of the images.

    Args:
        network: a HeadNet.
        truth: of the held-out heads.
        side: of the images in pixels; they are rounded to 8 bits.
        mean_depth: of the training set, [1 16 16].
    """
    readings = [network(part) for part in at_side(truth.images, side).split(BATCH)]
    yaw, pitch = (torch.cat([getattr(r, name) for r in readings]) for name in ("yaw", "pitch"))
    depth = torch.cat([r.depth for r in readings])
    attributes = torch.cat([r.attributes for r in readings])
    known = truth.depth.isfinite()
    target = (truth.values - network.mean) / network.std
    yaw_error = torch.rad2deg((yaw - truth.pose[:, 0]).abs())
    return {
        "yaw_degrees": float(yaw_error.mean()),
        "yaw_degrees_95": float(yaw_error.quantile(0.95)),
        "pitch_degrees": float(torch.rad2deg((pitch - truth.pose[:, 1]).abs()).mean()),
        "depth": float((depth - truth.depth)[known].abs().mean()),
        "depth_of_mean_map": float((mean_depth - truth.depth)[known].abs().mean()),
        "attributes_r2": 1 - float((attributes - target).square().mean()),
    }


def at_side(images: Tensor, side: int) -> Tensor:
    """Images uint8 [n 3 64 64] as float in [-1, 1] at another size, rounded to 8 bits."""
    small = F.interpolate(images.float(), size=(side, side), mode="area")
    return small.round() / 127.5 - 1


def gallery(num: int) -> tuple[Tensor, Tensor]:
    """Two views of `num` heads that have the colors and the light of the first, uint8 [n 3 64 64].

    They differ in shape, hair style and what they wear.
    """
    heads = sample_heads(GALLERY_SEED, range(num))
    names = ["key_az", "key_el", "key_i", "ambient", "warmth", "skin_tone", "undertone"]
    names += [f"{color}_{channel}" for color in COLORS for channel in "rgb"]
    equal = heads.replace(**{name: heads[name][0] for name in names})
    yaw, pitch = sample_angles(GALLERY_SEED, range(num), 2, *FFHQ)
    first, second = (pictures(equal, yaw[:, view], pitch[:, view]) for view in (0, 1))
    return first, second


def pictures(heads: HeadAttributes, yaw: Tensor, pitch: Tensor) -> Tensor:
    parts = []
    for rows in torch.arange(len(heads)).split(BATCH):
        camera = head_camera(yaw[rows], pitch[rows])
        parts.append(render_heads(heads.select(rows), camera, SIDE, depth=False).image)
    return ((torch.cat(parts) + 1) * 127.5).round().clamp(0, 255).byte()


@torch.no_grad()
def retrieval(network: HeadNet, views: tuple[Tensor, Tensor], side: int) -> dict[str, float]:
    """Share of the first views whose nearest second view is of the same head, by identity and by
    pixels.
    """
    first, second = (at_side(images, side) for images in views)
    one, two = (F.normalize(network(images).identity, dim=1) for images in (first, second))
    own = torch.arange(len(first))
    pixels = torch.cdist(first.flatten(1), second.flatten(1))
    return {
        "retrieval": float(((one @ two.mT).argmax(1) == own).float().mean()),
        "retrieval_by_pixels": float((pixels.argmin(1) == own).float().mean()),
    }


@torch.no_grad()
def true_slopes(network: HeadNet, num: int) -> dict[str, float]:
    """Yaw read per yaw of the camera, of true heads, by the side of the images."""
    yaw = torch.tensor(YAWS).repeat(num)
    heads = sample_heads(GALLERY_SEED, range(num)).select(torch.arange(len(yaw)) // len(YAWS))
    views = pictures(heads, yaw, torch.zeros_like(yaw))
    slopes = {}
    for side in (64, 32):
        read = torch.cat([network(part).yaw for part in at_side(views, side).split(BATCH)])
        slopes[str(side)] = float(
            turn_slope(read.unflatten(0, (num, -1)), torch.tensor(YAWS)).mean()
        )
    return slopes


def all_measures(network: HeadNet, folder: Path, train: Truth, num: int) -> dict[str, Any]:
    mean_depth = train.depth.nanmean(0).nan_to_num(RADIUS)
    views = gallery(num)
    results: dict[str, Any] = {}
    for side in (64, 32):
        for name in ("narrow", "wide"):
            test = read(folder / f"test_{name}.zip")
            results[f"{name}_{side}"] = measure(network, test, side, mean_depth)
        results[f"gallery_{side}"] = retrieval(network, views, side)
    return results


# -- command ---------------------------------------------------------------------------------------


def make_sets(folder: Path, tiny: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (num, views, seed, (yaw_std, pitch_std)) in SETS.items():
        out = folder / f"{name}.zip"
        if not out.exists():
            write_heads(
                out,
                num=8 if tiny else num,
                views=views,
                seed=seed,
                resolution=SIDE,
                yaw_std=yaw_std,
                pitch_std=pitch_std,
                workers=1,
            )


def save(network: HeadNet, path: Path, known: dict[str, Any]) -> None:
    """Half precision, which changes no reading that matters."""
    tensors = {
        name: tensor.half().contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }
    save_file(tensors, str(path), metadata={"facts": json.dumps(known)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--only_measure", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)

    # train
    make_sets(options.folder, options.tiny)
    truth = joined([read(options.folder / f"{name}.zip") for name in SETS if "train" in name])
    if not options.only_measure:
        train(truth, options.epochs, options.out)

    # measure what was written, and write it again with what it reaches
    network = HeadNet.load(options.out)
    results = all_measures(network, options.folder, truth, 4 if options.tiny else GALLERY)
    if not options.only_measure:
        command = f"python benchmarks/headnet.py FOLDER --epochs {options.epochs}"
        network.facts = {"command": command, "sets": SETS, "attributes": ATTRIBUTE_NAMES}
    slopes = true_slopes(network, 2 if options.tiny else TURNING)
    network.facts |= {"heldout": results, "true_slope": slopes, **facts()}
    save(network, options.out, network.facts)
    print(json.dumps(network.facts, indent=1))


if __name__ == "__main__":
    main()
