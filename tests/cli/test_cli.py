"""The command line: what it promises, what it refuses and how it says so."""

import json
import os
import re
import resource
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from wandb.proto import wandb_internal_pb2

import gan3d
from gan3d.cli import configs, main
from gan3d.cli.messages import CommandError, nearest
from gan3d.cli.options import flat, surface, type_text
from gan3d.cli.record import differences

HERE = Path(__file__).parent
OVERLAYS = [name for name in configs.names() if configs.summary(name).startswith("Overlay")]
COMPLETE = [name for name in configs.names() if name not in OVERLAYS]
BATCH = 8


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path):
    """Runs the command line in an empty folder: words -> (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GAN3D_TRACEBACK", raising=False)

    def run(*words) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def tiny(tmp_path, posed_zip) -> Path:
    """A complete config of a run that takes a second."""
    from gan3d.discriminators import DualDiscriminator
    from gan3d.generators import EG3D

    path = tmp_path / "tiny.yaml"
    content = {
        "model": {
            "generator": {
                "class_path": "EG3D",
                "init_args": json.loads(json.dumps(EG3D.tiny, default=vars)),
            },
            "discriminator": {
                "class_path": "DualDiscriminator",
                "init_args": DualDiscriminator.tiny,
            },
            "run": {"total_kimg": 2 * BATCH / 1000, "log_every_kimg": BATCH / 1000},
        },
        "data": {"path": str(posed_zip), "batch_size": BATCH, "num_workers": 0, "heldout": 8},
        "trainer": {"accelerator": "cpu", "devices": 1},
        "snapshots": {"num_heads": 2, "video_every": 0},
        "evaluation": {"num_images": 8},
    }
    path.write_text(yaml.safe_dump(content))
    return path


# ------------------------------------------------------------ the first stage, without torch


def test_help_version_and_mistaken_names_are_answered_without_importing_torch(tmp_path):
    program = (
        "import sys; from gan3d.cli import main\n"
        "for words in ('--help', '--version', 'configs', 'fti', 'fit --config none.yaml'): "
        "main(words.split())\n"
        "sys.exit(len({'torch', 'lightning', 'numpy'} & set(sys.modules)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True
        ).returncode
        == 0
    )


def test_verbs_beside_the_trainers_are_answered_without_importing_lightning(tmp_path):
    program = (
        "import sys; from gan3d.cli import main\n"
        "for words in ('export training --help', 'stylize --help', 'import cips3d --help'): "
        "main(words.split())\n"
        "sys.exit('lightning' in sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True
        ).returncode
        == 0
    )


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_help_and_version_answer_within_a_second(words):
    took = []
    for _ in range(3):  # the machine may be busy
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "gan3d", *words], check=True, capture_output=True)
        took.append(time.perf_counter() - start)
    assert min(took) < 1


def test_fit_help_takes_less_than_ten_seconds():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "gan3d", "fit", "--help"], capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "--model.r1.gamma" in done.stdout
    # The processor's time, as other tests run beside this one.
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 10


def test_help_names_every_verb(cli):
    code, out, _ = cli("--help")
    assert code == 0
    assert cli("--version")[1] == f"gan3d {gan3d.__version__}\n"
    for verb in ("fit", "validate", "test", "predict", "configs", "data heads", "report"):
        assert re.search(rf"^  {verb} ", out, re.MULTILINE), verb


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fti"], ["fti is not a verb", "did you mean fit?"]),
        (["data", "haeds"], ["did you mean data heads?"]),
        (["data"], ["data needs one more word", "data heads"]),
        (["--config", "x.yaml", "fit"], ["the verb comes first"]),
        (
            ["fit", "--config", "eg3d_head32.yaml"],
            ["no config eg3d_head32.yaml", "eg3d_heads32.yaml"],
        ),
        (["fit", "--config=nothing_like_it"], ["no config nothing_like_it", "gan3d configs"]),
        (["data", "heads", "--otu", "x.zip"], ["no option --otu", "did you mean --out?"]),
        (
            ["data", "heads", "--out", "x.zip", "--num", "some"],
            ["--num: 'some' is not of type int"],
        ),
    ],
    ids=" ".join,
)
def test_a_misspelt_verb_config_or_option_is_refused_with_the_nearest(cli, words, expected):
    code, _, err = cli(*words)
    assert code == 2
    for text in expected:
        assert text in err


def test_a_file_goes_before_a_packaged_config_and_the_suffix_may_be_left_out(cli, tmp_path):
    packaged = configs.find("debug.yaml")
    assert packaged == configs.find("debug") == configs.folder() / "debug.yaml"
    (tmp_path / "debug.yaml").write_text("model: {run: {total_kimg: 7}}\n")
    assert configs.find("debug.yaml") == Path("debug.yaml")
    assert configs.resolve(["fit", "--config=debug.yaml", "-c", "bf16"])[0] == [
        "fit", "--config=debug.yaml", "-c", str(configs.folder() / "bf16.yaml"),
    ]  # fmt: skip


def test_the_package_gives_its_names_lazily():
    assert gan3d.Generator.__name__ == "Generator"
    with pytest.raises(AttributeError, match=r"did you mean gan3d\.Generator\?"):
        _ = gan3d.Generatr


# ------------------------------------------------------------ configs


def printed(cli, *words) -> dict:
    code, out, err = cli("fit", *words, "--print_config")
    assert code == 0, err
    return yaml.safe_load(out)


@pytest.mark.parametrize("name", COMPLETE)
def test_every_complete_config_parses_and_says_what_it_is(cli, name):
    assert configs.summary(name)
    config = printed(cli, "--config", name, "--data.path", "x.zip")
    assert config["run_dir"] == f"runs/{Path(name).stem}"
    # an undocumented key of jsonargparse that drops whole sections
    assert "config" not in yaml.safe_load((configs.folder() / name).read_text())


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_lies_on_top_of_a_complete_config(cli, overlay):
    base = ("--config", "eg3d_heads32.yaml", "--data.path", "x.zip")
    plain, overlaid = (
        dict(flat(printed(cli, *words))) for words in (base, (*base, "--config", overlay))
    )
    meant = dict(flat(yaml.safe_load((configs.folder() / overlay).read_text())))
    assert {name: overlaid[name] for name in meant} == meant
    assert {name for name in overlaid if overlaid[name] != plain[name]} <= set(meant)


def test_short_class_names_and_nested_overrides_reach_the_config(cli, tiny):
    config = printed(cli, "--config", tiny, "--model.generator.z_dim", "7", "--model.r1.gamma", "5")
    assert re.fullmatch(
        r"gan3d\.(generators\.)?(eg3d\.)?EG3D", config["model"]["generator"]["class_path"]
    )
    assert config["model"]["generator"]["init_args"]["z_dim"] == 7
    assert config["model"]["r1"]["gamma"] == 5
    assert config["trainer"]["use_distributed_sampler"] is False


def test_a_generators_own_arguments_have_a_help_page(cli):
    code, out, _ = cli("fit", "--model.generator.help", "EG3D")
    assert code == 0
    assert "--model.generator.z_dim" in out


def test_an_override_of_one_option_keeps_the_others_of_its_group(cli, tiny, tmp_path):
    over = tmp_path / "over.yaml"
    over.write_text("model: {generator: {init_args: {render: {importance_samples: 5}}}}")
    words = ("--model.generator.render.depth_samples", "8", "--model.generator.planes.axes=fixed")
    config = printed(cli, "--config", tiny, "--config", over, *words)
    arguments = config["model"]["generator"]["init_args"]
    render = arguments["render"]
    assert (render["depth_samples"], render["importance_samples"]) == (8, 5)
    assert render["ray_start"] == 2.25
    assert arguments["planes"] == {"resolution": 16, "channels": 8, "axes": "fixed"}
    assert arguments["superresolution"]["layout"] == "2X"


def test_a_generator_of_the_users_own_is_found_in_the_present_folder(tiny, tmp_path):
    (tmp_path / "my_gans").mkdir()
    (tmp_path / "my_gans" / "own.py").write_text(
        "from gan3d.generators import EG3D\n\n\nclass Own(EG3D):\n    pass\n"
    )
    program = "import sys; sys.path.remove(''); from gan3d.cli import main; sys.exit(main())"  # as a console script
    words = ["fit", "--config", str(tiny), "--model.generator", "my_gans.own.Own", "--print_config"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "class_path: my_gans.own.Own" in done.stdout


# ------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "--model.generator.init_args.z_dmi 3",
            ["no option --model.generator.z_dmi", "did you mean --model.generator.z_dim"],
        ),
        (
            "--model.generator.render.depth_smaples 3",
            ["did you mean --model.generator.render.depth_samples?"],
        ),
        (
            "--model.generator.depth_samples 3",
            ["did you mean --model.generator.render.depth_samples?"],
        ),
        (
            "--model.generator.superresolution none",
            ["'none' is not a group of options", "--model.generator.superresolution.layout"],
        ),
        (
            "--config nested.yaml",
            [
                "no option --model.generator.render.depth_smaples (nested.yaml)",
                "did you mean --model.generator.render.depth_samples?",
            ],
        ),
        ("--model.generator EGD3", ["--model.generator: there is no", "did you mean EG3D?"]),
        ("--model.generator.z_dim many", ["--model.generator.z_dim: 'many' is not of type int"]),
        ("--model.r1.gama 3", ["did you mean --model.r1.gamma?"]),
        ("--model.gamma 3", ["did you mean --model.r1.gamma or --model.r2.gamma?"]),
        ("--model.r1.gamma much", ["--model.r1.gamma: 'much' is not of type float"]),
        ("--trainer.max_tim 1", ["did you mean --trainer.max_time"]),  # no abbreviations
        ("--trainer.precision bf17", ["bf17 is not one of", "did you mean bf16"]),
        ("--wandb onlin", ["onlin is not one of off, offline, online", "did you mean online"]),
        ("--model.density.kind l2", ["l2 is not one of l1, monotonic-detach"]),
        (
            "--model.fakes.poses.yaw_std 1",
            [
                "--model.fakes.poses.yaw_std: say first which class: --model.fakes.poses DatasetPoses|"
            ],
        ),
        ("stray", ["stray is one word too many"]),
        ("--config broken.yaml", ["broken.yaml, line 2: this is not YAML"]),
        (
            "--config misspelt.yaml",
            ["no option --modle.run.seed (misspelt.yaml)", "did you mean --model.run.seed"],
        ),
        ("--data.path nowhere.zip", ["nowhere.zip"]),
        ("--data.path corrupt.zip", ["corrupt.zip"]),
        ("--ckpt_path last", ["no whole checkpoint in runs/tiny/checkpoints"]),
        ("--ckpt_path nowhere.ckpt", ["no checkpoint nowhere.ckpt"]),
        ("--ckpt_path corrupt.zip", ["corrupt.zip is no checkpoint"]),
        ("--trainer.default_root_dir x", ["--run_dir"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_ends_with_one_clear_message_and_no_traceback(
    cli, tiny, tmp_path, words, expected
):
    (tmp_path / "broken.yaml").write_text("model: [\n")
    (tmp_path / "misspelt.yaml").write_text("modle: {run: {seed: 3}}\n")
    (tmp_path / "nested.yaml").write_text(
        "model: {generator: {init_args: {render: {depth_smaples: 3}}}}"
    )
    (tmp_path / "corrupt.zip").write_bytes(b"no archive")
    code, _, err = cli("fit", "--config", tiny, *words.split())
    assert code == 2
    for text in expected:
        assert text in err
    assert "Traceback" not in err
    assert err.count("gan3d: error:") == 1
    assert len(err.splitlines()) <= 5
    assert not (tmp_path / "runs").exists()


def test_fit_without_a_config_says_how_to_start(cli):
    code, _, err = cli("fit")
    assert code == 2
    assert "not given: --model.generator, --model.discriminator, --data.path" in err
    assert "gan3d configs" in err


def test_the_traceback_is_there_for_the_asking(cli, tiny, monkeypatch):
    monkeypatch.setenv("GAN3D_TRACEBACK", "1")
    with pytest.raises(CommandError):
        main(["fit", "--config", str(tiny), "--ckpt_path", "last"])


@pytest.mark.parametrize(
    ("failure", "code", "text"),
    [
        (ArithmeticError("loss/generator is not finite"), 1, "loss/generator is not finite"),
        (OSError(28, "No space left on device"), 2, "No space left on device"),
        (KeyboardInterrupt(), 130, "--ckpt_path last"),
    ],
    ids=["diverged", "disk full", "interrupted"],
)
def test_a_failed_run_has_its_exit_code_and_says_how_to_go_on(
    cli, tiny, monkeypatch, failure, code, text
):
    def fail(*args):
        raise failure

    monkeypatch.setattr("gan3d.cli.trainer.run", fail)
    got, _, err = cli("fit", "--config", tiny)
    assert got == code
    assert text in err


def test_what_is_not_foreseen_keeps_its_traceback(cli, tiny, monkeypatch):
    def fail(*args):
        raise RuntimeError("a defect")

    monkeypatch.setattr("gan3d.cli.trainer.run", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        main(["fit", "--config", str(tiny)])


def test_nearest_looks_in_the_group_first_then_for_the_same_word_elsewhere():
    known = [
        "model.r1.gamma",
        "model.r1.interval",
        "model.run.seed",
        "data.seed",
        "trainer.max_time",
    ]
    assert nearest("model.r1.gama", known) == "did you mean --model.r1.gamma?"
    assert nearest("model.gamma", known) == "did you mean --model.r1.gamma?"
    assert nearest("seed", known) == "did you mean --model.run.seed or --data.seed?"
    assert nearest("zzz", known) == ""


def test_types_are_written_as_a_person_would():
    assert type_text(int | None) == "int | None"
    assert type_text(tuple[float, float]) == "tuple[float, float]"


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

    code, _, err = cli("fit", "--config", tiny)
    assert code == 2
    for way_out in ("--ckpt_path last", "--run_dir", "--overwrite true"):
        assert way_out in err

    more = ("--config", folder / "config.yaml", "--model.run.total_kimg", 4 * BATCH / 1000)
    code, _, err = cli("fit", *more, "--ckpt_path", "last")
    assert code == 0, err
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["state_dict"]["images_seen"] == 4 * BATCH


def test_a_changed_config_is_refused_on_resume_and_the_difference_shown(cli, tiny, tmp_path):
    assert cli("fit", "--config", tiny)[0] == 0
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


def test_overwriting_removes_what_the_run_wrote_and_nothing_else(cli, tiny, tmp_path):
    assert cli("fit", "--config", tiny)[0] == 0
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


def test_evaluation_needs_a_checkpoint_of_the_same_models(cli, tiny):
    code, _, err = cli("validate", "--config", tiny)
    assert code == 2
    assert "validate needs a checkpoint" in err
    assert cli("fit", "--config", tiny)[0] == 0
    code, _, err = cli(
        "validate", "--config", tiny, "--ckpt_path", "last", "--model.generator.z_dim", "9"
    )
    assert code == 2
    assert "model.generator.init_args.z_dim" in err
    code, _, err = cli("validate", "--config", tiny, "--ckpt_path", "last", "--data.heldout", "4")
    assert code == 0, err


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_evaluating_a_checkpoint_shows_its_distance_and_leaves_the_run_as_it_was(
    cli, tiny, tmp_path, verb
):
    assert cli("fit", "--config", tiny)[0] == 0
    run = tmp_path / "runs" / "tiny"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, out, err = cli(verb, "--config", tiny, "--ckpt_path", "last", "--data.heldout", "4")
    assert code == 0, err
    assert "distance/frechet" in out
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_predict_writes_pictures(cli, tiny, tmp_path):
    assert cli("fit", "--config", tiny)[0] == 0
    code, _, err = cli("predict", "--config", tiny, "--ckpt_path", "last")
    assert code == 0, err
    folder = tmp_path / "runs" / "tiny" / "predictions"
    assert "the pictures are in runs/tiny/predictions" in err
    assert Image.open(folder / "000000.png").size == (32, 32)
    assert Image.open(folder / "sheet_000000.png").width >= 32


def wandb_record(path: Path) -> tuple[set[str], set[str]]:
    """History keys and media files of an offline W&B file (LevelDB log: 32 KiB blocks; chunks of
    crc, size, kind).
    """
    data, at, record, keys, files = path.read_bytes(), 7, b"", set(), set()
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
    return keys, files


def test_wandb_gets_what_the_disk_gets(cli, tiny, tmp_path):
    shown = (
        "--snapshots.every_kimg",
        "1",
        "--snapshots.video_every",
        "1",
        "--snapshots.video_frames",
        "4",
    )
    code, _, err = cli("fit", "--config", tiny, "--wandb", "offline", *shown)
    assert code == 0, err
    folder = tmp_path / "runs" / "tiny"
    (record,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    patience = (
        time.monotonic() + 30
    )  # W&B's own process writes it, on a busy machine some time after
    while not all(wandb_record(record)) and time.monotonic() < patience:
        time.sleep(0.5)
    keys, files = wandb_record(record)
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


def test_wandb_keeps_its_run_id_over_a_resume(cli, tiny, tmp_path):
    assert cli("fit", "--config", tiny, "--wandb", "offline")[0] == 0
    folder = tmp_path / "runs" / "tiny"
    run_id = (folder / "wandb_id.txt").read_text().strip()
    (folder / "wandb_id.txt").unlink()  # the checkpoint knows it, too
    go_on = ("--ckpt_path", "last", "--model.run.total_kimg", 3 * BATCH / 1000)
    code, _, err = cli("fit", "--config", tiny, "--wandb", "offline", *go_on)
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
    news = [
        line
        for line in done.stderr.splitlines()
        if not re.match(r" *\d+% \| |gan3d: the run is in ", line)
    ]
    assert news == []


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


# ------------------------------------------------------------ the surface


def test_the_surface_is_the_promised_one(monkeypatch, request):
    """Every option of `fit` with its type. After a change that is meant, rewrite the file with the
    command below.
    """
    from gan3d.cli.trainer import TrainerCLI

    class Stop(Exception):
        pass

    def stop(self, parser, args):
        raise Stop(surface(self._parser("fit")))

    monkeypatch.setattr(TrainerCLI, "parse_arguments", stop)
    with pytest.raises(Stop) as stopped:
        TrainerCLI("fit", ["fit"], [])
    lines = "".join(f"{name}: {kind}\n" for name, kind in sorted(stopped.value.args[0].items()))
    path = HERE / "cli_surface.txt"
    if request.config.getoption("--update"):
        path.write_text(lines)
    again = "python -m pytest tests/cli/test_cli.py -k surface --update"
    assert path.read_text() == lines, f"the command line changed; if that is meant: {again}"
