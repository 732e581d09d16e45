"""What a training needs is what it then takes: memory, operation by operation, and time."""

import copy
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader

from gan3d.camera import GaussianPose
from gan3d.cli import main
from gan3d.cli.memory import warn_of_memory
from gan3d.discriminators import DISCRIMINATORS
from gan3d.generators import GENERATORS
from gan3d.host import kind_of, unshared_memory
from gan3d.ops.backend import HAS_TRITON, choose
from gan3d.training.estimate.device import DEVICE, pretending
from gan3d.training.estimate.gpus import BANDWIDTH_SHARE, GPUS, LAUNCH, RATE_SHARE, seconds_on
from gan3d.training.estimate.live import LiveBytes
from gan3d.training.estimate.measured import live_peak
from gan3d.training.estimate.micro_batch import largest_micro_batch, sizes
from gan3d.training.estimate.needs import Estimator, Spread
from gan3d.training.estimate.repeated import RepeatedBatch
from gan3d.training.fakes import Fakes
from gan3d.training.gan import GAN
from gan3d.training.losses import R1, DensityRegularization
from gan3d.training.ray_gradients import RayGradients
from gan3d.training.run import Run
from gan3d.training.stages import Stage

# warnings of Lightning on a training of two iterations
pytestmark = pytest.mark.filterwarnings("ignore")


def tiny(maker: str, judge: str, **options) -> GAN:
    torch.manual_seed(0)
    generator = GENERATORS[maker](**GENERATORS[maker].tiny)
    discriminator = DISCRIMINATORS[judge](**DISCRIMINATORS[judge].tiny)
    words = {"fakes": Fakes(poses=GaussianPose()), "r1": R1(1.0)} | options
    return GAN(generator, discriminator, **words)


# ------------------------------------------------------------ bytes


def test_bytes_are_counted_while_tensors_live():
    there = torch.zeros(1000, device=DEVICE)
    flops = []
    with LiveBytes([there], dict, lambda work: flops.append(work.flops)) as live:
        assert live.live == 4000
        a = there + 1
        b = a * 2
        assert live.live == 12000
        view = b[::2]
        del a, b
        assert live.live == 8000  # the view keeps its storage
        del view
        assert (live.live, live.peak) == (4000, 12000)
        live.start_phase()
        assert live.peak == 4000
        square = torch.zeros(20, 50, device=DEVICE)
        assert (square @ square.T).shape == (20, 20)
    assert max(flops) == 2 * 20 * 50 * 20


@pytest.mark.parametrize(
    ("maker", "judge", "options"),
    [
        ("StyleGAN2", "StyleGAN2Discriminator", {}),
        ("StyleGAN3", "StyleGAN2Discriminator", {}),
        ("EG3D", "DualDiscriminator", {"density": DensityRegularization(0.25)}),
        ("PiGAN", "PiGANDiscriminator", {"r1": R1(1.0, interval=1, of="image")}),
    ],
)
def test_the_estimate_is_what_an_iteration_takes(maker, judge, options):
    gan = tiny(maker, judge, **options)
    needs = Estimator(gan).needs(Spread(4))
    taken = live_peak(gan, 4)
    print(f"{maker}: estimated {needs.live / 1e6:.2f} MB, taken {taken / 1e6:.2f} MB")
    assert needs.live == pytest.approx(taken, rel=0.15)


def test_ops_take_the_form_of_the_device_that_is_pretended():
    x = torch.zeros(2, 3, device=DEVICE)
    with pretending("cuda"):
        assert kind_of(x) == kind_of(DEVICE) == "cuda"
        assert choose(None, x) == ("triton" if HAS_TRITON else "fast")
    with pretending("cpu"):
        assert kind_of(x) == "cpu"
        assert choose(None, x) == "fast"
    assert kind_of(x) == "meta"
    assert kind_of(torch.zeros(1)) == "cpu"


def test_parts_are_those_of_the_networks_and_the_harness_stays_as_it_is():
    gan = tiny("StyleGAN2", "StyleGAN2Discriminator")
    before = copy.deepcopy(gan.state_dict())
    needs = Estimator(gan).needs(Spread(4))
    sizes = {
        name: sum(p.numel() for p in net.parameters()) * 4
        for name, net in gan.named_children()
        if isinstance(net, nn.Module)
    }
    trained = sizes["generator"] + sizes["discriminator"]
    # Adam keeps two numbers per weight, and a counter per tensor
    assert needs.memory["optimizers"] == pytest.approx(2 * trained, rel=0.02)
    assert needs.memory["average"] >= sizes["generator"]
    assert needs.memory["weights"] >= trained
    assert 0 < needs.memory["gradients"] <= trained
    for name, value in gan.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_what_needs_less_memory_does():
    gan = tiny("PiGAN", "PiGANDiscriminator", r1=R1(1.0, interval=1, of="image"))
    gan.phases.rays = RayGradients(chunk=64)  # of 16 x 16 rays
    spread = Spread(4)
    estimator = Estimator(gan)
    whole = estimator.needs(spread).memory["activations"]
    found = {
        words: estimator.needs(other).memory["activations"]
        for words, other in estimator.remedies(replace(spread))
    }
    assert next(iter(found)) == "--model.rays.mode chunked"
    assert any("micro_batch_size" in words for words in found)
    assert any("bf16-mixed" in words for words in found)
    for words, size in found.items():
        assert size <= whole, words
    assert min(found.values()) < 0.6 * whole


@pytest.mark.parametrize(
    ("gpu", "names", "precision"),
    [
        ("a100", ("PiGAN", "PiGANDiscriminator"), "bf16-mixed"),
        ("v100", ("StyleGAN2", "StyleGAN2Discriminator"), "16-mixed"),
        ("v100", ("CIPS3D", "CIPS3DDiscriminator"), None),
    ],
)
def test_the_precision_that_needs_less_is_one_that_the_gpu_computes(gpu, names, precision):
    remedies = Estimator(tiny(*names), GPUS[gpu]).remedies(Spread(4))
    found = {words.split()[1] for words, _ in remedies if words.startswith("--trainer.precision")}
    assert found == ({precision} if precision else set())


def test_each_stage_is_estimated_and_the_largest_one_counts():
    stages = [Stage(), Stage(from_kimg=10, batch_size=8)]
    gan = tiny("PiGAN", "PiGANDiscriminator", r1=R1(1.0, interval=1, of="image"))
    small = Estimator(gan).needs(Spread(2)).memory["activations"]
    gan.stages.stages = tuple(stages)
    needs = Estimator(gan).needs(Spread(2))
    assert [cost.batch for cost in needs.stages] == [2, 8]
    assert needs.memory["activations"] > 2 * small
    assert needs.images == sum(cost.images for cost in needs.stages)


# ------------------------------------------------------------ time


def test_an_operation_takes_what_its_slowest_part_takes():
    gpu = GPUS["a100"]
    times = []
    seconds = seconds_on(gpu)
    with LiveBytes([], dict, lambda work: times.append(seconds(work))):
        n = 8192
        a = torch.empty(n, n, device=DEVICE)
        b = a @ a
        a.add_(b)
        torch.empty(8, device=DEVICE).neg()
        low = torch.empty(n, n, device=DEVICE, dtype=torch.bfloat16)
        low @ low
    product, added, small, fast = times[1], times[2], times[4], times[6]
    assert product == pytest.approx(2 * n**3 / (RATE_SHARE * gpu.fp32))
    assert added == pytest.approx(3 * 4 * n**2 / (BANDWIDTH_SHARE * gpu.bandwidth))
    assert small == LAUNCH
    assert fast == pytest.approx(2 * n**3 / (RATE_SHARE * gpu.bf16))


def test_more_devices_are_faster_and_send_messages():
    gan = tiny("StyleGAN2", "StyleGAN2Discriminator")
    slow = replace(GPUS["t4"], fp32=1e9, tf32=1e9, bandwidth=1e9)  # launches do not count
    estimator = Estimator(gan, slow)
    one, four = (estimator.needs(Spread(16, devices=n)) for n in (1, 4))
    quick, long = (estimator.seconds(needs.spread) for needs in (four, one))
    assert long is not None
    assert quick is not None
    assert quick == pytest.approx(long / 4, rel=0.1)
    assert "messages" not in one.memory
    assert four.memory["messages"] > 0
    assert four.memory["activations"] < one.memory["activations"]


def test_what_is_shared_out_is_needed_once_in_all():
    """By a device: its part beside the gathered weights, a part of the average and of Adam's."""
    gan = tiny("StyleGAN2", "StyleGAN2Discriminator")
    estimator = Estimator(gan)
    whole = estimator.needs(Spread(8, devices=4)).memory
    part = estimator.needs(Spread(8, devices=4, sharded=("generator",))).memory
    size = sum(p.numel() for p in gan.generator.parameters()) * 4
    assert part["weights"] - whole["weights"] == pytest.approx(size / 4, abs=4)
    assert whole["average"] - part["average"] == pytest.approx(size * 3 / 4, abs=4)
    assert whole["optimizers"] - part["optimizers"] == pytest.approx(2 * size * 3 / 4, abs=8)
    assert sum(part.values()) < sum(whole.values())
    twice = estimator.needs(Spread(8, devices=4, sharded=("generator",), copies=2)).memory
    assert whole["average"] - twice["average"] == pytest.approx(size / 2, abs=4)


# ------------------------------------------------------------ command line


def test_the_command_says_memory_and_time(capsys):
    assert main(["estimate", "--config", "stylegan2_heads64.yaml", "--gpu", "t4"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"in all +\d+\.\d+ GiB of 16: it fits", out)
    assert re.search(r"time: [\d.]+ images/s, 20 kimg in", out)


@pytest.mark.slow
def test_the_command_names_what_makes_it_fit(capsys):
    words = ["estimate", "--config", "stylegan2_ffhq256.yaml", "--gpu", "t4"]
    assert main([*words, "--data.batch_size", "256"]) == 0
    out = capsys.readouterr().out
    assert "it does NOT fit" in out
    assert re.search(r"--model.run.micro_batch_size \d+ .*it fits", out)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gpu", "h1000"], "h100"),
        (["--trainer.devices", "3"], "cannot be shared by 3 devices"),
        (["--trainer.accumulate_grad_batches", "2"], "micro_batch_size"),
    ],
)
def test_wrong_words_are_answered(caplog, words, said):
    assert main(["estimate", "--config", "eg3d_heads32.yaml", *words]) == 2
    assert said in caplog.text


@pytest.mark.parametrize("there", [2**20, 2**60])
def test_fit_says_that_memory_will_not_do(monkeypatch, caplog, there):
    gan = tiny("StyleGAN2", "StyleGAN2Discriminator")
    monkeypatch.setattr("gan3d.cli.memory.LARGE", 1)
    monkeypatch.setattr("gan3d.cli.memory.memory_of_machine", lambda: there)
    trainer = SimpleNamespace(
        accelerator="cpu", devices=1, num_nodes=1, precision=None, strategy="auto"
    )
    data = SimpleNamespace(batch_size=4, use_labels=True)
    given = SimpleNamespace(trainer=trainer, data=data, model=gan)
    with caplog.at_level("INFO", logger="gan3d"):
        warn_of_memory(gan, given)
    assert ("GiB are needed" in caplog.text) == (there == 2**20)
    assert "not estimated" not in caplog.text


# ------------------------------------------------------------ the micro-batch that fits


@pytest.mark.parametrize(
    ("shares", "group", "expected"),
    [
        ([8], 2, [2, 4, 8]),
        ([12], 3, [3, 6, 12]),
        ([4, 16], 2, [2, 4, 8, 16]),  # a smaller share is one part
        ([6, 4], 2, [2, 6]),
        ([6], 4, []),
    ],
)
def test_a_micro_batch_splits_every_share_into_whole_groups(shares, group, expected):
    assert sizes(shares, group) == expected


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """100 bytes for each image at once, and the sizes that were asked for."""
    sizes: list[int] = []

    def needs(self, spread: Spread) -> SimpleNamespace:
        sizes.append(spread.micro_batch_size)
        return SimpleNamespace(total=100 * spread.micro_batch_size)

    monkeypatch.setattr(Estimator, "needs", needs)
    return sizes


def test_the_largest_micro_batch_is_the_one_that_fits(asked):
    gan = tiny("StyleGAN2", "StyleGAN2Discriminator")
    for there, size in ((800, 8), (799, 4), (400, 4), (399, 2), (200, 2), (0, 2)):
        assert largest_micro_batch(gan, Spread(8), there) == (size, 100 * size)
    assert largest_micro_batch(gan, Spread(8, devices=2), 800) == (4, 400)
    asked.clear()
    assert largest_micro_batch(gan, Spread(256), 6500) == (64, 6400)
    assert len(asked) <= 5  # of eight


def test_a_stage_with_a_number_of_its_own_keeps_it(asked):
    gan = tiny("StyleGAN2", "StyleGAN2Discriminator")
    gan.stages.stages = (Stage(), Stage(from_kimg=1, batch_size=6, micro_batch_size=6))
    assert largest_micro_batch(gan, Spread(8), 800)[0] == 8
    gan.stages.stages = (Stage(), Stage(from_kimg=1, batch_size=5))
    with pytest.raises(ValueError, match="8 images per iteration, judged in groups of 2"):
        largest_micro_batch(gan, Spread(8), 800)


class Split(Exception):
    """A batch is about to be split."""


@pytest.mark.parametrize(
    ("there", "micro", "size"),
    [(450, "auto", 4), (None, "auto", 8), (450, 2, 2), (450, None, 8)],
)
def test_a_run_takes_the_micro_batch_that_fits_where_none_is_given(
    monkeypatch, caplog, asked, there, micro, size
):
    def split(batch, size, *_):
        raise Split(size)

    monkeypatch.setattr("gan3d.training.gan.unshared_memory", lambda device: there)
    monkeypatch.setattr("gan3d.training.gan.micro_batches", split)
    gan = tiny("StyleGAN2", "StyleGAN2Discriminator", run=Run(micro_batch_size=micro))
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_steps=1)
    with caplog.at_level("INFO", logger="gan3d"), pytest.raises(Split, match=str(size)):
        trainer.fit(gan, RepeatedBatch(32, 8, 1, posed=False))
    chosen = micro == "auto" and there is not None
    assert ("4 of the 8 images of a process at once" in caplog.text) == chosen
    assert bool(asked) == chosen


def test_without_a_data_module_nothing_can_be_chosen(monkeypatch):
    monkeypatch.setattr("gan3d.training.gan.unshared_memory", lambda device: 450)
    gan = tiny("StyleGAN2", "StyleGAN2Discriminator", run=Run(micro_batch_size="auto"))
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_steps=1)
    with pytest.raises(ValueError, match="micro_batch_size auto needs the batch size"):
        trainer.fit(gan, DataLoader(range(1)))


def test_a_word_that_is_no_micro_batch_is_refused():
    with pytest.raises(ValueError, match="micro_batch_size is much; expected at least 1"):
        Run(micro_batch_size="much")


def test_what_other_processes_hold_of_a_card_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (300, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 200)
    assert unshared_memory(torch.device("cuda:0")) == 500
    assert unshared_memory(torch.device("cpu")) is None
