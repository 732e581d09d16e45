"""Faults of one of several processes: all end soon, the first cause is said, and the last
checkpoint goes on.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from gan3d.checkpoints.models import from_pretrained
from gan3d.checkpoints.runs import newest_whole, read_checkpoint
from gan3d.cli.export import export_training
from gan3d.discriminators import StyleGAN2Discriminator
from gan3d.generators import StyleGAN2

HERE = Path(__file__).parent
BATCH, ITERATIONS = 8, 8
SOON = 60  # seconds from a fault to the end of the last process


def write_config(path: Path, data: Path, **fault) -> Path:
    """A run of eight iterations with a checkpoint after every second, and a fault."""
    networks = {"generator": StyleGAN2, "discriminator": StyleGAN2Discriminator}
    content = {
        "model": {
            kind: {"class_path": cls.__name__, "init_args": cls.tiny | {"c_dim": 25}}
            for kind, cls in networks.items()
        }
        | {"run": {"total_kimg": ITERATIONS * BATCH / 1000, "log_every_kimg": 0.008}},
        "data": {"path": str(data), "batch_size": BATCH, "num_workers": 0},
        "trainer": {"accelerator": "cpu", "devices": 2, "strategy": "gan_fsdp"},
        "snapshots": {"num_heads": 2},
        "checkpoints": {"every_kimg": 0.016},
    }
    if fault:
        content["trainer"]["callbacks"] = [{"class_path": "faults.Fault", "init_args": fault}]
    path.write_text(yaml.safe_dump(content))
    return path


@dataclass
class Ended:
    code: int
    said: str
    seconds: float  # from the fault to the end of the last process


def fit(folder: Path, config: Path, *words: str, meanwhile=None) -> Ended:
    """Runs the command line in a group of its own, until no process of it is left.

    Args:
        folder: of the run.
        config: of the run.
        *words: more of the command.
        meanwhile: is given the number of the group.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    command = [sys.executable, "-m", "gan3d", "fit", "--config", config, "--run_dir", folder]
    process = subprocess.Popen(
        [*map(str, command), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        if meanwhile is not None:
            meanwhile(process.pid)
        said = process.communicate(timeout=400)[1]  # the last process closes the pipe
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    mark = folder / "fault"
    seconds = time.time() - mark.stat().st_mtime if mark.exists() else 0.0
    return Ended(process.returncode, said, seconds)


def goes_on(folder: Path, data: Path, *words: str) -> Ended:
    """The same run without the fault, from its last whole checkpoint to the end."""
    config = write_config(folder.parent / "whole.yaml", data)
    ended = fit(folder, config, "--ckpt_path", "last", *words)
    assert ended.code == 0, ended.said
    last = read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
    assert last["images_seen"] == ITERATIONS * BATCH
    return ended


# What the first process says where it can; a process that lost it says so itself.
@pytest.mark.parametrize(
    ("kind", "rank", "code", "cause"),
    [
        ("killed", 1, 1, "process 1 was killed (SIGKILL; out of memory?)"),
        pytest.param(
            "killed",
            0,
            -signal.SIGKILL,
            "process 0 was killed (SIGKILL; out of memory?)",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "error", 1, 1, "process 1 failed: RuntimeError: a fault", marks=pytest.mark.slow
        ),
        pytest.param("nan", 1, 1, "gradient/discriminator", marks=pytest.mark.slow),
    ],
)
def test_all_end_soon_with_the_first_cause(kind, rank, code, cause, posed_zip, tmp_path):
    """The checkpoint of iteration 4 is whole, as the fault is before the sixth."""
    folder = tmp_path / "run"
    config = write_config(tmp_path / "faulty.yaml", posed_zip, kind=kind, rank=rank)
    ended = fit(folder, config)
    print(f"{kind} in process {rank}: all had ended after {ended.seconds:.0f} s")
    assert ended.code == code, ended.said
    assert ended.seconds < SOON
    lines = [line for line in ended.said.splitlines() if "error:" in line]
    assert cause in lines[-1], ended.said
    newest = newest_whole(folder / "checkpoints")
    assert newest is not None
    assert newest.name == "kimg-000000.032.ckpt"
    goes_on(folder, posed_zip)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", ["false", "true"])
def test_a_full_disk_of_the_first_process_leaves_the_checkpoint_before(
    sharded, posed_zip, tmp_path
):
    folder = tmp_path / "run"
    config = write_config(tmp_path / "faulty.yaml", posed_zip, kind="full", rank=0)
    ended = fit(folder, config, "--checkpoints.sharded", sharded)
    assert ended.code == 2, ended.said
    assert ended.seconds < SOON
    assert "kimg-000000.048.ckpt was not written: File too large (it needs" in ended.said
    assert "kimg-000000.032.ckpt was checked and is intact" in ended.said
    assert not list((folder / "checkpoints").glob("*.partial"))
    goes_on(folder, posed_zip)


@pytest.mark.slow
def test_sigterm_to_the_group_writes_one_checkpoint_and_another_number_goes_on(posed_zip, tmp_path):
    """Then the parts that two processes wrote are exported, and gone on from by one process."""
    folder = tmp_path / "run"

    def terminate(group: int) -> None:
        until = time.monotonic() + 200
        while not (folder / "fault").exists():
            assert time.monotonic() < until, "the run does not begin"
            time.sleep(0.1)
        os.killpg(group, signal.SIGTERM)

    config = write_config(tmp_path / "slow.yaml", posed_zip, kind="hang", rank=0, at=2, seconds=3)
    ended = fit(folder, config, "--checkpoints.sharded", "true", meanwhile=terminate)
    assert ended.code == 128 + signal.SIGTERM, ended.said
    assert "Traceback" not in ended.said
    assert "stopped by SIGTERM at 0.024 of 0.064 kimg" in ended.said
    written = {path.name for path in (folder / "checkpoints").iterdir()}
    assert written == {"kimg-000000.016.ckpt", "kimg-000000.024.ckpt", "last.ckpt"}

    out = tmp_path / "exported.safetensors"
    export_training(str(folder / "checkpoints" / "kimg-000000.024.ckpt"), out)
    exported = from_pretrained(out).state_dict()
    parts = read_checkpoint(folder / "checkpoints" / "kimg-000000.024.ckpt")["state_dict"]
    assert all(
        torch.equal(tensor, parts[f"generator_ema.{name}"]) for name, tensor in exported.items()
    )
    goes_on(folder, posed_zip, "--trainer.devices", "1", "--trainer.strategy", "auto")


@pytest.mark.slow
def test_a_process_that_hangs_is_named_and_the_run_goes_on_with_it(posed_zip, tmp_path):
    config = write_config(tmp_path / "slow.yaml", posed_zip, kind="hang", rank=1, seconds=20)
    ended = fit(tmp_path / "run", config)
    assert ended.code == 0, ended.said
    named = r"process 0: no iteration for .* waits for the other processes .*; process 1 \(\d+\) "
    assert re.search(named, ended.said), ended.said
