"""The command line in an empty folder, and a run that takes a second."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from gan3d.cli import main

BATCH = 8


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path):
    """Runs the command line in an empty folder: words -> (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GAN3D_TRACEBACK", raising=False)

    def run(*words) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def tiny(tmp_path, posed_zip) -> Path:
    """A complete config of a run that takes a second."""
    return write_tiny(tmp_path / "tiny.yaml", posed_zip)


def write_tiny(path: Path, data: Path) -> Path:
    from gan3d.discriminators import DualDiscriminator
    from gan3d.generators import EG3D

    content = {
        "model": {
            "generator": {
                "class_path": "EG3D",
                "init_args": json.loads(json.dumps(EG3D.tiny, default=vars)),
            },
            "discriminator": {
                "class_path": "DualDiscriminator",
                "init_args": DualDiscriminator.tiny,
            },
            "run": {"total_kimg": 2 * BATCH / 1000, "log_every_kimg": BATCH / 1000},
        },
        "data": {"path": str(data), "batch_size": BATCH, "num_workers": 0, "heldout": 8},
        "trainer": {"accelerator": "cpu", "devices": 1},
        "snapshots": {"num_heads": 2, "video_every": 0},
        "evaluation": {"num_images": 8},
    }
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, posed_zip) -> Path:
    """The folder of a run of `tiny`, trained once."""
    folder, here = tmp_path_factory.mktemp("finished"), os.getcwd()
    write_tiny(folder / "tiny.yaml", posed_zip)
    os.chdir(folder)
    try:
        assert main(["fit", "--config", "tiny.yaml", "--trainer.max_time", "00:01:00:00"]) == 0
    finally:
        os.chdir(here)
    return folder / "runs" / "tiny"


@pytest.fixture
def trained(tmp_path, finished_run) -> Path:
    """A copy of that folder where the command line of the test finds it."""
    return Path(shutil.copytree(finished_run, tmp_path / "runs" / "tiny", symlinks=True))
