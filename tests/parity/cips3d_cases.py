"""Readers of golden/cips3d for the generator's parity tests: names, configurations, cameras, draws.

Use: `cases = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("cips3d_cases.py"))))`.
"""

import json
import math
import runpy
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from gan3d.camera import Camera, look_at
from gan3d.checkpoints.official.cips3d import DEAD, GENERATOR_NAMES, state_to_ours, tensor_to_ours
from gan3d.generators import CIPS3D
from gan3d.randomness import Randomness, Recorded

golden = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("golden_cases.py"))))
GOLDEN = golden.GOLDEN

Angles = tuple[Tensor, Tensor]

ABLATIONS = ("xyz_posenc", "xyz_d_posenc", "xyz_d_sine")
DRAWS = {
    "jitter_u": "depth_jitter",
    "importance_u": "importance",
    "noise_coarse": "noise_coarse",
    "noise_final": "noise_final",
}
# Distributions that draw more than is recorded: which of the possible angles was used follows from
# the recorded poses.
AMBIGUOUS = ("hybrid", "truncated_gaussian")
# fmt: off
# All keys of a configuration that are not descriptive (golden_cases.py). `batch`, `n_params` and
# the parameters without a gradient follow from the others.
KNOWN = {
    "batch", "cam_mode", "cls", "ctor", "img_size", "n_params", "nerf_noise",
    "parameters_without_gradient", "part", "render", "weights",
}
# Further keys of a training step; those of the discriminator are as in discriminator cases.
KNOWN_OF_STEP = {
    "alpha", "aux_channels", "aux_first_downsample", "d_reg_every", "grad_points", "main_channels",
    "main_first_downsample", "r1_lambda", "stddev_group", "train_aux_img", "weights_of_base",
    "D_without_gradient", "G_without_gradient",
}
KNOWN_RENDER = {
    "fov", "ray_start", "ray_end", "num_steps", "hierarchical_sample", "psi", "last_back",
    "white_back", "clamp_mode", "fill_mode", "lock_view_dependence", "h_mean", "h_stddev",
    "v_mean", "v_stddev", "sample_dist", "nerf_noise",
}
KNOWN_MAPPING = {"z_dim", "hidden_dim", "base_layers", "head_layers", "add_norm", "norm_out"}
# fmt: on
KNOWN_PARTS = {
    "nerf_cfg": {"in_dim", "hidden_dim", "hidden_layers", "rgb_dim", "style_dim"},
    "inr_cfg": {"input_dim", "style_dim", "hidden_dim", "pre_rgb_dim"},
    "mapping_nerf_cfg": KNOWN_MAPPING,
    "mapping_inr_cfg": KNOWN_MAPPING,
    "z_dim": None,
}


our_state = state_to_ours
our_tensor = tensor_to_ours


def our_name(name: str) -> str | None:
    """Our name of a published parameter; None if it is dead."""
    return None if DEAD.match(name) else GENERATOR_NAMES.ours(name)


def folders(*files: str) -> list[Path]:
    """Case folders of generators (their configuration has a constructor) with these files."""
    found = sorted(file.parent for file in (GOLDEN / "cips3d").glob("*/config.json"))
    return [f for f in found if "ctor" in read(f) and all((f / name).is_file() for name in files)]


def read(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def official_state(folder: Path) -> dict[str, Tensor]:
    """The published state dict of a case, stored or by its rule (golden/cips3d/README.md)."""
    if (folder / "weights.safetensors").is_file():
        return load_file(folder / "weights.safetensors")
    state = {}
    for name, fact in read(folder)["weights"].items():
        draws = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(fact["shape"])
        state[name] = torch.from_numpy(fact["mean"] + fact["std"] * draws).float()
    return state


def check_known(config: dict) -> None:
    """Raises ValueError if a configuration has options that this reader does not know."""
    unknown = golden.unheeded(config, KNOWN) + golden.unheeded(config["render"], KNOWN_RENDER)
    unknown += golden.unheeded(config["ctor"], KNOWN_PARTS)
    for part, keys in KNOWN_PARTS.items():
        if keys is not None:
            unknown += [f"{part}.{key}" for key in golden.unheeded(config["ctor"][part], keys)]
    if config["render"].get("psi", 1) != 1:
        unknown.append("render.psi other than 1 (truncated images are in truncation.json)")
    if unknown:
        raise ValueError(
            f"configuration keys {unknown} are not known to tests/parity/cips3d_cases.py"
        )


def tolerance(config: dict, kind: str, usual: float) -> float:
    """The tolerance that a case states, at least the usual one."""
    return max(usual, config.get("tolerance", {}).get(kind, usual))


def variant(config: dict) -> str:
    """'base', 'v1' or the inputs of an ablation, by the name of the class."""
    module, _, name = config.get("cls", "generator.GeneratorNerfINR").rpartition(".")
    base, _, suffix = name.partition("GeneratorNerfINR")
    if base == "" and suffix in ("", "_freeze_NeRF"):
        return "v1" if module.endswith("_v1") else "base"
    if base == "" and suffix[1:] in ABLATIONS:
        return suffix[1:]
    if base == "" and suffix.startswith("_xyz_d_sin"):
        return "xyz_d_sine"
    raise ValueError(f"class {config['cls']} is not known to tests/parity/cips3d_cases.py")


def is_frozen(config: dict) -> bool:
    return config.get("cls", "").endswith("_freeze_NeRF")


def arguments(config: dict) -> dict:
    """The arguments of CIPS3D that a configuration describes."""
    check_known(config)
    kind, render = variant(config), config["render"]
    nerf, inr = config["ctor"]["nerf_cfg"], config["ctor"]["inr_cfg"]
    shape, appearance = config["ctor"]["mapping_nerf_cfg"], config["ctor"]["mapping_inr_cfg"]
    assert nerf.get("in_dim", 3) == 3
    return {
        "img_resolution": config["img_size"],
        "z_nerf_dim": shape["z_dim"],
        "z_inr_dim": appearance["z_dim"],
        "nerf_w_dim": nerf["style_dim"],
        "nerf_hidden_dim": nerf["hidden_dim"],
        "nerf_layers": nerf["hidden_layers"],
        "feature_dim": nerf["rgb_dim"],
        "inputs": kind if kind in ABLATIONS else "xyz",
        "inr_w_dim": inr["style_dim"],
        "inr_hidden_dim": inr["hidden_dim"],
        "pre_rgb_dim": inr.get("pre_rgb_dim", 3),
        "color_style": "appearance" if kind == "v1" else "shape",
        "nerf_mapping_hidden_dim": shape["hidden_dim"],
        "nerf_mapping_layers": shape["base_layers"],
        "nerf_mapping_head_layers": shape["head_layers"],
        "nerf_mapping_add_norm": shape.get("add_norm", False),
        "nerf_mapping_norm_out": shape.get("norm_out", False),
        "inr_mapping_hidden_dim": appearance["hidden_dim"],
        "inr_mapping_layers": appearance["base_layers"],
        "inr_mapping_head_layers": appearance["head_layers"],
        "inr_mapping_add_norm": kind in ABLATIONS or appearance.get("add_norm", False),
        "inr_mapping_norm_out": appearance.get("norm_out", False),
        "ray_start": render["ray_start"],
        "ray_end": render["ray_end"],
        "num_steps": render["num_steps"],
        "hierarchical": render.get("hierarchical_sample", True),
        "last_back": render.get("last_back", False),
        "white_back": render.get("white_back", False),
        "fill_mode": render.get("fill_mode"),
        "clamp_mode": render.get("clamp_mode", "relu"),
        "lock_view": render.get("lock_view_dependence", False),
    }


def stylized() -> list[Path]:
    """Folders with mixed layers of two generators whose first generator is a case, too."""
    found = sorted(file.parent for file in (GOLDEN / "cips3d").glob("*/target_inr_net.safetensors"))
    return [folder for folder in found if (base_of(folder) / "config.json").is_file()]


def step_configs() -> dict[Path, dict]:
    """The generator's configuration of every recorded training step, by folder.

    It is the configuration of the case that the weights are from, updated by that of the step.
    """
    found = {}
    for folder in sorted(file.parent for file in (GOLDEN / "cips3d").glob("*/config.json")):
        step, base = read(folder), base_of(folder)
        files = (folder / "weights_D.safetensors", base / "config.json")
        if "train_aux_img" in step and all(file.is_file() for file in files):
            inherited = {k: v for k, v in read(base).items() if k not in ("part", "weights")}
            own = {key: value for key, value in step.items() if key in KNOWN}
            found[folder] = inherited | own
    return found


def base_of(folder: Path) -> Path:
    """The case whose weights a training step or a stylization starts from (`base` in README)."""
    weights = read(folder).get("weights_of_base", "../base/weights.safetensors")
    return (folder / weights).resolve().parent


def generator(
    folder: Path, dtype: torch.dtype = torch.float32, config: dict | None = None, **changes: object
) -> CIPS3D:
    """The generator of a case with its weights, density noise and frozen parts.

    `config` replaces the configuration of the case.
    """
    config = read(folder) if config is None else config
    model = CIPS3D(**arguments(config) | changes)
    state = our_state(official_state(folder))
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["w_avg"], [])
    model.density_noise = config["render"].get("nerf_noise", config.get("nerf_noise", 0.0))
    if is_frozen(config):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not model.is_part_of(name, ["nerf"]))
    return model.to(dtype)


def latents(
    io: dict[str, Tensor], dtype: torch.dtype = torch.float32, prefix: str = ""
) -> tuple[Tensor, Tensor]:
    return io[f"{prefix}z_nerf"].to(dtype), io[f"{prefix}z_inr"].to(dtype)


def camera(
    config: dict, io: dict[str, Tensor], dtype: torch.dtype = torch.float32, prefix: str = ""
) -> Camera:
    """The cameras of a case: explicit ones, else from the recorded draws or poses."""
    render, resolution = config["render"], config["img_size"]
    known = {"camera_pos", "camera_lookup", "camera_up"}
    assert {name for name in io if name.startswith("camera_")} <= known
    if "camera_pos" not in io:
        return sphere_camera(render, io, resolution, dtype, prefix)
    position, towards = io["camera_pos"].to(dtype), io["camera_lookup"].to(dtype)
    up = (io["camera_up"].to(dtype),) if "camera_up" in io else ()
    front = torch.tensor([math.pi / 2], dtype=dtype)
    lens = Camera.from_sphere(front, front, render["fov"], resolution=resolution).intrinsics
    return Camera(look_at(position, position + towards, *up), lens.expand(len(position), 3, 3))


def sphere_camera(
    render: dict,
    io: dict[str, Tensor],
    resolution: int,
    dtype: torch.dtype = torch.float32,
    prefix: str = "",
) -> Camera:
    """Cameras on the unit sphere, of CIPS-3D or pi-GAN."""
    angles = drawn_angles(render, io, dtype, prefix) or recorded_angles(io, dtype, prefix)
    if angles is None:
        raise ValueError(
            f"neither draws nor poses give the cameras of sample_dist {render['sample_dist']!r}"
        )
    yaw, pitch = angles
    return Camera.from_sphere(pitch, yaw, render["fov"], resolution=resolution)


def pose_is_drawn(render: dict, io: dict[str, Tensor]) -> bool:
    """Whether cameras are known exactly, and not as the float32 numbers that are recorded."""
    return "camera_pos" in io or drawn_angles(render, io, torch.float32) is not None


def drawn_angles(
    render: dict, io: dict[str, Tensor], dtype: torch.dtype, prefix: str = ""
) -> Angles | None:
    """(yaw, pitch), each [b], from the recorded draws; None if these are not sufficient."""
    names = [f"{prefix}draw.cam_{name}_randn" for name in ("yaw", "pitch")]
    if not all(name in io for name in names):
        return None
    yaw, pitch = (io[name].to(dtype).flatten(1) for name in names)
    means = render.get("h_mean", math.pi / 2), render.get("v_mean", math.pi / 2)
    spreads = render.get("h_stddev", 0.0), render.get("v_stddev", 0.0)
    mode, recorded = render["sample_dist"], recorded_angles(io, dtype, prefix)
    found = sphere_angles(mode, yaw, pitch, means, spreads)
    if mode not in AMBIGUOUS:
        return found[0]
    if recorded is None:
        return found[0] if len(found) == 1 else None
    for angles in found:
        pairs = zip(angles, recorded)
        if all(torch.allclose(ours, theirs, rtol=0, atol=1e-5) for ours, theirs in pairs):
            return angles
    return None


def recorded_angles(io: dict[str, Tensor], dtype: torch.dtype, prefix: str = "") -> Angles | None:
    """(yaw, pitch), each [b], as recorded from the published code."""
    if f"{prefix}out.pitch_yaw" in io:
        pitch, yaw = io[f"{prefix}out.pitch_yaw"].to(dtype).unbind(1)
        return yaw, pitch
    if f"{prefix}mid.world.yaw" in io:
        yaw, pitch = (io[f"{prefix}mid.world.{name}"][:, 0].to(dtype) for name in ("yaw", "pitch"))
        return yaw, pitch
    return None


def sphere_angles(
    mode: str, yaw: Tensor, pitch: Tensor, means: tuple, spreads: tuple
) -> list[Angles]:
    """Possible (yaw, pitch), each [b], of a distribution's draws [b k] (specs/cips3d.md 2)."""
    if mode == "truncated_gaussian":
        # the first of four draws within two standard deviations, else the first draw
        first = [(draw.abs() < 2).int().argmax(1, keepdim=True) for draw in (yaw, pitch)]
        yaw, pitch = yaw.gather(1, first[0]), pitch.gather(1, first[1])
    yaw, pitch = yaw[:, 0], pitch[:, 0]
    gaussian = means[0] + spreads[0] * yaw, means[1] + spreads[1] * pitch
    uniform = means[0] + 2 * spreads[0] * (yaw - 0.5), means[1] + 2 * spreads[1] * (pitch - 0.5)
    if mode in ("gaussian", "normal", "truncated_gaussian"):
        return [gaussian]
    if mode == "uniform":
        return [uniform]
    if mode == "hybrid":  # the uniform one has doubled half-widths
        return [(2 * uniform[0] - means[0], 2 * uniform[1] - means[1]), gaussian]
    if mode == "spherical_uniform":
        v = (2 * spreads[1] / math.pi * (pitch - 0.5) + means[1] / math.pi).clamp(1e-5, 1 - 1e-5)
        return [(uniform[0], torch.arccos(1 - 2 * v))]
    if mode == "mean":
        return [(torch.full_like(yaw, means[0]), torch.full_like(pitch, means[1]))]
    raise ValueError(f"sample_dist {mode!r} is not known to tests/parity/cips3d_cases.py")


def draws(
    io: dict[str, Tensor], dtype: torch.dtype = torch.float32, prefix: str = ""
) -> Randomness:
    """The recorded draws of a case under our names."""
    start = f"{prefix}draw."
    found = {name.removeprefix(start): t for name, t in io.items() if name.startswith(start)}
    unknown = sorted(name for name in found if name not in DRAWS and not name.startswith("cam_"))
    assert not unknown, f"draws {unknown} are not known to tests/parity/cips3d_cases.py"
    return Recorded({DRAWS[name]: t.to(dtype) for name, t in found.items() if name in DRAWS})
