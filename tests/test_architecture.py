"""The architecture as a test: which rooms there are, who may import whom, which names are not used.

A *room* is a folder or a file directly in `src/gan3d`. `docs/architecture.md` shows them in a
table, which `pytest tests/test_architecture.py --update` rewrites.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "gan3d"
FILES = sorted(SRC.rglob("*.py"))

# The floors, from the ground up: a room imports from itself and from the floors below its own.
FLOORS = (
    ("allocator", "host", "results"),
    ("ops", "pretrained", "randomness", "schedules", "spelling"),
    ("camera", "layers", "zoo"),
    ("rendering", "augment", "data"),
    ("generators",),
    ("discriminators", "metrics"),
    ("checkpoints", "apps"),
    ("training", "bench"),
    ("cli",),
)
# These serve Lightning's Trainer; everything else works in a notebook without it.
LIGHTNING = ("training/", "data/datamodule.py", "cli/")
# The rest of the house knows generators and discriminators by these names, and no model.
CONTRACT = {
    "DISCRIMINATORS",
    "Discriminator",
    "DiscriminatorOutput",
    "GENERATORS",
    "Generator",
    "Rendering",
    "pin",
    "unpin",
    "SURFACE_OPACITY",
    "SurfaceLayer",
    "background_color",
    "check_pair",
}
MOST_ROOMS = 26


def name_of(path: Path) -> str:
    return path.relative_to(SRC).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, tuple[str, ...], int]]:
    """(module, imported names, line) of every import statement, wherever it stands."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, (), node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative; write from gan3d.x import y"
            names = tuple(alias.name for alias in node.names)
            found.append((node.module or "", names, node.lineno))
    return found


def rooms_imported(path: Path) -> list[tuple[str, int]]:
    found = []
    for module, names, line in imports(path):
        words = module.split(".")
        if words[0] == "gan3d":
            found += [(room, line) for room in ([words[1]] if len(words) > 1 else names)]
    return [(room, line) for room, line in found if not room.startswith("__")]


def floor_of(room: str) -> int:
    for floor, rooms in enumerate(FLOORS):
        if room in rooms:
            return floor
    raise AssertionError(f"{room} has no place in the house: add it to tests/test_architecture.py")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_imports_upward_or_sideways(path):
    room = room_of(path)
    if room.startswith(
        "__"
    ):  # the package itself names things lazily; python -m is the command line
        assert {other for other, _ in rooms_imported(path)} <= {"cli"}
        return
    below = {other for floor in FLOORS[: floor_of(room)] for other in floor} | {room}
    wrong = [(other, line) for other, line in rooms_imported(path) if other not in below]
    assert not wrong, f"{name_of(path)} imports {wrong}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_what_serves_the_trainer_imports_lightning(path):
    if not name_of(path).startswith(LIGHTNING):
        packages = {module.split(".")[0] for module, _, _ in imports(path)}
        assert not packages & {"lightning", "pytorch_lightning"}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_kernels_import_triton_and_only_the_command_line_parses_arguments(path):
    packages = {module.split(".")[0] for module, _, _ in imports(path)}
    assert "triton" not in packages or name_of(path).startswith("ops/triton/")
    assert "jsonargparse" not in packages or room_of(path) == "cli"
    # The zoo reads the packaged configs, from which Python makes models, too (`gan3d.create`).
    assert "yaml" not in packages or room_of(path) in ("cli", "zoo")


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if room_of(p) in ("training", "metrics", "apps", "bench")],
    ids=name_of,
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
            if not isinstance(node, ast.Call) or ast.unparse(node.func) != "isinstance":
                continue
            asked = ast.unparse(node.args[0]).rpartition(".")[2]
            assert asked not in ("generator", "discriminator"), f"{name_of(path)}:{node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_short_and_are_called_by_a_noun(path):
    assert len(path.read_text().splitlines()) < 601
    assert path.stem not in ("utils", "util", "helpers", "helper", "common", "misc", "tools")
    assert not [line for _, names, line in imports(path) if "*" in names], "star import"


def test_no_two_classes_have_one_name():
    homes: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, []).append(name_of(path))
    assert not {name: files for name, files in homes.items() if len(files) > 1}


def test_what_stands_below_training_works_without_lightning():
    rooms = [room for floor in FLOORS[: floor_of("training")] for room in floor]
    program = (
        f"import sys, importlib\nfor room in {rooms}:\n"
        "    importlib.import_module(f'gan3d.{room}')\n"
        "heavy = {'lightning', 'pytorch_lightning', 'triton', 'wandb', 'jsonargparse'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------ the table in the docs

PAGE = ROOT / "docs" / "architecture.md"
HEAD, FOOT = "<!-- house: begin -->\n", "<!-- house: end -->\n"


def house() -> str:
    """The rooms, the highest floor first, as a table; lines are rounded to hundreds."""
    rows = ["| floor | room | files | lines | imports |", "|---|---|---|---|---|"]
    for floor in reversed(range(len(FLOORS))):
        for room in FLOORS[floor]:
            files = [path for path in FILES if room_of(path) == room]
            lines = sum(len(path.read_text().splitlines()) for path in files)
            used = {other for path in files for other, _ in rooms_imported(path)} - {room}
            is_folder = (SRC / room).is_dir()
            rows.append(
                f"| {floor} | `{room}{'/' if is_folder else '.py'}` | {len(files)} | "
                f"{max(round(lines, -2), 100)} | {', '.join(sorted(used)) or '-'} |"
            )
    return "\n".join(rows) + "\n"


def test_the_docs_show_the_house_as_it_stands(request):
    page = PAGE.read_text()
    before, _, rest = page.partition(HEAD)
    shown, _, after = rest.partition(FOOT)
    if request.config.getoption("--update"):
        PAGE.write_text(before + HEAD + house() + FOOT + after)
        return
    again = "python -m pytest tests/test_architecture.py --update"
    assert shown == house(), f"the house changed; rewrite the table: {again}"


def test_the_house_has_few_rooms_and_every_one_is_in_the_table():
    rooms = {room_of(path) for path in FILES if not room_of(path).startswith("__")}
    assert rooms == {room for floor in FLOORS for room in floor}
    assert len(rooms) <= MOST_ROOMS
