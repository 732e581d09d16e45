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


def test_the_page_s_generator_has_pictures_videos_meshes_and_a_viewer_without_a_further_line(
    followed,
):
    """In one program that loads the page's file, every verb as the command line runs it."""
    program = """
import sys
import torch
sys.path.insert(0, ".")
from my_gans.latent_nerf import LatentNeRF
from gan3d.cli import main

torch.manual_seed(0)
LatentNeRF(**LatentNeRF.tiny).save_pretrained("mine")
seen = ["--device", "cpu", "--radius", "2.7", "--fov", "18.83"]
assert main(["sample", "mine", "--seeds", "0-1", "--layers", "image,depth,normals", *seen]) == 0
assert main(["video", "mine", "--frames", "3", "--out", "orbit.gif", *seen]) == 0
mesh = ["--voxels", "24", "--num_yaw", "3", "--num_pitch", "1", "--level", "-1000"]
assert main(["mesh", "mine", "--texture", "64", *mesh, *seen]) == 0

import gan3d
from gan3d.apps.looks import Look
import socket
probe = socket.socket()
probe.bind(("127.0.0.1", 0))
port = probe.getsockname()[1]
probe.close()
generator = gan3d.from_pretrained("mine")
with gan3d.view(generator, port=port) as viewer:
    (exhibit,) = viewer.gallery.exhibits
    assert exhibit.layers == ("image", "depth", "normals", "opacity")
    for layer in exhibit.layers:
        frame = viewer.gallery.frame(
            Look(seed=1), exhibit.front(), layer, viewer.gallery.paces(), moving=False
        )
        assert frame.pictures[0].shape == (32, 32, 3)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=followed,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(list((followed / "samples").glob("*.png"))) == 6
    assert (followed / "orbit.gif").exists()
    assert (followed / "mesh.glb").exists()
