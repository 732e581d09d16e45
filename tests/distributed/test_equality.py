"""The number of processes, what they shard, and the size of micro-batches do not change a run."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "training" / "train_tiny.py"
TOLERANCE = 1e-10  # float64, 12 iterations; another data order gives 1e-2
SEEDS = 0, 1  # of the first gradients
TOLERANCE_OF_GRADIENTS = 1e-5  # float32, first iteration, relative
STRATEGIES = "gan_ddp", "gan_fsdp", "gan_fsdp_both"

State = dict[str, torch.Tensor]


def train(data: Path, *options: str | Path) -> None:
    command = [sys.executable, SCRIPT, data, *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]


def load(path: Path) -> State:
    return torch.load(path, weights_only=True)


def distance(a: State, b: State) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a if a[name].numel())


# What is on: see train_tiny.py. cips3d changes its resolution and its batch size and freezes its
# NeRF on the way.
QUICK = "eg3d", "gramhd", "stylegan2"
MODELS = *QUICK, "cips3d", "stylegan3", "pigan"


def param(model: str):
    return pytest.param(model, marks=() if model in QUICK else pytest.mark.slow)


@pytest.fixture(scope="module", params=map(param, MODELS))
def model(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def one_process(model, posed_zip, tmp_path_factory) -> Path:
    """Trained as a whole, in micro-batches, and with another seed; the first gradients."""
    at = tmp_path_factory.mktemp("one")
    whole = ("--model", model, "--out", at / "whole.pt")
    parts = ("then", "--micro", "4", "--out", at / "parts.pt")
    other = ("then", "--seed", "1", "--iterations", "4", "--out", at / "other.pt")
    short = ("then", "--iterations", "4", "--out", at / "short.pt")
    train(posed_zip, *whole, *parts, *other, *short, *first_gradients(at, "one"))
    return at


@pytest.fixture(scope="module")
def two_processes(model, posed_zip, tmp_path_factory) -> Path:
    """Replicated, and with both networks sharded; the first gradients of each strategy."""
    at = tmp_path_factory.mktemp("two")
    first = ("--model", model, "--devices", "2", "--out", at / "gan_ddp.pt")
    both = ("then", "--strategy", "gan_fsdp_both", "--out", at / "gan_fsdp_both.pt")
    each = [word for name in STRATEGIES for word in first_gradients(at, name)]
    train(posed_zip, *first, *both, *each)
    return at


def first_gradients(folder: Path, strategy: str) -> list[str | Path]:
    """Words for trainings of one iteration, in which every phase has a step, from `SEEDS`."""
    options = ["--precision", "32-true", "--iterations", "1", "--out", folder / "one_iteration.pt"]
    if strategy in STRATEGIES:
        options += ["--strategy", strategy]
    words: list[str | Path] = []
    for seed in SEEDS:
        steps = folder / f"gradients_{strategy}_{seed}.pt"
        words += ["then", *options, "--seed", str(seed), "--gradients", steps]
    return words


def read_gradients(folder: Path, strategy: str) -> list[list[State]]:
    """Those of each step, by seed."""
    paths = [folder / f"gradients_{strategy}_{seed}.pt" for seed in SEEDS]
    return [torch.load(path, weights_only=True) for path in paths]


@pytest.mark.parametrize("strategy", ["gan_ddp", "gan_fsdp_both"])
def test_two_processes_train_the_same_model_as_one(strategy, model, one_process, two_processes):
    difference = distance(load(one_process / "whole.pt"), load(two_processes / f"{strategy}.pt"))
    print(f"{model}, 1 process against 2 with {strategy}: {difference:.1e}")
    assert difference < TOLERANCE


def test_accumulated_gradients_are_those_of_the_whole_batch(model, one_process):
    difference = distance(load(one_process / "whole.pt"), load(one_process / "parts.pt"))
    print(f"{model}, whole batch against two micro-batches: {difference:.1e}")
    assert difference < TOLERANCE


def test_the_comparison_sees_another_seed(one_process):
    short, other = load(one_process / "short.pt"), load(one_process / "other.pt")
    assert distance(short, other) > 1e-4


def test_the_first_gradients_agree_in_single_precision(model, one_process, two_processes):
    """Where the input of a leaky ReLU is only rounding error, it takes either slope, and a gradient
    changes by more than rounding. So the gradients of a step have to agree from one of the seeds.
    """
    one = read_gradients(one_process, "one")
    assert min(map(len, one)) >= 2
    for name in STRATEGIES:
        two = read_gradients(two_processes, name)
        by_seed = [list(map(relative, a, b)) for a, b in zip(one, two, strict=True)]
        differences = [min(of_step) for of_step in zip(*by_seed, strict=True)]
        print(f"{model}, 1 process against {name}:", *(f"{x:.1e}" for x in differences))
        assert max(differences) < TOLERANCE_OF_GRADIENTS


def relative(a: State, b: State) -> float:
    """Distance of the gradients of one step, relative to their common norm."""
    assert a.keys() == b.keys()
    difference = sum((a[k] - b[k]).double().square().sum() for k in a)
    return float((difference / sum(a[k].double().square().sum() for k in a)).sqrt())


@pytest.mark.slow
def test_a_sharded_generator_and_micro_batches_change_nothing(
    model, one_process, posed_zip, tmp_path
):
    first = ("--model", model, "--devices", "2", "--strategy", "gan_fsdp")
    micro = ("then", "--micro", "2")
    outs = [("--out", tmp_path / f"{name}.pt") for name in ("whole", "micro")]
    train(posed_zip, *first, *outs[0], *micro, *outs[1])
    for name in ("whole", "micro"):
        difference = distance(load(one_process / "whole.pt"), load(tmp_path / f"{name}.pt"))
        print(f"{model}, 1 process against 2 with gan_fsdp, {name}: {difference:.1e}")
        assert difference < TOLERANCE


@pytest.mark.slow
def test_a_group_of_one_process_changes_nothing(posed_zip, tmp_path):
    """As on one GPU."""
    first = ("--model", "stylegan2", "--iterations", "4", "--out", tmp_path / "plain.pt")
    alone = ("then", "--strategy", "gan_fsdp_both", "--out", tmp_path / "alone.pt")
    train(posed_zip, *first, *alone)
    assert distance(load(tmp_path / "plain.pt"), load(tmp_path / "alone.pt")) < TOLERANCE


def gradient_norms(run: Path) -> dict[str, float]:
    """Those that a run has logged last, by name."""
    with (run / "metrics.csv").open() as file:
        *_, last = csv.DictReader(file)
    return {name: float(value) for name, value in last.items() if name.startswith("gradient/")}


@pytest.mark.slow
def test_copies_of_sharded_networks_change_nothing(posed_zip, tmp_path):
    """As on two machines of two processes each; GRAM-HD's gradients are clipped by their norms."""
    first = ("--model", "gramhd", "--iterations", "3")
    for name, spread in (("one", ()), ("four", ("--devices", "4", "--copies", "2"))):
        train(
            posed_zip, *first, *spread, "--out", tmp_path / f"{name}.pt", "--run", tmp_path / name
        )
    difference = distance(load(tmp_path / "one.pt"), load(tmp_path / "four.pt"))
    print(f"gramhd, 1 process against 2 copies on 2 processes each: {difference:.1e}")
    assert difference < TOLERANCE
    one, four = (gradient_norms(tmp_path / name) for name in ("one", "four"))
    assert len(one) >= 2
    assert four == pytest.approx(one)


@pytest.mark.slow
def test_in_float16_all_processes_skip_the_same_steps(posed_zip, tmp_path):
    """The scale of the losses is too large at first; a part of a sharded network may be finite in
    one process while another's is not.
    """
    first = ("--model", "stylegan2", "--precision", "16-mixed", "--iterations", "6")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    words = (*first, "--devices", "2", "--run", whole, "--out", tmp_path / "whole.pt")
    then = ("then", "--strategy", "gan_fsdp_both", "--run", parts, "--out", tmp_path / "parts.pt")
    train(posed_zip, *words, *then)
    scales, steps = [], []
    for folder in (whole, parts):
        kept = load(folder / "checkpoints" / "last.ckpt")
        scales.append(kept["MixedPrecision"]["scale"])
        steps.append(
            [float(s["step"]) for o in kept["optimizer_states"] for s in o["state"].values()]
        )
    print("scale:", scales, "steps of Adam:", *({*of_run} for of_run in steps))
    assert scales[0] == scales[1] < 2.0**20  # of train_tiny.py
    assert steps[0] == steps[1]
    assert max(steps[0]) > 0
    assert distance(load(tmp_path / "whole.pt"), load(tmp_path / "parts.pt")) < 1e-4
