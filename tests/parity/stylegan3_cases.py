"""Readers of golden/stylegan3: pairs of name.json and name.safetensors, by the content of the JSON.

cases = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("stylegan3_cases.py"))))
"""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gan3d.discriminators import StyleGAN2Discriminator
from gan3d.generators import StyleGAN2, StyleGAN3

golden = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("golden_cases.py"))))
FOLDER = golden.GOLDEN / "stylegan3"
unheeded = golden.unheeded
# Default decay of the running magnitudes.
MAGNITUDE_EMA_BETA = 0.999
# Keys that only files of these kinds have.
OPERATIONS = {"integer", "fractional", "rotation", "pseudo", "affine", "filter"}
DECIBELS = {"eqt_int", "eqt_frac", "eqr"}
SCORES = {"fid", "kid", "precision", "recall"}


def kind_of(facts: dict) -> str | None:
    """The kind of test that a file is for, by its characteristic keys; None if there is none."""
    of_cases = set().union(*facts.get("cases", []))
    tables = [set(table) for table in facts.values() if isinstance(table, dict)]
    signs = {
        "loss": {"G", "D", "loss"} <= set(facts),
        "stylegan2": {"G", "D"} <= set(facts),
        "generator": "img_resolution" in facts.get("kwargs", {}),
        "filters": "numtaps" in of_cases,
        "flrelu": bool({"fu", "fd", "has_bias"} & of_cases),
        "augmentation": {"key", "p"} <= of_cases,
        "schedule": any("kwargs" in table for table in tables),
        "eqmetric": any(DECIBELS & table for table in tables),
        "eqops": bool(OPERATIONS & set(facts)),
        "scores": bool(SCORES & set(facts)),
    }
    return next((kind for kind, seen in signs.items() if seen), None)


def files(kind: str) -> list:
    """Parameters of a test: every file of the kind, of any name."""
    found = sorted(FOLDER.rglob("*.json"))
    return [pytest.param(path, id=path.stem) for path in found if kind_of(facts_of(path)) == kind]


def rows(kind: str) -> list:
    """(file, number of the case in it) of every case of the files of a kind."""
    paths = [parameter.values[0] for parameter in files(kind)]
    numbered = [(path, i) for path in paths for i in range(len(facts_of(path)["cases"]))]
    return [pytest.param(pair, id=f"{pair[0].stem}-{pair[1]}") for pair in numbered]


def facts_of(path: Path) -> dict:
    return json.loads(path.read_text())


def tensors_of(path: Path) -> dict[str, Tensor]:
    return load_file(path.with_suffix(".safetensors"))


def state(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors[name] for name in names}


def mapping_arguments(options: dict) -> dict:
    """The published mapping_kwargs in our names; our constructor refuses unknown ones."""
    names = {
        "num_layers": "mapping_layers",
        "lr_multiplier": "mapping_lr_multiplier",
        "embed_features": "mapping_embed_features",
        "layer_features": "mapping_layer_features",
    }
    return {names.get(name, name): value for name, value in options.items()}


def stylegan3(kwargs: dict) -> StyleGAN3:
    """The generator of the published keywords; our constructor refuses unknown ones."""
    options = {"magnitude_ema_beta": MAGNITUDE_EMA_BETA, **kwargs}
    return StyleGAN3(**mapping_arguments(options.pop("mapping_kwargs", {})), **options)


def stylegan2(kwargs: dict) -> StyleGAN2:
    options = {"channel_base": 32768, **kwargs}
    # no effect on a CPU; both forms are tested
    for name in ("num_fp16_res", "fused_modconv_default"):
        options.pop(name, None)
    return StyleGAN2(**mapping_arguments(options.pop("mapping_kwargs", {})), **options)


def discriminator(kwargs: dict) -> StyleGAN2Discriminator:
    options = {"channel_base": 32768, **kwargs}
    options.pop("num_fp16_res", None)
    epilogue, block = options.pop("epilogue_kwargs", {}), options.pop("block_kwargs", {})
    names = {"mbstd_group_size": "group_size", "mbstd_num_channels": "mbstd_channels"}
    options |= {names.get(name, name): value for name, value in (epilogue | block).items()}
    return StyleGAN2Discriminator(**mapping_arguments(options.pop("mapping_kwargs", {})), **options)


def label(tensors: dict[str, Tensor], module) -> Tensor | None:
    """in.c, if the network takes a label."""
    return tensors["in.c"] if module.c_dim > 0 else None


def nearly(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """For gradients: largest error relative to the largest value of the reference."""
    assert actual.shape == expected.shape, (
        f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    )
    error = (actual.double() - expected.double()).abs().max().item()
    allowed = tolerance * expected.abs().max().item()
    assert error <= allowed, f"largest error {error:.3g}, allowed {allowed:.3g}"


def gradient(value: Tensor, parameter: Tensor, **options) -> Tensor:
    (found,) = torch.autograd.grad(value, parameter, retain_graph=True, **options)
    return found
