"""docs/adding_a_generator.md, followed to the letter."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "adding_a_generator.md"


@pytest.fixture
def followed(tmp_path) -> Path:
    """A folder with the files that the page says to write."""
    blocks = re.findall(r"^`([\w/.]+)`\n```\w+\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    assert [name for name, _ in blocks] == ["my_gans/latent_nerf.py", "latent_nerf_heads32.yaml"]
    for name, text in blocks:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def gan3d(folder: Path, *words: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "gan3d",
            *words,
        ],  # -P: the folder is found without Python's own help
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_page_s_generator_trains_for_a_step(followed, posed_zip):
    words = [
        "fit",
        "--config",
        "latent_nerf_heads32.yaml",
        "--config",
        "debug.yaml",
        "--data.path",
        str(posed_zip),
    ]
    done = gan3d(followed, *words, "--run_dir", "run")
    assert done.returncode == 0, done.stderr[-3000:]
    rows = (followed / "run" / "metrics.csv").read_text().splitlines()
    assert "loss/generator" in rows[0]
    assert len(rows) >= 2
    assert (followed / "run" / "checkpoints" / "last.ckpt").exists()


def test_the_page_s_help_command_shows_the_arguments(followed):
    done = gan3d(followed, "fit", "--model.generator.help", "my_gans.latent_nerf.LatentNeRF")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "--model.generator.hidden" in done.stdout
    assert "half of them importance samples" in done.stdout
