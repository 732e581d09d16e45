"""Golden numbers for parity tests: location, cases, tolerances.

The folder is $GAN3D_GOLDEN, else ../shared/golden beside the repository. It is never part of the
repository: without it the tests are skipped with a reason. Cases are found by walking the folder,
so a case added there is tested without an edit here, and a test without cases is not collected:

    @pytest.mark.golden_cases("eg3d", "config.json", "weights_D.safetensors")
    def test_something(folder, load, near):  # once per folder of golden/eg3d with these files
        near(actual, load(folder / "outputs*.safetensors")["image"])

    @pytest.mark.golden_cases("cips3d", "config.json", holds=("io*.safetensors", "*.ray_dirs"))
    def test_something(folder, load, near):  # once per folder whose io files hold such a tensor

    @pytest.mark.golden_file("cips3d/init_stats.json", "pigan_G_256")
    def test_something(golden):  # if this file exists and has this key

    @pytest.mark.golden_components("eg3d", "layers", op="Conv2dLayer")  # or op=(one, another)
    def test_something(component, near):  # once per such case of the group in components.json
        near(actual, component.tensors[component.case["out"]])

    @pytest.mark.golden_losses("eg3d")
    def test_something(loss_case, near):  # once per loss case of every folder that has any
        near(actual, loss_case.expected["Gmain.Loss.G.loss"])
"""

import json
import runpy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from gan3d.checkpoints.official.stylegan2 import from_published
from gan3d.discriminators import DualDiscriminator
from gan3d.generators import EG3D
from gan3d.generators.eg3d import (
    BackboneOptions,
    DecoderOptions,
    MappingOptions,
    PlaneOptions,
    RenderOptions,
    SuperResolutionOptions,
)

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("golden_cases.py"))))
GOLDEN = shared.GOLDEN


@dataclass(frozen=True)
class Component:
    """One case of a group: its arguments in components.json, and all tensors of the group."""

    folder: Path
    group: str
    case: dict

    @property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.folder / f"{self.group}.safetensors")

    @property
    def facts(self) -> dict:
        """The entry of the group in components.json."""
        return json.loads((self.folder / "components.json").read_text())[self.group]

    def state(self, prefix: str | None = None) -> dict[str, Tensor]:
        """The state dict under a prefix, by default `weights` of the case, in our shapes."""
        prefix = self.case["weights"] if prefix is None else prefix
        names = [name for name in self.tensors if name.startswith(prefix)]
        return from_published({name.removeprefix(prefix): self.tensors[name] for name in names})


@dataclass(frozen=True)
class LossCase:
    """One case of `loss_cases` in a folder's config.json: settings of the loss, and results."""

    folder: Path
    case: dict

    @cached_property
    def config(self) -> dict:
        return json.loads((self.folder / "config.json").read_text())

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        return load_file(self.folder / "inputs.safetensors")

    @cached_property
    def expected(self) -> dict[str, Tensor]:
        """Reference outputs by their names after `loss.<case>.`."""
        start = f"loss.{self.case['name']}."
        tensors = _load(self.folder / "outputs*.safetensors")
        names = [name for name in tensors if name.startswith(start)]
        return {name.removeprefix(start): tensors[name] for name in names}

    @property
    def norms(self) -> dict[str, dict[str, float]]:
        """Norms of all gradients, by phase and parameter."""
        return self.config["grad_norms"][self.case["name"]]


def pytest_configure(config) -> None:
    for marker in (
        "golden_cases(model, *files, holds=(files, *names)): run for every case folder with these",
        "golden_file(path, key): run if there is this file, with this key",
        "golden_components(model, group, **keys): run for every such component case",
        "golden_losses(model): run for every loss case of every folder",
    ):
        config.addinivalue_line("markers", marker)


def pytest_generate_tests(metafunc) -> None:
    cases = metafunc.definition.get_closest_marker("golden_cases")
    if "folder" in metafunc.fixturenames and cases:
        found = _folders(*cases.args, **cases.kwargs)
        _parametrize(metafunc, "folder", [(folder, folder.name) for folder in found])
    components = metafunc.definition.get_closest_marker("golden_components")
    if "component" in metafunc.fixturenames and components:
        found = list(_components(*components.args, **components.kwargs))
        _parametrize(metafunc, "component", found)
    losses = metafunc.definition.get_closest_marker("golden_losses")
    if "loss_case" in metafunc.fixturenames and losses:
        _parametrize(metafunc, "loss_case", list(_loss_cases(*losses.args)))


def pytest_collection_modifyitems(config, items: list[pytest.Item]) -> None:
    """Skips all tests here without golden numbers; with them, deselects tests without a case."""
    here = [item for item in items if item.path.parent == Path(__file__).parent]
    if not GOLDEN.is_dir():
        for item in here:
            item.add_marker(pytest.mark.skip(reason=shared.ABSENT), append=False)
        return
    without = {item for item in here if not _has_a_case(item)}
    if without:
        config.hook.pytest_deselected(items=[item for item in items if item in without])
        items[:] = [item for item in items if item not in without]


def _has_a_case(item: pytest.Item) -> bool:
    reasons = [mark.kwargs.get("reason", "") for mark in item.iter_markers("skip")]
    if any(reason.startswith("got empty parameter set") for reason in reasons):
        return False  # pytest's item for a test that is parametrized over nothing
    return all(_is_stated(*mark.args) for mark in item.iter_markers("golden_file"))


def _is_stated(path: str, key: str | None = None) -> bool:
    file = GOLDEN / path
    return file.is_file() and (key is None or key in json.loads(file.read_text()))


def _parametrize(metafunc, name: str, found: list[tuple]) -> None:
    values, ids = [value for value, _ in found], [i for _, i in found]
    metafunc.parametrize(name, values, ids=ids, indirect=True)


def _folders(model: str, *files: str, holds: tuple[str, ...] = ()) -> list[Path]:
    folders = sorted(f for f in (GOLDEN / model).glob("*") if f.is_dir() and shared.has(f, *files))
    return [f for f in folders if not holds or shared.holds(f, *holds)]


def _components(model: str, group: str, **keys: object):
    wanted = {key: value if isinstance(value, tuple) else (value,) for key, value in keys.items()}
    for file in sorted((GOLDEN / model).glob("*/components.json")):
        for index, case in enumerate(json.loads(file.read_text()).get(group, {}).get("cases", ())):
            if all(case.get(key) in values for key, values in wanted.items()):
                yield Component(file.parent, group, case), f"{file.parent.name}-{group}-{index}"


def _loss_cases(model: str):
    for folder in _folders(model, "config.json", "inputs.safetensors", "weights_D*.safetensors"):
        for case in json.loads((folder / "config.json").read_text()).get("loss_cases", ()):
            yield LossCase(folder, case), f"{folder.name}-{case['name']}"


def _load(pattern: Path) -> dict[str, Tensor]:
    files = sorted(pattern.parent.glob(pattern.name))
    assert files, f"no file {pattern}"
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden numbers."""
    if not GOLDEN.is_dir():
        pytest.skip(shared.ABSENT)
    return GOLDEN


@pytest.fixture
def folder(request) -> Path:
    return request.param


@pytest.fixture
def component(request) -> Component:
    return request.param


@pytest.fixture
def loss_case(request) -> LossCase:
    return request.param


@pytest.fixture(scope="session")
def load():
    """load(path, with or without * in its name) -> all tensors of these files."""
    return _load


@pytest.fixture(scope="session")
def near():
    """near(actual, expected): same shape, and errors up to tolerance * max(1, max|expected|)."""

    def near(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
        assert actual.shape == expected.shape, (
            f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
        )
        error = (actual.double() - expected.double()).abs().max().item()
        allowed = tolerance * max(1.0, expected.abs().max().item())
        assert error <= allowed, f"largest error {error:.3g}, allowed {allowed:.3g}"

    return near


@pytest.fixture(scope="session")
def eg3d_generator():
    """eg3d_generator(config) -> the generator that a config.json describes, without its weights."""
    return _eg3d_generator


@pytest.fixture(scope="session")
def eg3d_discriminator():
    """eg3d_discriminator(config) -> the discriminator of a config.json, without its weights."""
    return _eg3d_discriminator


def _eg3d_generator(config: dict[str, Any]) -> EG3D:
    """Our constructor's arguments from the published ones (golden/eg3d/README.md)."""
    options, rendering = config["generator_kwargs"], config["rendering_kwargs"]
    mapping, small = options.get("mapping_kwargs", {}), config.get("superresolution_override", {})
    conditioned = not rendering.get("c_gen_conditioning_zero", False)
    superresolution = SuperResolutionOptions(
        layout=rendering["superresolution_module"].split("SuperresolutionHybrid")[-1],
        noise=rendering["superresolution_noise_mode"],
        antialias=rendering.get("sr_antialias", True),
        conv_clamp=256 if options.get("sr_num_fp16_res", 0) > 0 else None,
        legacy_raw=True,
    )
    if small:
        superresolution = replace(
            superresolution,
            channels=(small["block0"]["out_channels"], small["block1"]["out_channels"]),
            input_resolution=small.get("input_resolution"),
            conv_clamp=small["block0"]["conv_clamp"],
        )
    return EG3D(
        z_dim=options["z_dim"],
        w_dim=options["w_dim"],
        img_resolution=small["block1"]["resolution"] if small else options["img_resolution"],
        raw_resolution=config["neural_rendering_resolution"],
        c_scale=rendering.get("c_scale", 0) if conditioned else 0,
        planes=PlaneOptions(config.get("backbone_override", {}).get("img_resolution", 256)),
        backbone=BackboneOptions(
            channel_base=options.get("channel_base", 32768),
            channel_max=options.get("channel_max", 512),
            conv_clamp=options.get("conv_clamp"),
        ),
        mapping=MappingOptions(
            num_layers=mapping.get("num_layers", 8),
            embed_features=mapping.get("embed_features"),
            layer_features=mapping.get("layer_features"),
            lr_multiplier=mapping.get("lr_multiplier", 0.01),
            w_avg_beta=mapping.get("w_avg_beta", 0.998),
        ),
        decoder=DecoderOptions(lr_multiplier=rendering.get("decoder_lr_mul", 1)),
        render=RenderOptions(
            depth_samples=rendering["depth_resolution"],
            importance_samples=rendering["depth_resolution_importance"],
            ray_start=rendering["ray_start"],
            ray_end=rendering["ray_end"],
            box_warp=rendering["box_warp"],
            disparity=rendering.get("disparity_space_sampling", False),
            background="white" if rendering.get("white_back", False) else "black",
            depth_clamp="batch",
            auto_limits="official",
        ),
        superresolution=superresolution,
    )


def _eg3d_discriminator(config: dict[str, Any]) -> DualDiscriminator:
    official = config["discriminator_kwargs"]
    mapping, epilogue = official["mapping_kwargs"], official["epilogue_kwargs"]
    return DualDiscriminator(
        img_resolution=official["img_resolution"],
        img_channels=official["img_channels"],
        c_dim=official["c_dim"],
        channel_base=official["channel_base"],
        channel_max=official["channel_max"],
        conv_clamp=official["conv_clamp"],
        architecture=official.get("architecture", "resnet"),
        cmap_dim=official.get("cmap_dim"),
        mapping_layers=mapping.get("num_layers", 8),
        mapping_lr_multiplier=mapping.get("lr_multiplier", 0.01),
        group_size=epilogue.get("mbstd_group_size", 4),
        mbstd_channels=epilogue.get("mbstd_num_channels", 1),
        freeze_layers=official["block_kwargs"].get("freeze_layers", 0),
        disc_c_noise=official["disc_c_noise"],
    )
