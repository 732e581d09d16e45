"""The command line: what it promises, what it refuses and how it says so."""

import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import gan3d
from gan3d.cli import configs, main
from gan3d.cli.help import PAGES
from gan3d.cli.messages import CommandError, nearest
from gan3d.cli.options import flat, surface, type_text

HERE = Path(__file__).parent
OVERLAYS = [name for name in configs.names() if configs.summary(name).startswith("Overlay")]
COMPLETE = [name for name in configs.names() if name not in OVERLAYS]


# ------------------------------------------------------------ the first stage, without torch


def test_help_version_and_mistaken_names_are_answered_without_importing_torch(tmp_path):
    program = (
        "import sys; from gan3d.cli import main\n"
        "for words in ('--help', '--version', 'configs', 'fti', 'fit --config none.yaml',\n"
        "              'fit -h', 'predict --help'):\n"
        "    main(words.split())\n"
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


def test_all_options_of_fit_are_listed_in_less_than_ten_seconds():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "gan3d", "fit", "--help", "all"], capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert "--model.r1.gamma" in done.stdout
    # The processor's time, as other tests run beside this one.
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 10


@pytest.mark.parametrize("verb", PAGES)
def test_the_short_help_of_a_trainers_verb_names_options_that_there_are(cli, verb):
    promised = {line.split(":")[0] for line in (HERE / "cli_surface.txt").read_text().splitlines()}
    promised |= {"config", "help", "print_config", "model.generator.help", "model.generator.z_dim"}
    own = {"predict": {"num", "seed", "truncation"}, "estimate": {"gpu"}}.get(verb, set())
    code, out, _ = cli(verb, "--help")
    assert code == 0
    named = set(re.findall(r"--([\w.]+)", out))
    assert named <= promised | own
    assert own <= named
    assert len(out.splitlines()) < 60
    assert max(map(len, out.splitlines())) <= 100


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
    assert configs.resolve(["--config=debug.yaml", "-c", "bf16"])[0] == [
        "--config=debug.yaml", "-c", str(configs.folder() / "bf16.yaml"),
    ]  # fmt: skip


def test_configs_go_before_options_and_keep_their_order():
    paths = [configs.folder() / name for name in ("eg3d_heads32.yaml", "debug.yaml")]
    words = ["--a", "1", "-c", "eg3d_heads32", "--b", "--config=debug", "--c", "--config"]
    assert configs.resolve(words) == (
        ["-c", str(paths[0]), f"--config={paths[1]}", "--a", "1", "--b", "--c", "--config"],
        paths,
    )


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
    # as a console script
    program = "import sys; sys.path.remove(''); from gan3d.cli import main; sys.exit(main())"
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
        ("--wandb_mode onlin", ["onlin is not one of offline, online", "did you mean online"]),
        ("--logger csv,tensorbord", ["no logger tensorbord", "did you mean tensorboard?"]),
        (
            "--trainer.gradient_clip_val 1",
            ["--trainer.gradient_clip_val 1 is not used", "--model.optimizer_g.clip_norm"],
        ),
        (
            "--trainer.accumulate_grad_batches 2",
            ["--trainer.accumulate_grad_batches 2 is not used", "--model.run.micro_batch_size"],
        ),
        ("--data.batch_size 0", ["--data.batch_size 0: expected at least 1 image"]),
        ("--data.batch_size 7", ["a batch of 7 images", "use --data.batch_size 8"]),
        ("--data.heldout 500", ["--data.heldout 500 of 24 images leaves none"]),
        ("--model.run.total_kimg 0", ["--model.run.total_kimg to thousands of images"]),
        ("--model.run.total_kimg -1", ["--model.run.total_kimg"]),
        ("--model.r1.gamma -3", ["r1 has gamma -3.0"]),
        ("--model.optimizer_g.lr -0.1", ["lr is -0.1; expected", "this is --model.optimizer_g.lr"]),
        ("--threads 0", ["--threads 0 is out of range"]),
        ("--trainer.max_time 5", ["--trainer.max_time 5 is no time", "00:00:08:00"]),
        (
            "--trainer.logger TensorBoardLogger",
            ["--trainer.logger TensorBoardLogger needs --trainer.logger.save_dir"],
        ),
        ("--run_dir auto --ckpt_path last", ["--run_dir auto is a new folder"]),
        ("--model.run.micro_batch_size many", ["many is no int and not one of auto"]),
        ("--model.density.kind l2", ["l2 is not one of l1, monotonic-detach"]),
        (
            "--model.fakes.poses.yaw_std 1",
            [
                "--model.fakes.poses.yaw_std: say first which class: "
                "--model.fakes.poses DatasetPoses|"
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
