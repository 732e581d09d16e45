"""Golden numbers for parity tests: where they are, which cases there are, how near is near enough.

The folder is $GAN3D_GOLDEN, else ../shared/golden beside the repository. It is never part of the repository: without it
the tests skip and say so. Cases are found by walking the folder, so a case added there is tested without an edit here:

    @pytest.mark.golden_cases("eg3d", "config.json", "weights_D.safetensors")
    def test_something(folder, load, near):              # once per folder of golden/eg3d that holds these files
        near(actual, load(folder / "outputs*.safetensors")["image"])

    @pytest.mark.golden_components("eg3d", "layers", op="Conv2dLayer")      # or op=(one, or, another)
    def test_something(component, near):                 # once per such case of the group in components.json
        near(actual, component.tensors[component.case["out"]])
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

GOLDEN = Path(os.environ.get("GAN3D_GOLDEN") or Path(__file__).resolve().parents[3] / "shared/golden").resolve()
ABSENT = f"no golden numbers at {GOLDEN}; set GAN3D_GOLDEN"


@dataclass(frozen=True)
class Component:
    """One case of a group: its arguments as components.json states them, and all tensors of the group."""

    folder: Path
    group: str
    case: dict

    @property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.folder / f"{self.group}.safetensors")

    @property
    def facts(self) -> dict:
        """Everything that components.json says of the group, beside the cases."""
        return json.loads((self.folder / "components.json").read_text())[self.group]

    def state(self, prefix: str | None = None) -> dict[str, Tensor]:
        """The state dict stored under a prefix, that of the case's `weights` by default."""
        prefix = self.case["weights"] if prefix is None else prefix
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}


def pytest_configure(config) -> None:
    config.addinivalue_line("markers", "golden_cases(model, *files): run for every case folder that holds these files")
    config.addinivalue_line("markers", "golden_components(model, group, **keys): run for every such component case")


def pytest_generate_tests(metafunc) -> None:
    if "folder" in metafunc.fixturenames and (mark := metafunc.definition.get_closest_marker("golden_cases")):
        _parametrize(metafunc, "folder", [(folder, folder.name) for folder in _folders(*mark.args)])
    if "component" in metafunc.fixturenames and (mark := metafunc.definition.get_closest_marker("golden_components")):
        _parametrize(metafunc, "component", list(_components(*mark.args, **mark.kwargs)))


def _parametrize(metafunc, name: str, found: list[tuple]) -> None:
    if not GOLDEN.is_dir():
        found = [(pytest.param(None, marks=pytest.mark.skip(reason=ABSENT)), "absent")]
    metafunc.parametrize(
        name, [value for value, _ in found] or [None], ids=[i for _, i in found] or None, indirect=True
    )


def _folders(model: str, *files: str) -> list[Path]:
    return sorted(f for f in (GOLDEN / model).glob("*") if f.is_dir() and all(any(f.glob(name)) for name in files))


def _components(model: str, group: str, **keys: object):
    for file in sorted((GOLDEN / model).glob("*/components.json")):
        for index, case in enumerate(json.loads(file.read_text()).get(group, {}).get("cases", ())):
            if all(case.get(key) in (value if isinstance(value, tuple) else (value,)) for key, value in keys.items()):
                yield Component(file.parent, group, case), f"{file.parent.name}-{group}-{index}"


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of golden numbers."""
    if not GOLDEN.is_dir():
        pytest.skip(ABSENT)
    return GOLDEN


@pytest.fixture
def folder(request) -> Path:
    if request.param is None:
        pytest.fail("no golden case has the files that this test needs")
    return request.param


@pytest.fixture
def component(request) -> Component:
    if request.param is None:
        pytest.fail("no golden component of this kind")
    return request.param


@pytest.fixture(scope="session")
def load():
    """load(path, with or without * in its name) -> all tensors of these files in one dictionary."""

    def load(pattern: Path) -> dict[str, Tensor]:
        files = sorted(pattern.parent.glob(pattern.name))
        assert files, f"no file {pattern}"
        return {name: tensor for file in files for name, tensor in load_file(file).items()}

    return load


@pytest.fixture(scope="session")
def near():
    """near(actual, expected): same shape, largest error at most tolerance * max(1, max|expected|)."""

    def near(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
        assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
        error = (actual.double() - expected.double()).abs().max().item()
        allowed = tolerance * max(1.0, expected.abs().max().item())
        assert error <= allowed, f"largest error {error:.3g}, allowed {allowed:.3g}"

    return near
