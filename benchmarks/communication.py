"""What the processes of a training send each other: bytes per iteration, and what that costs.

    python benchmarks/communication.py [CONFIG] [--teraflops 30] [--out FOLDER]

Nothing is measured here. Messages are counted from what the strategies do in each phase
(tests/distributed/test_traffic.py compares the counts with the messages of a run); parameters are
those of the config; floating-point operations are counted by torch in one image. Seconds follow
from a model of links and GPUs that are all alike:

    all-reduce of B bytes       2 (N - 1) / N  B / link
    all-gather, reduce-scatter    (N - 1) / N  B / link         (rings: as many bytes each way)

without latency. In gan_hsdp a machine gathers and scatters a sharded network, and then each process
averages its part of the gradients with those of its place in the other machines.

The all-reduces of gradients overlap with the last backward pass of their step, all but the last
bucket of each (gan3d.training.buckets); that pass is taken to be a third of the computation. The
messages of a sharded network overlap with nothing.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from machine import write
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import gan3d
from gan3d.camera import Camera
from gan3d.discriminators import DISCRIMINATORS
from gan3d.training.buckets import BUCKET_BYTES
from gan3d.zoo import configs

STRATEGIES = ("gan_ddp", "gan_fsdp", "gan_fsdp_both")  # of one machine, or of any number
IN_MACHINES = ("gan_hsdp", "gan_hsdp_both")  # of several machines
MACHINE = 8  # GPUs of a machine
WITHIN, BETWEEN = 300e9, 50e9  # bytes per second that a GPU sends: NVLink, 400 Gbit/s each
CLUSTERS = (8, 64, 512)  # GPUs
BACKWARD = 1 / 3  # of the computation, during which gradients are sent
PASSES = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1, "all_reduce_parts": 2}


@dataclass(frozen=True)
class Rings:
    """The rings in which messages go around.

    Attributes:
        processes: of a ring, by kind of message.
        links: bytes per second, by kind of message.
    """

    processes: dict[str, int]
    links: dict[str, float]

    @classmethod
    def of(cls, strategy: str, gpus: int) -> Rings:
        """Of a strategy on machines of `MACHINE` GPUs."""
        link = WITHIN if gpus <= MACHINE else BETWEEN
        processes, links = dict.fromkeys(PASSES, gpus), dict.fromkeys(PASSES, link)
        if strategy in IN_MACHINES:
            for kind in ("all_gather", "reduce_scatter"):
                processes[kind], links[kind] = MACHINE, WITHIN
            processes["all_reduce_parts"] = gpus // MACHINE
        return cls(processes, links)

    def sent(self, found: dict[str, float]) -> float:
        """Bytes that one process sends in an iteration.

        Args:
            found: bytes by kind of message.
        """
        return sum(self._sent(kind, size) for kind, size in found.items())

    def seconds(self, found: dict[str, float]) -> float:
        """How long that takes, if nothing else is sent."""
        return sum(self._sent(kind, size) / self.links[kind] for kind, size in found.items())

    def _sent(self, kind: str, size: float) -> float:
        ring = self.processes[kind]
        return PASSES[kind] * size * (ring - 1) / ring


@dataclass(frozen=True)
class Steps:
    """How often in an iteration there are optimizer steps beside the two main ones."""

    density: float = 0.0
    path_length: float = 0.0
    r1: float = 0.0


def traffic(strategy: str, bytes_g: float, bytes_d: float, steps: Steps) -> dict[str, float]:
    """Bytes of the tensors in the messages of an iteration, by kind of message.

    Args:
        strategy: of `STRATEGIES` or `IN_MACHINES`.
        bytes_g: of the generator's parameters.
        bytes_d: of the discriminator's.
        steps: of the lazy regularizers.
    """
    learns_g = 1 + steps.density + steps.path_length
    learns_d = 1 + steps.r1
    found = dict.fromkeys(PASSES, 0.0)
    if strategy == "gan_ddp":
        found["all_reduce"] += bytes_g * learns_g
    else:
        # Fakes of the discriminator's phase, and the mean path length, need the weights, too.
        found["all_gather"] += bytes_g * (learns_g + 1 + steps.path_length)
        found["reduce_scatter"] += bytes_g * learns_g
    if strategy in ("gan_fsdp_both", "gan_hsdp_both"):
        found["all_gather"] += bytes_d * (learns_d + 1)
        found["reduce_scatter"] += bytes_d * learns_d
    else:
        found["all_reduce"] += bytes_d * learns_d
    if strategy in IN_MACHINES:
        found["all_reduce_parts"] = found["reduce_scatter"] / MACHINE
    return found


def waits(found: dict[str, float], rings: Rings, compute: float, steps: Steps) -> float:
    """Seconds of an iteration in which a process waits for messages.

    Args:
        found: bytes by kind of message.
        rings: in which they go.
        compute: seconds of an iteration.
        steps: of the lazy regularizers.
    """
    gradients = found["all_reduce"]
    number = 2 + steps.density + steps.path_length + steps.r1 if gradients else 0.0
    last = min(gradients, number * BUCKET_BYTES)
    before = rings.seconds({"all_reduce": gradients - last})
    rest = rings.seconds(found | {"all_reduce": last})
    return rest + max(0.0, before - BACKWARD * compute)


def kept(strategy: str, bytes_g: float, bytes_d: float, processes: int) -> float:
    """Bytes per process of weights, average and Adam's two moments between the phases."""
    part = 1 / (MACHINE if strategy in IN_MACHINES else processes)
    share_g = 1.0 if strategy == "gan_ddp" else part
    share_d = part if strategy.endswith("_both") else 1.0
    return 4 * bytes_g * share_g + 3 * bytes_d * share_d


def networks(config: str) -> tuple[nn.Module, nn.Module, dict]:
    """Both networks of a packaged config, and the section of the model in it."""
    model = yaml.safe_load(Path(configs.find(config)).read_text())["model"]
    section = model["discriminator"]
    discriminator = DISCRIMINATORS[section["class_path"]](**section.get("init_args") or {})
    return gan3d.create(config), discriminator, model


def bytes_of(network: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in network.parameters())


def operations(generator: nn.Module, discriminator: nn.Module) -> tuple[float, float]:
    """Floating-point operations of one forward pass of each network, of one image."""
    camera = Camera.from_angles(0.1, 0.1)
    with torch.no_grad():
        with FlopCounterMode(display=False) as of_g:
            shown = generator(torch.zeros(1, generator.z_dim), camera)
        with FlopCounterMode(display=False) as of_d:
            discriminator(shown.image, raw=shown.raw, camera=camera)
    return float(of_g.get_total_flops()), float(of_d.get_total_flops())


def table(config: str, teraflops: float) -> dict:
    """All counts of a config, and what follows from them for several numbers of GPUs."""
    generator, discriminator, model = networks(config)
    bytes_g, bytes_d = bytes_of(generator), bytes_of(discriminator)
    density, path, r1 = (model.get(name, {}) for name in ("density", "path_length", "r1"))
    lazy = {
        "density": 1 / density["interval"] if density.get("weight") else 0.0,
        "path_length": 1 / path["interval"] if path.get("weight") else 0.0,
        "r1": 1 / r1["interval"] if r1.get("interval", 1) > 1 else 0.0,
    }
    steps = Steps(**lazy)
    flops_g, flops_d = operations(generator, discriminator)
    # G: forward and both backward passes, and forward again for D. D: forward and backward to the
    # image; all three passes of fakes and of reals; R1 about six.
    flops = 4 * flops_g + (8 + 6 * steps.r1) * flops_d
    group = model["discriminator"]["init_args"].get("group_size", 4)
    compute = group * flops / (teraflops * 1e12)
    rows = []
    for strategy in (*STRATEGIES, *IN_MACHINES):
        found = traffic(strategy, bytes_g, bytes_d, steps)
        for gpus in CLUSTERS[strategy in IN_MACHINES :]:
            rings = Rings.of(strategy, gpus)
            waited = waits(found, rings, compute, steps)
            rows.append(
                {
                    "strategy": strategy,
                    "gpus": gpus,
                    "batch": gpus * group,
                    "sent_mb": rings.sent(found) / 1e6,
                    "messages_ms": 1e3 * rings.seconds(found),
                    "compute_ms": 1e3 * compute,
                    "waits_ms": 1e3 * waited,
                    "efficiency": compute / (compute + waited),
                    "kept_mb": kept(strategy, bytes_g, bytes_d, gpus) / 1e6,
                }
            )
    return {
        "config": config,
        "measured": False,
        "parameters": {"generator": bytes_g // 4, "discriminator": bytes_d // 4},
        "gflop_per_image": {"generator": flops_g / 1e9, "discriminator": flops_d / 1e9},
        "gflop_per_image_of_an_iteration": flops / 1e9,
        "teraflops": teraflops,
        "images_per_gpu": group,
        "bytes": {name: traffic(name, bytes_g, bytes_d, steps) for name in STRATEGIES},
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="?", default="eg3d_ffhq512.yaml")
    parser.add_argument("--teraflops", type=float, default=30.0, help="that a GPU sustains")
    parser.add_argument("--out", type=Path, help="folder of the JSON")
    args = parser.parse_args()
    result = table(args.config, args.teraflops)
    rows = result.pop("rows")
    print(json.dumps(result, indent=1))
    print("| strategy | GPUs | batch | sent, MB | messages, ms | waits, ms | compute, ms ", end="")
    print("| efficiency | kept, MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| `{row['strategy']}` | {row['gpus']} | {row['batch']} | {row['sent_mb']:.0f} | "
            f"{row['messages_ms']:.1f} | {row['waits_ms']:.1f} | {row['compute_ms']:.0f} | "
            f"{row['efficiency']:.1%} | {row['kept_mb']:.0f} |"
        )
    write("communication", result | {"rows": rows}, args.out)


if __name__ == "__main__":
    main()
