"""The soak: what it compares, what it lets grow, and a minute of it."""

import errno
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def soak(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("soak")


def run_at(folder: Path, weight: float, loss: str = "0.5", speed: str = "9") -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    content = {
        "state_dict": {"w": torch.tensor(weight)},
        "optimizer_states": [],
        "running_means": {},
    }
    torch.save(content, folder / "checkpoints" / "last.ckpt")
    (folder / "metrics.csv").write_text(f"step,loss,speed/images_per_second\n8,{loss},{speed}\n")
    return folder


def test_runs_are_compared_bit_for_bit_but_for_what_measures_the_machine(soak, tmp_path):
    one = run_at(tmp_path / "a", 1.0)
    assert all(soak.compare(one, run_at(tmp_path / "b", 1.0, speed="7")).values())
    other = soak.compare(one, run_at(tmp_path / "c", 1.0 + 1e-7))
    assert [name for name, equal in other.items() if not equal] == ["state_dict"]
    other = soak.compare(one, run_at(tmp_path / "d", 1.0, loss="0.50001"))
    assert [name for name, equal in other.items() if not equal] == ["metrics.csv"]


def samples(mib=(100.0, 100.0), descriptors=(20, 20), threads=(4, 4)):
    """Of a quarter of an hour; what is held changes after half of it."""
    return [
        (t, mib[t > 450] * 1024, descriptors[t > 450], threads[t > 450]) for t in range(0, 900, 7)
    ]


@pytest.mark.parametrize(
    ("held", "is_ok"),
    [
        ({}, True),
        ({"mib": (100.0, 101.9)}, True),
        ({"mib": (100.0, 90.0)}, True),
        ({"mib": (100.0, 102.1)}, False),
        ({"descriptors": (20, 21)}, False),
        ({"threads": (4, 5)}, False),
    ],
)
def test_memory_may_grow_by_two_percent_and_nothing_else_at_all(soak, held, is_ok):
    reference = SimpleNamespace(
        samples={1: samples(**held), 2: samples()[:20]},  # the second one ended early
        training=SimpleNamespace(process=SimpleNamespace(pid=1)),
    )
    (row,) = soak.Reference.verdict(reference)
    assert row["ok"] is is_ok
    assert row["process"] == "training"


def test_the_disk_is_full_after_so_many_checkpoints_and_for_nothing_else(
    soak, tmp_path, monkeypatch
):
    monkeypatch.setattr(Path, "open", Path.open)  # undone at the end
    soak._fill_disk(1)
    for name, room in (("a.partial", True), ("a.csv", True), ("b.partial", False)):
        file = (tmp_path / name).open("wb")
        if room:
            assert file.write(bytes(300_000)) == 300_000
        else:
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                file.write(bytes(300_000))
        file.close()


@pytest.mark.slow
def test_a_minute_under_faults_ends_bit_for_bit_as_the_unbroken_run(tmp_path):
    command = [sys.executable, BENCHMARKS / "soak.py", "--minutes", "1", "--out", tmp_path]
    done = subprocess.run([*command, "--seed", "3"], capture_output=True, text=True)
    result = json.loads((tmp_path / "soak.json").read_text())
    assert result["bit_equal"] == dict.fromkeys(
        ("state_dict", "optimizer_states", "running_means", "metrics.csv"), True
    ), done.stdout[-3000:]
    assert all(session["as_expected"] for session in result["sessions"])
    assert sum(result["faults"].values()) == len(result["sessions"]) > 0
    # Its data process may begin too late to be compared in so short a run.
    assert result["unbroken"]["processes"][0]["process"] == "training"
