"""The architecture as a test: who may import whom, how long a file may be, which names are not used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "gan3d"
FILES = sorted(SRC.rglob("*.py"))

# The main line: a part imports what stands in its own row or above it.
LINE = (
    {"randomness", "schedules", "stages", "pinhole"},
    {"camera", "trajectories", "ops"},
    {"layers"},
    {"rendering", "hierarchical", "manifolds"},
    {"generators", "discriminators"},
    {"losses", "augment", "ema", "optimizers", "guards", "tally", "micro_batches", "style_mixing", "ray_gradients"},
    {"phases", "fitness"},
    {"gan"},
    {"callbacks"},
    {"cli"},
)
# Beside the line: what each of these may import; they know no part that is not named.
BESIDE = {
    "data": {"camera", "pinhole", "randomness"},
    "metrics": {"camera", "pinhole", "randomness", "ops", "layers", "generators"},
    "apps": {"camera", "trajectories", "pinhole", "randomness", "ops", "generators", "metrics"},
    "checkpoints": {"generators", "discriminators", "schedules"},
    "loggers": set(),
    "strategies": set(),
}
# Which of those the end of the line uses.
USERS = {"gan": {"checkpoints"}, "callbacks": {"apps", "metrics", "loggers", "data"}, "cli": set(BESIDE)}
CONTRACT = {
    "GENERATORS",
    "Generator",
    "Rendering",
    "SurfaceLayer",
    "DISCRIMINATORS",
    "Discriminator",
    "Judgement",
    "check_pair",
}
LIGHTNING = (
    "gan.py",
    "callbacks.py",
    "loggers.py",
    "strategies.py",
    "cli/",
    "data/datamodule.py",
    "checkpoints/training.py",
)


def name_of(path: Path) -> str:
    return path.relative_to(SRC).as_posix()


def part_of(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, tuple[str, ...], int]]:
    """(module, imported names, line) of every import statement, wherever it stands."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, (), node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write from gan3d.x import y"
            found.append((node.module or "", tuple(alias.name for alias in node.names), node.lineno))
    return found


def parts_imported(path: Path) -> list[tuple[str, int]]:
    found = []
    for module, names, line in imports(path):
        words = module.split(".")
        if words[0] == "gan3d":
            found += [(part, line) for part in ([words[1]] if len(words) > 1 else names)]
    return [(part, line) for part, line in found if not part.startswith("__")]


def allowed(part: str) -> set[str]:
    if part in BESIDE:
        return BESIDE[part] | {part}
    rank = next((k for k, row in enumerate(LINE) if part in row), None)
    assert rank is not None, f"{part} has no place in the architecture: add it to tests/test_architecture.py"
    return set().union(*LINE[: rank + 1]) | USERS.get(part, set())


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_part_imports_only_what_the_architecture_lets_it(path):
    part = part_of(path)
    if part.startswith("__"):  # the package itself and python -m: the command line, and lazy names
        assert {other for other, _ in parts_imported(path)} <= {"cli"}
        return
    wrong = [
        f"{name_of(path)}:{line} imports {other}" for other, line in parts_imported(path) if other not in allowed(part)
    ]
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_the_harness_and_what_serves_the_trainer_import_lightning(path):
    if not name_of(path).startswith(LIGHTNING):
        assert not [
            line for module, _, line in imports(path) if module.split(".")[0] in ("lightning", "pytorch_lightning")
        ]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_the_kernels_import_triton_and_only_the_command_line_knows_yaml(path):
    modules = {module.split(".")[0] for module, _, _ in imports(path)}
    assert "triton" not in modules or name_of(path).startswith("ops/triton/")
    assert not modules & {"yaml", "jsonargparse"} or part_of(path) == "cli"


@pytest.mark.parametrize(
    "path", [p for p in FILES if part_of(p) in ("phases", "gan", "metrics", "apps", "callbacks")], ids=name_of
)
def test_harness_metrics_and_apps_know_the_contract_and_no_model(path):
    for module, names, line in imports(path):
        if module.startswith(("gan3d.generators", "gan3d.discriminators")):
            leaf = module.removeprefix("gan3d.").partition(".")[2]
            assert leaf in ("", "contract"), f"{name_of(path)}:{line} imports {module}"
            assert set(names) <= CONTRACT, f"{name_of(path)}:{line} imports {names}"


def test_no_model_is_asked_for_its_class():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                asked = ast.unparse(node.args[0]).rpartition(".")[2]
                assert asked not in ("generator", "discriminator"), f"{name_of(path)}:{node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_short_and_are_called_by_a_noun(path):
    assert len(path.read_text().splitlines()) < (400 if name_of(path) == "gan.py" else 601)
    assert path.stem not in ("utils", "util", "helpers", "helper", "common", "misc", "tools")
    assert not [line for _, names, line in imports(path) if "*" in names], "star import"


def test_what_stands_left_of_the_harness_works_without_lightning():
    modules = sorted({f"gan3d.{part_of(path)}" for path in FILES if part_of(path) in set().union(*LINE[:7])})
    program = (
        f"import sys, importlib\nfor name in {[*modules, 'gan3d.metrics', 'gan3d.apps', 'gan3d.data']}:\n"
        "    importlib.import_module(name)\n"
        "print(sorted({'lightning', 'pytorch_lightning', 'triton', 'wandb', 'jsonargparse'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
