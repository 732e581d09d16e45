"""Going on with a run from the command line: by itself, on other images, from an earlier point, in
a folder that another run holds, and under SLURM.
"""

import json
import re
import shutil
from dataclasses import asdict, replace

import pytest
import torch
import yaml
from lightning.fabric.plugins.environments import SLURMEnvironment

from gan3d.cli.record import DATA_KEY, HELDOUT_KEY, KEPT_KEY, keep_heldout
from gan3d.cli.run_folder import MARKER, RUN_KEY, RunFolder
from gan3d.cli.run_lock import LOCK_FILE, Holder
from gan3d.cli.slurm import without_requeue
from gan3d.data.datamodule import PosedImagesModule
from gan3d.data.fingerprint import fingerprint

BATCH = 8


def longer(batches: int) -> tuple:
    return ("--model.run.total_kimg", batches * BATCH / 1000)


def seen(folder) -> int:
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return int(last["state_dict"]["images_seen"])


# ------------------------------------------------------------ by itself


def test_resume_auto_starts_and_then_goes_on_with_the_same_command(cli, tiny, tmp_path):
    folder = tmp_path / "runs" / "tiny"
    command = ("fit", "--config", tiny, "--resume", "auto", "--evaluation.every_kimg", 100)
    code, _, err = cli(*command)
    assert code == 0, err
    assert seen(folder) == 2 * BATCH
    code, _, err = cli(*command)  # complete: nothing is left to do
    assert code == 0, err
    assert seen(folder) == 2 * BATCH
    code, _, err = cli(*command, *longer(3))
    assert code == 0, err
    assert "schedule  0.016 to 0.024 kimg" in err
    assert seen(folder) == 3 * BATCH
    assert "resume" not in yaml.safe_load((folder / "config.yaml").read_text())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--ckpt_path last", "--resume auto and --ckpt_path exclude one another"),
        ("--overwrite true", "--resume auto and --overwrite exclude one another"),
        ("--run_dir auto", "name the folder of the run"),
    ],
)
def test_resume_auto_is_no_companion_of_other_ways_to_begin(cli, tiny, words, expected):
    code, _, err = cli("fit", "--config", tiny, "--resume", "auto", *words.split())
    assert code == 2
    assert expected in err


def test_where_no_checkpoint_is_whole_resume_auto_starts_anew_and_keeps_them(cli, tiny, trained):
    for path in (trained / "checkpoints").glob("kimg-*"):
        path.write_bytes(path.read_bytes()[:1000])
    code, _, err = cli("fit", "--config", tiny, "--resume", "auto", "--dry_run", "true")
    assert code == 0, err
    assert "is no checkpoint, or it was cut off" in err
    assert "schedule  0.016 kimg, 2 iterations" in err


def test_a_folder_that_is_not_known_as_a_runs_is_not_touched(cli, tiny, tmp_path):
    """`--run_dir .` beside the user's own files, some of names that a run uses."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "config.yaml").write_text(tiny.read_text())
    (tmp_path / "pictures" / "holiday.png").write_text("x")
    (tmp_path / "checkpoints" / "ffhq512-128.pkl").write_text("x")
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    for more in ((), ("--overwrite", "true"), ("--data.path", "typo.zip")):
        code, _, err = cli("fit", "--config", "config.yaml", "--run_dir", ".", *more)
        assert code == 2
        assert f"it has no {MARKER}" in err
        assert "pictures" in err
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("option", ["run_dir", "checkpoints.dir"])
def test_a_file_where_a_folder_is_meant_is_said_in_words(cli, tiny, option):
    code, _, err = cli("fit", "--config", tiny, f"--{option}", tiny)
    assert code == 2
    assert f"--{option} {tiny} is a file" in err


# ------------------------------------------------------------ other images


@pytest.fixture
def other_set(posed_zips, tmp_path):
    return posed_zips(tmp_path / "other.zip", num=28, seed=3)


def test_other_images_are_refused_and_named(cli, tiny, trained, other_set):
    go_on = ("fit", "--config", tiny, "--ckpt_path", "last", *longer(3), "--data.path", other_set)
    code, _, err = cli(*go_on, "--dry_run", "true")
    assert code == 2
    assert "are not those that the checkpoint was trained with: 24 images -> 28" in err
    assert "--allow_config_change true" in err


def test_with_other_images_what_was_held_out_stays_held_out(cli, tiny, trained, other_set):
    go_on = ("fit", "--config", tiny, "--ckpt_path", "last", *longer(3), "--data.path", other_set)
    before = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    code, _, err = cli(*go_on, "--allow_config_change", "true")
    assert code == 0, err
    assert "warning: the run goes on with other images: 24 images -> 28" in err
    after = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    assert len(before[HELDOUT_KEY]) == 8
    assert after[HELDOUT_KEY] == before[HELDOUT_KEY]
    drawn = PosedImagesModule(str(other_set), heldout=8, num_workers=0)
    names = [drawn.images.names[item] for item in drawn.heldout_items]
    assert names != before[HELDOUT_KEY]  # a fresh draw would have moved some into training

    # .. and so it does when the run goes on once more, where nothing changes any longer
    again = (*go_on[:5], *longer(4), "--data.path", other_set)
    code, _, err = cli(*again)
    assert code == 0, err
    after = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    assert after["state_dict"]["images_seen"] == 4 * BATCH
    assert after[HELDOUT_KEY] == before[HELDOUT_KEY]
    assert after[KEPT_KEY]


@pytest.mark.parametrize("which", ["drawn", "kept", "kept of others"])
def test_an_evaluation_holds_out_what_the_run_held_out(posed_zip, other_set, which):
    data = PosedImagesModule(str(posed_zip), heldout=4, num_workers=0)
    of = data if which != "kept of others" else PosedImagesModule(str(other_set), num_workers=0)
    facts = {DATA_KEY: fingerprint(of.images), HELDOUT_KEY: data.images.names[:3]}
    keep_heldout(facts | {KEPT_KEY: which != "drawn"}, data)
    assert (data.heldout_items.tolist() == [0, 1, 2]) is (which == "kept")
    assert len(data.heldout_items) == (3 if which == "kept" else 4)


# ------------------------------------------------------------ an earlier point


def test_going_back_keeps_what_came_after_aside(cli, tiny, tmp_path):
    every = ("--checkpoints.every_kimg", BATCH / 1000, "--evaluation.every_kimg", 100)
    code, _, err = cli("fit", "--config", tiny, *every, *longer(4))
    assert code == 0, err
    folder = tmp_path / "runs" / "tiny"
    metrics = (folder / "metrics.csv").read_text()
    back = folder / "checkpoints" / "kimg-000000.016.ckpt"
    code, _, err = cli("fit", "--config", tiny, *every, *longer(3), "--ckpt_path", back)
    assert code == 0, err
    assert "the run goes on from 0.016 kimg: 2 later checkpoints and a copy of the metrics" in err
    assert seen(folder) == 3 * BATCH
    aside = folder / "checkpoints" / "abandoned-1"
    assert (aside / "metrics.csv").read_text() == metrics
    assert (aside / "kimg-000000.032.ckpt").exists()
    assert RunFolder(folder).newest().name == "kimg-000000.024.ckpt"


def test_a_checkpoint_of_another_run_is_refused_in_the_folder_of_one(cli, tiny, trained, tmp_path):
    other = shutil.copytree(trained, tmp_path / "runs" / "other", symlinks=True)
    path = other / "checkpoints" / "kimg-000000.016.ckpt"
    words = ("fit", "--config", tiny, *longer(3), "--dry_run", "true", "--ckpt_path", path)
    code, _, err = cli(*words)  # a copy of our own
    assert code == 0, err
    torch.save(torch.load(path, weights_only=True) | {RUN_KEY: "another"}, path)
    code, _, err = cli(*words)
    assert code == 2
    assert "is not of the run in runs/tiny" in err
    assert "--run_dir ANOTHER_FOLDER" in err
    code, _, err = cli(*words, "--run_dir", "runs/third")
    assert code == 0, err


# ------------------------------------------------------------ what does not fit


def test_another_model_is_refused_in_a_line_under_a_changed_config_too(cli, tiny, trained):
    go_on = ("fit", "--config", tiny, "--ckpt_path", "last", *longer(3))
    more = ("--model.generator.z_dim", 24, "--allow_config_change", "true")
    code, _, err = cli(*go_on, *more)
    assert code == 2
    assert re.search(r"kimg-\S+ does not fit this model: generator\.\S+ has shape", err)
    assert "format 1, written by gan3d" in err
    assert len(err) < 1500
    assert "Traceback" not in err


# ------------------------------------------------------------ two at once


def test_a_folder_in_which_another_run_trains_is_refused(cli, tiny, trained):
    holder = replace(Holder.this(), host="node7", pid=4242)
    (trained / LOCK_FILE).write_text(json.dumps(asdict(holder)))
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    for more in (("--ckpt_path", "last", *longer(3)), ("--overwrite", "true")):
        code, _, err = cli("fit", "--config", tiny, *more)
        assert code == 2
        assert "another run trains in runs/tiny: process 4242 on node7, since 20" in err
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_a_run_gives_its_folder_back(trained):
    assert (trained / MARKER).exists()
    assert not (trained / LOCK_FILE).exists()


# ------------------------------------------------------------ SLURM


def test_under_slurm_lightning_neither_requeues_nor_loads_its_own(cli, tiny, trained, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    for name, value in (("JOB_ID", "1"), ("PROCID", "0"), ("LOCALID", "0"), ("NODEID", "0")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert SLURMEnvironment.detect()
    (plugin,) = without_requeue(None)
    assert not plugin.auto_requeue
    assert without_requeue(plugin) == [plugin]
    stale = trained / "hpc_ckpt_1.ckpt"
    shutil.copy(trained / "checkpoints" / "last.ckpt", stale)
    code, _, err = cli("fit", "--config", tiny, "--overwrite", "true", "--dry_run", "true")
    assert code == 0, err
    assert "schedule  0.016 kimg, 2 iterations" in err  # from the beginning
