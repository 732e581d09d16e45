"""Runs the steps of `on_gpu.sh`, each in a process of its own and within its time.

    benchmarks/on_gpu.sh [--minutes 6] [--device cuda] [--tiny] [--steps tests members ..]

    data         procedural heads for `train`, in the background from the start
    tests        the tests that need a GPU; skipped where there is no pytest
    members      every generator, tiny and at full size: forward, backward, one iteration
    ops          the ops in all forms, against their floors (ops.py)
    forward      one view, eager, compiled, as a CUDA graph, by precision (forward.py)
    train_step   the phases of an iteration by precision, with and without kernels (train_step.py)
    profile      one iteration under the profiler, summed up by phase and kernel
    train        a generator of heads for the time that is left, with pictures and scores

Every step writes into `$OUT` as it goes. A step that takes too long is ended and keeps what it has
written; one that would begin with too little time is skipped. `on_gpu.json` says what became of
each. The exit code is 1 if a step failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LEAST = 8.0  # seconds with which a step is begun
MOST_TINY = 90.0  # seconds of a step at tiny sizes


@dataclass(frozen=True)
class Step:
    """A step of the run.

    Attributes:
        name: of the step.
        script: that makes it; None is a step of on_gpu_steps.py.
        share: of the whole time that it may take.
    """

    name: str
    script: str | None
    share: float


# Files with tests that need a GPU: all of them take long to be collected.
TESTED = ("tests/ops", "tests/test_randomness.py", "tests/apps/test_graphs.py", "tests/data")
STEPS = (
    Step("tests", "pytest", 0.10),
    Step("members", None, 0.22),
    Step("ops", "ops.py", 0.14),
    Step("forward", "forward.py", 0.11),
    Step("train_step", "train_step.py", 0.14),
    Step("profile", None, 0.12),
    Step("train", None, 1.0),
)


def command(step: Step, options: argparse.Namespace, out: Path, seconds: float) -> list[str]:
    """The command line of a step."""
    if step.script == "pytest":
        where = [str(HERE.parent / name) for name in TESTED]
        return [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", *where]
    if step.script is None:
        words = [str(HERE / "on_gpu_steps.py"), step.name, "--data", options.data]
    else:
        words = [str(HERE / step.script)]
    words += ["--device", options.device, "--out", str(out), "--seconds", f"{seconds:.0f}"]
    return [sys.executable, *words, *(["--tiny"] if options.tiny else [])]


def hindrance(step: Step) -> str | None:
    """Why a step cannot run here; None: it can."""
    if step.script == "pytest" and importlib.util.find_spec("pytest") is None:
        return "there is no pytest; members and ops compare with the CPU and with float64"
    return None


def start(words: list[str], log: Path, env: dict[str, str]) -> subprocess.Popen:
    """A process with its children in a group of its own, its words in a file."""
    with log.open("w") as file:
        return subprocess.Popen(
            words, stdout=file, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )


def end(process: subprocess.Popen) -> None:
    """Ends a process and its children."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            continue


def run(step: Step, words: list[str], out: Path, limit: float, env: dict[str, str]) -> dict:
    """Runs a step within a number of seconds, and says what became of it."""
    begin, log = time.monotonic(), out / f"{step.name}.log"
    process = start(words, log, env)
    try:
        code = process.wait(timeout=limit)
        became = "done" if code == 0 else "failed"
    except subprocess.TimeoutExpired:
        code, became = None, "out of time"
    end(process)
    row: dict[str, Any] = {"became": became, "seconds": round(time.monotonic() - begin, 1)}
    if became != "done":
        row |= {"exit_code": code, "last_lines": log.read_text(errors="replace").split("\n")[-8:]}
    return row


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--minutes", type=float, default=6.0)
    add("--device", default="cuda")
    add("--tiny", action="store_true", help="tiny sizes: the same steps anywhere")
    names = [step.name for step in STEPS]
    add("--steps", nargs="+", choices=names, default=names)
    options = parser.parse_args()
    out = Path(os.environ.get("OUT", "on_gpu")).resolve()
    out.mkdir(parents=True, exist_ok=True)
    env = dict(os.environ)
    if options.device == "cpu":
        env.setdefault("OMP_NUM_THREADS", "1")
    total = 60 * options.minutes
    last = time.monotonic() + total
    results: dict[str, Any] = {"minutes": options.minutes, "device": options.device, "steps": {}}

    data = None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        options.data = folder
        try:
            # data, in the background
            if "train" in options.steps:
                words = command(Step("data", None, 1.0), options, out, total)
                data = start(words, out / "data.log", env)
            for step in (step for step in STEPS if step.name in options.steps):
                limit = min(last - time.monotonic(), step.share * total)
                row: dict[str, Any] = {"became": "skipped", "seconds": 0.0}
                if (why := hindrance(step)) is not None:
                    row["why"] = why
                elif limit >= LEAST:
                    if options.tiny:
                        limit = min(limit, MOST_TINY)
                    # A step is asked to end before it is ended.
                    words = command(step, options, out, 0.75 * limit)
                    row = run(step, words, out, limit, env)
                results["steps"][step.name] = row
                (out / "on_gpu.json").write_text(json.dumps(results, indent=2) + "\n")
                print(f"{step.name}: {row['became']}, {row['seconds']:.0f} s", flush=True)
                for line in row.get("last_lines", []):
                    print(f"    {line}", flush=True)
        finally:
            if data is not None:
                end(data)
    print(out)
    return int(any(row["became"] == "failed" for row in results["steps"].values()))


if __name__ == "__main__":
    raise SystemExit(main())
