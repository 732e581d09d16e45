"""gan3d.training.phases: what each phase draws, sees and weighs; no golden numbers are needed."""

import functools
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gan3d.augment import ADA, Augmentation, Blur
from gan3d.augment.blur import blur
from gan3d.augment.diffaug import DiffAugment
from gan3d.camera import Camera, GaussianPose, PosePrior
from gan3d.discriminators import (
    DISCRIMINATORS,
    Discriminator,
    DiscriminatorOutput,
    GRAMDiscriminator,
    StyleGAN2Discriminator,
    check_pair,
)
from gan3d.generators import EG3D, GENERATORS, Generator, PiGAN, Rendering, StyleGAN2
from gan3d.layers.resize import filtered_resizing
from gan3d.randomness import Randomness
from gan3d.schedules import Ramp
from gan3d.training.fakes import Fakes
from gan3d.training.gan import GAN
from gan3d.training.losses import (
    R1,
    R2,
    CrossResolution,
    DensityRegularization,
    LatentPrediction,
    Patches,
    PathLength,
    PoseConditioning,
    PosePrediction,
    Relativistic,
    TopK,
)
from gan3d.training.micro_batches import Part
from gan3d.training.ray_gradients import RayGradients
from gan3d.training.stages import Stage

INDICES = [4, 5, 6, 7]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def part_of(gan: GAN, **changes) -> Part:
    side, dtype = gan.discriminator.img_resolution, next(gan.parameters()).dtype
    camera = GaussianPose().sample(Randomness(9, INDICES, "reals", dtype=dtype))
    image = normal(3, len(INDICES), 3, side, side).clamp(-1, 1).to(dtype)
    return Part(**{"image": image, "camera": camera, "indices": INDICES} | changes)


def run(gan: GAN, phase: str, part: Part | None = None) -> dict[str, Tensor]:
    """Values of a phase; gradients are left in the networks."""
    gan.zero_grad()
    values: dict[str, Tensor] = {}
    for term in getattr(gan.phases, f"{phase}_loss")(part or part_of(gan), values):
        term.backward()
    return {name: value.detach() for name, value in values.items()}


def gradients(network: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


# ------------------------------------------------------------ draws


class Recording(Randomness):
    """Notes the streams that are drawn."""

    streams: list[tuple[str, str]]

    def _numbers(self, name, kind, shape):
        self.streams.append((self.phase, name))
        return super()._numbers(name, kind, shape)


def opponent(generator: Generator) -> Discriminator:
    """A tiny discriminator that fits, the one that judges most."""
    for name in ("DualDiscriminator", "CIPS3DDiscriminator", "GRAMDiscriminator"):
        cls = DISCRIMINATORS[name]
        discriminator = cls(**cls.tiny)
        try:
            check_pair(generator, discriminator)
            return discriminator
        except ValueError:
            continue
    return StyleGAN2Discriminator(**StyleGAN2Discriminator.tiny | {"c_dim": 0})


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_all_streams_of_an_iteration_are_distinct(name, monkeypatch):
    """Everything that draws is on: two draws from one stream would be the same numbers twice."""
    torch.manual_seed(0)
    generator = GENERATORS[name](**GENERATORS[name].tiny)
    lazy = "density" if generator.has_field else "path_length"
    gan = GAN(
        generator,
        opponent(generator),
        fakes=Fakes(
            poses=GaussianPose(),
            style_mixing=0.9,
            density_noise=Ramp(1.0) if generator.has_field else Ramp(),
        ),
        augmentation=Augmentation(
            Blur(1.0), ADA(preset="bgcfnc", p=0.8), DiffAugment(enabled=True)
        ),
        r1=R1(gamma=1.0, interval=1),
        r2=R2(gamma=1.0),
        **{lazy: (DensityRegularization if lazy == "density" else PathLength)(weight=1.0)},
    )
    generator.density_noise = 0.5 if generator.has_field else 0.0
    streams: dict[str, list[tuple[str, str]]] = {}

    def draws(indices, phase):
        draw = Recording(0, indices, phase)
        draw.streams = streams.setdefault(phase, [])
        return draw

    gan.phases.draws = draws
    for phase in ("generator", lazy, "discriminator"):
        run(gan, phase)
    drawn = [stream for some in streams.values() for stream in some]
    assert set(streams) == {"generator", lazy, "discriminator", "r1"}
    assert not {stream: n for stream, n in Counter(drawn).items() if n > 1}
    assert {phase.split("/")[0] for phase, _ in drawn} == set(streams)
    if generator.has_camera and generator.camera_conditioned:
        swaps = {phase for phase, name in drawn if name.startswith("pose.") and "swap" in phase}
        assert len(swaps) == 4  # each phase swaps with cameras of its own


# ------------------------------------------------------------ weights of losses


def small_gan(**options) -> GAN:
    torch.manual_seed(0)
    discriminator = StyleGAN2Discriminator(**StyleGAN2Discriminator.tiny | {"c_dim": 0})
    return GAN(StyleGAN2(**StyleGAN2.tiny), discriminator, **options).double()


def test_lazy_penalties_weigh_their_interval():
    once, lazy = small_gan(r1=R1(2.0, interval=1)), small_gan(r1=R1(2.0, interval=3))
    one, three = run(once, "r1"), run(lazy, "r1")
    assert three["loss/r1"] == one["loss/r1"] > 0  # logged without its interval
    mine, theirs = gradients(once.discriminator), gradients(lazy.discriminator)
    assert largest_difference({n: 3 * g for n, g in mine.items()}, theirs) < 1e-12


def test_density_and_path_length_weigh_their_interval():
    def density(interval):
        torch.manual_seed(0)
        gan = GAN(
            EG3D(**EG3D.tiny),
            opponent(EG3D(**EG3D.tiny)),
            fakes=Fakes(poses=GaussianPose()),
            density=DensityRegularization(1.0, perturbation=0.1, interval=interval, num_points=20),
        ).double()
        run(gan, "density")
        return gradients(gan.generator)

    def path_length(interval):
        gan = small_gan(path_length=PathLength(2.0, interval=interval))
        gan.phases.path_mean = gan.path_mean  # of the same dtype
        run(gan, "path_length")
        return gradients(gan.generator)

    for loss in (density, path_length):
        one, three = loss(1), loss(3)
        scale = max(float(g.abs().max()) for g in three.values())
        assert largest_difference({n: 3 * g for n, g in one.items()}, three) < 1e-10 * scale


def test_r1_sees_patches_unless_told_not_to():
    def penalty(in_r1, weight=1.0):
        torch.manual_seed(0)
        generator = GENERATORS["GRAMHD"](**GENERATORS["GRAMHD"].tiny)
        gan = GAN(
            generator,
            GRAMDiscriminator(**GRAMDiscriminator.tiny),
            fakes=Fakes(poses=GaussianPose(radius=1.0, fov=12.0)),
            r1=R1(1.0, interval=1),
            patch=Patches(weight, in_r1=in_r1),
        ).double()
        return float(run(gan, "r1")["loss/r1"])

    assert penalty(in_r1=True) != penalty(in_r1=False)
    assert penalty(in_r1=True, weight=0.0) == penalty(in_r1=False)


def test_consistency_compares_maps_where_there_are_any():
    torch.manual_seed(0)
    gan = GAN(
        GENERATORS["GRAMHD"](**GENERATORS["GRAMHD"].tiny),
        GRAMDiscriminator(**GRAMDiscriminator.tiny),
        fakes=Fakes(poses=GaussianPose(radius=1.0, fov=12.0)),
        consistency=CrossResolution(1.0),
    ).double()
    seen = []
    plain = CrossResolution.__call__

    def watch(self, image, raw, maps=None, raw_maps=None):
        seen.append((maps, raw_maps))
        return plain(self, image, raw, maps, raw_maps)

    try:
        CrossResolution.__call__ = watch
        run(gan, "generator")
    finally:
        CrossResolution.__call__ = plain
    (maps, raw_maps), *rest = seen
    assert not rest
    assert maps is not None
    assert maps.shape[-1] > raw_maps.shape[-1]


def test_the_conditioning_camera_is_swapped_as_often_as_its_schedule_says():
    torch.manual_seed(0)
    generator = EG3D(**EG3D.tiny)
    gan = GAN(
        generator,
        opponent(generator),
        fakes=Fakes(poses=GaussianPose(), conditioning=PoseConditioning(swap=0.25, fade_kimg=1)),
    )
    seen = []
    generator.backbone.mapping.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    draw = Randomness(0, range(2000), "generator")
    for images_seen, share in ((0, 1.0), (500, 0.625), (1000, 0.25)):
        gan.phases.images_seen = images_seen
        latents = gan.phases.latents(draw)
        swapped = (seen[-1] != latents.camera.label()).any(dim=1)
        assert abs(float(swapped.float().mean()) - share) < 0.04


@pytest.mark.parametrize("camera", ["conditioning", "rendering"])
def test_mixed_latents_know_the_rendering_camera_only_if_told(camera):
    class Poses(PosePrior):
        yaw = 0.0

        def sample(self, randomness):  # the camera to swap with stays
            yaw = 0.9 if "swap" in randomness.phase else self.yaw
            return Camera.from_angles(torch.full((len(randomness),), yaw), 0.0)

    torch.manual_seed(0)
    generator, poses = EG3D(**EG3D.tiny), Poses()
    fakes = Fakes(
        poses=poses,
        conditioning=PoseConditioning(swap=1.0, fade_kimg=0),
        style_mixing=1.0,
        style_mixing_camera=camera,
    )
    gan, ws = GAN(generator, opponent(generator), fakes=fakes), []
    for poses.yaw in (-0.4, 0.4):
        ws.append(gan.phases.latents(gan.draws(range(4), "generator")).ws)
    assert torch.equal(*ws) == (camera == "conditioning")


def test_reals_and_their_raw_images_are_blurred_while_the_blur_lasts():
    torch.manual_seed(0)
    generator = EG3D(**EG3D.tiny)
    gan = GAN(
        generator,
        opponent(generator),
        fakes=Fakes(poses=GaussianPose()),
        augmentation=Augmentation(Blur(2.0, fade_kimg=1.0)),
    )
    part, seen = part_of(gan), []
    gan.discriminator.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args[0], kwargs["raw"])), with_kwargs=True
    )
    small = filtered_resizing(part.image, generator.raw_resolution)
    for images_seen, sigma in ((0, 2.0), (500, 1.0), (1000, 0.0)):
        gan.phases.images_seen = images_seen
        seen.clear()
        run(gan, "discriminator", part)
        image, raw = seen[1]  # fakes come first
        assert torch.allclose(image, blur(part.image, sigma), atol=1e-6)
        # The raw image is blurred when it is made, and is not blurred again.
        assert torch.allclose(raw, blur(small, sigma), atol=1e-6)


def test_each_optimizer_has_the_settings_of_its_own_player():
    from gan3d.training.optimizers import Adam

    gan = small_gan(
        optimizer_g=Adam(lr=1e-3, beta1=0.1, beta2=0.9, eps=1e-6),
        optimizer_d=Adam(lr=2e-3, beta1=0.3, beta2=0.8, eps=1e-7),
        r1=R1(1.0, interval=4),
        path_length=PathLength(1.0, interval=2),
    )
    g, d = gan.configure_optimizers()
    assert g.defaults["lr"] == pytest.approx(1e-3 * 2 / 3)
    assert g.defaults["betas"] == pytest.approx((0.1 ** (2 / 3), 0.9 ** (2 / 3)))
    assert g.defaults["eps"] == 1e-6
    assert d.defaults["lr"] == pytest.approx(2e-3 * 4 / 5)
    assert d.defaults["betas"] == pytest.approx((0.3 ** (4 / 5), 0.8 ** (4 / 5)))
    assert d.defaults["eps"] == 1e-7


def test_predictions_of_pose_and_latent_weigh_in_for_both_players():
    torch.manual_seed(0)
    cls = DISCRIMINATORS["PiGANDiscriminator"]
    gan = GAN(
        PiGAN(**PiGAN.tiny),
        cls(**cls.tiny),
        fakes=Fakes(poses=GaussianPose(radius=1.0, fov=12.0)),
        r1=R1(0.0),
        pose=PosePrediction(weight=2.0, real_weight=3.0),
        latent=LatentPrediction(weight=0.0),
    ).double()
    part = part_of(gan)
    values: dict[str, Tensor] = {}
    (total,) = gan.phases.generator_loss(part, values)
    expected = values["loss/generator"] + 2.0 * values["pose/generator"]
    assert float(total.detach()) == pytest.approx(float(expected), rel=1e-12)
    values = {}
    of_fakes, of_reals = gan.phases.discriminator_loss(part, values)
    fake = F.softplus(gan.phases.judge(*_fake_inputs(gan), None).logits).mean()
    assert float(of_fakes) == pytest.approx(float(fake + 2.0 * values["pose/fake"]), rel=1e-9)
    real = F.softplus(-gan.discriminator(part.image, camera=part.camera).logits).mean()
    assert float(of_reals) == pytest.approx(float(real + 3.0 * values["pose/real"]), rel=1e-9)


def test_the_prediction_of_z_weighs_in_for_both_players():
    torch.manual_seed(0)
    cls, z_dim = DISCRIMINATORS["PiGANDiscriminator"], PiGAN.tiny["z_dim"]
    gan = GAN(
        PiGAN(**PiGAN.tiny),
        cls(**cls.tiny | {"z_dim": z_dim}),
        fakes=Fakes(poses=GaussianPose(radius=1.0, fov=12.0)),
        r1=R1(0.0),
        latent=LatentPrediction(weight=5.0),
    ).double()
    part = part_of(gan)
    values: dict[str, Tensor] = {}
    (total,) = gan.phases.generator_loss(part, values)
    of_fakes, _ = gan.phases.discriminator_loss(part, {})
    for phase, loss, adversarial in (
        ("generator", total, lambda logits: F.softplus(-logits)),
        ("discriminator", of_fakes, F.softplus),
    ):
        fake, latents = gan.phases._fresh_fakes(gan.draws(INDICES, phase))
        judged = gan.discriminator(fake.image, camera=latents.camera)
        error = 5.0 * (judged.latent - latents.z).square().mean()
        expected = float(adversarial(judged.logits).mean() + error)
        assert float(loss) == pytest.approx(expected, rel=1e-9), phase


def test_consistency_and_patches_weigh_in_the_generator_s_loss():
    torch.manual_seed(0)
    gan = GAN(
        GENERATORS["GRAMHD"](**GENERATORS["GRAMHD"].tiny),
        GRAMDiscriminator(**GRAMDiscriminator.tiny),
        fakes=Fakes(poses=GaussianPose(radius=1.0, fov=12.0)),
        consistency=CrossResolution(100.0),
        patch=Patches(10.0),
    ).double()
    judged = []
    gan.discriminator.register_forward_hook(lambda *args: judged.append(args[-1]))
    values: dict[str, Tensor] = {}
    (total,) = gan.phases.generator_loss(part_of(gan), values)
    image, patches = (F.softplus(-x).mean() for x in (judged[0].logits, judged[0].patch_logits))
    assert float(values["loss/generator"]) == pytest.approx(float(image + 10 * patches), rel=1e-9)
    assert float(values["loss/consistency"]) > 0.01
    assert float(total) == pytest.approx(
        float(values["loss/generator"] + values["loss/consistency"]), rel=1e-12
    )


def test_separate_logits_of_image_and_raw_image_weigh_one_half_each_in_r1():
    torch.manual_seed(0)
    generator = GENERATORS["CIPS3D"](**GENERATORS["CIPS3D"].tiny)
    cls = DISCRIMINATORS["CIPS3DDiscriminator"]
    gan = GAN(
        generator, cls(**cls.tiny), fakes=Fakes(poses=GaussianPose()), r1=R1(2.0, interval=1)
    ).double()
    part = part_of(gan)
    image, raw = (x.requires_grad_() for x in gan.phases.reals(part, gan.draws(INDICES, "r1")))
    judged = gan.discriminator(image, raw=raw)
    slopes = torch.autograd.grad(judged.all_logits.sum(), (image, raw))
    expected = sum(slope.square().sum((1, 2, 3)).mean() for slope in slopes) / 2
    assert float(run(gan, "r1", part)["loss/r1"]) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("of", ["input", "image"])
@pytest.mark.parametrize(
    ("maker", "judge"),
    [
        ("StyleGAN2", "StyleGAN2Discriminator"),
        ("CIPS3D", "CIPS3DDiscriminator"),
        ("GRAM", "GRAMDiscriminator"),
        ("GRAMHD", "GRAMDiscriminator"),
        ("PiGAN", "PiGANDiscriminator"),
    ],
)
def test_r1_of_every_step_has_the_gradients_of_a_pass_of_its_own(maker, judge, of, monkeypatch):
    """It shares the discriminator's pass over the reals: one of the fakes, one of the reals."""

    def make(r1: R1) -> GAN:
        torch.manual_seed(0)
        generator, discriminator = (
            GENERATORS[maker](**GENERATORS[maker].tiny),
            DISCRIMINATORS[judge](**DISCRIMINATORS[judge].tiny),
        )
        gan = GAN(
            generator,
            discriminator,
            fakes=Fakes(poses=GaussianPose()),
            augmentation=Augmentation(Blur(1.0), diffaug=DiffAugment(enabled=True)),
            r1=r1,
            patch=Patches(0.5 if discriminator.predicts_patches else 0.0),
        )
        return gan.double()

    passes: list[Tensor] = []
    shared, apart = make(R1(2.0, interval=1, of=of)), make(R1(2.0, interval=2, of=of))
    shared.discriminator.register_forward_hook(lambda *args: passes.append(args[-1].logits))
    part = part_of(shared)
    values = run(shared, "discriminator", part)
    assert len(passes) == 2

    # The same draws: those of the discriminator's phase.
    found = run(apart, "discriminator", part)
    of_both = gradients(apart.discriminator)
    as_reals = apart.draws(INDICES, "discriminator").in_phase("real")
    monkeypatch.setattr(apart.phases, "draws", lambda *_: as_reals)
    found |= run(apart, "r1", part)
    for name, gradient in gradients(apart.discriminator).items():
        of_both[name] = of_both.get(name, torch.zeros(())) + gradient / 2  # its interval
    assert values.keys() == found.keys()
    assert values["loss/r1"] > 0
    for name, value in values.items():
        assert float(value) == pytest.approx(float(found[name]), rel=1e-9)
    ours = gradients(shared.discriminator)
    scale = max(float(gradient.abs().max()) for gradient in of_both.values())
    assert largest_difference(ours, of_both) < 1e-10 * scale


def test_r1_without_a_weight_has_that_of_the_whole_batch():
    rule, own = small_gan(r1=R1(None)), small_gan(r1=R1(0.0002 * 32**2 / 64))
    rule.phases.batch_size = 64
    assert run(rule, "r1")["loss/r1"] == run(own, "r1")["loss/r1"] > 0


def test_the_logged_loss_of_the_discriminator_is_that_of_both_sides():
    gan = small_gan()
    values: dict[str, Tensor] = {}
    of_fakes, of_reals = gan.phases.discriminator_loss(part_of(gan), values)
    assert float(values["loss/discriminator"]) == pytest.approx(float(of_fakes + of_reals))


def test_the_generator_learns_from_its_best_fakes_as_images_are_seen():
    gan = small_gan(adversarial=TopK(interval_kimg=0.001, smallest=0.5))
    judged = []
    gan.discriminator.register_forward_hook(lambda *args: judged.append(args[-1].logits))
    for images_seen, kept in ((0, 4), (10**6, 2)):
        gan.phases.images_seen = images_seen
        judged.clear()
        loss = run(gan, "generator")["loss/generator"]
        best = judged[0].sort(descending=True).values[:kept]
        assert float(loss) == pytest.approx(float(F.softplus(-best).mean()), rel=1e-9)


def _fake_inputs(gan: GAN) -> tuple[Tensor, Tensor | None, Camera | None]:
    fake, latents = gan.phases._fresh_fakes(gan.draws(INDICES, "discriminator"))
    return fake.image, fake.raw, latents.camera


# ------------------------------------------------------------ a game that sees both sides


def test_the_relativistic_game_compares_each_fake_with_its_real():
    game, fake, real = Relativistic(), torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    assert torch.allclose(game.generator(fake, 0, real), F.softplus(-(fake - real)))
    assert torch.allclose(game.discriminator(fake, real), F.softplus(-(real - fake)))
    with pytest.raises(ValueError, match="got no real_logits"):
        game.generator(fake)


def test_a_paired_game_trains_both_players_with_r1_and_r2():
    gan = small_gan(adversarial=Relativistic(), r1=R1(2.0, interval=1), r2=R2(3.0))
    part = part_of(gan)

    # the discriminator's loss by hand
    values: dict[str, Tensor] = {}
    pair_and_r1, r2 = gan.phases.discriminator_loss(part, values)
    pair, r1 = values["loss/discriminator"], values["loss/r1"]
    assert float(pair_and_r1) == pytest.approx(float(pair + r1), rel=1e-9)
    fake = gan.discriminator(_fake_inputs(gan)[0]).logits
    real = gan.discriminator(part.image).logits
    assert float(pair) == pytest.approx(float(F.softplus(fake - real).mean()), rel=1e-9)

    # each penalty at its images
    x = part.image.clone().requires_grad_()
    (slope,) = torch.autograd.grad(gan.discriminator(x).logits.sum(), x)
    assert float(r1) == pytest.approx(float(slope.square().sum((1, 2, 3)).mean()), rel=1e-9)
    draw = gan.draws(INDICES, "r1").in_phase("fake")
    x = gan.phases._fresh_fakes(draw)[0].image.clone().requires_grad_()
    (slope,) = torch.autograd.grad(gan.discriminator(x).logits.sum(), x)
    assert float(r2) == pytest.approx(1.5 * float(slope.square().sum((1, 2, 3)).mean()), rel=1e-9)

    # the generator's loss falls where its fakes look more real than the reals
    (loss,) = gan.phases.generator_loss(part, values)
    latents = gan.phases.latents(gan.draws(INDICES, "generator"))
    image = gan.generator.render(gan.generator.represent(latents.ws, randomness=None)).image
    assert image.shape == part.image.shape
    real = gan.discriminator(part.image).logits
    made = gan.phases._view(
        gan.generator.represent(latents.ws, randomness=gan.draws(INDICES, "generator")),
        None,
        gan.draws(INDICES, "generator"),
    ).render()
    fake = gan.discriminator(made.image).logits
    assert float(loss) == pytest.approx(float(F.softplus(real - fake).mean()), rel=1e-9)
    loss.backward()
    assert gradients(gan.generator)


def test_r2_alone_is_a_penalty_with_the_interval_of_r1():
    gan = small_gan(r1=R1(0.0, interval=4), r2=R2(1.0))
    assert gan.losses.lazy_d == 4
    assert set(run(gan, "r1")) == {"loss/r2"}
    assert small_gan(r1=R1(0.0)).losses.lazy_d == 0


def test_a_paired_game_compares_with_reals_as_the_discriminator_sees_them():
    blurred = Augmentation(Blur(2.0, fade_kimg=1.0))
    gan = small_gan(adversarial=Relativistic(), augmentation=blurred)
    part, seen = part_of(gan), []
    gan.discriminator.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    run(gan, "generator", part)
    real, _ = seen  # reals come first
    assert torch.allclose(real, blur(part.image, 2.0), atol=1e-12)


def test_only_reals_tell_the_augmentation_how_far_to_go():
    gan = small_gan(r1=R1(1.0, interval=2), r2=R2(1.0))
    collected, judged, part = [], [], part_of(gan)
    gan.adaptive_p.collect = collected.append
    gan.discriminator.register_forward_hook(lambda *args: judged.append((args[1][0], args[-1])))
    for phase, num in (("generator", 0), ("discriminator", 1), ("r1", 1)):
        collected.clear()
        judged.clear()
        run(gan, phase, part)
        of_reals = [output.logits for image, output in judged if torch.equal(image, part.image)]
        assert len(collected) == len(of_reals) == num, phase
        assert all(torch.equal(a, b) for a, b in zip(collected, of_reals)), phase


# ------------------------------------------------------------ latents


@pytest.mark.parametrize(("shrink", "expected"), [(1, INDICES), (2, [4, 6]), (3, [6]), (9, [4])])
def test_path_lengths_are_measured_on_one_in_so_many_images(shrink, expected):
    """Image 4 of a part without any runs with weight 0, so that there are gradients."""
    gan = small_gan(path_length=PathLength(1.0, batch_shrink=shrink))
    gan.phases.path_mean = gan.path_mean  # of the same dtype
    seen, draws = [], gan.phases.draws
    gan.phases.draws = lambda indices, phase: seen.append(indices) or draws(indices, phase)
    values = run(gan, "path_length")
    assert seen == [expected]
    assert (float(values["loss/path_length"]) == 0) == (shrink == 9)


def mixing_eg3d(**options) -> GAN:
    """Every image has two latents, and a conditioning camera that is not its own."""
    torch.manual_seed(0)
    generator = EG3D(**EG3D.tiny)
    swapped = PoseConditioning(swap=1.0)
    fakes = Fakes(poses=GaussianPose(), conditioning=swapped, style_mixing=1.0, **options)
    return GAN(generator, opponent(generator), fakes=fakes, r1=R1(1.0), r2=R2(1.0))


def test_both_latents_of_an_image_have_one_conditioning_camera():
    gan, seen = mixing_eg3d(), []
    gan.generator.backbone.mapping.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    latents = gan.phases.latents(gan.draws(INDICES, "generator"))
    first, second = seen
    assert torch.equal(first, second)
    assert (first != latents.camera.label()).any(dim=1).all()


def test_as_published_the_second_latent_of_an_image_is_conditioned_on_its_own_camera():
    gan, seen = mixing_eg3d(style_mixing_camera="rendering"), []
    gan.generator.backbone.mapping.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    latents = gan.phases.latents(gan.draws(INDICES, "generator"))
    first, second = seen
    assert torch.equal(second, latents.camera.label())
    assert (first != second).any(dim=1).all()


def test_running_means_learn_from_the_discriminator_s_fakes_before_their_styles_are_mixed():
    gan = mixing_eg3d()
    latents = gan.phases.latents(gan.draws(INDICES, "discriminator"))
    for phase in ("generator", "discriminator", "r1"):
        run(gan, phase)
    ((mapped,),) = gan.phases.take_tracked()
    assert torch.equal(mapped, latents.mapped)
    assert not torch.equal(mapped, latents.ws)
    assert gan.phases.tracked == []


# ------------------------------------------------------------ several views of a scene


def views_gan(views: int, rays: RayGradients = RayGradients()) -> GAN:
    torch.manual_seed(0)
    cls = DISCRIMINATORS["PiGANDiscriminator"]
    poses = GaussianPose(radius=1.0, fov=12.0)
    return GAN(
        PiGAN(**PiGAN.tiny),
        cls(**cls.tiny),
        fakes=Fakes(poses=poses, views=views),
        rays=rays,
    ).double()


@pytest.mark.parametrize("rays", [RayGradients(), RayGradients("chunked", chunk=100)], ids=str)
def test_the_gradient_of_several_views_is_the_mean_over_them(rays):
    gan = views_gan(3, rays)
    values = run(gan, "generator")
    mine = gradients(gan.generator)

    # each view on its own, from the same scene, by plain autograd
    single = views_gan(1)
    phases, draw = single.phases, single.draws(INDICES, "generator")
    single.zero_grad()
    latents, losses = phases.latents(draw), []
    scene = single.generator.represent(latents.ws, randomness=draw)
    for k in range(3):
        draw_k = draw if k == 0 else draw.in_phase(f"view{k}")
        camera = latents.camera if k == 0 else phases.poses.sample(draw_k)
        fake = phases._view(scene, camera, draw_k).render()
        losses.append(F.softplus(-single.discriminator(fake.image, camera=camera).logits).mean())
    torch.stack(losses).mean().backward()
    assert len({round(float(loss), 12) for loss in losses}) == 3  # the views differ
    assert float(values["loss/generator"]) == pytest.approx(float(sum(losses) / 3), rel=1e-9)
    assert largest_difference(mine, gradients(single.generator)) < 1e-9


def test_several_views_of_a_model_that_is_not_strictly_3d_are_refused():
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"views 2 .* StyleGAN2 .*--model.fakes.views 1"):
        small_gan(fakes=Fakes(views=2))


# ------------------------------------------------------------ regularizers of a generator


class Dot(Generator):
    """A 2D model with a penalty of its own."""

    def __init__(self, weight: float = 0.5):
        super().__init__()
        self.z_dim = self.w_dim = 4
        self.num_ws, self.img_resolution, self.weight = 1, 16, weight
        self.color = torch.nn.Linear(4, 3)

    has_camera = False

    def map(self, z, camera=None, *, truncation=1.0, truncation_cutoff=None):
        return z[:, None]

    def represent(self, ws, *, randomness=None):
        return self.color(ws[:, 0])

    def render(
        self,
        representation,
        camera=None,
        *,
        resolution=None,
        rays=None,
        raw=True,
        randomness=None,
    ):
        return Rendering(representation[:, :, None, None].expand(-1, -1, 16, 16))

    def regularizers(self, representation, randomness=None):
        return {"size": self.weight * representation.square().sum(dim=1)}


GENERATORS.pop("Dot")  # of these tests only: no registry-walking test shall see it


class Mean(Discriminator):
    """Judges by the mean color."""

    def __init__(self):
        super().__init__()
        self.img_resolution, self.weight = 16, torch.nn.Parameter(torch.ones(3))

    def forward(self, image, *, raw=None, camera=None, randomness=None):
        return DiscriminatorOutput(image.mean(dim=(2, 3)) @ self.weight)


DISCRIMINATORS.pop("Mean")


def test_a_generator_s_own_regularizers_join_its_loss_and_are_logged():
    torch.manual_seed(0)
    gan = GAN(Dot(), Mean()).double()
    values: dict[str, Tensor] = {}
    (loss,) = gan.phases.generator_loss(part_of(gan, camera=None), values)
    scene = gan.generator.represent(gan.phases.latents(gan.draws(INDICES, "generator")).ws)
    size = 0.5 * scene.square().sum(dim=1).mean()
    assert float(values["loss/size"]) == pytest.approx(float(size), rel=1e-12)
    assert float(loss) == pytest.approx(float(values["loss/generator"] + size), rel=1e-12)


# ------------------------------------------------------------ masks and backgrounds


@pytest.mark.parametrize(("background", "value"), [("white", 1.0), ("black", -1.0)])
def test_masked_reals_stand_before_the_generator_s_background(background, value):
    gan = GAN(Dot(), Mean()).double()
    gan.generator.background = background
    mask = torch.zeros(4, 1, 16, 16, dtype=torch.float64)
    mask[:, :, :8] = 1.0
    mask[:, :, 8] = 0.25
    part = part_of(gan, mask=mask)
    image, _ = gan.phases.reals(part, gan.draws(INDICES, "discriminator"))
    assert torch.equal(image[:, :, :8], part.image[:, :, :8])
    assert torch.allclose(image[:, :, 8], 0.25 * part.image[:, :, 8] + 0.75 * value)
    assert (image[:, :, 9:] == value).all()


def test_a_random_background_is_one_color_per_image_by_a_named_draw():
    gan = GAN(Dot(), Mean()).double()
    gan.generator.background = "random"
    part = part_of(gan, mask=torch.zeros(4, 1, 16, 16, dtype=torch.float64))
    draw = gan.draws(INDICES, "discriminator").in_phase("real")
    image, _ = gan.phases.reals(part, draw)
    colors = 2 * draw.uniform("background", 3) - 1
    assert torch.allclose(image, colors[:, :, None, None].expand_as(image))
    assert len(torch.unique(colors)) == 12


def test_the_raw_images_of_masked_reals_stand_before_the_background_too():
    torch.manual_seed(0)
    generator = EG3D(**EG3D.tiny)
    gan = GAN(generator, opponent(generator), fakes=Fakes(poses=GaussianPose()))
    generator.background = "white"
    side = generator.img_resolution
    image, raw = gan.phases.reals(
        part_of(gan, mask=torch.zeros(4, 1, side, side)), gan.draws(INDICES, "discriminator")
    )
    assert (image == 1.0).all()
    assert torch.allclose(raw, torch.ones_like(raw), atol=1e-5)


def test_without_mask_or_background_reals_stay_as_they_are():
    gan = GAN(Dot(), Mean()).double()
    part = part_of(gan, mask=torch.zeros(4, 1, 16, 16, dtype=torch.float64))
    draw = gan.draws(INDICES, "discriminator")
    assert torch.equal(gan.phases.reals(part, draw)[0], part.image)
    gan.generator.background = "white"
    assert torch.equal(gan.phases.reals(part_of(gan), draw)[0], part.image)


def test_a_stage_can_change_how_many_rays_carry_gradient():
    gan = views_gan(1, RayGradients("partial", num_rays=50))
    draw = gan.draws(INDICES, "generator")
    latents = gan.phases.latents(draw)
    view = gan.phases._view(gan.generator.represent(latents.ws), latents.camera, draw)
    assert len(gan.phases._selected(view)) == 50
    gan.phases.stage = Stage(num_rays=20)
    assert len(gan.phases._selected(view)) == 20


def test_diffaugment_treats_the_raw_image_with_draws_of_its_own():
    torch.manual_seed(0)
    generator = EG3D(**EG3D.tiny)
    cut = DiffAugment(enabled=True, color=False, translation=0, cutout=0.25)
    gan = GAN(
        generator,
        opponent(generator),
        fakes=Fakes(poses=GaussianPose()),
        augmentation=Augmentation(diffaug=cut),
    )
    x = torch.ones(100, 3, 16, 16)
    image, raw = gan.phases.shown(x, x, gan.draws(range(100), "discriminator"))
    same = (image == raw).all(dim=(1, 2, 3))
    assert same.float().mean() < 0.1


def test_a_stage_can_turn_diffaugment_on():
    gan = GAN(
        Dot(),
        Mean(),
        augmentation=Augmentation(diffaug=DiffAugment(enabled=False, color=False, translation=0)),
    ).double()
    image = torch.ones(4, 3, 16, 16, dtype=torch.float64)
    show = functools.partial(gan.phases.shown, image, None, gan.draws(INDICES, "discriminator"))
    assert torch.equal(show()[0], image)
    gan.phases.stage = Stage(diffaug=True)
    assert (show()[0] == 0).any(dim=(1, 2, 3)).all()  # the cut-out square
