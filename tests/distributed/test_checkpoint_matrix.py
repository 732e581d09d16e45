"""A run goes on from a checkpoint of any other: of one process or several, replicated or sharded,
in one file or in parts.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gan3d.checkpoints.runs import read_checkpoint

SCRIPT = Path(__file__).parents[1] / "training" / "train_tiny.py"
MODEL = ("--model", "stylegan2", "--iterations", "6")
pytestmark = pytest.mark.timeout(1800)  # of all together, on a busy machine
TOLERANCE = 1e-10  # float64, three iterations after the checkpoint

KINDS = {
    "one": (),
    "ddp": ("--devices", "2"),
    "fsdp": ("--devices", "2", "--strategy", "gan_fsdp"),
    "parts": ("--devices", "2", "--strategy", "gan_fsdp_both", "--sharded"),
    "four": ("--devices", "4", "--strategy", "gan_fsdp_both", "--sharded"),
    "copies": ("--devices", "4", "--copies", "2", "--sharded"),
}


def train(data: Path, *options: str | Path) -> None:
    command = [sys.executable, SCRIPT, data, *MODEL, *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]


def end_of(folder: Path) -> dict:
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")


def tensors(value, name: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {name: value.double()}
    if not isinstance(value, (dict, list, tuple)):
        return {}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: t for key, item in items for k, t in tensors(item, f"{name}.{key}").items()}


def state_of(checkpoint: dict) -> dict[str, torch.Tensor]:
    return tensors({key: checkpoint[key] for key in ("state_dict", "optimizer_states")})


def difference(a: dict, b: dict) -> float:
    first, second = state_of(a), state_of(b)
    assert first.keys() == second.keys()
    return max(float((t - second[name]).abs().max()) for name, t in first.items() if t.numel())


@pytest.fixture(scope="module")
def folder(posed_zip, tmp_path_factory) -> Path:
    """<from>: runs with a checkpoint in their middle; <from>-<to>: what goes on from there."""
    at = tmp_path_factory.mktemp("matrix")

    def run(kind: str) -> list[str | Path]:
        return [*KINDS[kind], "--run", at / kind]

    def goes_on(start: str, kind: str) -> list[str | Path]:
        middle = at / start / "checkpoints" / "kimg-000000.024.ckpt"
        return [*KINDS[kind], "--run", at / f"{start}-{kind}", "--from", middle]

    def together(*some: list[str | Path]) -> list[str | Path]:
        return [word for words in some for word in ("then", *words)][1:]

    several = ("ddp", "fsdp", "parts")
    train(posed_zip, *run("one"))
    two = [goes_on(start, kind) for start in ("one", *several) for kind in several]
    train(posed_zip, *together(*map(run, several), *two))
    four = [goes_on(*way) for way in (("one", "four"), ("parts", "four"), ("parts", "copies"))]
    train(posed_zip, *together(*four))
    train(posed_zip, *together(*(goes_on(start, "one") for start in ("one", *several))))
    return at


@pytest.mark.slow
def test_a_run_goes_on_from_the_checkpoint_of_any_other(folder):
    whole = end_of(folder / "one")
    assert whole["state_dict"]["images_seen"] == 48
    found = {path.name: difference(whole, end_of(path)) for path in sorted(folder.iterdir())}
    assert len(found) == 4 + 4 * 4 + 3
    for name, value in found.items():
        print(f"{name:12} {value:.1e}")
    assert max(found.values()) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one", "ddp", "fsdp", "parts"])
def test_of_its_own_kind_it_is_bit_equal_to_an_unbroken_run(kind, folder):
    unbroken, resumed = end_of(folder / kind), end_of(folder / f"{kind}-{kind}")
    assert difference(unbroken, resumed) == 0
    assert unbroken["running_means"] == resumed["running_means"]


@pytest.mark.slow
def test_parts_are_folders_and_all_else_is_a_file(folder):
    for name in ("one", "ddp", "fsdp", "parts", "one-four"):
        last = (folder / name / "checkpoints" / "last.ckpt").resolve()
        names = [path.name for path in last.iterdir()] if last.is_dir() else []
        processes = {"parts": 2, "one-four": 4}.get(name, 0)
        assert len(names) == processes + bool(processes), (name, names)
