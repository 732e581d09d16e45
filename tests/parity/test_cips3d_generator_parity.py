"""CIPS3D against the published generators: every case folder of golden/cips3d that describes
one.
"""

import json
import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gan3d.camera import Camera
from gan3d.generators import CIPS3D, Rendering
from gan3d.randomness import Randomness

cases = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("cips3d_cases.py"))))
DOUBLE = torch.float64


def sines_of_high_frequency(folder: Path) -> bool:
    """Whether the rounding of the published code is far above 1e-4 in float32 (see README)."""
    return "_xyz_" in cases.read(folder).get("cls", "")


def single(folder: Path) -> float:
    """How near images are in single precision."""
    return (
        cases.tolerance(cases.read(folder), "float32_abs", 1e-4)
        if sines_of_high_frequency(folder)
        else 1e-4
    )


def precision(folder: Path) -> torch.dtype:
    """Where the published gradients are noisy, ours need not be so, too."""
    return DOUBLE if sines_of_high_frequency(folder) else torch.float32


def every(*files: str, holds: str = "out.img", exact: bool = False):
    """Runs a test for every case folder with these files and this tensor in io.safetensors.

    `exact` leaves out cases whose recorded float32 numbers are noise: other tests check these in
    float64.
    """
    found = [
        f
        for f in cases.folders("io.safetensors", *files)
        if cases.golden.holds(f, "io.safetensors", holds)
    ]
    found = [folder for folder in found if not (exact and sines_of_high_frequency(folder))]
    return pytest.mark.parametrize("folder", found, ids=lambda folder: folder.name)


def case(folder: Path, dtype: torch.dtype = torch.float32, **changes):
    """(generator, config, recorded tensors, z, camera, draws) of a folder."""
    config, io = cases.read(folder), load_file(folder / "io.safetensors")
    model = cases.generator(folder, dtype, **changes)
    z = torch.cat(cases.latents(io, dtype), 1)
    return model, config, io, z, cases.camera(config, io, dtype), cases.draws(io, dtype)


def near(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    assert actual.shape == expected.shape
    error = (actual.double() - expected.double()).abs().max().item()
    assert error <= tolerance * max(1.0, expected.abs().max().item()), f"largest error {error:.3g}"


def images(shown: Rendering, auxiliary: bool = True) -> Tensor:
    assert shown.raw is not None
    return torch.cat([shown.image, shown.raw]) if auxiliary else shown.image


def compare_images(shown: Rendering, io: dict[str, Tensor], prefix: str, tolerance: float) -> None:
    near(shown.image, io[f"{prefix}img"], tolerance)
    if f"{prefix}aux_img" in io:
        near(shown.raw, io[f"{prefix}aux_img"], tolerance)


@every(holds="out64.img")
def test_images_in_double_precision(folder):
    model, config, io, z, camera, draws = case(folder, DOUBLE)
    with torch.no_grad():
        shown = model(z, camera, randomness=draws)
    compare_images(
        shown, io, "out64.", 1e-8 if cases.pose_is_drawn(config["render"], io) else single(folder)
    )


@every(holds="out.pitch_yaw")
def test_poses(folder):
    _, _, io, z, camera, _ = case(folder)
    near(
        camera.sphere_pose() if "camera_pos" not in io else torch.zeros(len(z), 2),
        io["out.pitch_yaw"],
        1e-5,
    )


@every()
def test_images_in_single_precision(folder):
    model, _, io, z, camera, draws = case(folder)
    with torch.no_grad():
        shown = model(z, camera, randomness=draws)
    compare_images(shown, io, "out.", single(folder))


@every(holds="mid.*", exact=True)
def test_everything_on_the_way(folder):
    model, _, io, z, camera, draws = case(folder)
    seen: dict[str, list] = {}

    def keep(name):
        return lambda module, args, out: seen.setdefault(name, []).append(out)

    model.siren.register_forward_hook(keep("siren"))
    for name, block in model.inr_net.network.items():
        block.register_forward_hook(keep(f"mid.inr.block{name}.out"))
    for name, layer in model.inr_net.to_rgbs.items():
        layer.register_forward_hook(keep(f"mid.inr.rgb.{name}"))
    ws = model.map(z)
    shown = model.render(model.represent(ws), camera, randomness=draws)

    for name, width, row in zip(model.latent_names, model.latent_dims, ws.unbind(1)):
        same = {"nerf": "mid.w_nerf", "inr": "mid.w_inr"}[name.partition("_")[0]]
        for recorded in (f"mid.style.{name}", same):
            if recorded in io:
                near(row[:, :width], io[recorded])
                assert row[:, width:].count_nonzero() == 0
    for k, (sigma, features) in enumerate(seen["siren"]):
        if f"mid.siren{k}.rgb_sigma" in io:
            near(
                torch.cat([features, sigma], -1).flatten(1, 2), io[f"mid.siren{k}.rgb_sigma"], 1e-3
            )
    summed: Tensor | float = 0.0
    for name in model.inr_net.network:
        if f"mid.inr.block{name}.out" in io:
            near(seen[f"mid.inr.block{name}.out"][0], io[f"mid.inr.block{name}.out"])
        if f"mid.inr.rgb.{name}" in seen:
            summed = summed + seen[f"mid.inr.rgb.{name}"][0]
            if f"mid.inr.rgb_sum.{name}" in io:
                near(summed, io[f"mid.inr.rgb_sum.{name}"])
    last = "mid.integ1" if model.options.hierarchical else "mid.integ0"
    prefix = last if f"{last}.feature" in io else "mid"
    if f"{prefix}.feature" in io:
        near(shown.extras["features"].flatten(2).mT, io[f"{prefix}.feature"])
    if f"{prefix}.depth" in io:
        near(shown.extras["ray_depth"].flatten(2).mT, io[f"{prefix}.depth"])
    if f"{prefix}.weights" in io and not model.options.last_back:
        near(shown.opacity.flatten(2).mT, io[f"{prefix}.weights"].sum(2))


@every(holds="z_nerf")
def test_parameters_are_as_many_as_published(folder):
    config = cases.read(folder)
    if "n_params" in config:
        assert config["n_params"] == sum(t.numel() for t in cases.official_state(folder).values())


@every("grads.safetensors", holds="proj")
def test_gradients_of_all_parameters_and_latents(folder):
    model, config, io, _, camera, draws = case(folder, precision(folder))
    parts = with_gradient(model, io)
    shown = model(torch.cat(parts, 1), camera, randomness=draws)
    loss = (images(shown, auxiliary=len(io["proj"]) > len(parts[0])) * io["proj"]).mean()
    if "out.loss" in io:
        near(
            loss,
            io["out.loss"].squeeze(),
            single(folder) if sines_of_high_frequency(folder) else 1e-6,
        )
    loss.backward()
    compare_gradients(
        model, parts, load_file(folder / "grads.safetensors"), "full.", gradient_tolerance(config)
    )


@every("grads_partial.safetensors", holds="part.perm")
def test_gradients_through_some_rays(folder):
    model, config, io, _, camera, draws = case(folder, precision(folder))
    parts = with_gradient(model, io)
    both = len(io["proj"]) > len(parts[0])
    image = partly_with_gradient(
        model, parts, camera, draws, io["part.perm"], config["part"]["grad_points"], both
    )
    near(
        image,
        torch.cat([io["part.img"], io["part.aux_img"]] if both else [io["part.img"]]),
        single(folder),
    )
    (image * io["proj"]).mean().backward()
    recorded = load_file(folder / "grads_partial.safetensors")
    compare_gradients(model, parts, recorded, "partial.", gradient_tolerance(config))


def partly_with_gradient(
    model: CIPS3D,
    latents: tuple,
    camera: Camera,
    draws: Randomness,
    order: Tensor,
    count: int,
    both: bool,
) -> Tensor:
    """Images (with `both`, then auxiliary ones); only the first `count` rays have a gradient."""
    scene = model.represent(model.map(torch.cat(latents, 1)))
    kept = images(model.render(scene, camera, rays=order[:count], randomness=draws), both)
    with torch.no_grad():
        rest = images(model.render(scene, camera, rays=order[count:], randomness=draws), both)
    columns, side = torch.cat([kept, rest], 2), math.isqrt(len(order))
    return (
        torch.zeros_like(columns).index_copy(2, order, columns).unflatten(2, (side, side))[..., 0]
    )


def gradient_tolerance(config: dict) -> float:
    return cases.tolerance(config, "gradient_rel_to_max", 1e-3)


def with_gradient(model: CIPS3D, io: dict[str, Tensor], prefix: str = "") -> tuple[Tensor, Tensor]:
    """(z_nerf, z_inr), leaves that ask for a gradient where their mapping network is not frozen."""
    networks = (model.mapping_network_nerf, model.mapping_network_inr)
    return tuple(
        z.clone().requires_grad_(next(network.parameters()).requires_grad)
        for z, network in zip(cases.latents(io, model.w_avg.dtype, prefix), networks)
    )


def compare_gradients(
    model: CIPS3D, parts, recorded: dict[str, Tensor], prefix: str, tolerance: float = 1e-3
) -> None:
    """Every recorded gradient is ours, to a part of its largest entry; there are no others."""
    ours = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    ours |= {name: z.grad for name, z in zip(("z_nerf", "z_inr"), parts) if z.grad is not None}
    published = {
        name.removeprefix(prefix): g for name, g in recorded.items() if name.startswith(prefix)
    }
    expected = {cases.our_name(name): cases.our_tensor(name, g) for name, g in published.items()}
    nothing = {name for name, g in ours.items() if name not in expected and g.count_nonzero() == 0}
    assert set(ours) - nothing == set(expected) - {None}
    for name, gradient in expected.items():
        if name is not None:
            error = (ours[name] - gradient).abs().max() / gradient.abs().max().clamp(min=1e-6)
            assert error <= tolerance, f"{name}: {error:.3g}"


@every("truncation.json", "truncation.safetensors")
def test_truncated_images(folder):
    recorded = load_file(folder / "truncation.safetensors")
    model, _, _, z, camera, draws = case(folder)
    with torch.no_grad():
        for name, width, row in zip(model.latent_names, model.latent_dims, model.w_avg):
            row[:width] = recorded[f"avg_{name.partition('_')[0]}"][0]
        psi = json.loads((folder / "truncation.json").read_text())["psi"]
        shown = model(z, camera, truncation=psi, randomness=draws)
    compare_images(shown, recorded, "", single(folder))


@every(holds="out.nohier.img")
def test_images_without_hierarchical_sampling(folder):
    model, _, io, z, camera, draws = case(folder, hierarchical=False)
    compare_images(model(z, camera, randomness=draws), io, "out.nohier.", single(folder))


mixes = [
    (folder, k) for folder in cases.stylized() for k in range(len(cases.read(folder)["cases"]))
]


@pytest.mark.parametrize("mix", mixes, ids=lambda mix: f"{mix[0].name}-{mix[1]}")
def test_mixed_layers_of_two_generators(mix):
    folder, k = mix
    config = cases.read(folder)
    model, _, _, z, camera, draws = case(cases.base_of(folder))
    target = {
        f"inr_net.{name}": t for name, t in load_file(folder / "target_inr_net.safetensors").items()
    }
    target, state = cases.our_state(target), model.state_dict()
    for layer in config["cases"][k]["layers"]:
        for name in state:
            if name.startswith((f"inr_net.network.{layer}.", f"inr_net.to_rgbs.{layer}.")):
                state[name] = state[name].lerp(target[name], config["cases"][k]["gamma"])
    model.load_state_dict(state)
    near(
        model(z, camera, randomness=draws).image,
        load_file(folder / "io.safetensors")[f"case{k}.img"],
    )


@every(holds="grad.z_nerf")
def test_gradients_of_full_size_latents(folder):
    model, config, io, _, camera, draws = case(folder, precision(folder))
    parts = with_gradient(model, io)
    shown = model(torch.cat(parts, 1), camera, randomness=draws)
    (images(shown, len(io["proj"]) > len(parts[0])) * io["proj"]).mean().backward()
    for part, name in zip(parts, ("z_nerf", "z_inr")):
        if (key := f"grad.{name}") in io:
            largest = io[key].abs().max()
            near(part.grad / largest, io[key] / largest, gradient_tolerance(config))


def steps(*tensors: str) -> list:
    """(folder, configuration of its generator) of every recorded step with these tensors."""
    found = cases.step_configs().items()
    return [
        pytest.param(f, c, id=f.name)
        for f, c in found
        if cases.golden.holds(f, "io.safetensors", *tensors)
    ]


def step_runs() -> list:
    """With all rays, and with the gradient of some."""
    return [
        pytest.param(*step.values, run, id=f"{step.id}-{run}")
        for run in ("full", "partial")
        for step in steps("G.z_nerf", f"G.{run}.img")
        if (step.values[0] / "grads_G.safetensors").is_file()
    ]


@pytest.mark.parametrize(("folder", "config", "run"), step_runs())
def test_generator_step(folder, config, run):
    step, io = cases.read(folder), load_file(folder / "io.safetensors")
    unknown = cases.golden.unheeded(step, cases.KNOWN, cases.KNOWN_OF_STEP)
    assert not unknown, f"keys {unknown} of a training step are not known to this test"
    judges = runpy.run_path(str(Path(__file__).with_name("test_cips3d_discriminator_parity.py")))
    judge = judges["loaded"](load_file(folder / "weights_D.safetensors"), step)
    judge.fade, both = step.get("alpha", 1.0), step["train_aux_img"]
    model = cases.generator(cases.base_of(folder), config=config)
    parts = with_gradient(model, io, "G.")
    camera, draws = cases.camera(config, io, prefix="G."), cases.draws(io, prefix="G.")
    rays = config["img_size"] ** 2
    order = io["perm"] if run == "partial" else torch.arange(rays)
    count = step["grad_points"] if run == "partial" else rays
    image = partly_with_gradient(model, parts, camera, draws, order, count, both)
    near(image, io[f"G.{run}.img"])
    logits = judges["logits_of"](judge, image, both)
    near(logits[:, None], io[f"G.{run}.logits"])
    loss = torch.nn.functional.softplus(-logits).mean()
    near(loss, io[f"G.{run}.loss"].squeeze())
    loss.backward()
    recorded = load_file(folder / "grads_G.safetensors")
    compare_gradients(model, (), recorded, f"{run}.", gradient_tolerance(step))
    if f"G.{run}.grad_total_norm" in io:
        norm = (
            torch.stack([p.grad.square().sum() for p in model.parameters() if p.grad is not None])
            .sum()
            .sqrt()
        )
        near(norm, io[f"G.{run}.grad_total_norm"].squeeze(), gradient_tolerance(step) / 10)


@pytest.mark.parametrize(("folder", "config"), steps("D.z_nerf", "D.fake"))
def test_fakes_of_the_discriminator_step(folder, config):
    io, both = load_file(folder / "io.safetensors"), cases.read(folder)["train_aux_img"]
    model = cases.generator(cases.base_of(folder), config=config)
    z, camera = torch.cat(cases.latents(io, prefix="D."), 1), cases.camera(config, io, prefix="D.")
    with torch.no_grad():
        near(images(model(z, camera, randomness=cases.draws(io, prefix="D.")), both), io["D.fake"])


initial = pytest.mark.golden_file("cips3d/init_stats.json", "cips3d_G_full")


@pytest.fixture(scope="module")
def published(golden) -> dict:
    return json.loads((golden / "cips3d/init_stats.json").read_text())["cips3d_G_full"]


@initial
@pytest.mark.slow
def test_initial_weights_are_spread_like_the_published_ones(published):
    torch.manual_seed(0)
    ours = dict(CIPS3D().named_parameters())
    expected = {cases.our_name(name): (name, fact) for name, fact in published.items()}
    assert set(expected) - {None} == set(ours)
    for mine, (name, fact) in expected.items():
        if mine is None:
            continue
        value = ours[mine].detach()
        assert (
            value.shape == cases.our_tensor(name, torch.empty(fact["shape"], device="meta")).shape
        )
        n = value.numel()
        if n >= 16:  # two samples: five standard errors apart
            slack = 5 * 2**0.5 * fact["std"] / n**0.5
            assert abs(value.mean() - fact["mean"]) <= slack + 1e-12, name
            assert abs(value.std() - fact["std"]) <= slack + 1e-12, name
        if n >= 500:  # uniform or normal
            assert value.abs().max() == pytest.approx(fact["max_abs"], rel=0.25, abs=1e-12), name


@initial
def test_parameters_are_the_published_ones_but_for_the_dead(published):
    with torch.device("meta"):
        counts = {
            kind: sum(p.numel() for p in CIPS3D(**change).parameters())
            for kind, change in {
                "base": {},
                "v1": {"color_style": "appearance"},
                **{inputs: {"inputs": inputs} for inputs in cases.ABLATIONS},
            }.items()
        }
    dead = sum(
        torch.Size(f["shape"]).numel()
        for name, f in published.items()
        if cases.our_name(name) is None
    )
    assert dead == 22_089
    assert {kind: count + dead for kind, count in counts.items()} == {
        "base": 11_287_743,
        "v1": 11_353_407,
        "xyz_posenc": 11_295_423,
        "xyz_d_posenc": 11_297_151,
        "xyz_d_sine": 11_289_579,
    }
