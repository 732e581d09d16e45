"""A signal to one of several processes stops all of them after the same iteration."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "training" / "train_tiny.py"


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_signal_to_one_process_ends_all_with_a_checkpoint(posed_zip, tmp_path, rank):
    options = ("--run", tmp_path, "--devices", 2, "--model", "stylegan2", "--stop-rank", rank)
    command = [sys.executable, SCRIPT, posed_zip, *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 128 + signal.SIGUSR1, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert last["images_seen"] == 40  # five iterations of eight images
    assert last["iterations"] == 5
