"""A training checkpoint, as a run writes it, without the run."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from gan3d.checkpoints.runs import pack_config
from gan3d.discriminators import DISCRIMINATORS
from gan3d.generators import GENERATORS
from gan3d.pretrained import describe


def tiny(registry, name):
    torch.manual_seed(0)
    module = registry[name](**registry[name].tiny).eval()
    with torch.no_grad():
        for value in module.state_dict().values():
            value += 0.1  # buffers that start at zero, too
    return module


def write_checkpoint(path: Path, pair: dict[str, nn.Module], images_seen: int = 2500) -> Path:
    """A checkpoint of some networks: generator, generator_ema, discriminator."""
    state = {
        f"{part}.{name}": t
        for part, module in pair.items()
        for name, t in module.state_dict().items()
    }
    model = {}
    for kind in ("generator", "discriminator"):
        made = json.loads(describe(pair, {})[kind])
        model[kind] = {"class_path": f"anywhere.{made['class']}", "init_args": made["arguments"]}
    content = {
        "state_dict": {**state, "images_seen": torch.tensor(images_seen)},
        "gan3d_config": pack_config({"model": model}),
        "running_means": {},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


@pytest.fixture(scope="session")
def pair() -> dict[str, nn.Module]:
    """Networks of a run; the average differs from the last generator."""
    networks = {
        "generator": tiny(GENERATORS, "EG3D"),
        "discriminator": tiny(DISCRIMINATORS, "DualDiscriminator"),
    }
    networks["generator_ema"] = copy.deepcopy(networks["generator"])
    with torch.no_grad():
        for value in networks["generator_ema"].parameters():
            value += 1
    return networks


@pytest.fixture
def run(tmp_path, pair) -> Path:
    """A run folder with two checkpoints; the newer one has other weights."""
    folder = tmp_path / "runs" / "heads"
    older = {**pair, "generator_ema": pair["generator"]}
    write_checkpoint(folder / "checkpoints" / "kimg-000001.000.ckpt", older, 1000)
    write_checkpoint(folder / "checkpoints" / "kimg-000002.500.ckpt", pair, 2500)
    return folder
