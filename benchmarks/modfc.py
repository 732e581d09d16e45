"""The modulated fully connected layer of CIPS-3D: three forms and two published ones, one thread.

    python benchmarks/modfc.py [--repeats 12] [--seconds 20] [--tiny] [--out FOLDER] [--check]

Reported per size (b n i o), for forward (no gradient) and forward + backward (gradients of x,
weight and style): CPU milliseconds, the minimum of several repetitions. Every repetition times all
forms one after the other in random order, so that other load on the machine, and the caches left by
the previous form, affect all of them alike. Results and gradients are compared first (to 1e-4 of
the largest).

Targets: the form that gan3d.ops.modfc chooses takes at most 1.1 times the time of the fastest one
in every row; and it is at least 1.6 times faster than the published grouped convolution wherever
the published batched product is. (Where a convolution comes closer than that to the sgemm rate, no
form can be: see "of sgemm".) With --check the exit code is 1 if a target is missed.
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
SLACK = 1.1
SPEEDUP = 1.6
# Largest size of all images' weights, in bytes; forms that compute them keep about five copies.
LARGEST_WEIGHTS = 512e6
Layer = Callable[[Tensor, Tensor, Tensor], Tensor]


def published_weights(weight: Tensor, style: Tensor) -> Tensor:
    """Demodulated weights of each image, [b i o]."""
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
    """The forms to measure at a size, without those that do not fit in memory."""
    ours: dict[str, Layer] = {form: partial(modfc, form=form) for form in FORMS}
    if 4 * b * i * o > LARGEST_WEIGHTS:
        return {"scale": ours["scale"]}
    return {**ours, "published bmm": published_bmm, "published grouped": published_grouped}


def gradients(layer: Layer, inputs: list[Tensor], g: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(layer(*inputs), inputs, g)


def largest_difference(compared: dict[str, Layer], inputs: list[Tensor], g: Tensor) -> float:
    """Of results and gradients between the forms, relative to the largest entry of each tensor."""
    first, *others = (
        (layer(*inputs).detach(), *gradients(layer, inputs, g)) for layer in compared.values()
    )
    differences = []
    for result in others:
        for actual, expected in zip(result, first):
            difference = (actual - expected).abs().max() / expected.abs().max()
            differences.append(difference.item())
    return max(differences, default=0.0)


def cpu_ms(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


def measure(size: tuple[int, int, int, int], repeats: int, seconds: float) -> dict[str, Any]:
    """One row: milliseconds of every form, the choice, and its ratios."""
    b, n, i, o = size
    torch.manual_seed(0)
    inputs = [torch.randn(b, n, i), torch.randn(i, o), torch.randn(b, i) + 1]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    g = torch.randn(b, n, o)
    compared = layers(b, i, o)
    difference = largest_difference(compared, inputs, g)
    if not difference <= 1e-4:
        raise SystemExit(f"at {size} the forms differ by {difference:.2g}: nothing was measured")

    times: dict[str, dict[str, list[float]]] = {
        phase: {name: [] for name in compared} for phase in ("forward", "forward_backward")
    }
    end = time.process_time() + seconds
    order = random.Random(0)
    for repeat in range(repeats):
        if repeat >= 2 and time.process_time() > end:
            break
        for name, layer in order.sample(list(compared.items()), len(compared)):
            with torch.no_grad():
                times["forward"][name].append(cpu_ms(partial(layer, *inputs)))
            times["forward_backward"][name].append(cpu_ms(partial(gradients, layer, inputs, g)))

    row: dict[str, Any] = {"size": size, "difference": difference, "chosen": choose_form(n, i, o)}
    row |= {phase: summary(by_name, row["chosen"]) for phase, by_name in times.items()}
    return row


def summary(times: dict[str, list[float]], chosen: str) -> dict[str, Any]:
    """Best milliseconds by form, and ratios of the chosen one to others."""
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
    """Descriptions of the missed targets."""
    found = []
    for row in rows:
        for phase in ("forward", "forward_backward"):
            one = row[phase]
            where = f"{row['size']} {phase}"
            ratio = one["chosen_over_best"]
            if ratio > SLACK:
                found.append(f"{where}: {row['chosen']} takes {ratio:.2f} times the best form's")
            speedup = one.get("grouped_over_chosen", 0)
            if one.get("grouped_over_bmm", 0) >= SPEEDUP > speedup:
                found.append(f"{where}: only {speedup:.2f} times faster than grouped convolution")
    return found


def run(tiny: bool, repeats: int, seconds: float) -> dict[str, Any]:
    """All rows, and the missed targets."""
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
    """Prints the result as a table."""
    rate = result["sgemm_gflops"]
    names = (*FORMS, "published bmm", "published grouped")
    titles = (*FORMS, "pub.bmm", "pub.grp")
    print(f"CPU ms, one thread, sgemm {rate:.0f} GFLOP/s, {result['machine']}")
    print(
        f"{'(b, n, i, o)':22}{'':5}"
        + "".join(f"{title:>9}" for title in titles)
        + f"  {'chosen':8}{'/best':>6}{'x grp':>7}{'bmm x':>7}{'of sgemm':>10}"
    )

    def cell(value: float | None, width: int) -> str:
        return f"{'-':>{width}}" if value is None else f"{value:{width}.2f}"

    for row in result["rows"]:
        b, n, i, o = row["size"]
        chosen = row["chosen"]
        for phase, label, products in (("forward", "f", 1), ("forward_backward", "f+b", 3)):
            one = row[phase]
            gflop = products * 2e-6 * b * n * i * o
            share = gflop / one["ms"][chosen] / rate
            print(
                f"{tuple(row['size'])!s:22}{label:5}"
                + "".join(cell(one["ms"].get(name), 9) for name in names)
                + f"  {chosen:8}{one['chosen_over_best']:6.2f}"
                + cell(one.get("grouped_over_chosen"), 7)
                + cell(one.get("grouped_over_bmm"), 7)
                + f"{share:10.0%}"
            )
    if result["targets_hold"]:
        print("targets hold")
    else:
        print("targets missed:", *result["missed"], sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--repeats", type=int, default=12)
    add("--seconds", type=float, default=20, help="CPU seconds of a row, after which repeats end")
    add("--tiny", action="store_true", help="tiny sizes, to try the script in seconds")
    add("--out", type=Path, help="folder of the JSON; default benchmarks/results/<machine>")
    add("--check", action="store_true", help="exit code 1 if a target is missed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = run(options.tiny, options.repeats, options.seconds)
    show(result)
    print(write("modfc", result, options.out))
    sys.exit(options.check and not result["targets_hold"])


if __name__ == "__main__":
    main()
