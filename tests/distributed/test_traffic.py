"""The messages of a run are those that benchmarks/communication.py counts."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "training" / "train_tiny.py"
PADDING = 0.05  # FSDP2 fills up what does not divide
LEARNS = 0.95  # density teaches no super-resolution: its gradients are not sent


@pytest.fixture(scope="module")
def communication():
    """The benchmark's module, which is no part of the package."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location(
        "communication", ROOT / "benchmarks" / "communication.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(ROOT / "benchmarks"))


def test_rings_send_what_is_said(communication):
    """Two of 4 bytes: an all-reduce sends each half twice, the others once."""
    steps = communication.Steps(density=0.25, r1=0.5)
    assert communication.traffic("gan_ddp", 100, 10, steps)["all_reduce"] == 125 + 15
    bucket, kinds = communication.BUCKET_BYTES, communication.PASSES

    def rings(processes):
        links = dict.fromkeys(kinds, float(bucket))
        return communication.Rings(dict.fromkeys(kinds, processes), links)

    assert rings(2).sent({"all_reduce": 4.0}) == 4
    assert rings(2).sent({"all_gather": 4.0}) == 2
    assert rings(1).sent({"all_reduce": 4.0}) == 0
    # gradients of which the last buckets are sent after the backward pass
    gradients = {"all_reduce": 10.0 * bucket}
    assert communication.waits(gradients, rings(2), 100.0, communication.Steps()) == 2
    assert communication.waits(gradients, rings(2), 12.0, communication.Steps()) == 2 + 8 - 4
    gathered = {"all_reduce": 0.0, "all_gather": 10.0 * bucket}
    assert communication.waits(gathered, rings(2), 100.0, communication.Steps()) == 5
    # two machines of eight: each process averages an eighth of 100 bytes with one other
    sent = communication.traffic("gan_hsdp", 100, 10, communication.Steps())
    assert communication.Rings.of("gan_hsdp", 16).sent(sent) == pytest.approx(
        (200 + 100) * 7 / 8 + 12.5 + 2 * 10 * 15 / 16
    )
    assert communication.kept("gan_ddp", 100, 10, 5) == 430
    assert communication.kept("gan_fsdp", 100, 10, 5) == 110
    assert communication.kept("gan_fsdp_both", 100, 10, 5) == 86
    assert communication.kept("gan_hsdp", 100, 10, 16) == 50 + 30


@pytest.mark.slow
def test_a_run_sends_what_is_counted(communication, posed_zip, tmp_path):
    """Four iterations of EG3D, with one step of the density regularization and one of R1."""
    words = [
        word
        for name in communication.STRATEGIES
        for word in ("then", "--strategy", name, "--traffic", tmp_path / f"{name}.json")
    ]
    command = [sys.executable, SCRIPT, posed_zip, "--devices", 2, "--iterations", 4, *words[1:]]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in communication.STRATEGIES:
        found = json.loads((tmp_path / f"{name}.json").read_text())
        steps = communication.Steps(density=0.25, r1=0.25)
        counted = communication.traffic(name, *found["parameters"], steps)
        for kind, number in found["messages"].items():
            print(f"{name:14} {kind:14} {number / 4:9.0f} counted {counted[kind]:9.0f}")
            assert number / 4 <= counted[kind] * (1 + PADDING), (name, kind)
            assert number / 4 >= counted[kind] * LEARNS, (name, kind)
