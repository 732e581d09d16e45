"""gan3d.training.gan: phases, counting, schedules, guards."""

import copy
import csv
import itertools
import runpy
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from gan3d.augment import ADA, Transforms
from gan3d.camera import GaussianPose
from gan3d.checkpoints.portable import save_pretrained
from gan3d.data.datamodule import PosedImagesModule
from gan3d.discriminators import DualDiscriminator, StyleGAN2Discriminator
from gan3d.generators import EG3D, StyleGAN2
from gan3d.schedules import Ramp
from gan3d.training.checkpoints import Checkpoints
from gan3d.training.ema import EMA
from gan3d.training.fakes import Fakes
from gan3d.training.gan import GAN
from gan3d.training.loggers import DiskLogger
from gan3d.training.losses import (
    R1,
    CrossResolution,
    DensityRegularization,
    LatentPrediction,
    Patches,
    PathLength,
    PosePrediction,
)
from gan3d.training.nan_guard import NonFiniteError
from gan3d.training.optimizers import Adam
from gan3d.training.ray_gradients import RayGradients
from gan3d.training.sampling import Sampling
from gan3d.training.stages import Stage

BATCH = 8
grouped = runpy.run_path(str(Path(__file__).with_name("train_tiny.py")))["grouped"]


def make(**options) -> GAN:
    torch.manual_seed(0)
    discriminator = StyleGAN2Discriminator(**StyleGAN2Discriminator.tiny | {"c_dim": 0})
    options = {
        "total_kimg": 4 * BATCH / 1000,
        "r1": R1(gamma=1.0, interval=4),
        "log_every_kimg": 1e6,  # at the end only
    } | options
    return GAN(StyleGAN2(**StyleGAN2.tiny), discriminator, **grouped(**options))


def fit(gan: GAN, data: Path, *callbacks: Callback, run: Path | None = None, **options) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        logger=DiskLogger(run) if run else False,
        callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(c, Checkpoints) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )
    trainer.fit(gan, PosedImagesModule(path=str(data), batch_size=BATCH, num_workers=0))
    return trainer


class Watch(Callback):
    """Copies the weights after every iteration."""

    def __init__(self):
        self.states: list[dict[str, torch.Tensor]] = []
        self.steps: list[int] = []

    def on_train_start(self, trainer, pl_module):
        self.keep(trainer, pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.keep(trainer, pl_module)

    def keep(self, trainer, pl_module):
        self.states.append({name: value.clone() for name, value in pl_module.state_dict().items()})
        self.steps.append(trainer.global_step)


def moved(before: dict, after: dict, prefix: str) -> bool:
    return any(
        not torch.equal(before[n], after[n])
        for n in before
        if n.startswith(prefix) and "w_avg" not in n
    )


def test_an_iteration_is_one_step_and_the_run_ends_at_total_kimg(posed_zip):
    watch = Watch()
    gan = make(total_kimg=0.050)
    fit(gan, posed_zip, watch)
    assert int(gan.images_seen) == 56  # the first multiple of the batch at or after 50
    assert int(gan.iterations) == 7
    assert watch.steps == list(range(8))


def test_each_network_moves_by_its_own_optimizer_only(posed_zip):
    still = Adam(lr=0.0)
    watch = Watch()
    fit(make(optimizer_g=still), posed_zip, watch)
    assert not moved(watch.states[0], watch.states[-1], "generator.")
    assert moved(watch.states[0], watch.states[-1], "discriminator.")
    watch = Watch()
    fit(make(optimizer_d=still), posed_zip, watch)
    assert moved(watch.states[0], watch.states[-1], "generator.")
    assert not moved(watch.states[0], watch.states[-1], "discriminator.")


def test_the_average_follows_the_generator_and_its_buffers(posed_zip):
    watch = Watch()
    fit(make(), posed_zip, watch)
    first, last = watch.states[1], watch.states[-1]
    for name in first:
        if name.startswith("generator."):
            twin = name.replace("generator.", "generator_ema.", 1)
            assert torch.equal(first[name], first[twin]), name  # at the start the ramp-up copies
    assert moved(first, last, "generator_ema.")
    assert torch.equal(last["generator.mapping.w_avg"], last["generator_ema.mapping.w_avg"])
    assert not torch.equal(first["generator.mapping.w_avg"], last["generator.mapping.w_avg"])


def test_code_that_draws_globally_sees_other_numbers_in_every_iteration_and_the_same_again(
    posed_zip,
):
    def drawn(state: int) -> list[float]:
        gan, numbers = make(), []
        gan.discriminator.register_forward_pre_hook(
            lambda *_: numbers.append(torch.rand(()).item())
        )
        torch.manual_seed(state)
        fit(gan, posed_zip)
        return numbers

    first = drawn(1)
    assert len(set(first)) == len(first) > 12
    assert drawn(2) == first


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv") as file:
        return list(csv.DictReader(file))


def test_lazy_phases_run_at_their_intervals_and_everything_is_logged_by_images_seen(
    posed_zip, tmp_path
):
    fit(make(log_every_kimg=0.008, total_kimg=0.072), posed_zip, run=tmp_path)
    logged = rows(tmp_path)
    assert [int(row["step"]) for row in logged] == [8 * i for i in range(1, 10)]
    assert [row["loss/r1"] != "" for row in logged] == [i % 4 == 0 for i in range(9)]
    for name in (
        "loss/generator",
        "loss/discriminator",
        "logits/real",
        "logits/fake",
        "gradient/generator",
    ):
        assert all(row[name] != "" for row in logged), name
    assert [float(row["progress/kimg"]) for row in logged] == [8 * i / 1000 for i in range(1, 10)]


def test_r1_with_interval_one_is_part_of_the_discriminator_s_step(posed_zip, tmp_path):
    gan = make(r1=R1(gamma=1.0, interval=1), log_every_kimg=0.008)
    fit(gan, posed_zip, run=tmp_path)
    assert all(row["loss/r1"] != "" for row in rows(tmp_path))
    assert "gradient/r1" not in rows(tmp_path)[0]
    assert gan.configure_optimizers()[1].defaults["lr"] == gan.optimizer_d.lr


def test_augmentation_grows_with_the_signs_of_the_reals_and_is_logged(posed_zip, tmp_path):
    ada = ADA(
        preset="bgc", target=-2.0, kimg=0.064, interval=2
    )  # any sign lies above: a quarter per change
    fit(make(ada=ada, total_kimg=0.048, log_every_kimg=0.008), posed_zip, run=tmp_path)
    assert [float(row["augment/p"]) for row in rows(tmp_path)] == [0, 0.25, 0.25, 0.5, 0.5, 0.75]
    assert all(row["signs/real"] != "" for row in rows(tmp_path))
    fit(make(log_every_kimg=0.008), posed_zip, run=tmp_path / "off")
    assert "augment/p" not in rows(tmp_path / "off")[0]


@pytest.mark.parametrize(("interval", "passes"), [(1, 6), (2, 7)])
def test_everything_the_discriminator_sees_is_augmented(posed_zip, interval, passes):
    """Two iterations: fakes for G, fakes and reals for D; R1 of every step is of these reals, lazy
    R1 of reals of its own.
    """
    seen: list[float] = []
    black = Transforms(cutout=1, cutout_size=2.5)  # leaves nothing of an image
    r1 = R1(gamma=1.0, interval=interval)
    gan = make(ada=ADA(transforms=black, p=1.0), r1=r1, total_kimg=0.016)
    gan.discriminator.register_forward_pre_hook(
        lambda _, inputs: seen.append(float(inputs[0].detach().abs().max()))
    )
    fit(gan, posed_zip)
    assert seen == [0.0] * passes


class Poison(Callback):
    """Puts a NaN into one weight before the third iteration."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if int(pl_module.iterations) == 2:
            with torch.no_grad():
                pl_module.discriminator.b16.conv0.weight[0, 0, 0, 0] = float("nan")


def test_a_nan_stops_the_run_names_the_culprit_and_keeps_the_last_good_checkpoint(
    posed_zip, tmp_path
):
    checkpoints = Checkpoints(tmp_path, every_kimg=0.008, keep=0)
    with pytest.raises(NonFiniteError, match=r"0\.016 kimg: loss/generator.*gradient of"):
        fit(make(), posed_zip, Poison(), checkpoints)
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert last["images_seen"] == 16
    assert all(torch.isfinite(value).all() for value in last.values())


def test_a_batch_that_does_not_divide_is_refused(posed_zip):
    with pytest.raises(ValueError, match="micro-batches of 3, judged in groups of 2"):
        fit(make(micro_batch_size=3), posed_zip)


def test_a_pair_that_can_not_work_is_refused_with_the_choices_that_fit():
    with pytest.raises(
        ValueError, match=r"StyleGAN2 renders none; choose .*StyleGAN2Discriminator.* or .*EG3D"
    ):
        GAN(StyleGAN2(**StyleGAN2.tiny), DualDiscriminator(**DualDiscriminator.tiny))
    with pytest.raises(ValueError, match=r"32 px.*judges 64 px"):
        GAN(
            StyleGAN2(**StyleGAN2.tiny),
            StyleGAN2Discriminator(**StyleGAN2Discriminator.tiny | {"img_resolution": 64}),
        )
    with pytest.raises(ValueError, match="density regularization needs a generator with a field"):
        make(density=DensityRegularization(weight=0.25))


def test_the_raw_resolution_follows_its_schedule_and_rounds():
    gan = make(raw_resolution=Ramp(64, 128, fade_kimg=1))
    values = []
    for n in (0, 504, 1000, 2000):
        gan.images_seen.fill_(n)
        values.append(gan.resolution_now())
    assert values == [64, 96, 128, 128]


def test_samples_for_evaluation_depend_on_their_index_alone():
    gan = make()
    together, alone = gan.sample(range(4)), gan.sample([2])
    assert torch.allclose(together.image[2], alone.image[0], atol=1e-5)


def test_pictures_of_a_run_are_those_of_the_average():
    gan = make()
    before = gan.sample(range(2)).image
    with torch.no_grad():
        for parameter in gan.generator.parameters():
            parameter.add_(1.0)
    assert torch.equal(gan.sample(range(2)).image, before)


def test_predictions_are_truncated_as_asked():
    gan = make()
    assert gan.predict_step(torch.arange(4), 0)["image"].std(dim=0).max() > 1e-2
    gan.sampling = Sampling(truncation=0.0)
    assert gan.predict_step(torch.arange(4), 0)["image"].std(dim=0).max() < 1e-5


def test_frozen_parameters_stay_frozen(posed_zip):
    gan = make()
    gan.generator.mapping.requires_grad_(False)
    before = gan.generator.mapping.fc0.weight.clone()
    fit(gan, posed_zip)
    assert torch.equal(before, gan.generator.mapping.fc0.weight)
    assert not gan.generator.mapping.fc0.weight.requires_grad
    assert gan.generator.synthesis.b8.conv0.weight.requires_grad


def test_a_finished_run_that_is_resumed_trains_no_further(posed_zip, tmp_path):
    fit(make(), posed_zip, Checkpoints(tmp_path))
    again = make()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=-1,
        logger=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    data = PosedImagesModule(path=str(posed_zip), batch_size=BATCH, num_workers=0)
    trainer.fit(again, data, ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True)
    assert int(again.images_seen) == 4 * BATCH


def test_a_run_may_start_from_another_s_weights_with_a_fresh_count(posed_zip, tmp_path):
    first = make()
    fit(first, posed_zip, Checkpoints(tmp_path))
    torch.manual_seed(1)
    second = make(init_from=str(tmp_path / "last.ckpt"))
    assert int(second.images_seen) == 0
    for name, value in first.state_dict().items():
        if name.startswith(("generator", "discriminator")):
            assert torch.equal(value, second.state_dict()[name]), name


def test_a_portable_file_starts_both_the_generator_and_its_average(tmp_path):
    other = make()
    torch.nn.init.constant_(other.generator.mapping.fc0.bias, 7.0)
    path = save_pretrained(tmp_path / "g.safetensors", other.generator)
    gan = make(init_from=str(path))
    assert (gan.generator.mapping.fc0.bias == 7).all()
    assert (gan.generator_ema.mapping.fc0.bias == 7).all()


def test_weights_that_do_not_fit_at_all_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no model"):
        make(init_from=str(tmp_path / "none.ckpt"))
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="neither a portable file nor a training checkpoint"):
        make(init_from=str(tmp_path / "bad.ckpt"))
    path = save_pretrained(tmp_path / "d.safetensors", EG3D(**EG3D.tiny))
    with pytest.raises(ValueError, match=r"fills 0 of \d+ tensors .* of the generator of this run"):
        make(init_from=str(path))


def test_path_length_regularization_runs_lazily_and_remembers_the_mean_length(posed_zip, tmp_path):
    gan = make(path_length=PathLength(weight=2.0, interval=2), log_every_kimg=0.008)
    fit(gan, posed_zip, run=tmp_path)
    logged = rows(tmp_path)
    assert [row["path/length"] != "" for row in logged] == [True, False, True, False]
    first, third = float(logged[0]["path/length"]), float(logged[2]["path/length"])
    assert gan.path_mean.item() == pytest.approx(0.99 * 0.01 * first + 0.01 * third, rel=1e-4)
    assert gan.configure_optimizers()[0].defaults["lr"] == pytest.approx(gan.optimizer_g.lr * 2 / 3)


def make_eg3d(**options) -> GAN:
    torch.manual_seed(0)
    options = {
        "total_kimg": 3 * BATCH / 1000,
        "r1": R1(gamma=1.0, interval=4),
        "log_every_kimg": 1e6,  # at the end only
    } | options
    return GAN(EG3D(**EG3D.tiny), DualDiscriminator(**DualDiscriminator.tiny), **grouped(**options))


class DensityNoise(Callback):
    """That of the generator and that of the average, in every iteration."""

    def __init__(self):
        self.values: list[tuple[float, float]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        networks = (pl_module.generator, pl_module.generator_ema)
        self.values.append(tuple(network.density_noise for network in networks))


def test_density_noise_fades_and_is_no_part_of_the_average(posed_zip):
    noise = DensityNoise()
    fit(make_eg3d(density_noise=Ramp(2.0, 0.0, fade_kimg=0.016)), posed_zip, noise)
    assert noise.values == [(2.0, 0.0), (1.0, 0.0), (0.0, 0.0)]


def test_frozen_parts_stay_as_the_average_has_them_and_the_rest_learns(posed_zip):
    gan = make_eg3d(freeze="planes,decoder")
    with torch.no_grad():
        gan.generator.decoder.net[0].bias.add_(1.0)  # trained weights differ from their average's
    average = copy.deepcopy(gan.generator_ema.state_dict())
    fit(gan, posed_zip)
    for name, parameter in gan.generator.named_parameters():
        if name.startswith(("backbone.synthesis.", "decoder.")):
            assert torch.equal(parameter, average[name]), name
            assert torch.equal(gan.generator_ema.state_dict()[name], average[name]), name
    assert not torch.equal(
        gan.generator.backbone.mapping.fc0.weight, average["backbone.mapping.fc0.weight"]
    )


def test_what_a_stage_freezes_learns_before_it(posed_zip):
    watch = Watch()
    fit(
        make_eg3d(stages=[Stage(), Stage(from_kimg=2 * BATCH / 1000, freeze=["decoder"])]),
        posed_zip,
        watch,
    )
    name = "generator.decoder.net.0.weight"
    before, first, second, third = (state[name] for state in watch.states)
    assert not torch.equal(before, first)
    assert not torch.equal(first, second)
    assert torch.equal(third, watch.states[2]["generator_ema.decoder.net.0.weight"])


def test_stages_change_batch_size_and_learning_rates_where_they_begin(posed_zip, tmp_path):
    stages = [
        Stage(),
        Stage(from_kimg=0.016, batch_size=4, micro_batch_size=2, lr_g=0.0, lr_d=0.0, gamma=0.0),
    ]
    watch = Watch()
    gan = make(stages=stages, total_kimg=0.028, r1=R1(1.0, interval=1), log_every_kimg=0.004)
    fit(gan, posed_zip, watch, run=tmp_path)
    assert [int(row["step"]) for row in rows(tmp_path)] == [8, 16, 20, 24, 28]
    assert [row["loss/r1"] not in ("", "0.0") for row in rows(tmp_path)] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert moved(watch.states[1], watch.states[2], "generator.")
    assert not moved(watch.states[2], watch.states[-1], "generator.")
    assert not moved(watch.states[2], watch.states[-1], "discriminator.")


def test_each_player_has_the_rate_that_a_stage_gives_it(posed_zip):
    gan = make(stages=[Stage(lr_g=1e-3, lr_d=3e-3)], path_length=PathLength(weight=1.0, interval=2))
    fit(gan, posed_zip)
    g, d = (optimizer.param_groups[0]["lr"] for optimizer in gan.optimizers())
    assert g == pytest.approx(1e-3 * 2 / 3)
    assert d == pytest.approx(3e-3 * 4 / 5)


def test_what_is_logged_does_not_depend_on_the_size_of_micro_batches(posed_zip, tmp_path):
    logged = []
    for size in (2, 8):
        ada = ADA(preset="blit", target=-2.0, kimg=0.064, interval=1)
        gan = make(ada=ada, micro_batch_size=size, log_every_kimg=0.008, total_kimg=0.008)
        fit(gan, posed_zip, run=tmp_path / str(size))
        logged.append(rows(tmp_path / str(size)))
    told = ("loss/generator", "loss/discriminator", "loss/r1", "logits/real", "augment/p")
    for name in (*told, "gradient/generator", "gradient/discriminator", "gradient/r1"):
        small, whole = (float(row[name]) for (row,) in logged)
        assert small == pytest.approx(whole, rel=1e-3), name


def test_density_is_regularized_from_the_first_iteration_on(posed_zip, tmp_path):
    density = DensityRegularization(weight=1.0, interval=2, num_points=10)
    fit(make_eg3d(density=density, log_every_kimg=0.008), posed_zip, run=tmp_path)
    assert [row["loss/density"] != "" for row in rows(tmp_path)] == [True, False, True]


def test_the_average_moves_in_every_iteration_by_the_images_seen_before_it(posed_zip):
    watch, ema = Watch(), EMA(half_life_kimg=1.0, ramp_up=0.5)
    fit(make(ema=ema), posed_zip, watch)
    name = "mapping.fc0.weight"
    for i, (before, after) in enumerate(itertools.pairwise(watch.states)):
        old, new = before[f"generator_ema.{name}"], after[f"generator.{name}"]
        expected = torch.lerp(new, old, ema.beta(BATCH * i, BATCH))
        assert not torch.equal(old, new)
        torch.testing.assert_close(after[f"generator_ema.{name}"], expected)


class Norms(Callback):
    """The norm of all gradients at each optimizer step, by player."""

    def __init__(self):
        self.values: dict[str, list[float]] = {"generator": [], "discriminator": []}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        of_g = any(p is parameters[0] for p in pl_module.generator.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        self.values["generator" if of_g else "discriminator"].append(norm)


def test_gradients_are_clipped_to_their_norm(posed_zip):
    norms = Norms()
    fit(make(optimizer_g=Adam(clip_norm=1e-3), optimizer_d=Adam(clip_norm=2e-3)), posed_zip, norms)
    for player, largest in (("generator", 1e-3), ("discriminator", 2e-3)):
        assert max(norms.values[player]) <= largest * (1 + 1e-4)
        assert min(norms.values[player]) > 0.9 * largest
    with pytest.raises(ValueError, match="clip_norm 0"):
        Adam(clip_norm=0)


def test_what_can_not_work_together_is_refused():
    with pytest.raises(ValueError, match=r"no part 'nerf' to freeze; its parts: mapping, planes"):
        make_eg3d(freeze="nerf")
    with pytest.raises(
        ValueError, match=r"a stage has resolution 16, but StyleGAN2 makes images of 32 px only"
    ):
        make(stages=[Stage(resolution=16)])
    with pytest.raises(ValueError, match=r"those of StyleGAN2 are not"):
        make(rays=RayGradients("chunked"))
    with pytest.raises(ValueError, match="predicts no pose"):
        make_eg3d(pose=PosePrediction(weight=1.0))
    with pytest.raises(ValueError, match=r"StyleGAN2 has none; set --model\.consistency\.weight 0"):
        make(consistency=CrossResolution(1.0))
    with pytest.raises(ValueError, match="does not judge patches"):
        make(patch=Patches(0.1))
    with pytest.raises(ValueError, match="predicts no z, StyleGAN2 has one of 8"):
        make(latent=LatentPrediction(1.0))
    with pytest.raises(ValueError, match=r"fakes\.density_noise needs a generator with a field"):
        make(density_noise=Ramp(1.0, 0.0))
    with pytest.raises(ValueError, match="mode full differentiates all"):
        make_eg3d(stages=[Stage(num_rays=100)])


def test_the_discriminator_may_start_anew(posed_zip, tmp_path):
    first = make()
    fit(first, posed_zip, Checkpoints(tmp_path))
    torch.manual_seed(1)
    second = make(init_from=str(tmp_path / "last.ckpt"), init_discriminator=False)
    fresh = make().discriminator.state_dict()
    assert all(
        torch.equal(value, fresh[name]) for name, value in second.discriminator.state_dict().items()
    )
    trained = first.generator.state_dict()
    assert all(
        torch.equal(value, trained[name]) for name, value in second.generator.state_dict().items()
    )


def test_a_conditional_2d_generator_is_told_the_label_that_the_discriminator_gets(posed_zip):
    generator = StyleGAN2(**StyleGAN2.tiny | {"c_dim": 25})
    gan = GAN(
        generator,
        StyleGAN2Discriminator(**StyleGAN2Discriminator.tiny | {"c_dim": 25}),
        fakes=Fakes(poses=GaussianPose()),
    )
    told = []
    generator.mapping.register_forward_pre_hook(lambda _, args: told.append(args[1]))
    latents = gan.phases.latents(gan.draws(range(4), "generator"))
    assert torch.equal(told[0], latents.camera.label())
