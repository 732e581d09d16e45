"""Small sets of heads, and results as `gan3d bench eval` writes them."""

import copy
import json
from pathlib import Path

import pytest
import torch

from gan3d.bench.measures import MEASURES
from gan3d.bench.protocol import protocol_hash
from gan3d.bench.subject import Subject, networks_of
from gan3d.bench.suites import Suite
from gan3d.data.dataset import PosedImages
from gan3d.data.heads import write_heads
from gan3d.generators import GENERATORS

SUITE = Suite(
    "tiny",
    measures=tuple(MEASURES),
    features=("headnet", "small"),
    num_fakes=12,
    num_heads=4,
    num_scenes=2,
    fit_steps=2,
    resamples=20,
)


@pytest.fixture(scope="session")
def heads(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("heads") / "heads.zip"
    write_heads(path, num=24, resolution=32, seed=905, workers=1, supersample=1)
    return path


@pytest.fixture
def suite() -> Suite:
    return SUITE


@pytest.fixture
def subject_of(heads):
    """A subject with a tiny generator of a class, by name."""

    def made(name: str, suite: Suite = SUITE) -> Subject:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            generator = GENERATORS[name](**GENERATORS[name].tiny).eval()
        reals = PosedImages(heads, resolution=generator.img_resolution)
        return Subject(generator, suite, reals, networks_of(suite))

    return made


RECORD = {
    "format": 1,
    "suite": "tiny",
    "model": {
        "class": "EG3D",
        "name": "a",
        "file": "a.safetensors",
        "sha256": "0" * 64,
        "origin": "trained here",
    },
    "protocol": {
        "version": 1,
        "real": {"images": 24, "names": "1" * 64},
        "real_resolution": 32,
        "resize_filter": "lanczos",
        "measures": ["frechet"],
        "features": {"headnet": "2" * 64},
        "num_fakes": 12,
        "num_heads": 4,
        "num_scenes": 2,
        "fit_steps": 2,
        "seed": 0,
        "cameras": "labels of the real images",
        "conditioning": ["same", "frontal"],
        "truncation": 1.0,
        "noise": "constant",
        "resamples": 20,
        "precision": "float32",
    },
    "values": {
        "fd_headnet/same": {"value": 3.0, "low": 2.5, "high": 3.5},
        "fd_headnet/3d": {"value": 4.0, "low": 3.5, "high": 4.5},
    },
    "absent": {},
    "speed": {
        "images_per_second": 10.0,
        "cached_images_per_second": 20.0,
        "ms_per_view": 50.0,
        "peak_memory_gb": 0.1,
        "parameters": 1000,
        "gflops_per_image": 0.5,
        "clock": "CPU seconds",
        "batch_size": 4,
    },
    "training": None,
    "pictures": {},
    "made_with": {
        "machine": "m",
        "device": "cpu",
        "threads": 1,
        "python": "3.11",
        "torch": "2",
        "gan3d": "0",
        "commit": "c",
        "date": "d",
        "seconds": 1.0,
    },
}


@pytest.fixture
def record():
    """A result with some parts changed: `section__key=value`."""

    def made(**changes) -> dict:
        result = copy.deepcopy(RECORD)
        for name, value in changes.items():
            section, _, key = name.partition("__")
            if key:
                result[section][key] = value
            else:
                result[section] = value
        result["protocol_hash"] = protocol_hash(result["protocol"])
        return json.loads(json.dumps(result))

    return made
