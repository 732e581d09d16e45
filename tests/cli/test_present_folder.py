"""Classes of the present folder, and what a config out of a file may not name."""

import importlib.util
import json
import subprocess
import sys

import pytest
import torch

from gan3d.checkpoints.runs import CONFIG_KEY, pack_config, unpack_config
from gan3d.cli.present_folder import open_present_folder

MARK = "import pathlib; pathlib.Path(__file__).with_name('executed').touch()\n"
OWN = "import helper\nfrom gan3d.generators import EG3D\n\n\nclass Own(EG3D):\n    pass\n"


def run(program, words, folder):
    return subprocess.run(
        [sys.executable, *program, *words], cwd=folder, capture_output=True, text=True
    )


@pytest.mark.parametrize("how", ["console script", "python -m"])
def test_nothing_of_the_present_folder_is_imported_but_what_is_named(tiny, tmp_path, how):
    """`adlfs` and others are looked for by packages that do without them; `yaml` is installed."""
    folder = tmp_path / "here"
    (folder / "evil").mkdir(parents=True)
    for name in ("adlfs", "gcsfs", "s3fs", "mpi4py", "torch_xla", "yaml", "einops", "helper"):
        (folder / f"{name}.py").write_text("" if name == "helper" else MARK)
    (folder / "own.py").write_text(OWN)
    console = "import sys; sys.path.remove(''); from gan3d.cli import main; sys.exit(main())"
    program = ["-c", console] if how == "console script" else ["-m", "gan3d"]
    words = ["fit", "--config", str(tiny), "--model.generator", "own.Own", "--print_config"]
    done = run(program, words, folder)
    assert done.returncode == 0, done.stderr
    assert "class_path: own.Own" in done.stdout
    assert not (folder / "executed").exists()


def asking_for(checkpoint, change) -> None:
    """Changes the config in a checkpoint."""
    content = torch.load(checkpoint, weights_only=True)
    config = unpack_config(content)
    change(config)
    torch.save(content | {CONFIG_KEY: pack_config(config)}, checkpoint)


def as_text(config):
    config["model"]["generator"] = "evil.Thing"


def as_class_path(config):
    config["model"]["generator"]["class_path"] = "evil.Thing"


def deep_inside(config):
    config["evaluation"]["features"] = {"class_path": "os.system", "init_args": {}}


@pytest.mark.parametrize("change", [as_text, as_class_path, deep_inside])
@pytest.mark.parametrize("verb", ["validate", "predict"])
def test_a_checkpoint_names_no_foreign_class(cli, trained, tmp_path, monkeypatch, change, verb):
    (tmp_path / "evil.py").write_text(MARK)
    monkeypatch.syspath_prepend(tmp_path)  # it could be imported
    checkpoint = sorted((trained / "checkpoints").glob("kimg-*.ckpt"))[-1]
    asking_for(checkpoint, change)
    code, _, said = cli(verb, "--ckpt_path", checkpoint)
    assert code == 2
    assert "neither a class of gan3d nor" in said
    assert ("os.system" if change is deep_inside else "evil.Thing") in said
    assert "--config" in said
    assert not (tmp_path / "executed").exists()


def test_a_class_that_the_user_names_is_allowed(cli, trained, tmp_path, monkeypatch):
    (tmp_path / "helper.py").write_text("")
    (tmp_path / "own.py").write_text(OWN)

    def change(config):
        config["model"]["generator"]["class_path"] = "own.Own"

    checkpoint = sorted((trained / "checkpoints").glob("kimg-*.ckpt"))[-1]
    asking_for(checkpoint, change)
    assert cli("predict", "--ckpt_path", checkpoint, "--num", 1)[0] == 2
    given = tmp_path / "given.yaml"
    given.write_text(json.dumps({"model": {"generator": {"class_path": "own.Own"}}}))
    code, _, said = cli("predict", "--config", given, "--ckpt_path", checkpoint, "--num", 1)
    assert code == 0, said


def test_a_module_that_nobody_named_is_not_found(tmp_path, monkeypatch):
    """As packages look for those that they do without."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    for name in ("unnamed_module", "named_module"):
        (tmp_path / f"{name}.py").write_text("")
    config = tmp_path / "a.yaml"
    config.write_text("trainer: {callbacks: [{class_path: named_module.Callback}]}")
    open_present_folder(["--data.path", "heads32.zip"], [config])
    assert importlib.util.find_spec("unnamed_module") is None
    assert importlib.util.find_spec("named_module") is not None
    open_present_folder([], [])
    assert importlib.util.find_spec("named_module") is None
