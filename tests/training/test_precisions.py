"""Precisions that freeze a run are refused, with the right one for the card."""

import pytest
import torch
from lightning.pytorch import Trainer

from gan3d.discriminators import StyleGAN2Discriminator
from gan3d.generators import StyleGAN2
from gan3d.training.gan import GAN
from gan3d.training.precisions import REFUSED, refuse_unfit, slow

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


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
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
