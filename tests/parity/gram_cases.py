"""Reads the golden cases of GRAM and GRAM-HD: translates names and arguments, computes weights.

    gram = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("gram_cases.py"))))
    @pytest.mark.parametrize("folder", gram.generators(1, "outputs*.safetensors"))

Every option of a meta.json is either translated or refused, none is ignored silently. Folders are
distinguished by their content, and a file matters only to the tests that read it.
"""

import json
import re
import runpy
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gan3d.checkpoints.official.gram import (
    DISCRIMINATOR_NAMES,
    GENERATOR_NAMES,
    generator_arguments,
)
from gan3d.checkpoints.official.gram import super_resolution_arguments as super_resolution_of
from gan3d.checkpoints.official.networks import Network
from gan3d.discriminators import GRAMDiscriminator
from gan3d.generators import GRAM, GRAMHD
from gan3d.layers.manifold_superresolution import upsampling_channels

golden = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("golden_cases.py"))))

# Official option -> ours. Those of `POSES` describe the data set and not the generator.
REPRESENTATION = {
    "hidden_dim": "hidden_dim",
    "hidden_dim_sample": "predictor_width",
    "layer_num_sample": "predictor_layers",
    "center": "predictor_center",
    "init_radius": "predictor_init_radius",
    "sigma_clamp_mode": "density_activation",
    "rgb_clamp_mode": "color_activation",
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
# GRAM-HD's sizes and super-resolution networks.
SIZES = {
    "z_dim": "z_dim",
    "img_size": "img_resolution",
    "lr_img_size": "lr_resolution",
    "feature_dim": "feature_dim",
}
TRUNK = {"nf": "channels", "nb": "blocks", "gc": "growth", "up_channels": "up_channels"}
FOREGROUND = TRUNK | {"w_dim": "z_dim", "to_rgb_ks": "last_kernel", "use_mapping_network": "style"}
INTERPOLATION = ("interp_mode", "interpolation_mode", "interpolate_mode", "upsample_mode")
BACKGROUND = TRUNK | {"use_pixel_shuffle": "upsampling", "global_residual": "residual"}
BACKGROUND |= dict.fromkeys(INTERPOLATION, "mode")
# Whether there is a patch part.
PATCH = {"GramEncoderDiscriminator": False, "GramEncoderPatchDiscriminator": True}
JUDGE = {"discriminator", "discriminator_channels", "discriminator_img_size", "discriminator_note"}
JUDGE |= {"patch_width", "patch_layers", "patch_norm"}


def read_meta(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "meta.json").read_text())


def tensors(folder: Path, files: str) -> dict[str, Tensor]:
    """All tensors of the files of a pattern; empty if there is no such file."""
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob(files)):
        found |= load_file(file)
    return found


def folders(
    wanted: Callable[[dict[str, Any]], bool], *files: str, holds: tuple[str, ...] = ()
) -> list:
    """Parameters: the case folders of golden/gramhd with a wanted meta.json and these files.

    `holds`: a pattern of files and names of tensors that these must hold (see golden_cases.py).
    """
    found = [file.parent for file in sorted((golden.GOLDEN / "gramhd").glob("*/meta.json"))]
    found = [f for f in found if wanted(read_meta(f)) and golden.has(f, *files)]
    return [pytest.param(f, id=f.name) for f in found if not holds or golden.holds(f, *holds)]


def is_high_resolution(meta: Mapping[str, Any]) -> bool:
    """Whether a generator is GRAM-HD's, by its options or by its tensors."""
    names = meta.get("table", ())
    by_tensors = any(name.startswith("super_resolution") for name in names)
    return "super_resolution_kwargs" in meta or by_tensors


def generators(stage: int, *stored: str, files: str = "outputs*.safetensors") -> list:
    """Parameters: the folders of a stage's generators with weights and these tensors."""
    return folders(
        lambda meta: "renderer_kwargs" in meta and is_high_resolution(meta) == (stage == 2),
        *("weights_G*.safetensors", "inputs*.safetensors"),
        holds=(files, *stored),
    )


def full_size_generators(stage: int) -> list:
    """Parameters: the folders of a stage's generators whose weights are a formula's."""
    return folders(
        lambda meta: is_generator_of_formula(meta) and is_high_resolution(meta) == (stage == 2),
        "outputs*.safetensors",
    )


def is_generator_of_formula(meta: Mapping[str, Any]) -> bool:
    return any(name.startswith("representation.") for name in meta.get("table", ()))


def translated(
    options: Mapping[str, Any], names: Mapping[str, str], others: Collection[str] = ()
) -> dict[str, Any]:
    """Our arguments from official ones; fails on options in neither `names` nor `others`."""
    unknown = golden.unheeded(options, names, others)
    assert not unknown, f"options of a golden case that its reader does not know: {unknown}"
    ours = {names[key]: value for key, value in options.items() if key in names}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in ours.items()}


def shared_arguments(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Common arguments of GRAM and GRAM-HD: sizes, surfaces, rays, activations, locked views."""
    limits = {"ray_start": "ray_start", "ray_end": "ray_end"}
    arguments = translated(meta.get("camera", {}), limits, {"fov"})
    arguments |= translated(meta.get("renderer_kwargs", {}), RENDERER)
    arguments |= translated(meta.get("representation_kwargs", {}), REPRESENTATION)
    if "lock_view_dependence" in meta:
        arguments["lock_view"] = meta["lock_view_dependence"]
    return arguments


def fov_of(meta: Mapping[str, Any]) -> float:
    """The field of view in degrees; by default that of all published configurations."""
    return meta.get("camera", {}).get("fov", 12.0)


def gram_arguments(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of GRAM from the meta.json of a stage-1 case."""
    names = {"z_dim": "z_dim", "img_size": "img_resolution"}
    return translated(meta.get("generator_kwargs", {}), names, POSES) | shared_arguments(meta)


def hd_arguments(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of GRAMHD from the meta.json of a stage-2 case."""
    arguments = translated(meta.get("generator_kwargs", {}), SIZES, POSES) | shared_arguments(meta)
    assert arguments.pop("background", True), "GRAM-HD always has a background plane"
    if "camera" in meta:
        camera = meta["camera"]
        arguments["grid_extent"] = camera["fov"] / 100
        if "ray_start" in camera and "ray_end" in camera:
            arguments["grid_heights"] = (1 - camera["ray_start"], 1 - camera["ray_end"])
    if arguments.get("lr_resolution") is None:
        arguments.pop("lr_resolution", None)
        if "img_resolution" in arguments:  # S = 4 by default
            arguments["lr_resolution"] = arguments["img_resolution"] // 4
    if "super_resolution_kwargs" in meta:
        arguments |= super_resolution_arguments(meta, arguments)
    return arguments


def super_resolution_arguments(meta: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of GRAMHD's two super-resolution networks."""
    networks = meta["super_resolution_kwargs"]
    assert golden.unheeded(networks, ("fg", "bg")) == []
    fg = translated(networks.get("fg", {}), FOREGROUND)
    bg = translated(networks.get("bg", {}), BACKGROUND)
    assert fg.get("z_dim") in (None, sizes.get("z_dim", 256))
    fg.pop("z_dim", None)
    fg["style"] = "mapping" if fg.get("style", True) else "affine"
    mode = bg.pop("mode", "bilinear")
    bg["upsampling"] = "shuffle" if bg.get("upsampling") else mode
    arguments = {}
    for prefix, options in (("fg", fg), ("bg", bg)):
        if options.get("up_channels") is None:
            scale = sizes["img_resolution"] // sizes["lr_resolution"]
            options["up_channels"] = upsampling_channels(options.get("channels", 64), scale)
        arguments |= {f"{prefix}_{name}": value for name, value in options.items()}
    return arguments


def generator(folder: Path, **changes: Any) -> GRAM:
    """The generator of a small case, of either stage, with its weights."""
    meta = read_meta(folder)
    if is_high_resolution(meta):
        made = GRAMHD(**hd_arguments(meta) | changes)
    else:
        made = GRAM(**gram_arguments(meta) | changes)
    weights = our_names(tensors(folder, "weights_G*.safetensors"))
    missing = made.load_state_dict(weights, strict=False)
    assert (missing.missing_keys, missing.unexpected_keys) == (["w_avg"], [])
    return made


def judge(folder: Path) -> GRAMDiscriminator:
    """The discriminator that meta.json describes, with its weights."""
    meta = read_meta(folder)
    stored = tensors(folder, "weights_D*.safetensors")
    patch = PATCH[meta["discriminator"]]
    if stored:
        keys = [key for key in meta if key.startswith(("discriminator", "patch"))]
        assert golden.unheeded(keys, JUDGE) == []
        assert "Identity" in meta.get("patch_norm", "Identity")
        channels = meta.get("discriminator_channels")
        made = GRAMDiscriminator(
            img_resolution=meta["discriminator_img_size"],
            patch=patch,
            channels=tuple(channels) if channels else None,
            patch_width=meta.get("patch_width"),
            patch_layers=meta.get("patch_layers"),
        )
    else:
        assert golden.unheeded(meta.get("kwargs", {}), {"norm_layer"}) == []
        assert "Identity" in meta.get("kwargs", {}).get("norm_layer", "Identity")
        made = GRAMDiscriminator(img_resolution=meta["img_size"], patch=patch)
        stored = formula_weights(meta)
    made.load_state_dict({our_judge_name(name): tensor for name, tensor in stored.items()})
    return made


def our_name(official: str) -> str:
    """Name of a parameter in GRAM and GRAM-HD."""
    return GENERATOR_NAMES.ours(official)


def our_names(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {our_name(name): tensor for name, tensor in official.items()}


def our_judge_name(official: str) -> str:
    """Name of a discriminator's parameter in GRAMDiscriminator."""
    return DISCRIMINATOR_NAMES.ours(official)


def formula(key: str, shape: Iterable[int], mean: float, std: float, salt: int) -> Tensor:
    """Weights by the formula of golden/gramhd/README.md, uniform with this mean and std."""
    shape = tuple(shape)
    x = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x += np.uint64(zlib.crc32(key.encode()) + salt * 2**32)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    u = ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    values = (mean + std * np.sqrt(12.0) * (u - 0.5)).astype(np.float32)
    return torch.from_numpy(values).reshape(shape)


def formula_weights(meta: Mapping[str, Any]) -> dict[str, Tensor]:
    """All tensors of a full-size case, under their official names."""
    return {
        key: formula(key, shape, mean, std, meta["salt"])
        for key, (shape, mean, std) in meta["table"].items()
    }


def full_size(folder: Path) -> GRAM:
    """The generator of a full-size case with its weights.

    Sizes are our defaults for FFHQ, else they follow from its tensors.
    """
    meta = read_meta(folder)
    high = is_high_resolution(meta)
    arguments = hd_arguments(meta) if high else gram_arguments(meta)
    arguments.setdefault("img_resolution", int(re.findall(r"\d+", meta["config"])[0]))
    if "FFHQ" not in meta.get("config", ""):
        shapes = {name: shape for name, (shape, *_) in meta["table"].items()}
        network = Network({n: torch.empty(shape, device="meta") for n, shape in shapes.items()})
        sizes = generator_arguments(network) | (super_resolution_of(network) if high else {})
        arguments = sizes | arguments
    made = (GRAMHD if high else GRAM)(**arguments)
    missing = made.load_state_dict(our_names(formula_weights(meta)), strict=False)
    assert (missing.missing_keys, missing.unexpected_keys) == (["w_avg"], [])
    return made
