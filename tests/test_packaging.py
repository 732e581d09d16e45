"""What is installed is what is tested: versions, license, and a wheel that works without the
checkout.
"""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import gan3d

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins() -> dict[str, str]:
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert all(line.count("==") == 1 for line in lines), "every constraint is an exact version"
    return {_plain(name): version for name, version in (line.split("==") for line in lines)}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(out),
        str(ROOT),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
    ]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    return target


def run_installed(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, "-m", "gan3d", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_every_dependency_is_pinned_and_the_pin_fits_its_range():
    extras = PROJECT["optional-dependencies"]
    for line in [*PROJECT["dependencies"], *extras["dev"], *extras["apps"]]:
        requirement = Requirement(line)
        assert _plain(requirement.name) in pins(), f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(pins()[_plain(requirement.name)]), line


def test_the_installed_versions_are_the_pinned_ones():
    for line in PROJECT["dependencies"]:
        name = Requirement(line).name
        assert importlib.metadata.version(name).partition("+")[0] == pins()[_plain(name)], name


def test_the_licence_is_apache_2():
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_readmes_two_commands_exist_and_ci_runs_the_one_for_tests():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert re.search(rf"^make {target} ", readme, re.MULTILINE)
        assert re.search(rf"^{target}: venv", makefile, re.MULTILINE), (
            f"make {target} makes .venv itself"
        )
    assert re.search(r"^make test$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    for line in [*makefile.splitlines(), *(ROOT / ".ci" / "run").read_text().splitlines()]:
        assert "pip install" not in line or "-c constraints.txt" in line, line


@pytest.mark.slow
def test_the_wheel_holds_the_configs_the_licence_and_no_tests(wheel):
    files = zipfile.ZipFile(wheel).namelist()
    for config in (ROOT / "configs").glob("*.yaml"):
        assert f"gan3d/configs/{config.name}" in files
    assert [name for name in files if name.endswith("LICENSE")]
    assert not [name for name in files if "tests" in name or "__pycache__" in name]
    # trained weights aside, of which each has its own limit
    parts = zipfile.ZipFile(wheel).infolist()
    code = [part for part in parts if not part.filename.endswith(".safetensors")]
    assert sum(part.compress_size for part in code) < 2_000_000
    assert wheel.stat().st_size < 40_000_000


@pytest.mark.slow
def test_an_installed_wheel_finds_its_configs_from_any_folder(installed, tmp_path):
    version = run_installed(installed, tmp_path, "--version")
    assert (version.returncode, version.stdout) == (0, f"gan3d {gan3d.__version__}\n")
    listed = run_installed(installed, tmp_path, "configs")
    assert str(installed) in listed.stdout
    for config in (ROOT / "configs").glob("*.yaml"):
        assert config.name in listed.stdout


@pytest.mark.slow
def test_an_installed_wheel_resolves_a_packaged_config(installed, tmp_path):
    words = ("fit", "--config", "eg3d_heads32.yaml", "--data.path", "heads32.zip", "--print_config")
    done = run_installed(installed, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert "EG3D" in done.stdout
    missing = run_installed(installed, tmp_path, *words[:-1])
    assert missing.returncode == 2
    assert "heads32.zip" in missing.stderr
    assert "Traceback" not in missing.stderr


@pytest.mark.slow
def test_an_installed_wheel_has_the_front_door_and_its_types(wheel, installed, tmp_path):
    files = zipfile.ZipFile(wheel).namelist()
    expected = {"__init__.pyi", "zoo/__init__.py", "metrics/weights/headnet.safetensors"}
    assert {f"gan3d/{name}" for name in expected} <= set(files)
    program = (
        "import gan3d\n"
        "for name in gan3d.__all__: getattr(gan3d, name)\n"
        "generator = gan3d.create(gan3d.list_models('pigan_heads*')[0], img_resolution=8)\n"
        "generator.save_pretrained('heads')\n"
        "gan3d.picture(gan3d.sample(gan3d.from_pretrained('heads'), [0])).save('heads.png')\n"
        "print(gan3d.__file__, gan3d.ops.modfc.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(installed / "gan3d" / "__init__.py"), "modfc"]
    assert (tmp_path / "heads.png").exists()
