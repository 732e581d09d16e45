"""`on_gpu.sh` runs its steps on a CPU, too, with nothing but what such machines have installed."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gan3d.generators import GENERATORS

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
# Python runs this at its start: packages that such machines may lack are not found.
LEAN = """
import importlib.machinery, importlib.metadata
GONE = {"jsonargparse", "kornia", "wandb", "torch_fidelity", "torchvision", "matplotlib",
        "imageio", "imageio_ffmpeg", "trimesh", "skimage", "viser", "pytest", "hypothesis"}
find = importlib.machinery.PathFinder.find_spec.__func__
named = importlib.metadata.Distribution.from_name.__func__
def find_spec(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in GONE else find(cls, name, path, target)
def from_name(cls, name):
    if name.replace("-", "_").lower() in GONE:
        raise importlib.metadata.PackageNotFoundError(name)
    return named(cls, name)
importlib.machinery.PathFinder.find_spec = classmethod(find_spec)
importlib.metadata.Distribution.from_name = classmethod(from_name)
"""


@pytest.fixture
def script(monkeypatch):
    """script(name) imports benchmarks/name.py."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def run(tmp_path: Path, *words: str) -> tuple[subprocess.CompletedProcess, dict]:
    """Runs `on_gpu.sh` on the CPU; what it printed, and its on_gpu.json."""
    (tmp_path / "lean").mkdir()
    (tmp_path / "lean" / "sitecustomize.py").write_text(LEAN)
    out = tmp_path / "out"
    env = os.environ | {"OUT": str(out), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = str(tmp_path / "lean")
    env.pop("TRITON_INTERPRET", None)
    command = [str(BENCHMARKS / "on_gpu.sh"), "--device", "cpu", "--tiny", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=tmp_path)
    return done, json.loads((out / "on_gpu.json").read_text())


def test_ops_are_compared_and_timed_where_little_is_installed(tmp_path):
    done, result = run(tmp_path, "--steps", "tests", "ops", "--minutes", "6")
    assert done.returncode == 0, done.stdout + done.stderr
    assert result["steps"]["tests"]["became"] == "skipped"
    assert "no pytest" in result["steps"]["tests"]["why"]
    assert result["steps"]["ops"]["became"] == "done"
    ops = json.loads((tmp_path / "out" / "ops.json").read_text())
    assert ops["ceilings"]["copy_gb_s"] > 0.1
    assert ops["ceilings"]["float32_tflop_s"] > 1e-3
    timed = {(row["op"], row["form"]) for row in ops["rows"] if "forward" in row}
    assert {op for op, form in timed if form == "fast"} == {op for op, _ in timed}
    names = {op for op, _ in timed}
    assert {"modfc", "composite", "triplane", "bias_act", "upfirdn2d"} <= names
    assert {"render_triplane", "composite_manifolds", "grid_sample"} <= names
    for row in ops["rows"]:
        if "forward" in row:
            assert row["both"]["ms"] > 0
            assert row["forward"]["ms_10"] <= row["forward"]["ms"] <= row["forward"]["ms_90"]


@pytest.mark.slow
def test_all_steps_run_on_a_cpu_and_leave_their_results(tmp_path):
    begin = time.monotonic()
    done, result = run(tmp_path, "--minutes", "6")
    print(done.stdout, f"{time.monotonic() - begin:.0f} s")
    assert done.returncode == 0, done.stdout + done.stderr
    became = {name: row["became"] for name, row in result["steps"].items()}
    assert became.pop("tests") == "skipped"
    assert set(became.values()) == {"done"}, became
    out = tmp_path / "out"
    members = json.loads((out / "members.json").read_text())["rows"]
    assert set(members) == {f"{name} tiny" for name in GENERATORS}
    assert all(row["iteration_s"] > 0 for row in members.values())
    in_float16 = {name for name, row in members.items() if "float16_iteration_s" in row}
    able = {n for n, cls in GENERATORS.items() if not cls(**cls.tiny).no_float16}
    assert in_float16 == {f"{name} tiny" for name in able}
    assert {"StyleGAN2", "PiGAN"} <= able
    assert "CIPS3D" not in able
    phases = {"generator", "discriminator", "r1", "average", "reading"}
    profile = json.loads((out / "profile.json").read_text())
    assert phases <= set(profile["phases"])
    assert sum(kernel["ms"] for kernel in profile["kernels"]) > 1
    forward = json.loads((out / "forward_on_device.json").read_text())["rows"]
    assert {row["form"] for row in forward} == {"float32", "bf16", "published, tf32"}
    step = json.loads((out / "train_step_on_device.json").read_text())["rows"]
    assert {row["phase"] for row in step} == {"generator", "density", "discriminator", "r1"}
    trained = json.loads((out / "train.json").read_text())
    assert trained["iterations"] >= 1
    assert trained["distance"] > 0
    assert "body_convex" in trained["heads"]
    assert (out / "heads.png").stat().st_size > 1000
    assert (out / "generator" / "model.safetensors").exists()
    # What comes back from a GPU machine is small, and the data set is not part of it.
    assert sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) < 8e6


def test_a_step_that_takes_too_long_is_ended_with_its_children_and_the_next_ones_run(
    script, tmp_path, monkeypatch, capsys
):
    bench = script("on_gpu")
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', '{}'])"
    slow = child.format("import time; time.sleep(60)")
    lines = {"members": slow, "ops": "print(1 / 0)", "profile": "print(5)"}

    def command(step, *_):
        return [sys.executable, "-c", lines[step.name]]

    monkeypatch.setattr(bench, "command", command)
    monkeypatch.setattr(bench, "LEAST", 0.5)
    monkeypatch.setattr(bench, "STEPS", tuple(s for s in bench.STEPS if s.name in lines))
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["on_gpu.py", "--minutes", "0.1", "--steps", *lines])
    begin = time.monotonic()
    assert bench.main() == 1
    assert time.monotonic() - begin < 12
    steps = json.loads((tmp_path / "on_gpu.json").read_text())["steps"]
    assert {name: row["became"] for name, row in steps.items()} == {
        "members": "out of time",
        "ops": "failed",
        "profile": "done",
    }
    assert "ZeroDivisionError" in "".join(steps["ops"]["last_lines"])
    assert (tmp_path / "profile.log").read_text() == "5\n"


def test_what_would_begin_with_too_little_time_is_skipped(script, tmp_path, monkeypatch):
    bench = script("on_gpu")
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["on_gpu.py", "--minutes", "0.01", "--steps", "ops"])
    assert bench.main() == 0
    steps = json.loads((tmp_path / "on_gpu.json").read_text())["steps"]
    assert steps == {"ops": {"became": "skipped", "seconds": 0.0}}


def test_a_wrong_form_of_an_op_is_not_timed(script):
    bench = script("ops")
    case = next(bench.cases(tiny=True))
    device, most = torch.device("cpu"), {"copy_gb_s": 1.0, "float32_tflop_s": 1.0}

    def wrong(x, weight, style):
        return bench._modfc(x, weight, style) * 1.001

    row = bench.one(case, wrong, device, "float32", torch.float32, most)
    assert "failed" in row
    assert "forward" not in row
    right = bench.one(case, bench._modfc, device, "float32", torch.float32, most)
    # 2 x 65 points of 32 features through 32 x 32 weights, and as many written.
    assert right["bytes"] == 4 * (2 * 65 * 32 + 32 * 32 + 2 * 32 + 2 * 65 * 32)
    assert right["floor_ms"]["forward"] == pytest.approx(right["bytes"] / 1e6)


def test_quantiles_are_those_of_the_calls(script, monkeypatch):
    timing = script("timing")
    times = iter(float(k) for k in range(1, 100))
    monkeypatch.setattr(timing, "_once", lambda *_: next(times))
    took = timing.milliseconds(lambda: None, torch.device("cpu"), seconds=60, most=11)
    assert took == {"ms": 6.0, "ms_10": 2.0, "ms_90": 10.0, "calls": 11}


def test_the_peak_of_memory_is_that_of_live_tensors(script):
    timing = script("timing")

    def work() -> None:
        first = torch.ones(1000)
        del first
        torch.ones(2000)

    assert timing.peak_megabytes(work, torch.device("cpu")) == pytest.approx(0.008)


def test_a_process_knows_when_it_began(script):
    began = "import time, timing; time.sleep(1); print(time.perf_counter() - timing.started())"
    before = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", began],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(BENCHMARKS), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert 1 < float(done.stdout) < time.perf_counter() - before + 0.1, done.stderr
