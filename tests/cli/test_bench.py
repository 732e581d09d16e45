"""`gan3d bench`: models are trained under a suite and measured by it, and results are compared."""

import json
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import yaml
from PIL import Image

from gan3d.bench.results import SCHEMA
from gan3d.bench.suites import find_suite, photographs
from gan3d.checkpoints.runs import read_checkpoint, unpack_config
from gan3d.cli.bench import _to_its_end, made
from gan3d.data.heads import write_heads
from gan3d.generators import EG3D, StyleGAN2

SUITE = {
    "data": {
        "recipe": "heads",
        "resolution": 32,
        "train": {"num": 24, "seed": 1},
        "real": {"num": 16, "seed": 2},
    },
    "budget_kimg": 0.032,
    "options": ["--evaluation.num_images", "0"],
    "measures": ["frechet", "turn"],
    "features": ["headnet"],
    "num_fakes": 8,
    "num_heads": 2,
    "resamples": 4,
}


def read(path: Path) -> dict:
    record = json.loads(path.read_text())
    jsonschema.validate(record, json.loads(SCHEMA.read_text()))
    return record


@pytest.fixture(scope="session")
def sets(tmp_path_factory) -> Path:
    """The sets of SUITE, made once."""
    folder = tmp_path_factory.mktemp("sets")
    for name in ("train", "real"):
        num, seed = SUITE["data"][name]["num"], SUITE["data"][name]["seed"]
        path = folder / f"heads32_{num}_{seed}.zip"
        write_heads(path, num=num, resolution=32, seed=seed, workers=1, supersample=1)
    return folder


@pytest.fixture
def suite(tmp_path, sets) -> Path:
    path = tmp_path / "mini.yaml"
    path.write_text(yaml.safe_dump(SUITE))
    shutil.copytree(sets, tmp_path / "out" / "data")
    return path


def test_the_quick_suite_trains_and_evaluates(cli, tmp_path):
    words = ("bench", "run", "--suite", "quick", "--model", "eg3d_heads32.yaml")
    code, _, errors = cli(*words, "--out", "out", "--device", "cpu")
    assert code == 0, errors
    record = read(tmp_path / "out" / "quick" / "eg3d_heads32-seed0.json")
    assert record["training"]["by_suite"]
    assert (record["training"]["images"], record["training"]["seed"]) == (64, 0)
    assert 0 < record["training"]["cpu_seconds"] < 1.1 * record["training"]["seconds"]
    moved = {record["absent"].pop("eqt"), record["absent"].pop("eqr")}
    assert "EG3D takes no transform of its picture" in moved.pop()
    assert set(record["absent"].values()) <= {"there is nothing to compare in any head"}
    assert {"fd_headnet/same", "fd_headnet/3d", "face_slope", "turn"} <= set(record["values"])


def test_a_run_goes_on_is_evaluated_again_and_counts_by_what_it_was_trained_on(
    cli, tiny, suite, tmp_path
):
    run = tmp_path / "out" / "mini" / "tiny-seed0"
    data = made(find_suite(suite).train, tmp_path / "out")
    plain = ("fit", "--config", tiny, "--data.path", data, "--seed_everything", 0)
    length = ("--model.run.total_kimg", 0.032, "--trainer.max_steps", 2)
    options = ("--run_dir", run, "--threads", 1, "--evaluation.num_images", 0)
    assert cli(*plain, *length, *options)[0] == 0

    # what was trained by `fit` goes on
    bench = ("bench", "run", "--suite", suite, "--device", "cpu", "--out", "out")
    assert cli(*bench, "--model", tiny)[0] == 0
    first = read(run.with_suffix(".json"))
    assert (first["training"]["images"], first["training"]["why_not"]) == (32, [])
    assert first["model"]["images_seen"] == 32
    newest = (run / "checkpoints" / "last.ckpt").resolve()
    stamp = newest.stat().st_mtime_ns

    # what is finished is only evaluated, by its folder too
    for model in (tiny, run):
        assert cli(*bench, "--model", model)[0] == 0
        again = read(run.with_suffix(".json"))
        assert again["values"] == first["values"]
        assert newest.stat().st_mtime_ns == stamp

    # with another budget it is another run
    longer = tmp_path / "longer.yaml"
    longer.write_text(yaml.safe_dump(SUITE | {"budget_kimg": 0.064}))
    refused = ("bench", "run", "--suite", longer, "--device", "cpu", "--out", "out")
    code, _, errors = cli(*refused, "--model", run)
    assert code == 2
    assert "its budget is 0.032 kimg, expected 0.064 in all" in errors
    assert f"gan3d bench eval {run} --suite longer" in errors
    evaluated = ("bench", "eval", run, "--suite", longer, "--device", "cpu", "--out", "out")
    assert cli(*evaluated)[0] == 0
    other = read(tmp_path / "out" / "longer" / "tiny-seed0.json")
    assert not other["training"]["by_suite"]

    # with other data, too
    path = tmp_path / "out" / "data" / "heads32_24_1.zip"
    shutil.copy(path.with_name("heads32_16_2.zip"), path)
    code, _, errors = cli(*bench, "--model", run)
    assert code == 2
    assert "its data are not heads32_24_1.zip: 24 images -> 16, " in errors


@pytest.mark.slow
def test_stages_share_the_budget(cli, tiny, suite, tmp_path):
    """A run of 16 images, and one of the other 16 that starts from it."""
    data = made(find_suite(suite).train, tmp_path / "out")
    plain = ("fit", "--config", tiny, "--data.path", data, "--threads", 1)
    assert cli(*plain, "--run_dir", "first", "--evaluation.num_images", 0)[0] == 0

    bench = ("bench", "run", "--suite", suite, "--model", tiny, "--device", "cpu", "--out", "out")
    assert cli(*bench, "--init", "first")[0] == 0
    path = tmp_path / "out" / "mini" / "tiny-seed0.json"
    training = read(path)["training"]
    assert (training["images"], training["why_not"]) == (32, [])
    first, second = training["stages"]
    assert (first["run"], first["images"]) == ("first", 16)
    assert (second["run"], second["images"]) == ("tiny-seed0", 16)
    assert training["seconds"] == pytest.approx(first["seconds"] + second["seconds"], abs=0.11)
    assert read(path)["model"]["images_seen"] == 16

    # the first stage is found from the folder that it was named in
    checkpoint = read_checkpoint(path.with_suffix("") / "checkpoints" / "last.ckpt")
    named = unpack_config(checkpoint)["model"]["run"]["init_from"]
    assert Path(named) == (tmp_path / "first" / "checkpoints" / "last.ckpt").resolve()

    # its images are the budget's, and its heads
    code, _, errors = cli(*bench, "--init", "first", "--seed", 1, "--suite", shorter(suite, 0.016))
    assert code == 2
    assert "has seen 16 images, all of the budget of 0.016 kimg" in errors
    other = shutil.copy(data.with_name("heads32_16_2.zip"), data)
    code, _, errors = cli(*bench, "--init", "first")
    assert code == 2
    assert "first's data are not heads32_24_1.zip: 24 images -> 16" in errors
    assert other == data

    # without it
    shutil.move("first", "elsewhere")
    code, _, errors = cli(*bench[:4], "--model", path.with_suffix(""), *bench[6:])
    assert code == 2
    assert "from which it starts, is not known" in errors


@pytest.mark.slow
def test_a_budget_may_be_that_of_the_last_stage(cli, tiny, suite, tmp_path):
    data = made(find_suite(suite).train, tmp_path / "out")
    plain = ("fit", "--config", tiny, "--data.path", data, "--threads", 1)
    assert cli(*plain, "--run_dir", "first", "--evaluation.num_images", 0)[0] == 0
    last = shorter(suite, 0.016, "last")
    bench = ("bench", "run", "--suite", last, "--model", tiny, "--device", "cpu", "--out", "out")
    for _ in range(2):  # the second time it is finished
        assert cli(*bench, "--init", "first")[0] == 0
    training = read(tmp_path / "out" / "shorter" / "tiny-seed0.json")["training"]
    assert (training["images"], training["why_not"]) == (32, [])
    assert [stage["images"] for stage in training["stages"]] == [16, 16]


def shorter(suite: Path, kimg: float, stages: str = "all") -> Path:
    """The same suite with another budget."""
    path = suite.with_name("shorter.yaml")
    path.write_text(yaml.safe_dump(SUITE | {"budget_kimg": kimg, "stages": stages}))
    return path


def test_models_of_both_kinds_are_evaluated_the_same_numbers_come_again_and_never_mix(
    cli, suite, tmp_path
):
    for cls in (EG3D, StyleGAN2):
        cls(**cls.tiny | {"img_resolution": 32}).save_pretrained(f"{cls.__name__}.safetensors")
    models = [tmp_path / f"{cls.__name__}.safetensors" for cls in (EG3D, StyleGAN2)]
    options = ("--suite", suite, "--device", "cpu", "--out", "out")
    assert cli("bench", "eval", *models, *options)[0] == 0
    files = [tmp_path / "out" / "mini" / f"{model.stem}.json" for model in models]
    solid, flat = map(read, files)
    assert solid["protocol_hash"] == flat["protocol_hash"]
    assert "StyleGAN2 has no camera" in flat["absent"]["fd_headnet/3d"]
    assert flat["absent"]["turn"]
    assert {name.partition(".")[2] for name in solid["pictures"].values()} == {"png", "mp4"}
    assert Image.open(files[1].with_suffix(".png")).size[0] > 100

    # again
    code, _, errors = cli("bench", "eval", models[0], *options)
    assert code == 2
    assert "exists already" in errors
    assert cli("bench", "eval", models[0], *options, "--overwrite", "true")[0] == 0
    assert read(files[0])["values"] == solid["values"]

    # a table and a page of both
    code, out, _ = cli("bench", "table", "out/mini")
    assert code == 0
    assert "| EG3D | EG3D |" in out
    written = ("--out", "board.md", "--html", "board.html")
    assert cli("bench", "table", *files, *written)[0] == 0
    assert (tmp_path / "board.md").read_text() == out
    assert "data:video/mp4" in (tmp_path / "board.html").read_text()

    # another seed is another protocol
    assert cli("bench", "eval", models[1], *options, "--seed", 1, "--overwrite", "true")[0] == 0
    code, _, errors = cli("bench", "table", *files)
    assert code == 2
    assert "measured by different protocols and are not ranked together: seed: 0 / 1" in errors


SAVES = """\
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
pathlib.Path("ready").touch()
time.sleep(60)
"""


def test_a_training_is_asked_to_stop_with_the_command_and_waited_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)

    def ask() -> None:
        while not Path("ready").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    assert _to_its_end([sys.executable, "-c", SAVES], os.environ) == 7
    asking.join()
    assert signal.getsignal(signal.SIGTERM) == before


def test_photographs_take_the_place_of_a_suite(cli, suite, tmp_path, monkeypatch):
    short = replace(photographs(), num_scenes=2, fit_steps=4)  # the fields need not fit
    monkeypatch.setattr("gan3d.cli.bench.photographs", lambda: short)
    EG3D(**EG3D.tiny | {"img_resolution": 32}).save_pretrained("heads")
    data = tmp_path / "out" / "data" / "heads32_16_2.zip"
    words = ("bench", "eval", "heads", "--data", data, "--num_fakes", 8, "--num_heads", 2)
    assert cli(*words, "--device", "cpu", "--out", "out")[0] == 0
    record = read(tmp_path / "out" / "photographs" / "heads.json")
    assert record["suite"] == "photographs"
    assert {"fd_small/same", "fd_small/3d", "precision_small"} <= set(record["values"])
    assert record["protocol"]["real"]["images"] == 16


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("eval", "eg3d_heads32"), "give either --suite NAME or --data"),
        (("eval", "eg3d_heads32", "--suite", "heads23"), "there is no suite heads23"),
        (("eval", "eg3d_heads3", "--suite", "heads32"), "did you mean eg3d_heads32"),
        (("eval", "eg3d_heads32", "eg3d_heads32", "--suite", "heads32"), "are called eg3d_heads32"),
        (("run", "--suite", "quick", "--model", "eg3d_head32"), "there is no config eg3d_head32"),
        (
            ("run", "--suite", "quick", "--model", "stylegan2_heads64"),
            "stylegan2_heads64.yaml makes pictures of 64 px, the suite is one of 32 px",
        ),
        (
            ("eval", "eg3d_heads32", "--suite", "quick", "--features", "small,smal"),
            "there are no features smal; known: headnet, small, mobilenet",
        ),
        (
            ("run", "--suite", "heads64", "--model", "gramhd_heads64"),
            "GRAMHD starts from a run of GRAM, its stage 1; give it: --init RUN_FOLDER",
        ),
        (("table", "nothing"), "nothing is no result of gan3d bench"),
        (("tabel",), "did you mean bench table"),
    ],
)
def test_what_is_wrong_is_said_before_the_work(cli, words, message):
    code, _, errors = cli("bench", *words)
    assert code == 2
    assert message in errors


def test_a_model_of_another_size_is_refused(cli, suite):
    code, _, errors = cli("bench", "eval", "stylegan2_heads64", "--suite", suite, "--out", "out")
    assert code == 2
    assert "makes pictures of 64 px, suite mini is one of 32 px" in errors


def test_the_suites_are_listed(cli):
    code, out, _ = cli("bench", "suites")
    assert code == 0
    assert all(name in out for name in ("quick", "heads32", "heads64", "heads-ffhq32"))
