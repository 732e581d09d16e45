"""What a user sees of a run does not depend on the number of processes."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).with_name("watch_tiny.py")


def watch(data: Path, run_dir: Path, *options: str) -> dict[str, dict[int, float]]:
    command = [sys.executable, str(SCRIPT), str(data), str(run_dir), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("100% |") == 1, "one process shows progress"
    with (run_dir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        name: {int(row["step"]): float(row[name]) for row in rows if row[name]} for name in rows[0]
    }


@pytest.fixture(scope="module")
def one_process(posed_zip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return folder, watch(posed_zip, folder)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["gan_ddp", "gan_fsdp_both"])
def test_two_processes_log_the_distances_alarms_and_pictures_of_one(
    strategy, one_process, posed_zip, tmp_path
):
    """11 of 13 held-out images in batches of 3: neither the reals nor the fakes split evenly."""
    folder, one = one_process
    two = watch(posed_zip, tmp_path, "--devices", "2", "--strategy", strategy)
    assert one.keys() == two.keys()
    for name in one:
        if name.startswith(("distance/", "alarm/", "logits/heldout")):
            assert list(one[name]) == list(two[name])
            assert list(two[name].values()) == pytest.approx(
                list(one[name].values()), rel=1e-5, abs=1e-7
            ), name
    pictures = sorted(path.name for path in (folder / "pictures").iterdir())
    keys = ("fakes", "layers", "logit_histogram")
    assert pictures == [
        *(f"{key}_0000000{step}.png" for key in keys for step in ("00", "16", "32")),
        "reals_000000000.png",
    ]
    for name in pictures:
        a, b = (
            np.asarray(Image.open(at / "pictures" / name)).astype(int) for at in (folder, tmp_path)
        )
        assert np.abs(a - b).max() <= 1
    assert (tmp_path / "videos" / "orbit_000000032.mp4").exists()
