"""The ops of gan3d in all their forms, on a CPU or a GPU: right first, then timed.

    python benchmarks/ops.py [--device cuda] [--tiny] [--seconds 60] [--out FOLDER]

Each form (reference, fast, triton) of an op is compared with the reference in float64, and timed
only if it is within `TOLERANCES`: forward, and forward with backward, medians and quantiles, peak
memory. Beside them stands the floor: all inputs and results touched once at the speed of a copy,
and all products at the speed of the precision, both measured in the same run. One JSON, ops.json.
"""

from __future__ import annotations

import argparse
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import facts, machine_name, write
from timing import ceilings, milliseconds, peak_megabytes, started, tf32
from torch import Tensor

from gan3d.ops import (
    PlaneTable,
    backend,
    bias_act,
    composite,
    composite_manifolds,
    film_siren,
    filtered_lrelu,
    grid_sample,
    modfc,
    render_triplane,
    setup_filter,
    upfirdn2d,
)
from gan3d.ops.composite import Samples
from gan3d.ops.filtered_lrelu import filtered_lrelu_reference
from gan3d.ops.render_triplane import DecoderWeights
from gan3d.ops.resample import upfirdn2d_reference
from gan3d.ops.triplane import plane_features_reference

Form = Callable[..., Tensor]
# Largest error of a form, as a norm relative to the norm of the result. A SIREN layer multiplies
# what enters its sine by some 30, and the rounding with it.
TOLERANCES = {"float32": 1e-5, "tf32": 2e-3, "bfloat16": 2e-2}
AMPLIFIES = {"film_siren": 30}


@dataclass(frozen=True)
class Case:
    """An op at one size.

    Attributes:
        op: its name.
        size: the size, in words.
        shapes: of the inputs.
        forms: functions of these inputs, by name; the first one is the equation.
        gflop: of its products, forward.
        positive: numbers of the inputs that are drawn from [0, 1) and sorted along their last
            dimension, such as depths.
        constant: numbers of the inputs without gradient.
    """

    op: str
    size: str
    shapes: Sequence[tuple[int, ...]]
    forms: dict[str, Form]
    gflop: float = 0.0
    positive: tuple[int, ...] = ()
    constant: tuple[int, ...] = ()

    def inputs(self, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        draw = torch.Generator(device).manual_seed(0)
        made = []
        for k, shape in enumerate(self.shapes):
            if k in self.positive:
                x = torch.rand(shape, generator=draw, device=device).sort(-1).values
            else:
                x = torch.randn(shape, generator=draw, device=device)
            made.append(x.to(dtype).requires_grad_(k not in self.constant))
        return made


def forms_of(function: Callable[..., Any], reference: Form | None, call: Callable[..., Tensor]):
    """The forms of an op by name: by its argument `backend`, where it has one."""
    if "backend" not in inspect.signature(function).parameters:
        return ({} if reference is None else {"reference": reference}) | {"fast": call}
    asked = {name: partial(call, backend=name) for name in ("fast", "triton")}
    first = reference or partial(call, backend="reference")
    return {"reference": first} | asked


def cases(tiny: bool) -> Iterator[Case]:
    """All ops, at the sizes of the published models, or tiny."""
    # modulated layers: images, points, features
    for b, n, c in [(2, 65, 32)] if tiny else [(4, 65536, 512), (32, 4096, 512), (4096, 1, 512)]:
        call = partial(_modfc)
        forms = forms_of(modfc, None, call)
        size = f"{b} x {n}, {c} to {c}"
        yield Case("modfc", size, [(b, n, c), (c, c), (b, c)], forms, 2e-9 * b * n * c * c)

    # FiLM-SIREN layers
    for b, n, c in [(2, 65, 32)] if tiny else [(1, 98304, 256), (4, 98304, 256)]:
        forms = forms_of(film_siren, None, film_siren)
        shapes = [(b, n, c), (c, c), (c,), (b, c), (b, c)]
        size = f"{b} x {n}, {c} to {c}"
        yield Case("film_siren", size, shapes, forms, 2e-9 * b * n * c * c)

    # compositing: images, rays, samples in each of two blocks, channels
    for b, r, s, c in [(2, 33, 6, 8)] if tiny else [(1, 128**2, 48, 32), (4, 128**2, 48, 32)]:
        shapes = [(b, r, s), (b, r, s), (b, r, s, c)] * 2
        forms = forms_of(composite, None, _composite)
        size = f"{b} x {r} rays of {s} + {s}, {c} channels"
        yield Case("composite", size, shapes, forms, positive=(0, 3))

    # features of planes: images, points, side of the planes, channels
    for b, n, side, c in [(2, 99, 16, 8)] if tiny else [(1, 128**2 * 96, 256, 32)]:
        forms = forms_of(PlaneTable.features, _planes_reference, _planes)
        size = f"{b} x {n} points, planes of {side} px, {c} channels"
        shapes = [(b, 3, c, side, side), (b, n, 3)]
        yield Case("triplane", size, shapes, forms, positive=(1,))

    # rays through planes: rays, samples, side of the planes, channels, hidden units
    for r, s, side, c, h in [(33, 6, 16, 8, 16)] if tiny else [(128**2, 96, 256, 32, 64)]:
        forms = forms_of(render_triplane, None, _rays)
        size = f"{r} rays of {s}, planes of {side} px, {c} channels"
        decoder = [(h, c), (h,), (1 + c, h), (1 + c,)]
        shapes = [(1, 3, c, side, side), *decoder, (1, r, 3), (1, r, 3), (1, r, s)]
        gflop = 2e-9 * r * s * h * (2 * c + 1)
        still = (5, 6, 7)
        yield Case("render_triplane", size, shapes, forms, gflop, positive=(7,), constant=still)

    # rays through surfaces with maps: images, rays, surfaces, side of the maps
    for b, r, k, side in [(2, 33, 3, 8)] if tiny else [(1, 256**2, 24, 256), (4, 128**2, 24, 128)]:
        forms = forms_of(composite_manifolds, None, _manifolds)
        size = f"{b} x {r} rays, {k} maps of {side} px"
        shapes = [(b, k, 4, side, side), (b, r, 3), (b, r, k + 1, 3), (b, 3)]
        yield Case("composite_manifolds", size, shapes, forms, constant=(2, 3))

    # epilogue of a convolution, and filters
    for b, c, side in [(2, 8, 16)] if tiny else [(4, 128, 512)]:
        forms = forms_of(bias_act, partial(_bias_act, plain=True), _bias_act)
        yield Case("bias_act", f"{b} x {c}, {side} px", [(b, c, side, side), (c,)], forms)
    for b, c, side, up, down in (
        [(2, 4, 16, 1, 2)] if tiny else [(4, 64, 512, 1, 2), (4, 128, 256, 2, 1)]
    ):
        filtered = partial(_upfirdn2d, up=up, down=down)
        forms = forms_of(upfirdn2d, partial(filtered, plain=True), filtered)
        size = f"{b} x {c}, {side} px, up {up}, down {down}"
        yield Case("upfirdn2d", size, [(b, c, side, side)], forms)
    for b, c, side in [(1, 4, 24)] if tiny else [(4, 323, 148)]:
        forms = forms_of(filtered_lrelu, partial(_filtered_lrelu, plain=True), _filtered_lrelu)
        size = f"{b} x {c}, {side} px, up 4, down 2"
        yield Case("filtered_lrelu", size, [(b, c, side, side), (c,)], forms)
    for b, c, side in [(2, 4, 16)] if tiny else [(4, 96, 256)]:
        forms = forms_of(grid_sample, _grid_sample_reference, grid_sample)
        shapes = [(b, c, side, side), (b, side, side, 2)]
        yield Case("grid_sample", f"{b} x {c}, {side} px", shapes, forms, constant=(1,))


# ------------------------------------------------------------ the ops as functions of their inputs


def _modfc(x: Tensor, weight: Tensor, style: Tensor, **backend: Any) -> Tensor:
    return modfc(x, weight, style, slope=0.2, **backend)


def _composite(*tensors: Tensor, **backend: Any) -> Tensor:
    blocks = [Samples(*tensors[:3]), Samples(*tensors[3:])]
    return composite(*blocks, **backend).rgb


def _planes(planes: Tensor, points: Tensor, **backend: Any) -> Tensor:
    return PlaneTable.of(planes).features(points - 0.5, box_warp=1.0, **backend)


def _planes_reference(planes: Tensor, points: Tensor) -> Tensor:
    each = plane_features_reference(planes, points - 0.5, box_warp=1.0, axes="official")
    return each.mean(1)


def _rays(planes: Tensor, *tensors: Tensor, **backend: Any) -> Tensor:
    decoder, rays = DecoderWeights(*tensors[:4]), map(_at_least_float32, tensors[4:])
    origins, directions, depths = rays
    directions = torch.nn.functional.normalize(directions, dim=-1)
    table = PlaneTable.of(planes)
    return render_triplane(
        table, decoder, origins / 5, directions, depths, box_warp=1.5, **backend
    ).rgb


def _manifolds(
    maps: Tensor, behind: Tensor, points: Tensor, origins: Tensor, **backend: Any
) -> Tensor:
    points, origins = _at_least_float32(points), _at_least_float32(origins)
    hit = torch.ones(points.shape[:-1], dtype=torch.bool, device=points.device)
    words = {"half_extent": 2.0, **backend}  # most points are within
    return composite_manifolds(maps.sigmoid(), behind, points, hit, origins, **words).rgb


def _at_least_float32(x: Tensor) -> Tensor:
    """Geometry, which no autocast rounds."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _bias_act(x: Tensor, b: Tensor, plain: bool = False, **backend: Any) -> Tensor:
    if plain:
        y = torch.nn.functional.leaky_relu(x + b[:, None, None], 0.2) * 2**0.5
        return y.clamp(-256, 256)
    return bias_act(x, b, act="lrelu", clamp=256, **backend)


def _upfirdn2d(x: Tensor, up: int, down: int, plain: bool = False, **backend: Any) -> Tensor:
    f = setup_filter([1, 3, 3, 1]).to(x.device)
    function = upfirdn2d_reference if plain else partial(upfirdn2d, **backend)
    return function(x, f, up=up, down=down, padding=2, gain=up**2)


def _filtered_lrelu(x: Tensor, b: Tensor, plain: bool = False, **backend: Any) -> Tensor:
    fu, fd = (setup_filter(torch.kaiser_window(n, False, 8.0)).to(x.device) for n in (24, 12))
    function = filtered_lrelu_reference if plain else partial(filtered_lrelu, **backend)
    return function(x, fu, fd, b, up=4, down=2, padding=(5, 5, 5, 5), clamp=256)


def _grid_sample_reference(image: Tensor, grid: Tensor) -> Tensor:
    kind = {"mode": "bilinear", "padding_mode": "zeros", "align_corners": False}
    return torch.nn.functional.grid_sample(image, grid, **kind)


# ------------------------------------------------------------ measuring


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference, relative to the norm of what is expected."""
    return float((found.double() - expected).norm() / expected.norm().clamp(min=1e-30))


def learning(inputs: list[Tensor]) -> list[Tensor]:
    """Those with gradients."""
    return [x for x in inputs if x.requires_grad]


def errors_of(case: Case, form: Form, device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Errors of the result and of all gradients against the equation in float64."""
    inputs = case.inputs(device, dtype)
    exact = [x.detach().double().requires_grad_(x.requires_grad) for x in inputs]
    expected, found = next(iter(case.forms.values()))(*exact), form(*inputs)
    draw = torch.Generator(device).manual_seed(1)
    grad = torch.randn(expected.shape, generator=draw, device=device)
    wanted = torch.autograd.grad(expected, learning(exact), grad.double())
    got = torch.autograd.grad(found, learning(inputs), grad.to(found.dtype))
    of_gradients = [relative_error(g, w) for g, w in zip(got, wanted)]
    return {
        "forward": relative_error(found.detach(), expected.detach()),
        "backward": max(of_gradients),
    }


def measure(case: Case, form: Form, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Forward, and forward with backward."""
    inputs = case.inputs(device, dtype)

    @torch.no_grad()
    def forward() -> Tensor:
        return form(*inputs)

    grad = torch.randn_like(forward())

    def both() -> None:
        torch.autograd.grad(form(*inputs), learning(inputs), grad)

    touched = sum(x.nbytes for x in inputs)
    return {
        "forward": milliseconds(forward, device),
        "both": milliseconds(both, device),
        "forward_peak_mb": peak_megabytes(forward, device),
        "both_peak_mb": peak_megabytes(both, device),
        "bytes": touched + grad.nbytes,
    }


def floors(case: Case, bytes_once: int, precision: str, most: dict[str, float]) -> dict[str, float]:
    """Milliseconds below which nothing goes, forward and with backward, which makes twice the
    products and touches all of it twice more.
    """
    rate = most.get(f"{precision}_tflop_s", most["float32_tflop_s"])
    copied, computed = bytes_once / most["copy_gb_s"] / 1e6, case.gflop / rate
    return {"forward": max(copied, computed), "both": 3 * max(copied, computed)}


def settings(device: torch.device) -> dict[str, torch.dtype]:
    """Precisions of the inputs; float32 with and without TF32."""
    if device.type == "cpu":
        return {"float32": torch.float32}
    return {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}


def rows(device: torch.device, tiny: bool, most: dict[str, float]) -> Iterator[dict[str, Any]]:
    """Every case, precision and form."""
    for case in cases(tiny):
        for precision, dtype in settings(device).items():
            for name, form in case.forms.items():
                row = {"op": case.op, "size": case.size, "precision": precision, "form": name}
                with tf32(precision == "tf32"):
                    try:
                        yield row | one(case, form, device, precision, dtype, most)
                    except (RuntimeError, ValueError, NotImplementedError) as error:
                        lacks = "does not run here" in str(error)
                        key = "not_measured" if lacks else "failed"
                        yield row | {key: str(error).split("\n")[0]}


def one(
    case: Case,
    form: Form,
    device: torch.device,
    precision: str,
    dtype: torch.dtype,
    most: dict[str, float],
) -> dict[str, Any]:
    """Errors of a form, and its times if they are small."""
    errors = errors_of(case, form, device, dtype)
    allowed = TOLERANCES[precision] * AMPLIFIES.get(case.op, 1)
    if not max(errors.values()) <= allowed:
        return {"errors": errors, "failed": f"errors {errors} are above {allowed}"}
    measured = measure(case, form, device, dtype)
    floor = floors(case, measured["bytes"], precision, most)
    share = {key: floor[key] / max(measured[key]["ms"], 1e-9) for key in floor}
    return {"errors": errors, **measured, "floor_ms": floor, "of_floor": share}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--tiny", action="store_true", help="sizes that run in seconds anywhere")
    add("--seconds", type=float, default=120.0, help="no further row is begun after these")
    add("--out", type=Path, help="folder of the JSON; default benchmarks/results/<machine>")
    options = parser.parse_args()
    device, begin = torch.device(options.device), started()
    result: dict[str, Any] = facts(device) | {"kernels": backend.HAS_TRITON}
    result["ceilings"] = ceilings(device, options.tiny)
    result["rows"], result["cut_short"] = [], False
    folder = options.out or Path(__file__).parent / "results" / machine_name(device)
    for row in rows(device, options.tiny, result["ceilings"]):
        result["rows"].append(row)
        took = row.get("failed") or row.get("not_measured") or f"{row['forward']['ms']:.3f} ms"
        print(f"{row['op']}, {row['size']}, {row['precision']}, {row['form']}: {took}", flush=True)
        write("ops", result, folder)
        if time.perf_counter() - begin > options.seconds:
            result["cut_short"] = True
            break
    print(write("ops", result, folder))
    return int(any("failed" in row for row in result["rows"]))


if __name__ == "__main__":
    raise SystemExit(main())
