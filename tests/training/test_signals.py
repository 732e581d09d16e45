"""A run that is told to stop saves between two iterations, and ends with the signal's code."""

import os
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from gan3d.data.datamodule import PosedImagesModule
from gan3d.discriminators import StyleGAN2Discriminator
from gan3d.generators import StyleGAN2
from gan3d.training.callbacks.periodic import PeriodicCallback
from gan3d.training.checkpoints import Checkpoints
from gan3d.training.gan import GAN
from gan3d.training.run import Run
from gan3d.training.signals import SIGNALS, StopOnSignal, Stopped

BATCH = 8


class Sent(Callback):
    """Sends signals to this process when an iteration begins."""

    def __init__(self, *numbers: int, iteration: int = 1):
        self.numbers, self.iteration = numbers, iteration

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if int(pl_module.iterations) == self.iteration:
            for number in self.numbers:
                os.kill(os.getpid(), number)


class Shown(PeriodicCallback):
    """Notes when it shows the run; is told to stop while it does at the start."""

    def __init__(self, number: int | None = None):
        super().__init__(BATCH / 1000)
        self.shown: list[int] = []
        self.number = number

    def act(self, trainer, pl_module, seen, final):
        self.shown.append(seen)
        if seen > 0 and not final:
            pl_module.log("shown", 1.0, logger=False, on_step=True, on_epoch=False)
        if self.number is not None:
            os.kill(os.getpid(), self.number)


def fit(data: Path, folder: Path, *callbacks: Callback, every_kimg: float = 1.0, **options) -> GAN:
    torch.manual_seed(0)
    discriminator = StyleGAN2Discriminator(**StyleGAN2Discriminator.tiny | {"c_dim": 0})
    gan = GAN(
        StyleGAN2(**StyleGAN2.tiny),
        discriminator,
        run=Run(total_kimg=4 * BATCH / 1000, log_every_kimg=0.1, seed=0),
    )
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        logger=False,
        callbacks=[StopOnSignal(), *callbacks, Checkpoints(folder, every_kimg=every_kimg)],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    module = PosedImagesModule(path=str(data), batch_size=BATCH, num_workers=0)
    trainer.fit(gan, module, **options)
    return gan


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_run_after_the_iteration_with_a_checkpoint(posed_zip, tmp_path, number):
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with pytest.raises(Stopped) as stopped:
        fit(posed_zip, tmp_path, Sent(number))
    assert stopped.value.code == 128 + number
    assert stopped.value.signal == signal.Signals(number).name
    assert stopped.value.checkpoint == tmp_path / "kimg-000000.016.ckpt"
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]["images_seen"] == 16
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


def test_it_goes_on_bit_for_bit_and_shows_what_was_due_first(posed_zip, tmp_path):
    whole, shown = fit(posed_zip, tmp_path / "a"), Shown()
    with pytest.raises(Stopped):
        fit(posed_zip, tmp_path / "b", Sent(signal.SIGTERM), shown)
    assert shown.shown == [0, 8]
    last, shown = str(tmp_path / "b" / "last.ckpt"), Shown()
    again = fit(posed_zip, tmp_path / "b", shown, ckpt_path=last, weights_only=True)
    assert shown.shown == [16, 24, 32]
    for (name, one), other in zip(whole.state_dict().items(), again.state_dict().values()):
        assert torch.equal(one, other), name


def test_the_second_interruption_stops_at_once(posed_zip, tmp_path):
    with pytest.raises(SystemExit) as stopped:  # what Lightning makes of KeyboardInterrupt
        fit(posed_zip, tmp_path, Sent(signal.SIGINT, signal.SIGINT))
    assert isinstance(stopped.value.__context__, KeyboardInterrupt)
    assert list(tmp_path.iterdir()) == []
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning ignores it from then on


def test_the_same_signal_twice_is_one(posed_zip, tmp_path):
    with pytest.raises(Stopped):
        fit(posed_zip, tmp_path, Sent(signal.SIGTERM, signal.SIGTERM))
    assert (tmp_path / "last.ckpt").exists()


def test_a_signal_before_the_first_iteration_has_nothing_to_save(posed_zip, tmp_path):
    with pytest.raises(Stopped) as stopped:
        fit(posed_zip, tmp_path, Shown(signal.SIGTERM))
    assert (stopped.value.checkpoint, stopped.value.images_seen) == (None, 0)
    assert list(tmp_path.iterdir()) == []


def test_when_all_is_saved_a_signal_does_what_it_did(posed_zip, tmp_path):
    class Last(Callback):
        def on_train_end(self, trainer, pl_module):
            self.handler, self.saved = signal.getsignal(signal.SIGTERM), list(tmp_path.iterdir())

    last, before = Last(), signal.getsignal(signal.SIGTERM)
    fit(posed_zip, tmp_path, last)
    assert last.saved
    assert last.handler == before


def test_a_checkpoint_is_saved_before_anything_is_shown(posed_zip, tmp_path):
    class Failing(Shown):
        def act(self, trainer, pl_module, seen, final):
            super().act(trainer, pl_module, seen, final)
            if seen:
                raise TypeError("a fault of ours")

    shown = Failing()
    with pytest.raises(TypeError, match="of ours"):
        fit(posed_zip, tmp_path, shown, every_kimg=BATCH / 1000)
    assert shown.shown == [0, 8]
    assert next(path.name for path in sorted(tmp_path.iterdir())) == "kimg-000000.008.ckpt"
