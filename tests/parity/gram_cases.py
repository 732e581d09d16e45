"""Reads the golden cases of GRAM and GRAM-HD: official names and arguments into ours, weights made from a formula.

    gram = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("gram_cases.py"))))
    @pytest.mark.parametrize("folder", gram.folders(lambda meta: meta.get("generator") == "GramGenerator"))

Every option of a meta.json is either translated or refused: none is ignored without a word.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gan3d.checkpoints.gram import DISCRIMINATOR_NAMES, GENERATOR_NAMES

GOLDEN = Path(os.environ.get("GAN3D_GOLDEN") or Path(__file__).resolve().parents[3] / "shared/golden").resolve()
ABSENT = f"no golden numbers at {GOLDEN}; set GAN3D_GOLDEN"

# Official option -> ours. Those of `POSES` describe the data set and not the generator.
REPRESENTATION = {
    "hidden_dim": "hidden_dim",
    "hidden_dim_sample": "predictor_width",
    "layer_num_sample": "predictor_layers",
    "center": "predictor_center",
    "init_radius": "predictor_init_radius",
    "sigma_clamp_mode": "density_activation",
    "rgb_clamp_mode": "colour_activation",
}
RENDERER = {
    "num_samples": "num_samples",
    "num_manifolds": "num_manifolds",
    "levels_start": "levels_start",
    "levels_end": "levels_end",
    "delta_alpha": "delta_alpha",
    "background": "background",
    "white_back": "white_back",
    "last_back": "last_back",
    "lock_view_dependence": "lock_view",
}
POSES = {"h_stddev", "v_stddev", "h_mean", "v_mean", "sample_dist"}


def folders(wanted: Callable[[dict[str, Any]], bool]) -> list:
    """Parameters: the case folders of golden/gramhd whose meta.json is wanted, or one that skips."""
    if not GOLDEN.is_dir():
        return [pytest.param(None, id="absent", marks=pytest.mark.skip(reason=ABSENT))]
    metas = {file.parent: json.loads(file.read_text()) for file in sorted((GOLDEN / "gramhd").glob("*/meta.json"))}
    return [pytest.param(folder, id=folder.name) for folder, meta in metas.items() if wanted(meta)]


def translated(options: Mapping[str, Any], names: Mapping[str, str], others: Iterable[str] = ()) -> dict[str, Any]:
    """Our arguments from official ones; an option that neither `names` nor `others` knows is refused."""
    unknown = sorted(set(options) - set(names) - set(others))
    assert not unknown, f"options of a golden case that its reader does not know: {unknown}"
    ours = {names[key]: value for key, value in options.items() if key in names}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in ours.items()}


def shared_arguments(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What GRAM and GRAM-HD have in common: sizes, surfaces, ray limits, activations, locked views."""
    camera = translated(meta["camera"], {"ray_start": "ray_start", "ray_end": "ray_end"}, {"fov"})
    arguments = camera | translated(meta["renderer_kwargs"], RENDERER)
    arguments |= translated(meta["representation_kwargs"], REPRESENTATION)
    if "lock_view_dependence" in meta:
        arguments["lock_view"] = meta["lock_view_dependence"]
    return arguments


def gram_arguments(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of GRAM from the meta.json of a stage-1 case."""
    names = {"z_dim": "z_dim", "img_size": "img_resolution"}
    return translated(meta["generator_kwargs"], names, POSES) | shared_arguments(meta)


def our_name(official: str) -> str:
    """Name of a parameter in GRAM and GRAM-HD."""
    return GENERATOR_NAMES.ours(official)


def our_names(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {our_name(name): tensor for name, tensor in official.items()}


def our_judge_name(official: str) -> str:
    """Name of a discriminator's parameter in GRAMDiscriminator."""
    return DISCRIMINATOR_NAMES.ours(official)


def formula(key: str, shape: Iterable[int], mean: float, std: float, salt: int) -> Tensor:
    """Weights from a formula (golden/gramhd/README.md): hashes of key and index, uniform of this mean and std."""
    shape = tuple(shape)
    x = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x += np.uint64(zlib.crc32(key.encode()) + salt * 2**32)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    u = ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return torch.from_numpy((mean + std * np.sqrt(12.0) * (u - 0.5)).astype(np.float32)).reshape(shape)


def formula_weights(meta: Mapping[str, Any]) -> dict[str, Tensor]:
    """All tensors of a full-size case, under their official names."""
    return {key: formula(key, shape, mean, std, meta["salt"]) for key, (shape, mean, std) in meta["table"].items()}
