"""CIPS3D against the published generators: every case folder of golden/cips3d that describes one."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from gan3d.generators import CIPS3D, Rendering

cases = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("cips3d_cases.py"))))
ABSENT = pytest.param(None, marks=pytest.mark.skip(reason=f"no golden numbers at {cases.GOLDEN}; set GAN3D_GOLDEN"))
DOUBLE = torch.float64


def sines_of_high_frequency(folder: Path) -> bool:
    """Where the published code's own rounding is far above 1e-4 in float32 (README of the golden numbers)."""
    return cases.variant(cases.read(folder)) in cases.ABLATIONS


def every(*files: str, holds: str = "out.img", exact: bool = False):
    """Runs a test for every case folder with these files, where io.safetensors holds this tensor, too.

    `exact` leaves out cases whose recorded float32 numbers are noise: what they hold in float64 is tested otherwise.
    """
    found = [folder for folder in cases.folders("io.safetensors", *files) if holds in names_in(folder)]
    found = [folder for folder in found if not (exact and sines_of_high_frequency(folder))]
    assert found or not cases.GOLDEN.is_dir(), f"no case has {files} and {holds}"
    return pytest.mark.parametrize("folder", found or [ABSENT], ids=lambda folder: folder and folder.name)


def names_in(folder: Path) -> set[str]:
    with safe_open(folder / "io.safetensors", "pt") as file:
        return set(file.keys())


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


def images(shown: Rendering) -> Tensor:
    assert shown.raw is not None
    return torch.cat([shown.image, shown.raw])


@every()
def test_images_in_double_precision(folder):
    model, _, io, z, camera, draws = case(folder, DOUBLE)
    with torch.no_grad():
        shown = model(z, camera, randomness=draws)
    near(shown.image, io["out64.img"], 1e-8)
    near(shown.raw, io["out64.aux_img"], 1e-8)
    near(camera.sphere_pose() if "camera_pos" not in io else torch.zeros(len(z), 2), io["out.pitch_yaw"], 1e-5)


@every()
def test_images_in_single_precision(folder):
    model, config, io, z, camera, draws = case(folder)
    tolerance = config["tolerance"]["float32_abs"] if sines_of_high_frequency(folder) else 1e-4
    with torch.no_grad():
        shown = model(z, camera, randomness=draws)
    near(shown.image, io["out.img"], tolerance)
    near(shown.raw, io["out.aux_img"], tolerance)


@every(exact=True)
def test_everything_on_the_way(folder):
    model, config, io, z, camera, draws = case(folder)
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
            near(torch.cat([features, sigma], -1).flatten(1, 2), io[f"mid.siren{k}.rgb_sigma"], 1e-3)
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
    near(shown.extras["features"].flatten(2).mT, io[f"{prefix}.feature"])
    near(shown.extras["ray_depth"].flatten(2).mT, io[f"{prefix}.depth"])
    if not model.options.last_back:
        near(shown.opacity.flatten(2).mT, io[f"{prefix}.weights"].sum(2))
    assert config["n_params"] == sum(t.numel() for t in cases.official_state(folder).values())


@every("grads.safetensors")
def test_gradients_of_all_parameters_and_latents(folder):
    model, _, io, _, camera, draws = case(folder)
    parts = with_gradient(model, io)
    shown = model(torch.cat(parts, 1), camera, randomness=draws)
    loss = (images(shown) * io["proj"]).mean()
    near(loss, io["out.loss"].squeeze(), 1e-6)
    loss.backward()
    compare_gradients(model, parts, load_file(folder / "grads.safetensors"), "full.")


@every("grads_partial.safetensors")
def test_gradients_through_some_rays(folder):
    model, config, io, _, camera, draws = case(folder)
    parts = with_gradient(model, io)
    count = config["part"]["grad_points"]
    some, rest = io["part.perm"][:count], io["part.perm"][count:]
    scene = model.represent(model.map(torch.cat(parts, 1)))
    kept = model.render(scene, camera, rays=some, randomness=draws)
    with torch.no_grad():
        other = model.render(scene, camera, rays=rest, randomness=draws)
    columns = torch.cat([images(kept), images(other)], 2)
    image = torch.zeros_like(columns).index_copy(2, io["part.perm"], columns).reshape(io["proj"].shape)
    near(image, torch.cat([io["part.img"], io["part.aux_img"]]))
    (image * io["proj"]).mean().backward()
    compare_gradients(model, parts, load_file(folder / "grads_partial.safetensors"), "partial.")


def with_gradient(model: CIPS3D, io: dict[str, Tensor], prefix: str = "") -> tuple[Tensor, Tensor]:
    """(z_nerf, z_inr), leaves that ask for a gradient where their mapping network is not frozen."""
    networks = (model.mapping_network_nerf, model.mapping_network_inr)
    return tuple(
        z.clone().requires_grad_(next(network.parameters()).requires_grad)
        for z, network in zip(cases.latents(io, prefix=prefix), networks)
    )


def compare_gradients(model: CIPS3D, parts, recorded: dict[str, Tensor], prefix: str, tolerance: float = 1e-3) -> None:
    """Every recorded gradient is ours, to a part of its largest entry; there are no others."""
    ours = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    ours |= {name: z.grad for name, z in zip(("z_nerf", "z_inr"), parts) if z.grad is not None}
    published = {name.removeprefix(prefix): g for name, g in recorded.items() if name.startswith(prefix)}
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
    near(shown.image, recorded["img"])
    near(shown.raw, recorded["aux_img"])


@every(holds="out.nohier.img")
def test_images_without_hierarchical_sampling(folder):
    model, _, io, z, camera, draws = case(folder, hierarchical=False)
    shown = model(z, camera, randomness=draws)
    near(shown.image, io["out.nohier.img"])
    near(shown.raw, io["out.nohier.aux_img"])


def stylised() -> list:
    """(folder, index) of every recorded mix of two generators' layers."""
    files = sorted((cases.GOLDEN / "cips3d").glob("*/target_inr_net.safetensors"))
    return [(f.parent, k) for f in files for k in range(len(cases.read(f.parent)["cases"]))]


@pytest.mark.parametrize("mix", stylised() or [ABSENT], ids=lambda mix: mix and f"{mix[0].name}-{mix[1]}")
def test_mixed_layers_of_two_generators(mix):
    folder, k = mix
    config = cases.read(folder)
    model, _, _, z, camera, draws = case((folder / config["weights_of_base"]).resolve().parent)
    target = {f"inr_net.{name}": t for name, t in load_file(folder / "target_inr_net.safetensors").items()}
    target, state = cases.our_state(target), model.state_dict()
    for layer in config["cases"][k]["layers"]:
        for name in state:
            if name.startswith((f"inr_net.network.{layer}.", f"inr_net.to_rgbs.{layer}.")):
                state[name] = state[name].lerp(target[name], config["cases"][k]["gamma"])
    model.load_state_dict(state)
    near(model(z, camera, randomness=draws).image, load_file(folder / "io.safetensors")[f"case{k}.img"])


@every(holds="grad.z_nerf")
def test_gradients_of_full_size_latents(folder):
    model, _, io, _, camera, draws = case(folder)
    parts = with_gradient(model, io)
    (images(model(torch.cat(parts, 1), camera, randomness=draws)) * io["proj"]).mean().backward()
    for part, name in zip(parts, ("z_nerf", "z_inr")):
        near(part.grad / io[f"grad.{name}"].abs().max(), io[f"grad.{name}"] / io[f"grad.{name}"].abs().max(), 1e-3)


def steps() -> list:
    """Every recorded training step, by its folder."""
    return sorted(file.parent for file in (cases.GOLDEN / "cips3d").glob("*/grads_G.safetensors"))


@pytest.mark.parametrize("run", ["full", "partial"])
@pytest.mark.parametrize("folder", steps() or [ABSENT], ids=lambda folder: folder and folder.name)
def test_generator_step(folder, run):
    config, io = cases.read(folder), load_file(folder / "io.safetensors")
    judges = runpy.run_path(str(Path(__file__).with_name("test_cips3d_discriminator_parity.py")))
    judge = judges["loaded"](load_file(folder / "weights_D.safetensors"), config)
    judge.fade = config["alpha"]
    base = folder / config.get("weights_of_base", "../base/weights.safetensors")  # the default: README
    model = cases.generator(base.resolve().parent)
    parts = with_gradient(model, io, "G.")
    side, count = config["img_size"], config["grad_points"] if run == "partial" else config["img_size"] ** 2
    camera, draws = cases.camera(config, io, prefix="G."), cases.draws(io, prefix="G.")

    scene = model.represent(model.map(torch.cat(parts, 1)))
    kept = images(model.render(scene, camera, rays=io["perm"][:count], randomness=draws))
    with torch.no_grad():
        rest = images(model.render(scene, camera, rays=io["perm"][count:], randomness=draws))
    columns = torch.cat([kept, rest], 2)
    image, raw = (
        torch.zeros_like(columns).index_copy(2, io["perm"], columns).unflatten(2, (side, side))[..., 0].chunk(2)
    )
    near(torch.cat([image, raw]), io[f"G.{run}.img"])
    judgement = judge(image, raw=raw)
    logits = torch.cat([judgement.logits, judgement.raw_logits])
    near(logits[:, None], io[f"G.{run}.logits"])
    loss = torch.nn.functional.softplus(-logits).mean()
    near(loss, io[f"G.{run}.loss"].squeeze())
    loss.backward()
    compare_gradients(model, (), load_file(folder / "grads_G.safetensors"), f"{run}.")
    norm = torch.stack([p.grad.square().sum() for p in model.parameters() if p.grad is not None]).sum().sqrt()
    near(norm, io[f"G.{run}.grad_total_norm"].squeeze(), 1e-4)


@pytest.fixture(scope="module")
def published() -> dict:
    file = cases.GOLDEN / "cips3d/init_stats.json"
    if not file.is_file():
        pytest.skip(f"no golden numbers at {cases.GOLDEN}; set GAN3D_GOLDEN")
    return json.loads(file.read_text())["cips3d_G_full"]


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
        assert value.shape == cases.our_tensor(name, torch.empty(fact["shape"], device="meta")).shape
        n = value.numel()
        if n >= 16:  # two samples: five standard errors apart
            slack = 5 * 2**0.5 * fact["std"] / n**0.5
            assert abs(value.mean() - fact["mean"]) <= slack + 1e-12, name
            assert abs(value.std() - fact["std"]) <= slack + 1e-12, name
        if n >= 500:  # uniform or normal
            assert value.abs().max() == pytest.approx(fact["max_abs"], rel=0.25, abs=1e-12), name


def test_parameters_are_the_published_ones_but_for_the_dead(published):
    with torch.device("meta"):
        counts = {
            kind: sum(p.numel() for p in CIPS3D(**change).parameters())
            for kind, change in {
                "base": {},
                "v1": {"colour_style": "appearance"},
                **{inputs: {"inputs": inputs} for inputs in cases.ABLATIONS},
            }.items()
        }
    dead = sum(torch.Size(f["shape"]).numel() for name, f in published.items() if cases.our_name(name) is None)
    assert dead == 22_089
    assert {kind: count + dead for kind, count in counts.items()} == {
        "base": 11_287_743,
        "v1": 11_353_407,
        "xyz_posenc": 11_295_423,
        "xyz_d_posenc": 11_297_151,
        "xyz_d_sine": 11_289_579,
    }
