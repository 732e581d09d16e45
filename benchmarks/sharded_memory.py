"""Memory of each process by part, EG3D at 512 px shared out over processes of this CPU, beside the
estimate.

    python benchmarks/sharded_memory.py [--config eg3d_ffhq512] [--processes 1 2 4]

Both networks are sharded (`gan_fsdp_both`), one image per process and iteration; two iterations
with all phases. Weights, average, gradients and Adam's numbers are counted, each where there are
most of them; all else is what the process has beside them at its peak. Writes sharded_memory.json
and the table in docs/estimate.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from machine import PeakMemory, facts, write
from pages import write_between

from gan3d.bench.machine import resident
from gan3d.cli.configs import resolve
from gan3d.cli.estimate import EstimateCLI
from gan3d.training.estimate.live import bytes_of
from gan3d.training.estimate.measured import train_twice
from gan3d.training.estimate.needs import Estimator
from gan3d.training.sharding import parts

STRATEGY = "gan_fsdp_both"
COUNTED = ("weights", "average", "gradients", "optimizers")
REST = "all else"


class Parts(Callback):
    """Most bytes of each part in a process."""

    def __init__(self) -> None:
        self.most = dict.fromkeys(COUNTED, 0)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        networks = (pl_module.generator, pl_module.discriminator)
        self.own = {network: _bytes(network.parameters()) for network in networks}
        self._note("average", _bytes(pl_module.generator_ema.state_dict().values()))

    def on_after_backward(self, trainer, pl_module) -> None:
        """A network that is whole has its weights beside the process's own part."""
        weights = 0
        for network, own in self.own.items():
            now = _bytes(network.parameters())
            weights += _bytes(network.buffers()) + (now if now == own else now + own)
        self._note("weights", weights)
        parameters = [p for network in self.own for p in network.parameters()]
        self._note("gradients", _bytes(p.grad for p in parameters if p.grad is not None))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        states = [s for o in trainer.optimizers for s in o.state.values()]
        self._note("optimizers", _bytes(value for state in states for value in state.values()))

    def _note(self, part: str, size: int) -> None:
        self.most[part] = max(self.most[part], size)


def _bytes(tensors: Any) -> int:
    return bytes_of(parts(tensors))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", default="eg3d_ffhq512")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--no_page", action="store_true", help="write nothing")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.config, args.processes[0], args.measure)
        return
    rows = []
    for processes in args.processes:
        with tempfile.TemporaryDirectory() as folder:
            words = ["--config", args.config, "--processes", str(processes), "--measure", folder]
            subprocess.run(
                [sys.executable, __file__, *words], stdout=subprocess.DEVNULL, check=True
            )
            found = [json.loads(p.read_text()) for p in sorted(Path(folder).glob("*.json"))]
        guess = estimated(args.config, processes, found[0]["before"])
        rows.append({"processes": processes, "estimated": guess, "measured": found})
        print(json.dumps(rows[-1]), flush=True)
    if not args.no_page:
        write("sharded_memory", {**facts(), "config": args.config, "rows": rows})
        write_between("estimate.md", "sharded", table(rows))


def made(config: str, processes: int) -> EstimateCLI:
    """The harness, and how it is spread."""
    words = ["--config", config, "--threads", "1", "--data.batch_size", str(processes)]
    words += ["--model.run.micro_batch_size", "null", "--trainer.accelerator", "cpu"]
    words += ["--trainer.devices", str(processes), "--trainer.strategy", STRATEGY]
    words += ["--model.discriminator.init_args.group_size", "1"]
    return EstimateCLI(*resolve(words))


def measure(config: str, processes: int, folder: Path) -> None:
    """Trains, as one of the processes, and writes what it needed."""
    cli, counted = made(config, processes), Parts()
    before = resident()
    with PeakMemory() as peak:
        train_twice(
            cli.model,
            cli.spread.batch_size,
            counted,
            posed=cli.spread.posed,
            processes=processes,
            strategy=STRATEGY,
        )
    in_all = round(before + peak.extra * 1e9)
    found = counted.most | {REST: in_all - sum(counted.most.values()), "in all": in_all}
    rank = cli.model.global_rank
    (folder / f"{rank}.json").write_text(json.dumps({"before": before, **found}))


def estimated(config: str, processes: int, before: int) -> dict[str, int]:
    """Bytes of a process by part, in the words of `measure`.

    Args:
        config: of the training.
        processes: that share it.
        before: bytes of a process that has made the harness.
    """
    cli = made(config, processes)
    needs = Estimator(cli.model, context=before).needs(cli.spread)
    found = {part: needs.memory[part] for part in COUNTED}
    return found | {REST: needs.total - sum(found.values()), "in all": needs.total}


def table(rows: list[dict[str, Any]]) -> list[str]:
    """A row per part; of the processes, the one with the most memory."""
    heads = [f"{row['processes']}: {what}" for row in rows for what in ("estimated", "measured")]
    lines = [f"| MB | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for part in (*COUNTED, REST, "in all"):
        cells = []
        for row in rows:
            most = max(row["measured"], key=lambda found: found["in all"])
            cells += [f"{row['estimated'][part] / 1e6:,.0f}", f"{most[part] / 1e6:,.0f}"]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
