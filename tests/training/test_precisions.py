"""Precisions that freeze a run are refused, with the right one for the card; the others train."""

from contextlib import contextmanager

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch.amp import GradScaler
from torch.utils.data import DataLoader

from gan3d.camera import Camera, GaussianPose
from gan3d.data.dataset import Batch
from gan3d.discriminators import (
    DISCRIMINATORS,
    CIPS3DDiscriminator,
    StyleGAN2Discriminator,
    check_pair,
)
from gan3d.generators import GENERATORS, StyleGAN2
from gan3d.layers.superresolution import SuperResolutionOptions
from gan3d.training.fakes import Fakes
from gan3d.training.gan import GAN
from gan3d.training.losses import R1, PathLength
from gan3d.training.precisions import REFUSED, float32_products, refuse_unfit, slow
from gan3d.training.run import Run

SCALE = 2.0**10
CPU, CARD = torch.device("cpu"), torch.device("cuda:0")
CARDS = {
    "Tesla V100": ((7, 0), "32-true"),
    "Tesla T4": ((7, 5), "32-true"),
    "A100": ((8, 0), "bf16-mixed"),
    "H100": ((9, 0), "bf16-mixed"),
}


@pytest.fixture
def card(monkeypatch, request) -> tuple[str, str]:
    """A pretended card: its name, and the precision to advise on it."""
    capability, advised = CARDS[request.param]
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: request.param)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    return request.param, advised


@pytest.mark.parametrize("card", CARDS, indirect=True)
@pytest.mark.parametrize("precision", REFUSED)
def test_every_card_is_advised_what_it_computes(precision, card):
    name, advised = card
    with pytest.raises(ValueError, match=f"{precision} .*--trainer.precision {advised} .*{name}"):
        refuse_unfit(precision, CARD)
    with pytest.raises(ValueError, match=r"--trainer\.precision 32-true"):
        refuse_unfit(precision, CPU)


@pytest.mark.parametrize("card", CARDS, indirect=True)
def test_bfloat16_where_it_is_emulated_is_said_to_be_slow(card):
    name, advised = card
    said = slow("bf16-mixed", CARD)
    assert (said is None) == (advised == "bf16-mixed")
    assert said is None or (name in said and "--trainer.precision 32-true" in said)
    assert slow("32-true", CARD) is None
    assert slow("bf16-mixed", CPU) is None


@pytest.mark.parametrize("card", CARDS, indirect=True)
def test_a_card_without_bfloat16_is_advised_float16_for_those_published_so(card):
    _, advised = card
    pair = tiny("StyleGAN2"), StyleGAN2Discriminator(**StyleGAN2Discriminator.tiny)
    said = slow("bf16-mixed", CARD, pair)
    assert said is None if advised == "bf16-mixed" else "--trainer.precision 16-mixed" in said
    refuse_unfit("16-mixed", CARD, pair)
    instead = slow("bf16-mixed", CARD, (tiny("CIPS3D"), pair[1]))
    assert instead is None if advised == "bf16-mixed" else "--trainer.precision 32-true" in instead


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (lambda: tiny("CIPS3D"), "CIPS3D: it was published in float32"),
        (
            lambda: CIPS3DDiscriminator(**CIPS3DDiscriminator.tiny),
            "CIPS3DDiscriminator: it was published in float32",
        ),
        (lambda: tiny("StyleGAN2", conv_clamp=None), "StyleGAN2: its activations are not bounded"),
        (lambda: tiny("StyleGAN3", conv_clamp=None), "StyleGAN3: its activations are not bounded"),
        (
            lambda: tiny("EG3D", superresolution=SuperResolutionOptions("2X", conv_clamp=None)),
            "EG3D: its activations are not bounded",
        ),
        (
            lambda: StyleGAN2Discriminator(**StyleGAN2Discriminator.tiny, conv_clamp=None),
            "StyleGAN2Discriminator: its activations are not bounded",
        ),
    ],
)
def test_float16_is_refused_where_it_was_not_published(network, reason):
    with pytest.raises(ValueError, match=f"16-mixed is not possible: {reason}.*32-true"):
        refuse_unfit("16-mixed", CPU, (tiny("PiGAN"), network()))


def test_a_run_in_float16_of_a_member_of_float32_ends_before_it_begins():
    generator = tiny("CIPS3D")
    gan = GAN(generator, fitting(generator), fakes=Fakes(poses=GaussianPose()))
    trainer = Trainer(accelerator="cpu", logger=False, plugins=MixedPrecision("16-mixed", "cpu"))
    with pytest.raises(ValueError, match="CIPS3D: it was published in float32"):
        trainer.fit(gan, torch.utils.data.DataLoader(range(1)))


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed", "16-mixed"])
def test_the_others_are_accepted(precision):
    refuse_unfit(precision, CPU)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_a_run_of_few_bits_ends_before_it_begins(precision, tmp_path):
    gan = GAN(StyleGAN2(**StyleGAN2.tiny), StyleGAN2Discriminator(**StyleGAN2Discriminator.tiny))
    trainer = Trainer(
        precision=precision, accelerator="cpu", logger=False, default_root_dir=tmp_path
    )
    with pytest.raises(ValueError, match=f"precision {precision} is not possible"):
        trainer.fit(gan, torch.utils.data.DataLoader(range(1)))


def tiny(name, **options):
    return GENERATORS[name](**GENERATORS[name].tiny | options)


def fitting(generator):
    """The first tiny discriminator that judges a generator's images."""
    for cls in DISCRIMINATORS.values():
        discriminator = cls(**cls.tiny)
        try:
            check_pair(generator, discriminator)
        except ValueError:
            continue
        return discriminator
    raise AssertionError(f"nothing judges {type(generator).__name__}")


def norms_of_an_iteration(generator, discriminator, precision: str) -> dict[str, float]:
    """Gradient norms of the phases of one iteration with all lazy ones."""
    gan = GAN(
        generator,
        discriminator,
        fakes=Fakes(poses=GaussianPose()),
        r1=R1(1.0),
        path_length=PathLength(0.0 if generator.has_camera else 2.0),
    )
    batch = max(discriminator.group_size, 2)
    side, angles = generator.img_resolution, torch.linspace(-0.3, 0.3, batch)
    image = torch.rand(batch, 3, side, side) * 2 - 1
    reals = Batch(image, Camera.from_angles(angles, angles), torch.arange(batch))
    seen = {}
    gan.running_means.add = seen.update
    # Lightning takes bfloat16 in place of float16 on a CPU, if it is only named.
    half = {"plugins": [MixedPrecision("16-mixed", "cpu", GradScaler("cpu", init_scale=SCALE))]}
    trainer = Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **(half if precision == "16-mixed" else {"precision": precision}),
    )
    trainer.fit(gan, DataLoader(range(1), batch_size=None, collate_fn=lambda _: reals))
    return {k: v for k, v in seen.items() if k.startswith("gradient/")}


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_every_generator_trains_in_half_the_bits_with_about_the_gradients_of_float32(
    name, precision
):
    norms = []
    for each in ("32-true", precision):
        torch.manual_seed(0)
        generator = tiny(name)
        discriminator = fitting(generator)
        if precision == "16-mixed" and (generator.no_float16 or discriminator.no_float16):
            continue
        norms.append(norms_of_an_iteration(generator, discriminator, each))
    if not norms:
        assert name == "CIPS3D"  # whose published training is in float32
        return
    exact, found = norms
    assert exact.keys() == found.keys() >= {"gradient/generator", "gradient/discriminator"}
    for phase, norm in exact.items():
        print(f"{name}, {precision}: {phase} {norm:.4g} -> {found[phase]:.4g}")
        allowed = 0.05 if precision == "16-mixed" else 0.2
        assert found[phase] == pytest.approx(norm, rel=allowed), phase


def products() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("precision", "device", "inside"),
    [
        ("high", CARD, ("high", True)),
        ("highest", CARD, ("highest", False)),
        (None, CARD, ("highest", True)),
        ("high", CPU, ("highest", True)),
    ],
)
def test_products_of_float32_are_as_the_run_says_on_a_card_and_as_before_afterwards(
    precision, device, inside
):
    assert products() == ("highest", True)  # torch's own
    with float32_products(precision, device):
        assert products() == inside
    assert products() == ("highest", True)


def test_a_run_multiplies_as_it_says_until_it_ends(monkeypatch):
    seen = []

    @contextmanager
    def noted(*what):
        seen.append(what)
        yield
        seen.append("over")

    monkeypatch.setattr("gan3d.training.gan.float32_products", noted)
    gan = GAN(
        StyleGAN2(**StyleGAN2.tiny),
        StyleGAN2Discriminator(**StyleGAN2Discriminator.tiny),
        run=Run(matmul_precision="high"),
    )
    monkeypatch.setattr(GAN, "training_step", lambda *_: seen.append("step"))
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=1)
    trainer.fit(gan, DataLoader(range(1)))
    assert seen == [("high", CPU), "step", "over"]
