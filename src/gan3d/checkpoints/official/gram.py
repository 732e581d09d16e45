"""Import and export of official GRAM and GRAM-HD weights (specs/gramhd.md 13, appendices A and B).

Sizes follow from the shapes of the tensors. Files do not state levels, ray limits and numbers of
samples: they default to the values of the published face and cat models.

An average (step*_ema.pth) is a list without names, in the order of the official modules. In stage 1
it holds all parameters; in stage 2 it holds the trained ones, and the frozen ones are read from the
file of the generator. The order of the tensors in that file does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gan3d.checkpoints.official.names import Names
from gan3d.checkpoints.official.networks import (
    Average,
    Network,
    OfficialStates,
    beside,
    build_official,
    generator_beside,
    read_saved,
    read_state,
    write_official,
)
from gan3d.checkpoints.portable import save_pretrained
from gan3d.discriminators.gram import GRAMDiscriminator
from gan3d.generators.gram import GRAM
from gan3d.generators.gramhd import GRAMHD

PREDICTOR, RADIANCE = "representation.sample_network.", "representation.rf_network."
GENERATOR_NAMES = Names(
    (PREDICTOR, "predictor."),
    (f"{RADIANCE}mapping_network.", "mapping."),
    (f"{RADIANCE}network.*.layer.", "radiance.network.*."),
    (f"{RADIANCE}color_layer.0.layer.", "radiance.color_layer."),
    (RADIANCE, "radiance."),
)
DISCRIMINATOR_NAMES = Names(
    ("fromRGB.model.0.", "from_rgb."),
    ("layers.*.network.*.conv.", "layers.*.network.*."),
    # Official numbers also count activations and (identity) normalizations.
    ("patchgan.model.0.", "patchgan.convs.0."),
    *((f"patchgan.model.{3 * k - 1}.", f"patchgan.convs.{k}.") for k in range(1, 12)),
)
TRAINED_IN_STAGE_2 = ("super_resolution.", "super_resolution_bg.", f"{RADIANCE}output_feature.")
# Words of official names in the order of the modules in `generator.parameters()`.
# fmt: off
ORDER = (
    "representation", "super_resolution", "super_resolution_bg", "sample_network", "rf_network",
    "conv_first", "RRDB_trunk", "RDB1", "RDB2", "RDB3", "conv1", "conv2", "conv3", "conv4", "conv5",
    "trunk_conv", "upconvs", "HRconv", "conv_last", "network", "output_layer", "color_layer",
    "layer", "output_sigma", "output_color", "output_feature", "mapping_network", "affine",
    "weight", "bias",
)
# fmt: on
# Tensors of stage 1 beside two per layer of the predictor: 2 of its output, 18 of trunk and color,
# 28 of the heads, 8 of the mapping.
TENSORS_BESIDE_PREDICTOR = 56


def import_gram(
    file: Path,
    out: Path | None = None,
    discriminator: Path | None = None,
    generator: Path | None = None,
    lr_resolution: int = 64,
    ray_start: float = 0.88,
    ray_end: float = 1.12,
    num_samples: int = 64,
    num_manifolds: int = 24,
    levels_start: float = 23.0,
    levels_end: float = 8.0,
    predictor_center: tuple[float, float, float] = (0.0, 0.0, -1.5),
    background: bool = True,
    delta_alpha: float = 0.04,
    lock_view: bool = False,
    overwrite: bool = False,
) -> str:
    """Converts official GRAM or GRAM-HD weights to a portable file; nothing in the file is
    executed.

    Args:
        file: a generator (step*_generator.pth, ffhq256.pt), or its average over training
            (step*_ema.pth, ema.pth).
        out: the new file; by default beside `file`, ending in .safetensors.
        discriminator: file of the discriminator, to convert it, too.
        generator: the generator whose average `file` is; by default the file of that name beside
            it. An average of GRAM does not need it.
        lr_resolution: side of GRAM's images, and of the grids of GRAM-HD.
        ray_start: distance of the first sample along a ray.
        ray_end: distance of the last sample along a ray.
        num_samples: samples along a ray.
        num_manifolds: number of surfaces, including the background.
        levels_start: level of the nearest surface.
        levels_end: level of the farthest surface.
        predictor_center: origin of the predictor's input points; files do not state it.
        background: whether the last surface is a plane; GRAM-HD always has one.
        delta_alpha: thickness of a surface.
        lock_view: make colors independent of the direction of view, as in the published videos.
        overwrite: replace a file that is there.
    """
    path = beside(file, out, ".safetensors", overwrite)
    network = read_generator(Path(file), generator)

    # what no file states
    options: dict[str, Any] = {
        "ray_start": ray_start,
        "ray_end": ray_end,
        "num_samples": num_samples,
        "num_manifolds": num_manifolds,
        "levels_start": levels_start,
        "levels_end": levels_end,
        "predictor_center": predictor_center,
        "delta_alpha": delta_alpha,
        "lock_view": lock_view,
    }
    if not is_high_resolution(network):
        options["background"] = background
    elif background:
        options["grid_heights"] = (1 - ray_start, 1 - ray_end)
    else:
        raise ValueError("GRAM-HD always has a background plane; leave out --background")

    made = generator_from_official(network, lr_resolution, **options)
    made.estimate_w_avg()
    judge = None
    if discriminator is not None:
        judge = discriminator_from_official(read_state(discriminator))

    facts = {**network.facts, "radius": 1, "fov": 12}
    save_pretrained(path, made, judge, facts=facts)
    also = "" if judge is None else ", with its discriminator"
    return f"{path}: {type(made).__name__}, {made.img_resolution} px{also}"


def export_gram(
    file: Path,
    out: Path | None = None,
    which: Literal["generator", "discriminator"] = "generator",
    overwrite: bool = False,
) -> str:
    """Writes a network of a portable file as a state dict for official code, GRAM or GRAM-HD.

    Args:
        file: a portable file (gan3d import gram, gan3d export training).
        out: the new file, written by torch.save; by default beside `file`, ending in .pth.
        which: network to write.
        overwrite: replace a file that is there.
    """
    states: OfficialStates = {
        GRAM: generator_to_official,
        GRAMDiscriminator: discriminator_to_official,
    }
    return write_official(file, out, which, states, "GRAM's or GRAM-HD's", overwrite=overwrite)


def discriminator_to_official(module: GRAMDiscriminator) -> dict[str, Tensor]:
    """The state dict of a discriminator in official names."""
    return DISCRIMINATOR_NAMES.to_official(module.state_dict())


# -- files -----------------------------------------------------------------------------------------


def read_generator(file: Path, generator: Path | None = None) -> Network:
    """Reads an official generator; the tensors of an average get names by their order.

    Args:
        file: a state dict, a module or an average.
        generator: the file of the averaged generator; None is the generator beside `file`.
    """
    saved = read_saved(file)
    if isinstance(saved, Network):
        return saved

    other = generator_beside(file) if generator is None else generator
    if not other.is_file():
        return average_of_stage_1(saved, file)
    network = read_state(other)
    names = list(network.state)
    if is_high_resolution(network):
        names = [name for name in names if name.startswith(TRAINED_IN_STAGE_2)]
    named = saved.of(network, official_order(names))
    return Network(named.state, facts={**named.facts, "source": file.name})


def average_of_stage_1(average: Average, file: Path) -> Network:
    """GRAM's parameters, named by their order only."""
    layers, odd = divmod(len(average.tensors) - TENSORS_BESIDE_PREDICTOR, 2)
    if odd or layers < 1 or average.tensors[0].shape[1:] != (3,):
        raise ValueError(
            f"{file} is an average of {len(average.tensors)} tensors without names, and not one of "
            "GRAM, which has 62; for GRAM-HD give --generator, the generator of the same run"
        )
    state = dict(zip(stage_1_names(layers), average.tensors))
    return Network(state, facts={"source": file.name, "average": dict(average.facts)})


def stage_1_names(predictor_layers: int) -> list[str]:
    """Official names of GRAM's parameters in order (specs/gramhd.md, appendix A, rows 0-53, 68-75).

    Args:
        predictor_layers: number of hidden layers of the predictor.
    """
    modules = [
        *(f"{PREDICTOR}network.{2 * i}" for i in range(predictor_layers)),
        f"{PREDICTOR}output_layer",
        *(f"{RADIANCE}network.{i}.layer" for i in range(8)),
        f"{RADIANCE}color_layer.0.layer",
        *(f"{RADIANCE}output_{head}.{i}" for head in ("sigma", "color") for i in range(7)),
        *(f"{RADIANCE}mapping_network.network.{i}" for i in (0, 2, 4, 6)),
    ]
    return [f"{module}.{word}" for module in modules for word in ("weight", "bias")]


def official_order(names: Iterable[str]) -> list[str]:
    """Sorts names of parameters in the order of the official `generator.parameters()`."""

    def position(name: str) -> list[int]:
        words = name.split(".")
        unknown = [word for word in words if not word.isdigit() and word not in ORDER]
        if unknown:
            raise ValueError(
                f"{name} is not a parameter of GRAM or GRAM-HD; give another --generator"
            )
        return [int(word[:6]) if word.isdigit() else ORDER.index(word) for word in words]

    return sorted(names, key=position)


# -- generator -------------------------------------------------------------------------------------


def is_high_resolution(network: Network) -> bool:
    """Whether a generator is of GRAM-HD."""
    return any(name.startswith("super_resolution.") for name in network.state)


def generator_from_official(network: Network, lr_resolution: int = 64, **options: Any) -> GRAM:
    """GRAM or GRAMHD with the weights of an official generator.

    Its mean latents are zeros; call `estimate_w_avg`.

    Args:
        network: weights.
        lr_resolution: side of GRAM's images, and of the grids of GRAM-HD.
        options: arguments of GRAM or GRAMHD that do not follow from the weights.

    Raises:
        ValueError: these are not weights of GRAM or GRAM-HD.
    """
    state = GENERATOR_NAMES.to_ours(network.state)
    absent = {"w_avg": torch.zeros}
    arguments = generator_arguments(network)
    if not is_high_resolution(network):
        arguments |= {"img_resolution": lr_resolution, **options}
        return build_official(GRAM, arguments, state, absent)
    arguments |= super_resolution_arguments(network)
    img_resolution = lr_resolution * 2 ** len(arguments["fg_up_channels"])
    arguments |= {"lr_resolution": lr_resolution, "img_resolution": img_resolution, **options}
    return build_official(GRAMHD, arguments, state, absent)


def generator_arguments(network: Network) -> dict[str, Any]:
    """Constructor arguments (sizes) of our GRAM for an official generator."""
    mapping_hidden, z_dim = network.shape(f"{RADIANCE}mapping_network.network.0.weight")
    layers = network.numbered(r"representation[.]sample_network[.]network[.]([0-9]+)[.]")
    return {
        "z_dim": z_dim,
        "hidden_dim": network.shape(f"{RADIANCE}network.0.layer.weight")[0],
        "mapping_hidden_dim": mapping_hidden,
        "predictor_width": network.shape(f"{PREDICTOR}network.0.weight")[0],
        "predictor_layers": len(layers),
    }


def super_resolution_arguments(network: Network) -> dict[str, Any]:
    """Constructor arguments (sizes) of GRAMHD's two super-resolution networks."""
    arguments: dict[str, Any] = {}
    for prefix, part in (("fg", "super_resolution"), ("bg", "super_resolution_bg")):
        # Channels before and after each upsampling differ if it is a pixel shuffle.
        convs = network.numbered(rf"{part}[.]upconvs[.]([0-9]+)[.]")
        before = [network.shape(f"{part}.upconvs.{i}.weight")[0] for i in convs]
        followers = [*(f"upconvs.{i}" for i in convs[1:]), "HRconv"]
        after = [network.shape(f"{part}.{name}.weight")[1] for name in followers]
        shuffles = bool(before) and before != after
        arguments |= {
            f"{prefix}_channels": network.shape(f"{part}.conv_first.weight")[0],
            f"{prefix}_blocks": len(network.numbered(rf"{part}[.]RRDB_trunk[.]([0-9]+)[.]")),
            f"{prefix}_growth": network.shape(f"{part}.RRDB_trunk.0.RDB1.conv1.weight")[0],
            f"{prefix}_up_channels": tuple(after),
        }
    has_mapping = "super_resolution.mapping_network.network.0.weight" in network.state
    return arguments | {
        "feature_dim": network.shape("super_resolution.conv_first.weight")[1] - 4,
        "fg_style": "mapping" if has_mapping else "affine",
        "fg_last_kernel": network.shape("super_resolution.conv_last.weight")[-1],
        "bg_upsampling": "shuffle" if shuffles else "bilinear",
    }


def generator_to_official(generator: GRAM) -> dict[str, Tensor]:
    """The state dict in official names and official order."""
    state = {name: t for name, t in generator.state_dict().items() if name != "w_avg"}
    official = GENERATOR_NAMES.to_official(state)
    return {name: official[name] for name in official_order(official)}


# -- discriminator ---------------------------------------------------------------------------------


def discriminator_from_official(network: Network) -> GRAMDiscriminator:
    """GRAMDiscriminator with the weights of an official one."""
    state = DISCRIMINATOR_NAMES.to_ours(network.state)
    return build_official(GRAMDiscriminator, discriminator_arguments(network), state, {})


def discriminator_arguments(network: Network) -> dict[str, Any]:
    """Constructor arguments of our discriminator for an official one."""
    layers = network.numbered(r"layers[.]([0-9]+)[.]")
    widths = [network.shape("fromRGB.model.0.weight")[0]]
    widths += [network.shape(f"layers.{i}.network.0.conv.weight")[0] for i in layers]
    arguments: dict[str, Any] = {"img_resolution": 2 ** len(widths), "channels": tuple(widths)}
    patches = network.numbered(r"patchgan[.]model[.]([0-9]+)[.]")
    if patches:
        arguments |= {
            "patch": True,
            "patch_width": network.shape("patchgan.model.0.weight")[0],
            "patch_layers": len(patches) - 2,
        }
    return arguments
