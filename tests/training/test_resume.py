"""A killed run, resumed, is the run that was never killed."""

import csv
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("train_tiny.py")


def run(data: Path, folder: Path, *options: str) -> int:
    command = [
        sys.executable,
        str(SCRIPT),
        str(data),
        "--run",
        str(folder),
        "--precision",
        "32-true",
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode


def same(a, b) -> bool:
    """Bit equality of nested checkpoints."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def logged(folder: Path) -> list[dict[str, str]]:
    """The metrics, less what measures the machine."""
    with open(folder / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    return [
        {k: v for k, v in row.items() if not k.startswith(("speed/", "memory/"))} for row in rows
    ]


@pytest.fixture(scope="module")
def unbroken(posed_zip, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    run(posed_zip, folder)
    return folder


@pytest.fixture(scope="module")
def progressive(posed_zip, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("progressive")
    run(posed_zip, folder, "--model", "cips3d")
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_and_resumed_run_is_bit_equal_to_an_unbroken_one(
    unbroken, posed_zip, tmp_path, workers
):
    options = ("--workers", str(workers))
    assert run(posed_zip, tmp_path, "--kill-at", "8", *options) == -signal.SIGKILL
    half = checkpoint(tmp_path)
    assert half["state_dict"]["images_seen"] == 48  # killed at 64, saved every 24
    assert run(posed_zip, tmp_path, "--resume", *options) == 0

    whole, resumed = checkpoint(unbroken), checkpoint(tmp_path)
    assert whole["state_dict"]["images_seen"] == 96
    for part in ("state_dict", "optimizer_states", "running_means"):
        assert same(whole[part], resumed[part]), part
    assert len(logged(unbroken)) >= 4
    assert logged(unbroken) == logged(tmp_path)


@pytest.mark.parametrize("kill_at", [3, 5, 11])
def test_a_progressive_run_is_resumed_in_any_stage(posed_zip, tmp_path, progressive, kill_at):
    """8 px until 32 images, 16 px fading in until 64, then 32 px in batches of 4; saved every 24
    images.
    """
    options = ("--model", "cips3d")
    assert run(posed_zip, tmp_path, "--kill-at", str(kill_at), *options) == -signal.SIGKILL
    assert run(posed_zip, tmp_path, "--resume", *options) == 0
    whole, resumed = checkpoint(progressive), checkpoint(tmp_path)
    assert whole["state_dict"]["images_seen"] == 96
    assert whole["state_dict"]["iterations"] == 8 + 8
    for part in ("state_dict", "optimizer_states", "running_means"):
        assert same(whole[part], resumed[part]), part
    assert logged(progressive) == logged(tmp_path)


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(unbroken, posed_zip, tmp_path):
    run(posed_zip, tmp_path, "--kill-at", "4")
    (tmp_path / "checkpoints" / "kimg-000000.048.partial").write_bytes(b"half a checkpoint")
    assert run(posed_zip, tmp_path, "--resume") == 0
    assert same(checkpoint(unbroken)["state_dict"], checkpoint(tmp_path)["state_dict"])
    assert not list((tmp_path / "checkpoints").glob("*.partial"))


def test_only_the_newest_checkpoints_stay_and_last_is_one_of_them(unbroken):
    names = sorted(path.name for path in (unbroken / "checkpoints").iterdir())
    assert names == [
        "kimg-000000.048.ckpt",
        "kimg-000000.072.ckpt",
        "kimg-000000.096.ckpt",
        "last.ckpt",
    ]
    assert (unbroken / "checkpoints" / "last.ckpt").resolve().name == "kimg-000000.096.ckpt"
