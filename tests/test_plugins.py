"""Installed packages add models by the entry point group `gan3d.models`."""

import subprocess
import sys
from pathlib import Path

MODELS = """
from gan3d.discriminators import StyleGAN2Discriminator
from gan3d.generators import EG3D


class TheirEG3D(EG3D):
    \"\"\"EG3D under another name.\"\"\"


class TheirJudge(StyleGAN2Discriminator):
    \"\"\"StyleGAN2\'s under another name.\"\"\"
"""


def install(folder: Path, name: str, entry: str, code: str) -> None:
    """What pip leaves of a package: its module and its metadata."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[gan3d.models]\n{entry}\n")


def run(folder: Path, *command: str) -> subprocess.CompletedProcess:
    program = f"import sys; sys.path.insert(0, {str(folder)!r}); " + command[0]
    return subprocess.run(
        [sys.executable, "-c", program, *command[1:]], capture_output=True, text=True
    )


def test_models_of_an_installed_package_are_known_by_their_bare_names(tmp_path):
    install(tmp_path, "their_models", "all = their_models", MODELS)
    done = run(
        tmp_path,
        "import gan3d.discriminators as d, gan3d.generators as g; "
        "print(g.GENERATORS['TheirEG3D'].__module__, 'TheirJudge' in d.DISCRIMINATORS)",
    )
    assert done.stdout.split() == ["their_models", "True"], done.stderr
    done = run(
        tmp_path,
        "from gan3d.cli import main; sys.exit(main(sys.argv[1:]))",
        *("fit", "--model.generator.help", "TheirEG3D"),
    )
    assert done.returncode == 0, done.stderr
    assert "plane" in done.stdout


def test_a_package_whose_models_cannot_be_imported_is_named_and_left_out(tmp_path):
    install(tmp_path, "broken_models", "all = broken_models", "import no_such_module")
    done = run(tmp_path, "import gan3d.discriminators as d; print(len(d.DISCRIMINATORS))")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 5
    assert "the models of broken_models (entry point all) are left out" in done.stderr
    assert "no_such_module" in done.stderr
