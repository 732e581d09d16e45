"""One forward pass of StyleGAN3 at 256 px on one CPU thread, against the plain composition.

    python benchmarks/stylegan3.py [--config T|R] [--repeats 3] [--tiny] [--out FOLDER]

The plain composition inserts zeros, filters per axis, activates and drops samples on whole maps,
and convolves with a kernel per image. Both run in the same process and make the same image (checked
to 1e-4). Reported: CPU seconds (minimum of several calls) of the generator and of its filtered
leaky ReLUs, the latter also backward, and peak memory above the loaded model.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from machine import PeakMemory, best_seconds, facts, sgemm_rate, write
from torch import Tensor

from gan3d.generators import StyleGAN3
from gan3d.layers.alias_free import AliasFreeLayer
from gan3d.ops.filtered_lrelu import filtered_lrelu, filtered_lrelu_reference


def build(config: str, tiny: bool) -> tuple[StyleGAN3, Tensor]:
    """A calibrated generator, and one z."""
    torch.manual_seed(0)
    sizes = StyleGAN3.tiny if tiny else {"img_resolution": 256, "channel_base": 16384}
    generator = StyleGAN3(config="R" if config == "R" else "T", **sizes)
    generator.eval().requires_grad_(False)
    z = torch.randn(1, generator.z_dim)
    generator.magnitude_ema_beta = 0.0
    generator.settle(generator.map(z))
    return generator, z


def plain_image(generator: StyleGAN3, z: Tensor) -> Tensor:
    """The image, computed as in section 2 of specs/stylegan3.md."""
    ws = generator.map(z)
    synthesis = generator.synthesis
    x = synthesis.input(ws[:, 0])
    for layer, w in zip(synthesis.layers, ws.unbind(1)[1:], strict=True):
        x = plain_layer(layer, x, w)
    return x * synthesis.output_scale


def plain_layer(layer: AliasFreeLayer, x: Tensor, w: Tensor) -> Tensor:
    """One layer, with a convolution kernel per image."""
    spec = layer.spec
    b, k = len(x), spec.kernel_size
    styles = layer.affine(w)
    weight = layer.weight
    if spec.is_rgb:
        styles = styles / math.sqrt(spec.inside.channels * k**2)
    else:
        weight = weight * weight.square().mean([1, 2, 3], keepdim=True).rsqrt()
        styles = styles * styles.square().mean().rsqrt()
    kernels = weight * styles[:, None, :, None, None]
    if not spec.is_rgb:
        kernels = kernels * (kernels.square().sum([2, 3, 4], keepdim=True) + 1e-8).rsqrt()
    kernels = kernels * layer.magnitude_ema.rsqrt()
    y = F.conv2d(x.reshape(1, -1, *x.shape[2:]), kernels.flatten(0, 1), padding=k - 1, groups=b)
    return activated(layer, y.unflatten(1, (b, -1))[0], filtered_lrelu_reference)


def activated(layer: AliasFreeLayer, y: Tensor, op: Callable[..., Tensor]) -> Tensor:
    """The filtered leaky ReLU of a layer, computed by `op`."""
    spec = layer.spec
    before, after = spec.padding
    return op(
        y,
        layer.up_filter,
        layer.down_filter,
        layer.bias,
        up=spec.up,
        down=spec.down,
        padding=(before, after, before, after),
        gain=1 if spec.is_rgb else math.sqrt(2),
        slope=1 if spec.is_rgb else 0.2,
        clamp=layer.conv_clamp,
    )


def measure_op(layer: AliasFreeLayer, op: Callable[..., Tensor], repeats: int) -> dict[str, float]:
    """CPU seconds of one layer's filtered leaky ReLU, without gradient and backward."""
    size = layer.spec.inside.size + layer.spec.kernel_size - 1
    x = torch.randn(1, layer.spec.outside.channels, size, size)
    forward = best_seconds(lambda: activated(layer, x, op), repeats)
    x.requires_grad_()
    with torch.enable_grad():
        y = activated(layer, x, op)
    dy = torch.randn_like(y)
    backward = best_seconds(lambda: torch.autograd.grad(y, x, dy, retain_graph=True), repeats)
    return {"forward": forward, "backward": backward}


@torch.no_grad()
def extra_memory(which: str, config: str, tiny: bool) -> float:
    """Peak memory of one forward pass above the loaded model, the first in this process, in GB."""
    generator, z = build(config, tiny)
    with PeakMemory() as peak:
        generator(z) if which == "ours" else plain_image(generator, z)
    return peak.extra


def memory_in_own_process(which: str, config: str, tiny: bool) -> float:
    """`extra_memory` in a new process, in GB."""
    command = [sys.executable, __file__, "--memory", which, "--config", config]
    if tiny:
        command.append("--tiny")
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@torch.no_grad()
def run(config: str, repeats: int, tiny: bool) -> dict[str, Any]:
    """Compares the images, then measures both forms."""
    generator, z = build(config, tiny)
    image, expected = generator(z).image, plain_image(generator, z)
    error = ((image - expected).abs().max() / expected.abs().max().clamp(min=1)).item()
    if not (error <= 1e-4 and image.std() > 1e-3):
        raise SystemExit(f"the two forms differ by {error:.2g}: nothing was measured")

    size = "tiny" if tiny else "256, channel_base 16384"
    layer = generator.synthesis.layers[-4]
    result: dict[str, Any] = {
        **facts(),
        "model": f"StyleGAN3-{config} {size}",
        "batch": 1,
        "repeats": repeats,
        "sgemm_gflops": sgemm_rate(),
        "difference": error,
        "layer": layer.spec.name,
    }
    for which, image_of, op in (
        ("ours", lambda: generator(z).image, filtered_lrelu),
        ("plain", lambda: plain_image(generator, z), filtered_lrelu_reference),
    ):
        result[which] = {
            "cpu_seconds": best_seconds(image_of, repeats),
            "op": measure_op(layer, op, repeats),
            "extra_memory_gb": memory_in_own_process(which, config, tiny),
        }

    ours, plain = result["ours"], result["plain"]
    result["ratio"] = {
        "cpu_seconds": ours["cpu_seconds"] / plain["cpu_seconds"],
        "op_forward": ours["op"]["forward"] / plain["op"]["forward"],
        "op_backward": ours["op"]["backward"] / plain["op"]["backward"],
        "memory": ours["extra_memory_gb"] / max(plain["extra_memory_gb"], 1e-9),
    }
    return result


def show(result: dict[str, Any]) -> None:
    """Prints the result as a table."""
    ours, plain, ratio = result["ours"], result["plain"], result["ratio"]
    print(f"{result['model']}, batch 1, one thread, {result['machine']}")
    print(f"{'':34}{'ours':>8}{'plain':>8}{'ratio':>8}")

    def line(name: str, a: float, b: float, r: float) -> None:
        print(f"{name:34}{a:8.3f}{b:8.3f}{r:8.2f}")

    line("generator, CPU s", ours["cpu_seconds"], plain["cpu_seconds"], ratio["cpu_seconds"])
    for phase, name in (
        ("forward", f"activation of {result['layer']}, CPU s"),
        ("backward", "  its backward pass"),
    ):
        line(name, ours["op"][phase], plain["op"][phase], ratio[f"op_{phase}"])
    memory = ours["extra_memory_gb"], plain["extra_memory_gb"]
    line("memory above the model, GB", *memory, ratio["memory"])
    print(f"largest difference of the images: {result['difference']:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", choices=["T", "R"], default="T")
    add("--repeats", type=int, default=3)
    add("--tiny", action="store_true", help="a tiny model, to try the script in seconds")
    add("--out", type=Path, help="folder of the JSON; default benchmarks/results/<machine>")
    add("--memory", choices=["ours", "plain"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        print(extra_memory(options.memory, options.config, options.tiny))
        return
    result = run(options.config, options.repeats, options.tiny)
    show(result)
    print(write(f"stylegan3_{options.config.lower()}", result, options.out))


if __name__ == "__main__":
    main()
