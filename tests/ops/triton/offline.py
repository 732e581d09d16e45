"""Compiles kernels for cards that need not be there, and prints what they use, as JSON.

    python tests/ops/triton/offline.py

Run as a program of its own, because Triton's interpreter is chosen once for a process.
"""

import json
import re
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")

import triton  # noqa: E402
import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from gan3d.ops.triton import (  # noqa: E402
    alphas,
    bias_act,
    composite,
    filtered_lrelu,
    fir,
    grid_sample,
    left_point,
    manifolds,
    render_triplane,
    scaled_linear,
    triplane,
)

CAPABILITIES = (80, 90)
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Case(NamedTuple):
    """A kernel as it is launched at a size of the published models.

    Attributes:
        kernel: decorated function.
        types: of its arguments that are no constants; the others are pointers to float32.
        constants: its compile-time arguments.
        multiples: integers that are multiples of 16, as Triton sees of their values.
        num_warps: of a program.
        num_stages: of the pipeline of loads.
    """

    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    multiples: tuple[str, ...] = ()
    num_warps: int = 4
    num_stages: int = 3


RAY = {"order": "*i64", "background": "fp32", "R": "i32"}
EG3D = {"S": 96, "S0": 48, "C": 32, "ORDERED": True, "CHANNELS": 32, "ACC": tl.float32}
SIZES = dict.fromkeys(("B", "N", "stride_xb", "stride_wi", "stride_wo"), "i32") | {"slope": "fp32"}
TILE = {name: getattr(scaled_linear, name) for name in ("ROWS", "COLUMNS", "DEPTH")}
LAYER = {"HAS_OUT": True, "PRECISION": "tf32", "ACC": tl.float32, **TILE}
MODFC = {"IN": 512, "OUT": 512, "HAS_IN": True, "HAS_OFFSET": False, "KIND": 1, **LAYER}
SIREN = {"IN": 256, "OUT": 256, "HAS_IN": False, "HAS_OFFSET": True, **LAYER}
POINT = {"P": "i32", "height": "i32", "width": "i32", "scale": "fp32"}
PLANES = {"C": 32, "PLANES": 2, "AXES": 0b10000100, "ONE_TABLE": False, "ACC": tl.float32}
PLANES |= {"POINTS": triplane.POINTS, "CHANNELS": 32}
PIXELS = dict.fromkeys(("P", "height", "width"), "i32")
MANY = {"C": 32, "LAST": True, "POINTS": grid_sample.NUMBERS // 32, "CHANNELS": 32}
RGBA = {"C": 4, "LAST": False, "POINTS": grid_sample.NUMBERS // 4, "CHANNELS": 4}
MANY, RGBA = MANY | {"ACC": tl.float32}, RGBA | {"ACC": tl.float32}
ACT = dict.fromkeys(("slope", "gain", "clamp"), "fp32")
IMAGE = {"R": "i32", "C": "i32", "channels": "i32", **ACT}
TILE_OF_IMAGE = {"ROWS": 1, "COLUMNS": bias_act.NUMBERS, "HAS_BIAS": True, "ACC": tl.float32}
STARTS = ("skipped_x", "rest_x", "skipped_y", "rest_y")
FIR = dict.fromkeys(("C", "height_in", "width_in", "height", "width", *STARTS), "i32")
FIR |= {"gain": "fp32"}
TAPS = {"TAPS_X": 4, "TAPS_Y": 4, "REVERSED": True, "LAST": True, "ACC": tl.float32}
TAPS |= {"PIXELS": fir.PIXELS, "CHANNELS": fir.CHANNELS}
ONE, TWO = ({f"UP_{axis}": n for axis in "XY"} for n in (1, 2))
KEPT, HALVED = ({f"DOWN_{axis}": n for axis in "XY"} for n in (1, 2))
FIRST = {"LAST": False, "CHANNELS": 1, "PIXELS": fir.PIXELS_FIRST}
INTEGERS = [f"{side}_{of}" for side in ("height", "width") for of in ("x", "v", "fine")]
INTEGERS += [f"before_{of}{axis}" for of in "uvp" for axis in "yx"]
CHAIN = dict.fromkeys(("C", "height", "width", "shift_y", "shift_x", *INTEGERS), "i32")
CHAIN |= dict.fromkeys(("gain_up", "gain_v", "gain_out", "gain", "slope", "clamp"), "fp32")


def bands(up: int, by: int, down: int) -> dict[str, Any]:
    """Of filters of StyleGAN3-T, six taps per sample of the coarser grid."""
    taps = [6 * factor for factor in (up, by, down)]
    outputs = filtered_lrelu.outputs_of(taps[2], down)
    found = {"UP_U": up, "TAPS_U": taps[0], "UP_V": by, "TAPS_V": taps[1]}
    found |= {"DOWN": down, "TAPS_P": taps[2], "OUTPUTS": outputs}
    found["PADDED"] = max(triton.next_power_of_2(outputs), filtered_lrelu.LEAST)
    found |= {f"INPUTS_{of}": filtered_lrelu.inputs_of(6 * n, n) for of, n in zip("UV", (up, by))}
    found |= dict.fromkeys(("REVERSED_U", "REVERSED_V", "REVERSED_P"), True)
    found |= {"FINE": filtered_lrelu.FINE, "COLUMNS": filtered_lrelu.COLUMNS}
    return found | {"PRECISION": "tf32", "ACC": tl.float32}


GRAM = {"K": 24, "SURFACES": 32, "RAYS": alphas.NUMBERS // 32, "LAST_BACK": True, "ACC": tl.float32}
MAPS = dict.fromkeys(("R", "height", "width"), "i32")
MAPS |= dict.fromkeys(("stride_b", "stride_k", "stride_c"), "i32")
MAPS |= {"scale_x": "fp32", "scale_y": "fp32", "valid": "*u8"}
LEVELS = {"K": 23, "SURFACES": 32, "RAYS": manifolds.RAYS, "LAST_BACK": False, "ACC": tl.float32}
LEVELS |= {"stride_t": 1}
VIEW = dict.fromkeys(("R", "P", "S", "height", "width"), "i32")
VIEW |= {"scale": "fp32", "background": "fp32"}
FIELD = {"C": 32, "HIDDEN": 64, "PLANES": 2, "AXES": 0b10000100, "ONE_TABLE": False}
FIELD |= {"HAS_OFFSET": False, "CHANNELS": 32, "UNITS": 64, "PRECISION": "tf32", "ACC": tl.float32}
COLOR = {"F": 32, "COLORS": 32, "RAYS": render_triplane.RAYS}
GRADIENTS = {"BUCKETS": render_triplane.BUCKETS, "OF_ROWS": True, "OF_DECODER": True}
PIGAN = {"S": 24, "S0": 12, "C": 3, "CHANNELS": 4, "SOFTPLUS": False, "LAST_BACK": True}
PIGAN |= {"RAYS": left_point.RAYS, "ACC": tl.float32}
CIPS = PIGAN | {"C": 32, "CHANNELS": 32, "LAST_BACK": False}
CASES = {
    "colors": Case(left_point.left_point_kernel, RAY, PIGAN),
    "colors, backward": Case(left_point.left_point_backward_kernel, RAY, PIGAN),
    "features": Case(left_point.left_point_kernel, RAY, CIPS),
    "features, backward": Case(left_point.left_point_backward_kernel, RAY, CIPS),
    "densities of samples": Case(
        render_triplane.densities_kernel, VIEW, {**FIELD, "POINTS": render_triplane.POINTS}
    ),
    "render_triplane": Case(render_triplane.rays_kernel, VIEW, {**FIELD, **COLOR}, num_stages=1),
    "render_triplane, backward": Case(
        render_triplane.rays_backward_kernel,
        VIEW,
        {**FIELD, **COLOR, **GRADIENTS, "OF_RAYS": False},
        num_warps=render_triplane.WARPS_BACKWARD,
        num_stages=1,
    ),
    "render_triplane, backward, rays": Case(
        render_triplane.rays_backward_kernel,
        VIEW,
        {**FIELD, **COLOR, **GRADIENTS, "OF_RAYS": True},
        num_warps=render_triplane.WARPS_BACKWARD,
        num_stages=1,
    ),
    "composite_alphas": Case(alphas.alphas_kernel, {"R": "i32", "C": "i32"}, GRAM),
    "composite_alphas, backward": Case(
        alphas.alphas_backward_kernel, {"R": "i32", "C": "i32"}, GRAM
    ),
    "manifolds": Case(manifolds.manifolds_kernel, MAPS, LEVELS, (), manifolds.WARPS),
    "manifolds, backward": Case(
        manifolds.manifolds_backward_kernel,
        MAPS,
        {**LEVELS, "OF_MAPS": True, "OF_POINTS": False},
        (),
        manifolds.WARPS_BACKWARD,
    ),
    "manifolds, backward, points": Case(
        manifolds.manifolds_backward_kernel,
        MAPS,
        {**LEVELS, "OF_MAPS": True, "OF_POINTS": True},
        (),
        manifolds.WARPS_OF_POINTS,
    ),
    "filtered_lrelu, up 4, down 2": Case(
        filtered_lrelu.filtered_lrelu_kernel,
        CHAIN,
        {**bands(4, 4, 2), "LINEAR": False},
        (),
        filtered_lrelu.WARPS,
    ),
    "filtered_lrelu, backward": Case(
        filtered_lrelu.filtered_lrelu_kernel,
        CHAIN,
        {**bands(4, 2, 4), "LINEAR": True},
        (),
        filtered_lrelu.WARPS,
    ),
    "filter": Case(fir.fir_kernel, FIR, {**TAPS, **ONE, **KEPT}, ("C",)),
    "up": Case(fir.fir_kernel, FIR, {**TAPS, **TWO, **KEPT}, ("C",)),
    "down": Case(fir.fir_kernel, FIR, {**TAPS, **ONE, **HALVED}, ("C",)),
    "filter, channels first": Case(fir.fir_kernel, FIR, {**TAPS, **ONE, **KEPT, **FIRST}),
    "channels first": Case(
        bias_act.bias_act_kernel, IMAGE, {**TILE_OF_IMAGE, "BY_ROW": True}, ("C",)
    ),
    "channels last": Case(
        bias_act.bias_act_kernel, IMAGE, {**TILE_OF_IMAGE, "BY_ROW": False}, ("C",)
    ),
    "bias_act, backward": Case(
        bias_act.bias_act_grad_kernel,
        {"N": "i64", **ACT},
        {"NUMBERS": bias_act.NUMBERS, "ACC": tl.float32},
        ("N",),
    ),
    "composite": Case(composite.composite_kernel, RAY, {**EG3D, "RAYS": composite.RAYS}),
    "composite, backward": Case(
        composite.composite_backward_kernel, RAY, {**EG3D, "RAYS": composite.RAYS}
    ),
    "modfc": Case(scaled_linear.scaled_linear_kernel, SIZES, {**MODFC, "SEVERAL_IMAGES": False}),
    "modfc, one point": Case(
        scaled_linear.scaled_linear_kernel, SIZES, {**MODFC, "SEVERAL_IMAGES": True}
    ),
    "film_siren": Case(
        scaled_linear.scaled_linear_kernel, SIZES, {**SIREN, "KIND": 2, "SEVERAL_IMAGES": False}
    ),
    "film_siren, backward": Case(
        scaled_linear.scaled_linear_kernel, SIZES, {**SIREN, "KIND": 3, "SEVERAL_IMAGES": False}
    ),
    "channels last, 32": Case(grid_sample.grid_sample_kernel, PIXELS, MANY),
    "RGBA, channels first": Case(grid_sample.grid_sample_kernel, PIXELS, RGBA),
    "channels last, 32, backward": Case(
        grid_sample.grid_sample_backward_kernel, PIXELS, {**MANY, "OF_IMAGE": True, "OF_GRID": True}
    ),
    "RGBA, channels first, backward": Case(
        grid_sample.grid_sample_backward_kernel, PIXELS, {**RGBA, "OF_IMAGE": True, "OF_GRID": True}
    ),
    "features of points": Case(triplane.plane_features_kernel, POINT, PLANES),
    "features of points, backward": Case(
        triplane.plane_features_backward_kernel,
        POINT,
        {**PLANES, "OF_ROWS": True, "OF_POINTS": True},
    ),
}


def usage(case: Case, capability: int) -> dict[str, int]:
    """Registers per thread, bytes of stack (spills), and accesses of 16 bytes."""
    names = case.kernel.arg_names
    types = {name: case.types.get(name, "*fp32") for name in names}
    types |= dict.fromkeys(case.constants, "constexpr")
    aligned = [["tt.divisibility", 16]]
    source = ASTSource(
        fn=case.kernel,
        signature=types,
        constexprs={(names.index(name),): value for name, value in case.constants.items()},
        attrs={
            (i,): aligned
            for i, name in enumerate(names)
            if types[name].startswith("*") or name in case.multiples
        },
    )
    target = GPUTarget("cuda", capability, 32)
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages}
    compiled = triton.compile(source, target=target, options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(CUOBJDUMP), "-res-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = map(int, re.findall(r"REG:(\d+) STACK:(\d+)", said)[0])
    ptx = compiled.asm["ptx"]
    wide = len(re.findall(r"ld\.global\S*\.v4\.b32", ptx))
    return {"registers": registers, "stack": stack, "wide_loads": wide}


if __name__ == "__main__":
    found = {
        f"{case.kernel.fn.__name__}: {name}": {
            capability: usage(case, capability) for capability in CAPABILITIES
        }
        for name, case in CASES.items()
    }
    print(json.dumps(found, indent=1))
