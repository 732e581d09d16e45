"""Import and export of official pi-GAN weights, in the version of the CIPS-3D repository.

See specs/cips3d.md 20 and 21. Files are pickled modules (generator.pth, discriminator.pth) and
pickled averages without names (ema.pth, ema2.pth); state dicts are read, too. Sizes follow from the
shapes of the tensors; everything else is the published configuration of a data set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from gan3d.checkpoints.official.names import Names
from gan3d.checkpoints.official.networks import (
    Network,
    OfficialStates,
    beside,
    build_official,
    read_averaged,
    read_state,
    write_official,
)
from gan3d.checkpoints.portable import save_pretrained
from gan3d.discriminators.pigan import Kind, PiGANDiscriminator
from gan3d.generators.pigan import PiGAN

Preset = Literal["celeba", "cats", "carla"]
GENERATOR_NAMES = Names(
    ("siren.mapping_network.", "mapping_network."),
    ("siren.network.*.layer.", "siren.network.*."),
    ("siren.color_layer_sine.layer.", "siren.color_layer_sine."),
    ("siren.color_layer_linear.0.", "siren.color_layer_linear."),
)
ENTRANCES = ("fromRGB.*.model.0.", "from_rgb.*.")
DISCRIMINATOR_NAMES = Names(ENTRANCES, ("layers.*.network.*.conv.", "layers.*.network.*."))
STRIDED_NAMES = Names(ENTRANCES)  # without coordinates, convolutions have no wrapper
DEAD = "pose_layer."  # a linear layer with two outputs that is not used
GRID = "siren.spatial_embeddings"  # name of the learned grid on export; any name is read

# Cameras and rendering of the published configurations (specs/cips3d.md 2).
PRESETS: dict[str, dict[str, Any]] = {
    "celeba": {"ray_start": 0.88, "ray_end": 1.12, "num_steps": 12, "box_side": 0.24},
    "cats": {"ray_start": 0.8, "ray_end": 1.2, "num_steps": 24, "box_side": 0.24},
    "carla": {
        "ray_start": 0.7,
        "ray_end": 1.3,
        "num_steps": 48,
        "box_side": 2.0,
        "white_back": True,
    },
}
FIELDS_OF_VIEW = {"celeba": 12, "cats": 12, "carla": 30}


def import_pigan(
    file: Path,
    out: Path | None = None,
    discriminator: Path | None = None,
    generator: Path | None = None,
    preset: Preset = "celeba",
    img_resolution: int = 64,
    last_back: bool = False,
    overwrite: bool = False,
) -> str:
    """Converts official pi-GAN weights to a portable file; nothing in the file is executed.

    Args:
        file: the generator (generator.pth), or its average over training (ema.pth, ema2.pth).
        out: the new file; by default beside `file`, ending in .safetensors.
        discriminator: file of the discriminator, to convert it, too.
        generator: the generator whose average `file` is; by default generator.pth beside it.
        preset: published configuration of ray limits, samples and scaling; files do not state them.
        img_resolution: side of the images in pixels; the weights fit any.
        last_back: the last sample absorbs all remaining light, as in the published evaluation.
        overwrite: replace a file that is there.
    """
    path = beside(file, out, ".safetensors", overwrite)
    network = read_averaged(file, generator, lambda network: list(network.state))
    options = {**PRESETS[preset], "img_resolution": img_resolution, "last_back": last_back}
    made = generator_from_official(network, **options)
    made.estimate_w_avg()
    judge = None
    if discriminator is not None:
        judge = discriminator_from_official(read_state(discriminator))

    facts = {**network.facts, "preset": preset, "radius": 1, "fov": FIELDS_OF_VIEW[preset]}
    save_pretrained(path, made, judge, facts=facts)
    also = "" if judge is None else f", with its {judge.arguments['kind']} discriminator"
    return f"{path}: PiGAN, {img_resolution} px, rendered as {preset}{also}"


def export_pigan(
    file: Path,
    out: Path | None = None,
    which: Literal["generator", "discriminator"] = "generator",
    overwrite: bool = False,
) -> str:
    """Writes a network of a portable file as a state dict for official code.

    Args:
        file: a portable file (gan3d import pigan, gan3d export training).
        out: the new file, written by torch.save; by default beside `file`, ending in .pth.
        which: network to write.
        overwrite: replace a file that is there.
    """
    states: OfficialStates = {
        PiGAN: generator_to_official,
        PiGANDiscriminator: discriminator_to_official,
    }
    return write_official(file, out, which, states, "pi-GAN's", overwrite=overwrite)


# -- generator -------------------------------------------------------------------------------------


def generator_from_official(network: Network, **options: Any) -> PiGAN:
    """PiGAN with the weights of an official generator.

    Its mean latents are zeros; call `estimate_w_avg`.

    Args:
        network: weights.
        options: arguments of PiGAN that do not follow from the weights.

    Raises:
        ValueError: these are not weights of pi-GAN.
    """
    state = GENERATOR_NAMES.to_ours(network.state)
    grid = _grid(network)
    if grid is not None:
        state["siren.grid"] = state.pop(GENERATOR_NAMES.ours(grid))
    arguments = {**generator_arguments(network), **options}
    return build_official(PiGAN, arguments, state, {"w_avg": torch.zeros})


def generator_arguments(network: Network) -> dict[str, Any]:
    """Constructor arguments (sizes) of our PiGAN for an official generator."""
    mapping = network.numbered(r"siren[.]mapping_network[.]network[.]([0-9]+)[.]weight")
    mapping_hidden, z_dim = network.shape("siren.mapping_network.network.0.weight")
    arguments = {
        "z_dim": z_dim,
        "hidden_dim": network.shape("siren.network.0.layer.weight")[0],
        "hidden_layers": len(network.numbered(r"siren[.]network[.]([0-9]+)[.]")),
        "mapping_hidden_dim": mapping_hidden,
        "mapping_hidden_layers": len(mapping) - 1,
    }
    grid = _grid(network)
    if grid is None:
        return arguments

    shape = network.shape(grid)
    if shape[0] != 1 or len(set(shape[2:])) != 1:
        raise ValueError(f"{grid} has shape {shape}, expected a grid [1 c r r r]")
    return {**arguments, "grid_channels": shape[1], "grid_resolution": shape[2]}


def _grid(network: Network) -> str | None:
    """The name of the learned grid, the only tensor of five dimensions."""
    return next((name for name, tensor in network.state.items() if tensor.ndim == 5), None)


def generator_to_official(generator: PiGAN) -> dict[str, Tensor]:
    """The state dict in official names and order: the mapping network is last."""
    state = {name: t for name, t in generator.state_dict().items() if name != "w_avg"}
    grid = state.pop("siren.grid", None)
    ordered = sorted(state.items(), key=lambda item: item[0].startswith("mapping"))
    official = GENERATOR_NAMES.to_official(dict(ordered))
    return official if grid is None else {GRID: grid, **official}


# -- discriminator ---------------------------------------------------------------------------------


def discriminator_from_official(network: Network) -> PiGANDiscriminator:
    """PiGANDiscriminator with the weights of an official one; its kind follows from `kind_of`."""
    kept = {name: t for name, t in network.state.items() if not name.startswith(DEAD)}
    state = DISCRIMINATOR_NAMES.to_ours(kept)
    return build_official(PiGANDiscriminator, discriminator_arguments(network), state, {})


def discriminator_arguments(network: Network) -> dict[str, Any]:
    """Constructor arguments of our discriminator for an official one."""
    entrances = network.numbered(r"fromRGB[.]([0-9]+)[.]")
    if not entrances:
        raise ValueError(
            "the network has no fromRGB.0; this is not a state dict of pi-GAN's discriminator"
        )
    kind = kind_of(network)
    outputs = network.shape("final_layer.weight")[0]
    return {
        "img_resolution": 2 ** len(entrances),
        "kind": kind,
        "z_dim": outputs - 3 if kind.endswith("Encoder") else 256,
        "channels": tuple(network.shape(f"fromRGB.{i}.model.0.bias")[0] for i in entrances),
    }


def kind_of(network: Network) -> str:
    """The kind of a discriminator, from the name of its class, else from its layers.

    All layers of the CCS family have a projection; those of the Progressive family have one only
    where widths differ. If all widths differ, the kind is ambiguous, and CCS is returned.
    """
    stated = network.class_name.removesuffix("Discriminator")
    if stated in get_args(Kind):
        return stated
    if "layers.0.network.0.weight" in network.state:
        return "Strided"
    layers = network.numbered(r"layers[.]([0-9]+)[.]")
    everywhere = all(f"layers.{i}.proj.weight" in network.state for i in layers)
    encodes = network.shape("final_layer.weight")[0] > 1
    family = "CCS" if everywhere else "Progressive"
    return f"{family}Encoder" if encodes else family


def discriminator_to_official(discriminator: PiGANDiscriminator) -> dict[str, Tensor]:
    """The state dict in official names; the dead layer of CCS and Strided is added as zeros."""
    kind = discriminator.arguments["kind"]
    names = STRIDED_NAMES if kind == "Strided" else DISCRIMINATOR_NAMES
    official = names.to_official(discriminator.state_dict())
    if kind in ("CCS", "Strided"):
        width = official["final_layer.weight"].shape[1]
        official |= {f"{DEAD}weight": torch.zeros(width, 2), f"{DEAD}bias": torch.zeros(width)}
    return official
