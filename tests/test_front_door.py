"""`import gan3d`: light, lazy, everything by name; every example in its docstrings runs."""

import ast
import doctest
import importlib
import inspect
import json
import pkgutil
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import gan3d
from gan3d.discriminators import DISCRIMINATORS
from gan3d.generators import GENERATORS, StyleGAN2

HEAVY = ("torch", "lightning", "numpy", "PIL", "yaml", "jsonargparse", "safetensors", "matplotlib")
FUNCTIONS = [name for name in gan3d.__all__ if inspect.isfunction(getattr(gan3d, name))]
ROOMS = ("apps", "data", "discriminators", "generators", "metrics", "ops")


def python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ------------------------------------------------------------ light


def test_importing_gan3d_imports_nothing_heavy():
    program = f"import sys, gan3d; print(sorted(set({HEAVY}) & set(sys.modules)))"
    assert python(program) == "[]"


def test_importing_gan3d_takes_less_than_a_fifth_of_a_second():
    def seconds(program: str) -> float:
        took = []
        for _ in range(5):  # the machine may be busy
            start = time.perf_counter()
            python(program)
            took.append(time.perf_counter() - start)
        return min(took)

    assert seconds("import gan3d") - seconds("pass") < 0.2


def test_neither_listing_models_nor_asking_for_strange_names_needs_torch():
    program = (
        "import sys, gan3d; gan3d.list_models()\n"
        "for name in ('print_configs', '_repr_html_', '__wrapped__'): hasattr(gan3d, name)\n"
        "print('torch' in sys.modules)"
    )
    assert python(program) == "False"


# ------------------------------------------------------------ names


@pytest.mark.parametrize("name", sorted({*GENERATORS, *DISCRIMINATORS}))
def test_every_network_is_there_by_its_name(name):
    assert getattr(gan3d, name) is (GENERATORS | DISCRIMINATORS)[name]
    assert name in dir(gan3d)


def test_a_network_of_ones_own_is_there_once_it_is_defined():
    class MyOwn(StyleGAN2):
        pass

    assert gan3d.MyOwn is MyOwn


def test_every_promised_name_is_there():
    for name in gan3d.__all__:
        assert getattr(gan3d, name) is not None
        assert name in dir(gan3d)
    assert {"Camera", "GAN", "Generator", "create", "from_pretrained", "list_models"} <= set(
        gan3d.__all__
    )


def test_rooms_are_modules_that_load_when_they_are_used():
    program = (
        "import gan3d\n"
        f"for room in {ROOMS}: print(getattr(gan3d, room).__name__)\n"
        "print(gan3d.ops.modfc.__name__, gan3d.apps.video.__name__)"
    )
    assert python(program).split() == [
        *(f"gan3d.{room}" for room in ROOMS), "modfc", "gan3d.apps.video",
    ]  # fmt: skip
    assert set(ROOMS) <= set(dir(gan3d))


def test_no_room_hides_a_name():
    rooms = {room.name for room in pkgutil.iter_modules(gan3d.__path__)}
    assert not rooms & {*gan3d.__all__, *GENERATORS, *DISCRIMINATORS}


@pytest.mark.parametrize("module", [gan3d, gan3d.apps], ids=["gan3d", "gan3d.apps"])
def test_a_name_that_is_not_there_is_refused(module):
    with pytest.raises(AttributeError, match=r"has no attribute 'nothing_like_it'; it has .+"):
        _ = module.nothing_like_it
    assert not hasattr(module, "_private")


@pytest.mark.parametrize(
    ("name", "meant"), [("EG3", "EG3D"), ("from_pretraned", "from_pretrained"), ("op", "ops")]
)
def test_a_misspelt_name_gets_the_nearest(name, meant):
    with pytest.raises(AttributeError, match=rf"did you mean .*gan3d\.{meant}\b"):
        getattr(gan3d, name)


def test_operators_are_functions_by_name_and_their_files_stay_reachable():
    for name in gan3d.ops.__all__:
        assert callable(getattr(gan3d.ops, name))
    for module in pkgutil.iter_modules(gan3d.ops.__path__):
        importlib.import_module(f"gan3d.ops.{module.name}")
    assert inspect.isfunction(gan3d.ops.modfc)  # its file has the same name


def test_editors_see_the_names_that_are_there():
    stub = ast.parse((Path(gan3d.__file__).with_suffix(".pyi")).read_text())
    imported = {
        alias.asname: node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if node.module != "typing"
    }
    rooms = {name for name, module in imported.items() if module == "gan3d"}
    assert {*imported, "__version__"} - rooms == set(gan3d.__all__)
    assert set(ROOMS) <= rooms
    for name, module in imported.items():
        value = getattr(importlib.import_module(module), name, None)
        assert value is getattr(gan3d, name), name


# ------------------------------------------------------------ examples


def documented() -> dict[str, object]:
    """Everything that must have an example: the functions, and what saves a generator."""
    found = {name: getattr(gan3d, name) for name in FUNCTIONS}
    return found | {"Generator.save_pretrained": gan3d.Generator.save_pretrained}


@pytest.mark.parametrize("name", sorted(documented()))
def test_every_function_has_an_example_that_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_examples(documented()[name])


@pytest.mark.parametrize(
    "module",
    [
        "bench.measures",
        "bench.protocol",
        "checkpoints.models",
        "checkpoints.runs",
        "ops",
        "spelling",
        "zoo.models",
    ],
)
def test_other_examples_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = importlib.import_module(f"gan3d.{module}")
    own = {k: v for k, v in vars(loaded).items() if inspect.isfunction(v)}
    run_examples(loaded, **{k: v for k, v in own.items() if v.__module__ == loaded.__name__})


def run_examples(*objects: object, **more: object) -> None:
    """Runs the examples in docstrings, each in the namespace of its module."""
    runner, count = doctest.DocTestRunner(), 0
    for item in (*objects, *more.values()):
        module = inspect.getmodule(item)
        for test in doctest.DocTestFinder(recurse=False).find(
            item, getattr(item, "__name__", ""), globs=dict(vars(module))
        ):
            torch.manual_seed(0)
            result = runner.run(test)
            count += result.attempted
            assert result.failed == 0, f"{test.name}: see above"
    assert count > 0, "there is no example"


# ------------------------------------------------------------ from a run folder to a picture


def test_three_lines_of_a_notebook_go_from_a_run_folder_to_a_picture(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    generator = gan3d.from_pretrained("runs/heads")
    picture = gan3d.picture(gan3d.sample(generator, seeds=[0, 1], truncation=0.7))
    picture.save("heads.png")
    rows = 1 + generator.has_raw + generator.has_camera
    assert picture.size[0] > 2 * 128  # 32 px are enlarged
    assert picture.size[1] > rows * 128


@pytest.mark.parametrize(
    "line",
    [
        "result = gan3d.sample(generator, seeds=[0], truncation=0.7)",
        "result = gan3d.orbit(generator, [0], 'head.gif', gan3d.camera.orbit(2), progress=False)",
        "result = gan3d.extract_mesh(generator, 0, 'head.glb', source='depth', voxels=24)",
        "result = gan3d.invert(generator, gan3d.sample(generator, [0]).image, steps=2)",
        "result = gan3d.view(generator, port=port)",
    ],
)
def test_three_lines_do_what_people_do_with_a_3d_gan(run, monkeypatch, tmp_path, line):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        names = {"port": probe.getsockname()[1]}
    exec(f"import gan3d\ngenerator = gan3d.from_pretrained('runs/heads')\n{line}", names)
    if hasattr(names["result"], "close"):
        names["result"].close()


def test_the_lines_of_the_readme_run(run, monkeypatch, tmp_path, capsys):
    shown = []
    monkeypatch.setattr("PIL.Image.Image.show", lambda picture: shown.append(picture))
    monkeypatch.chdir(tmp_path)
    run.rename(run.with_name("eg3d_heads32"))
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (block,) = re.findall(r"```python\n(import gan3d\n.*?)```", readme, re.DOTALL)
    exec(block, {})
    assert len(shown) == 1
    assert "eg3d_heads64" in capsys.readouterr().out
    assert Path("heads/model.safetensors").exists()


def test_a_saved_folder_says_how_it_is_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gan3d.EG3D(**gan3d.EG3D.tiny).save_pretrained("heads")
    lines = Path("heads/README.md").read_text().split("```python\n")[1].split("```")[0]
    program = lines.replace(".show()", ".save('heads.png')").replace("range(4)", "range(1)")
    exec(program, {})
    assert Path("heads.png").exists()
    assert json.loads(Path("heads/config.json").read_text())["generator"]["class"] == "EG3D"
