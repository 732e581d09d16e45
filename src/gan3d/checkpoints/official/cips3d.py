"""Import and export of official CIPS-3D weights (specs/cips3d.md 21, appendices A and B).

Constructor arguments of the networks follow from the shapes of the tensors. Files do not state the
options of rendering (resolution, ray limits, number of samples): they default to the published
values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gan3d.checkpoints.official.names import Names
from gan3d.checkpoints.official.networks import (
    Network,
    OfficialStates,
    beside,
    build_official,
    read_state,
    write_official,
)
from gan3d.checkpoints.plain import load_plain
from gan3d.checkpoints.portable import save_pretrained
from gan3d.discriminators.cips3d import CIPS3DDiscriminator
from gan3d.generators.cips3d import CIPS3D

GENERATOR_NAMES = Names(
    ("aux_to_rbg.0.", "aux_to_rgb."),
    ("inr_net.tanh.0.", "inr_net.to_image."),
    ("inr_net.to_rgbs.*.linear.", "inr_net.to_rgbs.*."),
    ("siren.color_layer_linear.0.", "siren.color_layer_linear."),
    ("siren.dir_emb.0.", "siren.dir_emb."),
    ("mapping_network_nerf.nerf_", "mapping_network_nerf.heads.nerf_"),
    ("mapping_network_inr.nerf_", "mapping_network_inr.heads.nerf_"),
    ("mapping_network_inr.inr_", "mapping_network_inr.heads.inr_"),
)
DISCRIMINATOR_NAMES = Names(
    ("*.conv_in.*.equal_conv.weight", "*.conv_in.*.weight"),
    ("*.conv_in.*.flrelu.bias", "*.conv_in.*.bias"),
    ("*.convs.*.*.equal_conv.weight", "*.convs.*.*.weight"),
    ("*.convs.*.*.flrelu.bias", "*.convs.*.*.bias"),
    ("*.convs.*.*.down_blur.kernel", "*.convs.*.*.resample_filter"),
    ("*.final_conv.equal_conv.weight", "*.epilogue.conv.weight"),
    ("*.final_conv.flrelu.bias", "*.epilogue.conv.bias"),
    ("*.space_linear.", "*.epilogue.fc."),
    ("*.out_linear.", "*.epilogue.out."),
    # names of the older training script
    ("*.final_linear.0.", "*.epilogue.fc."),
    ("*.final_linear.1.", "*.epilogue.out."),
)
# Official parameters without any effect; our modules do not have them.
DEAD = re.compile(r"inr_net\.(to_rgbs\.(4|8|16)\.|network\.\d+\.mod\d\.norm\.)")
# Argument `inputs` by the number of inputs per point and of the direction at the color layer.
INPUTS = {(3, 0): "xyz", (63, 0): "xyz_posenc", (63, 27): "xyz_d_posenc", (3, 27): "xyz_d_sine"}
SINE_WITH_DIRECTION = "siren.dir_emb.0.weight"


def import_cips3d(
    file: Path,
    out: Path | None = None,
    discriminator: Path | None = None,
    img_resolution: int = 256,
    ray_start: float = 0.88,
    ray_end: float = 1.12,
    num_steps: int = 12,
    group_size: int = 4,
    overwrite: bool = False,
) -> str:
    """Converts official CIPS-3D weights to a portable file; nothing in the file is executed.

    Args:
        file: the generator: G_ema.pth, generator.pth (state dicts) or one of the *_model.pth
            (pickled modules).
        out: the new file; by default beside `file`, ending in .safetensors.
        discriminator: file of the discriminator, to convert it, too.
        img_resolution: side of the images in pixels; the weights fit any.
        ray_start: distance of the first sample: 0.88 for FFHQ and the fine-tuned models, 0.8 for
            AFHQ from scratch.
        ray_end: distance of the last sample: 1.12, or 1.2 for AFHQ from scratch.
        num_steps: samples along a ray: 12, or 24 for AFHQ from scratch.
        group_size: group size of the minibatch standard deviation, for discriminators that have it.
        overwrite: replace a file that is there.
    """
    path = beside(file, out, ".safetensors", overwrite)
    network = read_state(file)
    generator = generator_from_official(
        network,
        img_resolution=img_resolution,
        ray_start=ray_start,
        ray_end=ray_end,
        num_steps=num_steps,
    )
    generator.estimate_w_avg()

    judge = None
    if discriminator is not None:
        judge = discriminator_from_official(read_state(discriminator), group_size=group_size)

    facts = {**network.facts, "radius": 1, "fov": 12, **_progress(Path(file))}
    save_pretrained(path, generator, judge, facts=facts)
    also = "" if judge is None else f", with its {type(judge).__name__}"
    return f"{path}: CIPS3D, {img_resolution} px, inputs {generator.arguments['inputs']}{also}"


def export_cips3d(
    file: Path,
    out: Path | None = None,
    which: Literal["generator", "discriminator"] = "generator",
    overwrite: bool = False,
) -> str:
    """Writes a network of a portable file as a state dict for official code.

    Args:
        file: a portable file (gan3d import cips3d, gan3d export training).
        out: the new file, written by torch.save; by default beside `file`, ending in .pth.
        which: network to write.
        overwrite: replace a file that is there.
    """
    states: OfficialStates = {
        CIPS3D: generator_to_official,
        CIPS3DDiscriminator: discriminator_to_official,
    }
    return write_official(file, out, which, states, "CIPS-3D's", overwrite=overwrite)


# -- generator -------------------------------------------------------------------------------------


def generator_from_official(network: Network, **options: Any) -> CIPS3D:
    """CIPS3D with the weights of an official generator.

    Its mean latents are zeros; call `estimate_w_avg`.

    Args:
        network: weights.
        options: arguments of CIPS3D that do not follow from the weights.

    Raises:
        ValueError: these are not weights of CIPS-3D.
    """
    state = state_to_ours(network.state)
    arguments = {**generator_arguments(network), **options}
    return build_official(CIPS3D, arguments, state, {"w_avg": torch.zeros})


def state_to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An official generator's state dict in our names, without its dead parameters."""
    return {
        GENERATOR_NAMES.ours(name): tensor_to_ours(name, t)
        for name, t in state.items()
        if not DEAD.match(name)
    }


def tensor_to_ours(name: str, tensor: Tensor) -> Tensor:
    """An official parameter in our shape: weights of modulated layers lose axes of length 1."""
    if not re.search(r"\.mod\d\.weight$", name):
        return tensor
    grouped = tensor.ndim == 5 and tensor.shape[0] == tensor.shape[3] == tensor.shape[4] == 1
    if grouped:  # for grouped convolutions, [1 o i 1 1]
        return tensor[0, :, :, 0, 0].T.contiguous()
    if tensor.ndim == 3 and tensor.shape[0] == 1:
        return tensor[0]
    raise ValueError(
        f"{name} has shape {tuple(tensor.shape)}, expected [1 in out] or [1 out in 1 1]"
    )


def generator_to_official(generator: CIPS3D) -> dict[str, Tensor]:
    """The state dict in official names; dead parameters are added as layers without effect."""
    state = {name: t for name, t in generator.state_dict().items() if name != "w_avg"}
    official = GENERATOR_NAMES.to_official(state)

    # modulated layers: [in out] -> [1 in out], with a dead norm
    for name in [name for name in official if re.search(r"\.mod\d\.weight$", name)]:
        weight = official[name][None]
        norm = name.replace(".weight", ".norm.")
        official[name] = weight
        official[f"{norm}weight"] = weight.new_ones(weight.shape[1])
        official[f"{norm}bias"] = weight.new_zeros(weight.shape[1])

    # dead layers of the first blocks
    for block in ("4", "8", "16"):
        for word in ("weight", "bias"):
            used = official[f"inr_net.to_rgbs.32.linear.{word}"]
            official[f"inr_net.to_rgbs.{block}.linear.{word}"] = torch.zeros_like(used)
    return official


def generator_arguments(network: Network) -> dict[str, Any]:
    """Constructor arguments (sizes and variant) of our CIPS3D for an official generator."""
    layers = network.numbered(r"siren[.]network[.]([0-9]+)[.]")
    hidden, points = network.shape("siren.network.0.linear.weight")
    directions = network.shape("siren.color_layer_sine.linear.weight")[1] - hidden
    inputs = INPUTS.get((points, directions))
    if inputs is None or (SINE_WITH_DIRECTION in network.state) != (inputs == "xyz_d_sine"):
        raise ValueError(
            f"the NeRF has {points} inputs for a point and {directions} for its direction; "
            f"expected one of {', '.join(map(str, INPUTS))} (CIPS-3D and its ablations)"
        )
    return {
        "nerf_w_dim": network.shape("siren.network.0.gain_fc.weight")[1],
        "nerf_hidden_dim": hidden,
        "nerf_layers": len(layers),
        "feature_dim": network.shape("siren.color_layer_linear.0.weight")[0],
        "inputs": inputs,
        "inr_w_dim": network.shape("inr_net.network.4.mod1.modulation.weight")[1],
        "inr_hidden_dim": network.shape("inr_net.network.4.mod2.modulation.weight")[0],
        "pre_rgb_dim": network.shape("inr_net.to_rgbs.32.linear.weight")[0],
        "color_style": "appearance" if "nerf_rgb_mapping.weight" in network.state else "shape",
        **_mapping_arguments(network, "nerf", "nerf_w0"),
        **_mapping_arguments(network, "inr", "inr_w4_0"),
    }


def _mapping_arguments(network: Network, part: str, head: str) -> dict[str, Any]:
    """Constructor arguments of one mapping network."""
    module = f"mapping_network_{part}"

    def are_linear(prefix: str) -> list[bool]:
        """Whether each layer is linear, with a matrix as weight, or a norm, with a vector."""
        numbers = network.numbered(re.escape(prefix) + r"[.]([0-9]+)[.]weight")
        return [len(network.shape(f"{prefix}.{i}.weight")) == 2 for i in numbers]

    base = are_linear(f"{module}.base_net")
    heads = are_linear(f"{module}.{head}")
    hidden, z_dim = network.shape(f"{module}.base_net.0.weight")
    last = heads or base
    inner = base if heads else base[:-1]  # without heads, a last norm belongs to the output
    return {
        f"z_{part}_dim": z_dim,
        f"{part}_mapping_hidden_dim": hidden,
        f"{part}_mapping_layers": sum(base),
        f"{part}_mapping_head_layers": sum(heads),
        f"{part}_mapping_add_norm": not all(inner),
        f"{part}_mapping_norm_out": not last[-1],
    }


# -- discriminator ---------------------------------------------------------------------------------


def discriminator_from_official(network: Network, group_size: int = 4) -> CIPS3DDiscriminator:
    """CIPS3DDiscriminator with the weights of an official one.

    Args:
        network: weights.
        group_size: group size of the minibatch standard deviation, if the network has it.
    """
    state = DISCRIMINATOR_NAMES.to_ours(network.state)
    arguments = discriminator_arguments(network, group_size)
    # Official layers that keep the size have no filter; ours have one that is not used.
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    absent = {"resample_filter": lambda shape: taps.outer(taps) / 64}
    return build_official(CIPS3DDiscriminator, arguments, state, absent)


def discriminator_arguments(network: Network, group_size: int = 4) -> dict[str, Any]:
    """Constructor arguments of our discriminator for an official one."""

    def channels(name: str) -> dict[int, int]:
        sides = network.numbered(rf"{name}[.]conv_in[.]([0-9]+)[.]")[::-1]
        return {side: network.shape(f"{name}.conv_in.{side}.flrelu.bias")[0] for side in sides}

    def halves_first(name: str, default: bool) -> bool:
        keys = [key for key in network.state if key.startswith(name)]
        kernels = [key for key in keys if key.endswith("down_blur.kernel")]
        return any(".conv1." in key for key in kernels) if kernels else default

    main, aux = channels("main_disc"), channels("aux_disc")
    if 4 not in main:
        raise ValueError(
            "the network has no main_disc.conv_in.4; this is not a state dict of CIPS-3D's "
            "discriminator"
        )
    mbstd_channels = network.shape("main_disc.final_conv.equal_conv.weight")[1] - main[4]
    return {
        "img_resolution": max(main),
        "channels": tuple(main.values()),
        "first_downsample": halves_first("main_disc.", False),
        "aux": bool(aux),
        "aux_channels": tuple(aux.values()) or None,
        "aux_first_downsample": halves_first("aux_disc.", True),
        "group_size": group_size if mbstd_channels else 0,
    }


def discriminator_to_official(discriminator: CIPS3DDiscriminator) -> dict[str, Tensor]:
    """The state dict in official names, of the later training scripts."""
    modules = discriminator.named_modules()
    halving = {name for name, module in modules if getattr(module, "down", 1) > 1}
    state = discriminator.state_dict()
    unused = {
        name
        for name in state
        if name.endswith(".resample_filter") and name.rpartition(".")[0] not in halving
    }
    used = {name: tensor for name, tensor in state.items() if name not in unused}
    return DISCRIMINATOR_NAMES.to_official(used)


# -- files -----------------------------------------------------------------------------------------


def _progress(file: Path) -> dict[str, Any]:
    """Step and FIDs of the run, from state_dict.pth beside the weights."""
    beside_it = file.with_name("state_dict.pth")
    content = load_plain(beside_it) if beside_it.is_file() and beside_it != file else None
    if not isinstance(content, dict):
        return {}
    kept = {name: content.get(name) for name in ("step", "cur_fid", "best_fid", "worst_fid")}
    return {
        name: value
        for name, value in kept.items()
        if type(value) in (int, float) and value == value
    }
