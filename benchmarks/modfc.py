"""The modulated fully connected layer of CIPS-3D: three formulations and the two published ones, on
one CPU thread.

python benchmarks/modfc.py [--repeats 12] [--seconds 20] [--tiny] [--out FOLDER] [--check]

Per size (b n i o), forward (no gradient) and forward + backward (gradients of x, weight and style):
CPU milliseconds, the best of some repetitions. Every repetition times all formulations one after
the other, in random order, so that a machine that is busy for a while, and what the one before left
in caches, disturbs all of them. First all results and gradients are compared (1e-4 of the largest).

Targets: the formulation that gan3d.ops.modfc chooses takes at most 1.1 times the best one's time in
every row; and it is at least 1.6 times faster than the published grouped convolution wherever the
published batched product is so in the same run. (Where a convolution comes closer than that to the
sgemm rate, no formulation can be: see "of sgemm".) With --check the exit code is 1 if they do not
hold.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from machine import facts, sgemm_rate, write
from torch import Tensor

from gan3d.ops.modfc import FORMS, choose_form, modfc

SIZES = (
    (4, 1024, 512, 512),
    (2, 4096, 512, 512),
    (32, 64, 512, 512),
    (8, 4096, 32, 32),
    (4, 256, 512, 512),
    (4, 4096, 32, 512),
    (256, 1, 512, 512),
    (4096, 1, 512, 512),
)
TINY_SIZES = ((2, 64, 16, 16), (8, 1, 16, 16))
SLACK, SPEEDUP = 1.1, 1.6
LARGEST_WEIGHTS = (
    512e6  # bytes of all images' weights; formulations that make them keep about five copies
)
Layer = Callable[[Tensor, Tensor, Tensor], Tensor]


def published_weights(weight: Tensor, style: Tensor) -> Tensor:
    """Weights of each image [b i o], demodulated by their own squares."""
    modulated = weight[None] * style[:, :, None]
    return modulated * (modulated.square().sum(1, keepdim=True) + 1e-8).rsqrt()


def published_bmm(x: Tensor, weight: Tensor, style: Tensor) -> Tensor:
    return torch.bmm(x, published_weights(weight, style))


def published_grouped(x: Tensor, weight: Tensor, style: Tensor) -> Tensor:
    b, n, i = x.shape
    kernels = published_weights(weight, style).mT.reshape(-1, i, 1, 1)
    y = F.conv2d(x.mT.reshape(1, b * i, n, 1), kernels, groups=b)
    return y.reshape(b, -1, n).mT


def layers(b: int, i: int, o: int) -> dict[str, Layer]:
    """The formulations to measure at a size, those that would not fit in memory left out."""
    ours: dict[str, Layer] = {form: partial(modfc, form=form) for form in FORMS}
    if 4 * b * i * o > LARGEST_WEIGHTS:
        return {"scale": ours["scale"]}
    return {**ours, "published bmm": published_bmm, "published grouped": published_grouped}


def gradients(layer: Layer, inputs: list[Tensor], g: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(layer(*inputs), inputs, g)


def largest_difference(compared: dict[str, Layer], inputs: list[Tensor], g: Tensor) -> float:
    """Of results and gradients between the formulations, relative to the largest number of each
    tensor.
    """
    results = [
        (layer(*inputs).detach(), *gradients(layer, inputs, g)) for layer in compared.values()
    ]
    differences = [
        ((actual - expected).abs().max() / expected.abs().max()).item()
        for result in results[1:]
        for actual, expected in zip(result, results[0])
    ]
    return max(differences, default=0.0)


def cpu_ms(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


def measure(size: tuple[int, int, int, int], repeats: int, seconds: float) -> dict[str, Any]:
    """One row: milliseconds of every formulation, the choice, and its ratios."""
    b, n, i, o = size
    torch.manual_seed(0)
    inputs = [torch.randn(b, n, i), torch.randn(i, o), torch.randn(b, i) + 1]
    inputs, g = [tensor.requires_grad_() for tensor in inputs], torch.randn(b, n, o)
    compared = layers(b, i, o)
    difference = largest_difference(compared, inputs, g)
    if not difference <= 1e-4:
        raise SystemExit(
            f"at {size} the formulations differ by {difference:.2g}: nothing was measured"
        )

    times: dict[str, dict[str, list[float]]] = {
        phase: {name: [] for name in compared} for phase in ("forward", "forward_backward")
    }
    until, order = time.process_time() + seconds, random.Random(0)
    for repeat in range(repeats):
        if repeat >= 2 and time.process_time() > until:
            break
        for name, layer in order.sample(list(compared.items()), len(compared)):
            with torch.no_grad():
                times["forward"][name].append(cpu_ms(partial(layer, *inputs)))
            times["forward_backward"][name].append(cpu_ms(partial(gradients, layer, inputs, g)))

    row: dict[str, Any] = {"size": size, "difference": difference, "chosen": choose_form(n, i, o)}
    row |= {phase: summary(by_name, row["chosen"]) for phase, by_name in times.items()}
    return row


def summary(times: dict[str, list[float]], chosen: str) -> dict[str, Any]:
    """Best milliseconds by formulation, and how the chosen one compares."""
    best = {name: min(samples) for name, samples in times.items()}
    result: dict[str, Any] = {"ms": best, "repeats": len(times[chosen])}
    result["spread"] = {
        name: sorted(samples)[len(samples) // 2] / best[name] for name, samples in times.items()
    }
    result["chosen_over_best"] = best[chosen] / min(best[form] for form in FORMS if form in best)
    if "published grouped" in best:
        result["grouped_over_bmm"] = best["published grouped"] / best["published bmm"]
        result["grouped_over_chosen"] = best["published grouped"] / best[chosen]
    return result


def missed(rows: list[dict[str, Any]]) -> list[str]:
    """The targets that do not hold, in words."""
    found = []
    for row in rows:
        for phase in ("forward", "forward_backward"):
            one, where = row[phase], f"{row['size']} {phase}"
            if one["chosen_over_best"] > SLACK:
                found.append(
                    f"{where}: {row['chosen']} takes {one['chosen_over_best']:.2f} times the best "
                    "form's time"
                )
            if one.get("grouped_over_bmm", 0) >= SPEEDUP > one.get("grouped_over_chosen", 0):
                found.append(
                    f"{where}: only {one['grouped_over_chosen']:.2f} times faster than grouped "
                    "convolution"
                )
    return found


def run(tiny: bool, repeats: int, seconds: float) -> dict[str, Any]:
    result: dict[str, Any] = {
        **facts(),
        "sgemm_gflops": sgemm_rate(256 if tiny else 2048),
        "rows": [],
    }
    for size in TINY_SIZES if tiny else SIZES:
        result["rows"].append(measure(size, repeats, seconds))
    result["missed"] = missed(result["rows"])
    return result | {"targets_hold": not result["missed"]}


def show(result: dict[str, Any]) -> None:
    print(f"CPU ms, one thread, sgemm {result['sgemm_gflops']:.0f} GFLOP/s, {result['machine']}")
    print(
        f"{'(b, n, i, o)':22}{'':5}{'grouped':>9}{'bmm':>9}{'scale':>9}{'pub.bmm':>9}{'pub.grp':>9}  "
        f"{'chosen':8}{'/best':>6}{'x grp':>7}{'bmm x':>7}{'of sgemm':>10}"
    )
    for row in result["rows"]:
        b, n, i, o = row["size"]
        for phase, label, products in (("forward", "f", 1), ("forward_backward", "f+b", 3)):
            one = row[phase]
            names = (*FORMS, "published bmm", "published grouped")
            columns = "".join(
                f"{one['ms'][name]:9.2f}" if name in one["ms"] else f"{'-':>9}" for name in names
            )
            ratios = [one.get(name) for name in ("grouped_over_chosen", "grouped_over_bmm")]
            share = (
                products * 2e-6 * b * n * i * o / one["ms"][row["chosen"]] / result["sgemm_gflops"]
            )
            print(
                f"{tuple(row['size'])!s:22}{label:5}{columns}  {row['chosen']:8}{one['chosen_over_best']:6.2f}"
                + "".join(f"{'-':>7}" if ratio is None else f"{ratio:7.2f}" for ratio in ratios)
                + f"{share:10.0%}"
            )
    print(
        "targets hold"
        if result["targets_hold"]
        else "\n".join(["targets missed:", *result["missed"]])
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument(
        "--seconds", type=float, default=20, help="CPU seconds of a row, after which repeats end"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="sizes of milliseconds, to try the script"
    )
    parser.add_argument(
        "--out", type=Path, help="folder of the JSON; default benchmarks/results/<machine>"
    )
    parser.add_argument("--check", action="store_true", help="exit code 1 if a target is missed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = run(options.tiny, options.repeats, options.seconds)
    show(result)
    print(write("modfc", result, options.out))
    sys.exit(options.check and not result["targets_hold"])


if __name__ == "__main__":
    main()
