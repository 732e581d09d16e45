"""Runs from the command line: what they say, what they leave behind, and how they go on."""

import importlib.util
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import wandb
import yaml
from PIL import Image
from wandb.proto import wandb_internal_pb2

from gan3d.checkpoints.runs import CONFIG_KEY, pack_config, unpack_config
from gan3d.cli.evaluation import config_in
from gan3d.cli.loggers import loggers_of, words_of
from gan3d.cli.record import differences
from gan3d.cli.run_folder import WANDB_KEY, RunFolder
from gan3d.results import MARKER
from gan3d.training.gan import GAN

BATCH = 8


# ------------------------------------------------------------ runs


def test_a_run_leaves_its_config_metrics_and_checkpoints_and_goes_on_where_it_was(
    cli, tiny, tmp_path
):
    code, _, err = cli("fit", "--config", tiny)
    assert code == 0, err
    folder = tmp_path / "runs" / "tiny"
    assert {"config.yaml", "metrics.csv", "pictures", "checkpoints"} <= {
        path.name for path in folder.iterdir()
    }
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert saved["model"]["run"]["total_kimg"] == 2 * BATCH / 1000
    assert not {"ckpt_path", "overwrite", "config"} & set(saved)
    plan = json.loads((folder / MARKER).read_text())["plan"]
    assert set(plan) == {"model", "data", "batch", "schedule", "device"}
    for text in plan.values():
        assert text in err
    assert (folder / "pictures" / "reals_000000000.png").exists()

    code, _, err = cli("fit", "--config", tiny)
    assert code == 2
    for way_out in ("--ckpt_path last", "--run_dir", "--overwrite true"):
        assert way_out in err

    more = ("--config", folder / "config.yaml", "--model.run.total_kimg", 4 * BATCH / 1000)
    code, _, err = cli("fit", *more, "--ckpt_path", "last")
    assert code == 0, err
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["state_dict"]["images_seen"] == 4 * BATCH


def test_a_changed_config_is_refused_on_resume_and_the_difference_shown(
    cli, tiny, trained, tmp_path
):
    go_on = (
        "fit",
        "--config",
        tiny,
        "--ckpt_path",
        "last",
        "--model.run.total_kimg",
        3 * BATCH / 1000,
    )
    code, _, err = cli(
        *go_on, "--model.r1.gamma", "7", "--snapshots.num_heads", "3", "--data.mirror", "true"
    )
    assert code == 2
    assert re.search(r"model\.r1\.gamma +1\.0 -> 7\.0", err)
    assert re.search(r"data\.mirror +False -> True", err)
    assert "snapshots" not in err  # what is shown may change
    assert "--allow_config_change true" in err
    code, _, err = cli(*go_on, "--model.r1.gamma", "7", "--allow_config_change", "true")
    assert code == 0, err


def test_overwriting_removes_what_the_run_wrote_and_nothing_else(cli, tiny, trained, tmp_path):
    folder = tmp_path / "runs" / "tiny"
    (folder / "notes.txt").write_text("mine")
    (folder / "pictures" / "old.png").write_bytes(b"")
    shutil.copy(
        folder / "checkpoints" / "last.ckpt", folder / "checkpoints" / "kimg-000099.000.ckpt"
    )
    code, _, err = cli("fit", "--config", tiny, "--overwrite", "true")
    assert code == 0, err
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "pictures" / "old.png").exists()
    assert not (folder / "checkpoints" / "kimg-000099.000.ckpt").exists()


def test_last_is_the_newest_whole_checkpoint_and_a_damaged_one_is_named(cli, tiny, tmp_path):
    assert cli("fit", "--config", tiny, "--checkpoints.every_kimg", BATCH / 1000)[0] == 0
    newest = sorted((tmp_path / "runs/tiny/checkpoints").glob("kimg-*.ckpt"))[-1]
    newest.write_bytes(newest.read_bytes()[:2000])
    go_on = (
        "fit",
        "--config",
        tiny,
        "--ckpt_path",
        "last",
        "--model.run.total_kimg",
        3 * BATCH / 1000,
    )
    code, _, err = cli(*go_on)
    assert code == 0, err
    assert f"warning: runs/tiny/checkpoints/{newest.name} is no checkpoint" in err
    assert "taking the one before it" in err


# ------------------------------------------------------------ the plan and the outcome


def test_fit_says_its_plan_first_and_how_far_it_came_at_the_end(cli, tiny):
    code, _, err = cli("fit", "--config", tiny)
    assert code == 0, err
    assert err.startswith(
        "gan3d: the plan\n"
        "  model     EG3D, 16,624 parameters, 32 px, against DualDiscriminator, 19,536 parameters\n"
        "  data      "
    )
    assert "posed32.zip: 24 images of 32 px, with cameras, 8 of them held out\n" in err
    assert "  batch     8 images\n  schedule  0.016 kimg, 2 iterations, r1 every 16\n" in err
    device = r"  device    cpu( \(.+\))?, precision 32-true, 1 thread\n  folder    runs/tiny\n"
    assert re.search(device, err)
    assert err.index("the plan") < err.index("100% | 0.016/0.016 kimg") < err.index("complete")
    assert re.search(
        r"gan3d: complete: 0\.016 kimg, this session took \d\d:\d\d\n  train it longer: lightning "
        r"fit --config runs/tiny/config.yaml --ckpt_path last --model.run.total_kimg 0\.032\n",
        err,
    )


def test_the_command_that_is_said_goes_on_with_the_run(cli, tiny, tmp_path):
    err = cli("fit", "--config", tiny)[2]
    words = re.search(r"train it longer: lightning (.*)", err)[1].split()
    code, _, err = cli(*words)
    assert code == 0, err
    assert "schedule  0.016 to 0.032 kimg, 2 iterations" in err
    last = torch.load(tmp_path / "runs/tiny/checkpoints/last.ckpt", weights_only=True)
    assert last["state_dict"]["images_seen"] == 4 * BATCH


def test_a_dry_run_says_the_plan_and_leaves_nothing(cli, tiny, tmp_path):
    before = set(tmp_path.iterdir())
    code, _, err = cli("fit", "--config", tiny, "--dry_run", "true", "--run_dir", "somewhere")
    assert code == 0, err
    assert "folder    somewhere" in err
    assert err.endswith("gan3d: dry run: everything was checked, nothing was written\n")
    assert "kimg, " in err
    assert "100%" not in err
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("why", ["--dry_run true", "--data.path nowhere.zip", "--data.heldout 3"])
def test_an_old_run_is_removed_only_when_the_new_one_begins(cli, tiny, trained, why):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    code, _, err = cli("fit", "--config", tiny, "--overwrite", "true", *why.split())
    assert code == (0 if "dry_run" in why else 2), err
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_a_dry_run_refuses_what_fit_refuses(cli, tiny):
    for words, expected in (
        ("--data.path nowhere.zip", "nowhere.zip"),
        ("--data.resolution 16", "--data.resolution 32"),
        ("--data.heldout 3", "held-out images"),
        ("--data.batch_size 7", "--data.batch_size 8"),
    ):
        code, _, err = cli("fit", "--config", tiny, "--dry_run", "true", *words.split())
        assert code == 2, words
        assert expected in err


def test_a_dry_run_in_the_folder_of_another_run_is_refused_as_fit_is(cli, tiny, trained):
    code, _, err = cli("fit", "--config", tiny, "--dry_run", "true")
    assert code == 2
    assert "runs/tiny already holds a run (kimg-000000.016.ckpt)" in err


def test_starting_weights_are_counted_where_everybody_sees_it(cli, tiny, trained):
    weights = ("--model.run.init_from", trained / "checkpoints" / "last.ckpt")
    code, _, err = cli("fit", "--config", tiny, "--run_dir", "b", "--dry_run", "true", *weights)
    assert code == 0, err
    for network in ("generator", "generator_ema", "discriminator"):
        assert re.search(rf"gan3d: {network} starts from .*last.ckpt: (\d+) of \1 tensors", err)


def test_a_run_that_is_cut_off_says_how_far_it_came_and_a_resumed_one_has_its_own_time(cli, tiny):
    words = ("--model.run.total_kimg", "100", "--trainer.max_time", "00:00:00:01")
    code, _, err = cli("fit", "--config", tiny, *words)
    assert code == 0, err
    found = re.search(
        r"NOT complete: ([\d.]+) of 100 kimg \(([\d.e-]+) %\) after 00:0\d, ended by "
        r"--trainer.max_time\n  go on: lightning (fit --config runs/tiny/config.yaml "
        r"--ckpt_path last)\n",
        err,
    )
    assert found, err
    first = float(found[1])
    assert float(found[2]) == pytest.approx(first, rel=0.5)
    code, _, err = cli(*found[3].split())
    assert code == 0, err
    assert float(re.search(r"NOT complete: ([\d.]+) of", err)[1]) > first


@pytest.mark.parametrize("every", [100, BATCH / 1000])
def test_an_interrupted_run_says_where_it_was_and_from_what_it_goes_on(
    cli, tiny, monkeypatch, every
):
    def interrupt(self, batch, batch_idx):
        if batch_idx == 1:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    step = GAN.training_step
    monkeypatch.setattr(GAN, "training_step", interrupt)
    words = ("--checkpoints.every_kimg", every)
    before = signal.getsignal(signal.SIGINT)
    code, _, err = cli("fit", "--config", tiny, *words)
    signal.signal(signal.SIGINT, before)  # Lightning ignores it from then on
    assert code == 130
    if every == 100:
        assert "interrupted at 0.008 of 0.016 kimg, before its first checkpoint" in err
    else:
        assert (
            "interrupted at 0.008 of 0.016 kimg; go on from kimg-000000.008.ckpt: lightning fit "
            "--config runs/tiny/config.yaml --ckpt_path last\n"
        ) in err


def test_fast_dev_run_leaves_nothing(cli, tiny, tmp_path):
    before = set(tmp_path.iterdir())
    code, _, err = cli("fit", "--config", tiny, "--trainer.fast_dev_run", "true")
    assert code == 0, err
    assert "fast_dev_run: it works; nothing was written" in err
    assert set(tmp_path.iterdir()) == before


# ------------------------------------------------------------ what is resolved and recorded


def test_the_seed_of_a_run_follows_seed_everything_and_is_recorded(cli, tiny, tmp_path):

    drawn = []
    for seed in (1, 2):
        words = ("--seed_everything", seed, "--run_dir", f"seed{seed}")
        assert cli("fit", "--config", tiny, *words)[0] == 0
        config = yaml.safe_load((tmp_path / f"seed{seed}/config.yaml").read_text())
        assert config["model"]["run"]["seed"] == seed
        # What training draws, beside the initial weights, follows it.
        module = GAN.load_from_checkpoint(tmp_path / f"seed{seed}/checkpoints/last.ckpt")
        drawn.append(module.draws([7], "generator").normal("z", 4))
    assert not torch.equal(*drawn)


def test_a_resume_under_another_seed_is_refused(cli, tiny, trained):
    longer = ("--model.run.total_kimg", 3 * BATCH / 1000, "--ckpt_path", "last")
    code, _, err = cli("fit", "--config", tiny, "--seed_everything", "2", *longer)
    assert code == 2
    assert re.search(r"seed_everything +0 -> 2", err)
    assert re.search(r"model\.run\.seed +0 -> 2", err)


def test_threads_are_recorded_kept_on_resume_and_not_changed_by_the_way(cli, tiny, trained):
    path = trained / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    config = unpack_config(content)
    assert config["threads"] == 1  # of images of 32 px on a CPU
    assert yaml.safe_load((trained / "config.yaml").read_text())["threads"] == 1
    torch.save(content | {CONFIG_KEY: pack_config(config | {"threads": 2})}, path)

    go_on = ("fit", "--config", tiny, "--ckpt_path", "last", "--dry_run", "true")
    code, _, err = cli(*go_on, "--threads", "1")
    assert code == 2
    assert re.search(r"threads +2 -> 1", err)
    code, _, err = cli(*go_on)
    assert code == 0, err
    assert "precision 32-true, 2 threads" in err
    torch.set_num_threads(1)


def test_runs_of_a_sweep_have_a_folder_and_an_id_of_their_own(cli, tiny, tmp_path):
    words = ("fit", "--config", tiny, "--run_dir", "auto", "--logger", "csv,wandb")
    offline = ("--wandb_mode", "offline", "--wandb_group", "gamma", "--wandb_tags", "a, b")
    for gamma in (1, 2):
        code, _, err = cli(*words, *offline, "--model.r1.gamma", gamma)
        assert code == 0, err
    first, second = tmp_path / "runs/tiny", tmp_path / "runs/tiny-2"
    for folder, gamma in ((first, 1.0), (second, 2.0)):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert config["model"]["r1"]["gamma"] == gamma
        assert config["run_dir"] == f"runs/{folder.name}"
    ids = [(folder / "wandb_id.txt").read_text().strip() for folder in (first, second)]
    assert ids[0] != ids[1]
    for folder, run_id in zip((first, second), ids):
        assert list(folder.glob(f"wandb/offline-run-*/run-{run_id}.wandb"))


def test_a_refused_command_leaves_no_new_folder(cli, tiny, tmp_path):
    code, _, err = cli("fit", "--config", tiny, "--run_dir", "auto", "--data.path", "nowhere.zip")
    assert code == 2
    code, _, err = cli("fit", "--config", tiny, "--run_dir", "auto", "--dry_run", "true")
    assert code == 0, err
    assert not list(tmp_path.glob("runs/*"))


# ------------------------------------------------------------ validate, test, predict


def test_evaluation_needs_a_checkpoint_of_the_same_models(cli, tiny, trained):
    code, _, err = cli("validate", "--config", tiny)
    assert code == 2
    assert "validate needs a checkpoint" in err
    code, _, err = cli(
        "validate", "--config", tiny, "--ckpt_path", "last", "--model.generator.z_dim", "9"
    )
    assert code == 2
    assert "model.generator.init_args.z_dim" in err
    code, _, err = cli("validate", "--config", tiny, "--ckpt_path", "last", "--data.heldout", "4")
    assert code == 0, err


@pytest.mark.parametrize("verb", ["validate", "test"])
@pytest.mark.parametrize(
    "where",
    ["--ckpt_path runs/tiny/checkpoints/last.ckpt", "--ckpt_path last --run_dir runs/tiny"],
)
def test_evaluating_a_checkpoint_needs_nothing_else_and_leaves_the_run_as_it_was(
    cli, trained, verb, where
):
    # The time limit of that session is not the evaluation's, and nothing warns of it.
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    code, out, err = cli(verb, *where.split())
    assert code == 0, err
    assert out.count("distance/frechet") == 1
    assert err == ""
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_with_nothing_held_out_evaluation_says_what_to_do(cli, tiny, verb):
    code, _, err = cli("fit", "--config", tiny, "--data.heldout", "0")
    assert code == 0
    assert "no images are held out, so there is no Frechet distance" in err
    code, _, err = cli(verb, "--ckpt_path", "runs/tiny/checkpoints/last.ckpt")
    assert code == 2
    assert f"{verb} compares with images that were held out, and --data.heldout is 0" in err


def test_an_evaluation_has_the_runs_precision_the_machines_devices_and_the_folder_as_it_lies(
    trained,
):
    path = trained / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    config = unpack_config(content)
    config["trainer"] |= {"precision": "bf16-mixed", "devices": 8, "strategy": "gan_ddp"}
    config["model"]["run"]["init_from"] = "gone.ckpt"
    torch.save(content | {CONFIG_KEY: pack_config(config)}, path)
    moved = trained.rename(trained.with_name("moved"))
    found = config_in(moved / "checkpoints" / "last.ckpt")
    assert found["trainer"] == {"precision": "bf16-mixed"}
    assert found["run_dir"] == str(moved)
    assert found["model"]["run"]["init_from"] is None
    assert found["data"] == config["data"]


def test_evaluation_of_a_run_that_is_not_named_or_not_there_is_refused(cli, tiny):
    for words, expected in (
        ("", "needs a checkpoint"),
        ("--ckpt_path last", "of which run?"),
        ("--ckpt_path last --run_dir runs/none", "no whole checkpoint in runs/none/checkpoints"),
        ("--ckpt_path none.ckpt", "there is no checkpoint none.ckpt"),
    ):
        code, _, err = cli("validate", *words.split())
        assert code == 2, words
        assert expected in err
        assert err.count("gan3d: error") == 1


def test_predict_draws_scenes_of_a_seed_with_truncation(cli, tiny, trained, tmp_path):
    where = ("predict", "--ckpt_path", "last", "--run_dir", "runs/tiny")
    folder = tmp_path / "runs" / "tiny" / "predictions"
    code, _, err = cli(*where, "--num", "9", "--seed", "3")
    assert code == 0, err
    assert "the pictures are in runs/tiny/predictions" in err
    names = [f"seed3_{k:04d}.png" for k in range(9)]
    assert sorted(path.name for path in folder.glob("seed3_0*")) == names
    pictures = [(folder / name).read_bytes() for name in names]
    assert Image.open(folder / names[0]).size == (32, 32)
    assert len(set(pictures)) == 9
    # The sheet enlarges small pictures: eight of them, then one.
    assert Image.open(folder / "seed3_sheet_0000.png").width > 8 * 128
    assert 128 < Image.open(folder / "seed3_sheet_0008.png").width < 2 * 128

    code, _, err = cli(*where, "--num", "1", "--seed", "3", "--truncation", "0")
    assert code == 0, err
    assert (folder / names[0]).read_bytes() != pictures[0]
    code, _, err = cli(*where, "--num", "0")
    assert code == 2
    assert "--num 0 is out of range" in err


def test_scene_0_of_a_seed_is_that_of_the_other_verbs(trained):
    from gan3d import Randomness
    from gan3d.training.sampling import Sampling

    module = GAN.load_from_checkpoint(trained / "checkpoints/last.ckpt").eval()
    module.sampling, module.sample_cameras = Sampling(seed=5, truncation=0.7), lambda draw: None
    seen = {}

    def see(z, camera, **options):
        seen.update(options, z=z)
        raise StopIteration

    module.generator_ema.forward = see
    with pytest.raises(StopIteration):
        module.predict_step(torch.tensor([0, 1]), 0)
    assert torch.equal(seen["z"][:1], Randomness(5, [0]).normal("z", module.generator.z_dim))
    assert seen["truncation"] == 0.7


# ------------------------------------------------------------ loggers


def wandb_record(path: Path) -> tuple[set[str], set[str], dict[str, str]]:
    """History keys, media files and x axes of an offline W&B file (LevelDB log: 32 KiB blocks;
    chunks of crc, size, kind).
    """
    data, at, record, keys, files, axes = path.read_bytes(), 7, b"", set(), set(), {}
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last chunk of one
            entry = wandb_internal_pb2.Record()
            entry.ParseFromString(record)
            record = b""
            keys |= {item.key or "/".join(item.nested_key) for item in entry.history.item}
            files |= {file.path for file in entry.files.files}
            if entry.metric.glob_name:
                axes[entry.metric.glob_name] = entry.metric.step_metric
    return keys, files, axes


def test_wandb_gets_what_the_disk_gets(cli, tiny, tmp_path):
    shown = (
        "--snapshots.every_kimg",
        "1",
        "--snapshots.video_every",
        "1",
        "--snapshots.video_frames",
        "4",
    )
    code, _, err = cli(
        "fit", "--config", tiny, "--logger", "wandb", "--wandb_mode", "offline", *shown
    )
    assert code == 0, err
    folder = tmp_path / "runs" / "tiny"
    (record,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    patience = (
        time.monotonic() + 30
    )  # W&B's own process writes it, on a busy machine some time after
    while not all(wandb_record(record)) and time.monotonic() < patience:
        time.sleep(0.5)
    keys, files, axes = wandb_record(record)
    assert axes == {"*": "kimg"}
    assert "kimg" in keys
    assert "trainer/global_step" not in keys
    columns = set((folder / "metrics.csv").read_text().splitlines()[0].split(",")) - {"step"}
    assert columns <= keys
    pictures = {path.name.rpartition("_")[0] for path in (folder / "pictures").iterdir()}
    assert {"fakes", "layers"} <= pictures
    for name in pictures:
        assert any(file.startswith(f"media/images/{name}_") for file in files), name
    assert (
        any((folder / "videos").iterdir())
        == any(file.startswith("media/videos/orbit_") for file in files)
        is True
    )


def test_wandb_that_does_not_start_even_offline_is_refused(cli, tiny, tmp_path, monkeypatch):
    def init(**options):
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", init)
    code, _, err = cli("fit", "--config", tiny, "--logger", "wandb")
    assert code == 2
    assert "W&B did not start: No API key configured. Use `wandb login`" in err
    assert "Leave it out of --logger" in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_in_a_sweep_of_wandb_its_agent_gives_the_id(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    assert folder.wandb_id(None) != folder.wandb_id(None)
    assert folder.wandb_id({WANDB_KEY: "abc"}) == "abc"
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "agents")
    assert folder.wandb_id(None) == "agents"


def test_tensorboard_that_is_not_installed_is_named(cli, tiny, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if "tensorb" in name else find(name, *a)
    )
    code, _, err = cli("fit", "--config", tiny, "--logger", "csv,tensorboard")
    assert code == 2
    assert "pip install tensorboard" in err


def test_loggers_are_given_by_words(tmp_path, monkeypatch):
    monkeypatch.setattr("gan3d.cli.loggers.words_of", lambda text: text.split(","))
    given = SimpleNamespace(
        logger="csv,tensorboard,wandb", wandb_mode="offline", wandb_project="p", wandb_entity="me",
        wandb_group="g", wandb_tags="a, b", trainer=SimpleNamespace(logger=None),
    )  # fmt: skip
    monkeypatch.setattr("gan3d.cli.loggers.KimgTensorBoardLogger", lambda *a, **k: (a, k))
    disk, board, web = loggers_of(given, tmp_path, "id1")
    assert disk.save_dir == str(tmp_path)
    assert board[0] == (str(tmp_path),)
    asked = {"project": "p", "entity": "me", "group": "g", "tags": ["a", "b"], "id": "id1"}
    assert {name: web._wandb_init[name] for name in asked} == asked
    assert words_of("wandb, csv") == ["csv", "wandb"]
    assert words_of("") == ["csv"]


def test_wandb_keeps_its_run_id_over_a_resume(cli, tiny, tmp_path):
    assert cli("fit", "--config", tiny, "--logger", "wandb", "--wandb_mode", "offline")[0] == 0
    folder = tmp_path / "runs" / "tiny"
    run_id = (folder / "wandb_id.txt").read_text().strip()
    (folder / "wandb_id.txt").unlink()  # the checkpoint knows it, too
    go_on = ("--ckpt_path", "last", "--model.run.total_kimg", 3 * BATCH / 1000)
    code, _, err = cli(
        "fit", "--config", tiny, "--logger", "wandb", "--wandb_mode", "offline", *go_on
    )
    assert code == 0, err
    assert (folder / "wandb_id.txt").read_text().strip() == run_id
    records = list(folder.glob(f"wandb/offline-run-*/run-{run_id}.wandb"))
    assert len(records) == len(list(folder.glob("wandb/offline-run-*"))) > 0


def test_a_normal_run_warns_of_nothing(tiny, tmp_path):
    command = [sys.executable, "-m", "gan3d", "fit", "--config", str(tiny)]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    expected = [
        "gan3d: the plan",
        *["  "] * 6,
        "100% | ",
        "gan3d: complete",
        "  ",
        "gan3d: the run",
    ]
    lines = done.stderr.splitlines()
    assert len(lines) == len(expected), done.stderr
    assert all(line.startswith(start) for line, start in zip(lines, expected)), done.stderr


def test_a_difference_is_what_changes_the_learning_not_where_or_how_long_it_runs():
    was = {
        "model": {"r1": {"gamma": 1.0}, "run": {"total_kimg": 1.0}},
        "trainer": {"devices": 1, "precision": None},
        "run_dir": "a",
    }
    now = {
        "model": {"r1": {"gamma": 2.0}, "run": {"total_kimg": 9.0}},
        "trainer": {"devices": 8, "precision": "bf16"},
        "run_dir": "b",
    }
    assert differences(was, now) == [
        ("model.r1.gamma", 1.0, 2.0),
        ("trainer.precision", None, "bf16"),
    ]
    assert differences(was, was) == []
    assert differences({"model": {"a": 1}}, {"model": {"b": 1}}) == [
        ("model.a", 1, "-"),
        ("model.b", "-", 1),
    ]
