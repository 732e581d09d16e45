"""One set of keys for every member of the zoo: what a run logs is what docs/dashboards.md says, in
the run folder and in W&B.
"""

import json
import os
import runpy
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from gan3d.apps import logged
from gan3d.apps.logged import KEYS
from gan3d.apps.run_files import read_run
from gan3d.apps.summary import MEANING
from gan3d.cli import main
from gan3d.data.heads import write_heads
from gan3d.training.gan import GAN

HERE = Path(__file__)
configs = SimpleNamespace(**runpy.run_path(str(HERE.with_name("test_configs.py"))))
wandb_record = SimpleNamespace(**runpy.run_path(str(HERE.with_name("wandb_record.py"))))
DOCS = HERE.parents[2] / "docs" / "dashboards.md"
BATCH = 8
MEMBERS = {
    "EG3D": "eg3d_heads32.yaml",
    "CIPS-3D": "cips3d_heads32.yaml",
    "GRAM": "gram_heads32.yaml",
    "GRAM-HD": "gramhd_heads64.yaml",
    "pi-GAN": "pigan_heads32.yaml",
    "StyleGAN2": "stylegan2_heads64.yaml",
    "StyleGAN3": "stylegan3t_heads64.yaml",
}


def conditions(gan: GAN) -> dict[str, bool]:
    """Which of the words of `Key.logged` hold for a run on procedural heads."""
    generator, losses = gan.generator, gan.losses
    in_3d = generator.has_camera
    return {
        logged.EVERY: True,
        logged.HELDOUT: True,
        logged.POSES: True,
        logged.IN_3D: in_3d,
        logged.OPAQUE: in_3d,
        logged.HELDOUT_3D: in_3d,
        logged.HEADS_3D: in_3d,
        logged.CONDITIONED: in_3d and generator.camera_conditioned,
        logged.ADA: gan.phases.augmentation.ada.enabled,
        logged.R1: losses.r1.gamma != 0,
        logged.LAZY_R1: losses.lazy_d > 0,
        logged.R2: losses.r2.gamma > 0,
        logged.DENSITY: losses.density.weight > 0,
        logged.PATH_LENGTH: losses.path_length.weight > 0,
        logged.POSE_LOSS: losses.pose.weight > 0,
        logged.POSE_REAL: losses.pose.real_weight > 0,
        logged.CONSISTENCY: losses.consistency.weight > 0,
        logged.FLOAT16: False,  # on a GPU
    }


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("heads") / "heads.zip"
    write_heads(path, num=40, resolution=32, seed=905, workers=1, supersample=1)
    return path


@pytest.fixture(scope="module", params=MEMBERS)
def run_dir(request, heads, tmp_path_factory) -> Path:
    """A run of one iteration of a member's config at a tiny size, recorded by W&B, too."""
    wandb = pytest.importorskip("wandb")
    folder, here = tmp_path_factory.mktemp("member"), os.getcwd()
    model = configs.tiny(configs.read(MEMBERS[request.param]))
    model["run"] = {"total_kimg": BATCH / 1000, "log_every_kimg": BATCH / 1000}
    content = {
        "model": model,
        "data": {"path": str(heads), "batch_size": BATCH, "num_workers": 0, "heldout": 16},
        "trainer": {"accelerator": "cpu", "devices": 1},
        "snapshots": {"num_heads": 2, "video_every": 1, "video_heads": 1, "video_frames": 2},
        "evaluation": {"num_images": 8},
        "distributions": {"num_images": 8, "batch_size": 8},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content))
    os.chdir(folder)
    kept = dict(os.environ)
    os.environ["WANDB_SILENT"] = "true"
    try:
        words = ["--config", "tiny.yaml", "--logger", "csv,wandb", "--wandb_mode", "offline"]
        assert main(["fit", *words]) == 0
    finally:
        wandb.teardown()  # its process, which keeps the environment that it was started in
        os.chdir(here)
        os.environ.clear()
        os.environ.update(kept)
    return folder / "runs" / "tiny"


def on_disk(run_dir: Path) -> set[str]:
    run = read_run(run_dir)
    return {*run.columns, *run.pictures, *run.videos, *run.clouds}


def test_a_member_logs_the_documented_keys_and_no_others(run_dir):
    gan = GAN.load_from_checkpoint(run_dir / "checkpoints" / "last.ckpt")
    held = conditions(gan)
    opaque = read_run(run_dir).columns.get("alarm/opaque", [(0, 0.0)])[-1][1]
    held[logged.OPAQUE] &= opaque > 0
    assert on_disk(run_dir) == {key.name for key in KEYS if held[key.logged]}


def test_wandb_has_the_keys_of_the_run_folder_its_media_and_kimg_as_the_axis(run_dir):
    (path,) = run_dir.glob("wandb/offline-run-*/*.wandb")
    content = wandb_record.read(path)
    rows = content["history"]
    names = {name for row in rows for name in row if not name.startswith("_")}
    assert names - {"kimg"} == on_disk(run_dir)
    assert content["axes"]["*"] == "kimg"
    assert {row["kimg"] for row in rows} == {0, BATCH / 1000}

    # numbers
    columns = read_run(run_dir).columns
    for name in columns:
        values = [(row["kimg"] * 1000, row[name]) for row in rows if name in row]
        assert values == columns[name]

    # media
    files = path.parent / "files"
    for key in KEYS:
        for row in rows:
            if key.kind == "number" or key.name not in row:
                continue
            medium = row[key.name]
            paths = medium.get("filenames") or [medium.get("path") or medium["videos"][0]["path"]]
            assert all((files / name).stat().st_size > 0 for name in paths)

    # the row of the run
    row = json.loads((run_dir / "summary.json").read_text())
    told = {n: v for n, v in content["summary"].items() if n.startswith("summary/")}
    assert told == {f"summary/{name}": value for name, value in row.items()}
    assert {"config", "generator", "generator_parameters", "frechet_best"} <= set(row)
    assert set(row) <= set(MEANING)


@pytest.fixture(scope="module")
def members_of() -> dict[str, list[str]]:
    """The members for which a condition holds, by their packaged configs of heads."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(GAN, "model")
    found: dict[str, list[str]] = {}
    for member, name in MEMBERS.items():
        with torch.device("meta"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)  # of jsonargparse
            model = parser.parse_object({"model": configs.read(name)["model"]})
            gan = parser.instantiate_classes(model).model
        for condition, holds in conditions(gan).items():
            found.setdefault(condition, []).extend([member] * holds)
    return found


def test_docs_list_every_key_and_column(members_of, request):
    """`pytest tests/cli/test_logged.py --update` rewrites both tables."""
    keys = ["| key | what | unit or kind | logged by | members |", "|---|---|---|---|---|"]
    for key in KEYS:
        members = members_of[key.logged]
        names = "all" if len(members) == len(MEMBERS) else ", ".join(members)
        of = key.kind if key.kind != "number" else key.unit
        keys.append(f"| `{key.name}` | {key.meaning} | {of} | {key.logged} | {names} |")
    columns = ["| column | what |", "|---|---|"]
    columns += [f"| `{name}` | {meaning} |" for name, meaning in MEANING.items()]
    text = before = DOCS.read_text()
    for name, lines in (("keys", keys), ("columns", columns)):
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        head, _, rest = text.partition(begin)
        text = head + begin + "\n".join(lines) + "\n" + end + rest.partition(end)[2]
    if request.config.getoption("--update"):
        DOCS.write_text(text)
    else:
        assert before == text, "run pytest tests/cli/test_logged.py --update"


def test_a_key_is_listed_once():
    names = [key.name for key in KEYS]
    assert len(names) == len(set(names))
