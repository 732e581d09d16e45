"""`validate` and `predict` with several processes: no image twice, none left out."""

import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

WHERE = ("--ckpt_path", "last", "--run_dir", "runs/tiny")


def spread(folder, *words: str, processes: int) -> str:
    """stdout of a command that runs in several processes."""
    command = [sys.executable, "-m", "gan3d", *words, "--trainer.devices", str(processes)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def distance(out: str) -> float:
    return float(re.search(r"distance/frechet\W+([\d.e+-]+)", out)[1])


@pytest.mark.slow
def test_eight_images_over_three_processes_have_the_distance_of_one(cli, trained, tmp_path):
    code, out, err = cli("validate", *WHERE)
    assert code == 0, err
    several = spread(tmp_path, "validate", *WHERE, processes=3)
    assert several.count("distance/frechet") == 1
    assert distance(several) == pytest.approx(distance(out), rel=1e-5)


@pytest.mark.slow
def test_five_scenes_over_two_processes_are_those_of_one(cli, trained, tmp_path):
    folder, words = trained / "predictions", ("predict", *WHERE, "--num", "5")
    code, _, err = cli(*words)
    assert code == 0, err
    names = [f"seed0_{k:04d}.png" for k in range(5)]
    alone = [np.asarray(Image.open(folder / name)).astype(int) for name in names]
    for path in folder.iterdir():
        path.unlink()
    spread(tmp_path, *words, processes=2)
    assert sorted(path.name for path in folder.glob("seed0_0*")) == names
    for name, picture in zip(names, alone, strict=True):
        other = np.asarray(Image.open(folder / name)).astype(int)
        assert np.abs(other - picture).max() <= 1
