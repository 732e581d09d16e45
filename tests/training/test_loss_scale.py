"""gan3d.training.loss_scale: a scaled loss has the gradients of the plain one; a step with infinite
ones is skipped, and nothing else of the iteration suffers.
"""

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch.amp import GradScaler
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from gan3d.camera import Camera, GaussianPose
from gan3d.data.dataset import Batch
from gan3d.discriminators import DISCRIMINATORS
from gan3d.generators import GENERATORS
from gan3d.training.fakes import Fakes
from gan3d.training.gan import GAN
from gan3d.training.loss_scale import SCALE, SKIPPED, LossScale, without_overflow
from gan3d.training.losses import R1, R2, DensityRegularization, PathLength
from gan3d.training.nan_guard import NonFiniteError
from gan3d.training.optimizers import Adam
from gan3d.training.ray_gradients import RayGradients
from gan3d.training.run import Run

BATCH, SIDE = 4, 32


class Scaled(MixedPrecision):
    """Scales losses, and computes in float32."""

    def autocast_context_manager(self) -> Any:
        return nullcontext()


def float16(scale: float, cls: type[MixedPrecision] = MixedPrecision) -> MixedPrecision:
    """float16, or only its scale, which doubles after every third step."""
    return cls("16-mixed", "cpu", GradScaler("cpu", init_scale=scale, growth_interval=3))


def make(generator: str, discriminator: str, **options: Any) -> GAN:
    torch.manual_seed(0)
    g, d = GENERATORS[generator], DISCRIMINATORS[discriminator]
    options = {"fakes": Fakes(poses=GaussianPose())} | options
    return GAN(g(**g.tiny), d(**d.tiny), **options)


def fit(
    gan: GAN, iterations: int, plugin: MixedPrecision | None = None, start: Path | None = None
) -> tuple[Trainer, list[dict[str, float]]]:
    """Trains, from a checkpoint on, with reals that depend on their numbers; what each iteration
    logged.
    """
    logged = []
    gan.running_means.add = logged.append
    angles = torch.linspace(-0.3, 0.3, BATCH)
    camera = Camera.from_angles(angles, angles)

    def reals(_: Any) -> Batch:
        first = gan.seen
        draw = torch.Generator().manual_seed(first)
        image = torch.rand(BATCH, 3, SIDE, SIDE, generator=draw) * 2 - 1
        return Batch(image, camera, torch.arange(first, first + BATCH))

    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        max_steps=iterations,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=plugin,
    )
    data = DataLoader(range(iterations), batch_size=None, collate_fn=reals)
    trainer.fit(gan, data, ckpt_path=start)
    return trainer, logged


STYLE = "StyleGAN2", "StyleGAN2Discriminator"
PIGAN = "PiGAN", "PiGANDiscriminator"
CASES: dict[str, tuple[tuple[str, str], dict[str, Any]]] = {
    "path lengths, R1 and R2 in parts": (
        STYLE,
        {
            "path_length": PathLength(2.0, interval=2),
            "r1": R1(1.0, interval=2, of="image"),
            "r2": R2(1.0),
            "run": Run(micro_batch_size=2),
            "optimizer_d": Adam(clip_norm=0.1),
        },
    ),
    "density and R1 of two images": (
        ("EG3D", "DualDiscriminator"),
        {"density": DensityRegularization(0.25, interval=2), "r1": R1(1.0, interval=2)},
    ),
    "chunks of rays and R1 of every step": (
        PIGAN,
        {
            "rays": RayGradients("chunked", chunk=600),
            "r1": R1(1.0, interval=1, of="image"),
            "run": Run(micro_batch_size=2),
        },
    ),
    "two views of a scene": (
        PIGAN,
        {
            "fakes": Fakes(poses=GaussianPose(), views=2),
            "rays": RayGradients("partial", num_rays=200),
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_scaled_loss_trains_bit_for_bit_as_the_plain_one(case):
    """A power of two changes no digit, so that every division by the scale is seen."""
    pair, options = CASES[case]
    plain, scaled = make(*pair, **options), make(*pair, **options)
    start = {name: value.clone() for name, value in plain.generator.state_dict().items()}
    _, without = fit(plain, 2)
    _, logged = fit(scaled, 2, float16(2.0**10, Scaled))
    for ours, theirs in zip(logged, without, strict=True):
        assert ours.pop(SCALE) >= 2.0**10
        assert ours.pop(SKIPPED) == 0
        assert ours == theirs
    for name, value in plain.state_dict().items():
        assert torch.equal(scaled.state_dict()[name], value), name
    moved = [
        name
        for name, value in plain.generator.state_dict().items()
        if not torch.equal(value, start[name])
    ]
    assert len(moved) > 4


def test_an_infinite_gradient_skips_the_step_and_halves_the_scale():
    options = {"path_length": PathLength(2.0, interval=1), "r1": R1(1.0, interval=2)}
    gan = make(*STYLE, **options)
    before = [p.clone() for p in gan.parameters()]
    trainer, logged = fit(gan, 1, float16(2.0**40))
    assert all(torch.equal(a, b) for a, b in zip(gan.parameters(), before, strict=True))
    for optimizer in trainer.optimizers:
        assert all(float(state["step"]) == 0 for state in optimizer.state.values())

    # generator, path lengths, discriminator and R1 were skipped one after the other
    assert trainer.precision_plugin.scaler.get_scale() == 2.0**36
    assert logged[0][SCALE] == 2.0**40
    assert logged[0][SKIPPED] == 1
    assert all(map(math.isfinite, logged[0].values()))
    assert "logits/real" in logged[0]
    assert "gradient/generator" not in logged[0]
    assert gan.seen == BATCH
    assert torch.isfinite(gan.path_mean)

    # with a scale that fits, it goes on
    _, logged = fit(gan, 2, float16(2.0**10))
    assert [values[SKIPPED] for values in logged] == [0, 0]
    assert any(not torch.equal(a, b) for a, b in zip(gan.generator.parameters(), before))
    assert gan.path_mean > 0


def test_what_is_infinite_without_scaling_ends_the_run():
    gan = make(*STYLE, r1=R1(1e38, interval=1))
    with pytest.raises(NonFiniteError, match="gradient/discriminator"):
        fit(gan, 1, float16(1.0))


def test_a_gradient_that_float16_would_lose_is_kept():
    gan = make(*STYLE)
    x = torch.ones(3, requires_grad=True)
    lost, kept = LossScale(), LossScale(GradScaler("cpu"))
    for scale, expected in ((lost, 0.0), (kept, 1e-9)):
        scale.start(gan.device)
        (gradient,) = torch.autograd.grad(scale.up(1e-9 * x.half().float()).sum(), x)
        assert scale.down(gradient).tolist() == pytest.approx([expected] * 3, rel=1e-3)


def test_only_what_a_skipped_step_explains_is_overlooked():
    fine = {"loss/generator": 1.0, "gradient/generator": 2.0}
    assert without_overflow(fine) == fine  # float32
    scaled = fine | {SCALE: 8.0}
    assert without_overflow(scaled) == scaled | {SKIPPED: 0.0}
    broken = scaled | {"loss/generator": math.nan}
    assert without_overflow(broken).keys() == broken.keys() | {SKIPPED}
    skipped = scaled | {"gradient/r1": math.inf, "loss/r1": math.nan}
    assert without_overflow(skipped) == scaled | {SKIPPED: 1.0}
    last = skipped | {SCALE: 1.0}
    assert without_overflow(last).keys() == last.keys() | {SKIPPED}


def test_a_resumed_run_goes_on_with_its_scale(tmp_path):
    options = {"r1": R1(1.0, interval=2)}
    whole, first, second = (make(*STYLE, **options) for _ in range(3))
    unbroken, _ = fit(whole, 4, float16(2.0**10, Scaled))
    trainer, _ = fit(first, 2, float16(2.0**10, Scaled))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fit(second, 4, float16(2.0, Scaled), tmp_path / "half.ckpt")
    states = [t.precision_plugin.scaler.state_dict() for t in (unbroken, resumed)]
    assert states[0] == states[1]
    assert states[0]["scale"] == 2.0**13  # after 10 steps
    assert states[0]["_growth_tracker"] == 1
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


class Readings(TorchDispatchMode):
    """Counts how often the host reads a number."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_scaling_reads_nothing_from_the_device():
    counts = []
    for plugin in (None, float16(2.0**10, Scaled)):
        gan = make(*STYLE, r1=R1(1.0, interval=1))
        with Readings() as readings:
            fit(gan, 2, plugin)
        counts.append(readings.count)
    assert counts[0] == counts[1]
