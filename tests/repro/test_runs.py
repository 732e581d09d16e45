"""Runs that stop, go on and go back (trials 01, 02, 10, 18, 25, 26, 31).

Refusing is the right answer in 26: other images are not those of the run.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
import yaml

from gan3d.cli import main
from gan3d.cli.run_folder import RunFolder
from gan3d.data.heads import write_heads
from gan3d.training.checkpoints import Checkpoints


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """heads(num) is a set of so many heads."""
    folder, made = tmp_path_factory.mktemp("heads"), {}

    def make(num: int) -> Path:
        if num not in made:
            made[num] = folder / f"{num}.zip"
            write_heads(made[num], num=num, resolution=32, seed=num, workers=1)
        return made[num]

    return make


@pytest.fixture
def small(heads) -> list:
    sizes = [
        word
        for network in ("generator", "discriminator")
        for name, value in (("img_resolution", 32), ("channel_base", 256))
        for word in (f"--model.{network}.{name}", value)
    ]
    return [
        *("--config", "stylegan2_heads64.yaml", "--config", "debug.yaml", "--data.path", heads(8)),
        *("--data.resolution", 32, "--model.run.log_every_kimg", 0.004, "--run_dir", "run", *sizes),
    ]


@pytest.fixture
def fit(tmp_path, monkeypatch, small, capsys):
    """fit(words) -> (exit code, what was said), in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words) -> tuple[int, str]:
        code = main(["fit", *map(str, [*small, *words])])
        return code, capsys.readouterr().err

    return run


def done(answer: tuple[int, str]) -> str:
    assert answer[0] == 0, answer[1]
    return answer[1]


def test_01_the_way_back_keeps_what_is_new_and_last_is_it(fit, tmp_path):
    every = ("--checkpoints.every_kimg", 0.004)
    done(fit(*every, "--model.run.total_kimg", 0.012))
    points = tmp_path / "run" / "checkpoints"
    early = points / "kimg-000000.004.ckpt"
    back = (*every, "--model.run.total_kimg", 0.008, "--ckpt_path", early)
    change = ("--allow_config_change", "true", "--model.optimizer_g.lr")
    done(fit(*back, *change, 0.001))
    newest = RunFolder(tmp_path / "run").newest().name
    assert newest == (points / "last.ckpt").readlink().name == "kimg-000000.008.ckpt"
    # keep=1: what was just saved must be there
    done(fit(*back, *change, 0.002, "--checkpoints.keep", 1))
    assert (points / "last.ckpt").exists()
    assert RunFolder(tmp_path / "run").newest().name == (points / "last.ckpt").readlink().name


def test_02_a_changed_config_changes_all_numbers_of_adam(fit, tmp_path):
    done(fit())
    done(
        fit(
            *("--ckpt_path", "last", "--allow_config_change", "true"),
            *("--model.run.total_kimg", 0.008, "--model.optimizer_d.lr", 0.0005),
            *("--model.optimizer_d.beta2", 0.9, "--model.optimizer_d.eps", 1e-6),
            *("--model.r1.interval", 4),
        )
    )
    last = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    group = last["optimizer_states"][1]["param_groups"][0]
    record = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["model"]
    c = record["r1"]["interval"] / (record["r1"]["interval"] + 1)
    adam = record["optimizer_d"]
    meant = (adam["lr"] * c, adam["beta2"] ** c, adam["eps"])
    assert (group["lr"], group["betas"][1], group["eps"]) == pytest.approx(meant, abs=1e-12)
    assert meant == pytest.approx((4e-4, 0.9192, 1e-6), abs=1e-4)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_10_a_signal_saves_and_is_no_success(sign, small, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    command = [sys.executable, "-m", "gan3d", "fit", *small, "--model.run.total_kimg", 1000]
    with log.open("w") as said:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        job = subprocess.Popen(list(map(str, command)), cwd=tmp_path, stderr=said, env=environment)
    until, metrics = time.monotonic() + 120, run / "metrics.csv"
    while time.monotonic() < until and job.poll() is None:
        if metrics.exists() and metrics.read_text().count("\n") > 6:
            break
        time.sleep(0.2)
    job.send_signal(sign)
    assert job.wait(timeout=60) == 128 + sign
    (saved,) = run.glob("checkpoints/kimg-*")
    last = log.read_text().strip().splitlines()[-2:]
    assert f"stopped by {sign.name} at" in last[0]
    assert f"checkpoints/{saved.name} was written" in last[0]
    assert last[1] == "  go on: lightning fit --config run/config.yaml --ckpt_path last"


def test_18_where_links_can_not_be_made_checkpoints_are_saved_all_the_same(tmp_path, monkeypatch):
    def refuse(self, *_, **__):
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    trainer = types.SimpleNamespace(
        is_global_zero=True,
        fast_dev_run=False,
        strategy=types.SimpleNamespace(checkpoint_io=None, broadcast=lambda error: error),
        save_checkpoint=lambda path, weights_only: path.write_bytes(b"x"),
    )
    Checkpoints(dir=tmp_path).save(trainer, 4)
    assert (tmp_path / "last.ckpt").read_bytes() == b"x"


def test_25_a_trial_leaves_nothing_and_the_real_run_starts(fit, tmp_path):
    assert "fast_dev_run" in done(fit("--trainer.fast_dev_run", "true"))
    assert list((tmp_path / "run" / "checkpoints").glob("*")) == []
    done(fit())


def test_26_other_images_are_refused_and_named(fit, heads):
    done(fit())
    code, said = fit(
        *("--data.path", heads(20), "--ckpt_path", "last", "--model.run.total_kimg", 0.008)
    )
    assert code == 2
    assert "8 images -> 20" in said


def test_31_a_checkpoint_older_than_the_three_in_the_folder_goes_on(fit, tmp_path):
    every, points = ("--checkpoints.every_kimg", 0.004), tmp_path / "run" / "checkpoints"
    done(fit(*every, "--model.run.total_kimg", 0.004))
    shutil.copy(points / "kimg-000000.004.ckpt", tmp_path / "backup.ckpt")
    # the folder now holds 12, 16, 20
    done(fit(*every, "--ckpt_path", "last", "--model.run.total_kimg", 0.020))
    rows = len((tmp_path / "run/metrics.csv").read_text().splitlines())
    done(fit(*every, "--ckpt_path", tmp_path / "backup.ckpt", "--model.run.total_kimg", 0.008))
    assert (points / "kimg-000000.008.ckpt").exists()
    assert (points / "last.ckpt").readlink().name == "kimg-000000.008.ckpt"
    aside = points / "abandoned-1"
    assert len((aside / "metrics.csv").read_text().splitlines()) == rows
    assert len(list(aside.glob("kimg-*.ckpt"))) == 3
