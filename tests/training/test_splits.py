"""The split of a batch has no effect, whatever option of losses, fakes or discriminators is on.

Four micro-batches of one image, and two processes of two images, are compared with the whole batch
of four, in float64: gradients of every phase, what is logged, and what the running statistics and
ADA learn. Processes are simulated; tests/distributed has real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from gan3d.augment import ADA, Augmentation, Blur
from gan3d.augment.diffaug import DiffAugment
from gan3d.camera import DatasetPoses, GaussianPose
from gan3d.data import Batch
from gan3d.discriminators import DISCRIMINATORS, Discriminator
from gan3d.generators import GENERATORS
from gan3d.randomness import Randomness
from gan3d.schedules import Ramp
from gan3d.training.compatibility import check_split
from gan3d.training.fakes import Fakes
from gan3d.training.gan import GAN
from gan3d.training.losses import (
    R1,
    R2,
    CrossResolution,
    DensityRegularization,
    LatentPrediction,
    Losses,
    NonSaturating,
    Patches,
    PathLength,
    PoseConditioning,
    PosePrediction,
    Relativistic,
    Selective,
    TopK,
)
from gan3d.training.micro_batches import Part, micro_batches
from gan3d.training.ray_gradients import RayGradients

BATCH, START = 4, 12  # the iteration that sees images 12 to 15
NEAR = GaussianPose(radius=1.0, fov=12.0)
FAR = GaussianPose()


def gan(generator: str, judge: str, g: dict | None = None, d: dict | None = None, **options) -> GAN:
    torch.manual_seed(0)
    discriminator = DISCRIMINATORS[judge].tiny
    if judge in ("StyleGAN2Discriminator", "DualDiscriminator"):
        discriminator = discriminator | {"group_size": 1}
    options.setdefault("fakes", Fakes(poses=FAR if generator == "EG3D" else NEAR))
    options.setdefault("r1", R1(gamma=1.0, interval=4))
    made = GAN(
        GENERATORS[generator](**GENERATORS[generator].tiny | (g or {})),
        DISCRIMINATORS[judge](**discriminator | (d or {})),
        **options,
    ).double()
    with torch.no_grad():
        for name, parameter in made.generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.1)
    made.generator.density_noise = 0.5 if options["fakes"].density_noise.initial else 0.0
    made.phases.path_mean = torch.tensor(0.3, dtype=torch.float64)
    made.phases.images_seen, made.phases.batch_size = START, BATCH
    made.discriminator.know_labels(FAR.sample(Randomness(0, range(99))).label().std(dim=0))
    return made


STYLE = "StyleGAN2", "StyleGAN2Discriminator"
SELECTIVE = {"adversarial": TopK(interval_kimg=1e-6, smallest=0.3)}
EVERYTHING_SEEN = Augmentation(Blur(2.0), ADA(preset="bgcfnc", p=0.7), DiffAugment(enabled=True))
HD = "GRAMHD", "GRAMDiscriminator"
CASES: dict[str, Callable[[], GAN]] = {
    # the game
    "non-saturating": lambda: gan(*STYLE, adversarial=NonSaturating()),
    "relativistic, R1 and R2": lambda: gan(
        *STYLE, adversarial=Relativistic(), r1=R1(1.0, interval=1, of="image"), r2=R2(2.0)
    ),
    "top k": lambda: gan(*STYLE, **SELECTIVE),
    "top k of images and raw images": lambda: gan("CIPS3D", "CIPS3DDiscriminator", **SELECTIVE),
    "top k of images and patches": lambda: gan(*HD, **SELECTIVE, patch=Patches(0.5)),
    "top k of several views": lambda: gan(
        "PiGAN", "PiGANDiscriminator", fakes=Fakes(NEAR, views=2), **SELECTIVE
    ),
    "top k in chunks of rays": lambda: gan(
        "PiGAN", "PiGANDiscriminator", rays=RayGradients("chunked", chunk=300), **SELECTIVE
    ),
    # penalties of the discriminator
    "R1 by the rule": lambda: gan(*STYLE, r1=R1(gamma=None, interval=4)),
    "R1 of patches": lambda: gan(*HD, patch=Patches(1.0, in_r1=True), r1=R1(1.0, interval=1)),
    "R2 alone": lambda: gan(*STYLE, r1=R1(0.0, interval=4), r2=R2(1.0)),
    # regularizers of the generator
    **{
        f"density, {kind}": lambda kind=kind: gan(
            "EG3D",
            "DualDiscriminator",
            density=DensityRegularization(0.5, 0.1, kind=kind, num_points=20),
        )
        for kind in ("l1", "monotonic-detach", "monotonic-fixed")
    },
    **{
        f"path length of one in {shrink}, decay {decay}": lambda shrink=shrink, decay=decay: gan(
            *STYLE, path_length=PathLength(2.0, decay=decay, batch_shrink=shrink)
        )
        for shrink, decay in ((1, 0.5), (2, 0.5), (2, 0.0), (3, 0.5), (8, 0.5))
    },
    "consistency": lambda: gan(*HD, consistency=CrossResolution(1.0)),
    # predictions
    "pose": lambda: gan(*HD, pose=PosePrediction(15.0, 15.0)),
    "latent": lambda: gan(
        "PiGAN", "PiGANDiscriminator", d={"z_dim": 12}, latent=LatentPrediction(1.0)
    ),
    # fakes
    "swapped poses and mixed styles": lambda: gan(
        "EG3D",
        "DualDiscriminator",
        fakes=Fakes(FAR, PoseConditioning(0.5, fade_kimg=0.02), style_mixing=0.9),
    ),
    "styles mixed as published": lambda: gan(
        "EG3D",
        "DualDiscriminator",
        fakes=Fakes(FAR, style_mixing=0.9, style_mixing_camera="rendering"),
    ),
    "raw resolution and noise on densities": lambda: gan(
        "EG3D",
        "DualDiscriminator",
        fakes=Fakes(FAR, density_noise=Ramp(0.5), raw_resolution=Ramp(12)),
    ),
    "several views": lambda: gan("PiGAN", "PiGANDiscriminator", fakes=Fakes(NEAR, views=2)),
    # what the discriminator sees
    "blur, augmentation": lambda: gan("EG3D", "DualDiscriminator", augmentation=EVERYTHING_SEEN),
    "adaptive augmentation": lambda: gan(*STYLE, augmentation=Augmentation(ada=ADA(preset="bgc"))),
    "some rays": lambda: gan(
        "PiGAN", "PiGANDiscriminator", rays=RayGradients("partial", num_rays=100)
    ),
    # the discriminators
    "label noise": lambda: gan("EG3D", "DualDiscriminator", d={"disc_c_noise": 1.0}),
    "label noise in 2D": lambda: gan(*STYLE, g={"c_dim": 25}, d={"c_dim": 25, "disc_c_noise": 1.0}),
    "deviation in groups of two": lambda: gan(*STYLE, d={"group_size": 2}),
    "deviation in two maps": lambda: gan(
        "EG3D", "DualDiscriminator", d={"group_size": 2, "mbstd_channels": 2}
    ),
    "deviation in both images": lambda: gan("CIPS3D", "CIPS3DDiscriminator", d={"group_size": 2}),
    "fading in": lambda: gan("PiGAN", "PiGANDiscriminator", d={"kind": "ProgressiveEncoder"}),
    # what the generators follow
    "magnitudes": lambda: gan("StyleGAN3", "StyleGAN2Discriminator"),
    "manifolds": lambda: gan("GRAM", "GRAMDiscriminator", d={"patch": False}),
}


def batch_of(made: GAN) -> Batch:
    side = made.discriminator.img_resolution
    stream = torch.Generator().manual_seed(3)
    indices = range(START, START + BATCH)
    image = torch.randn(BATCH, 3, side, side, generator=stream, dtype=torch.float64).clamp(-1, 1)
    camera = FAR.sample(Randomness(9, indices, "reals", dtype=torch.float64))
    return Batch(image, camera, torch.tensor(indices))


def processes(made: GAN, size: int, num: int) -> list[list[Part]]:
    """The parts of each of `num` processes."""
    batch, local = batch_of(made), BATCH // num
    shares = []
    for start in range(0, BATCH, local):
        own = slice(start, start + local)
        camera = batch.camera[own] if batch.camera is not None else None
        share = Batch(batch.image[own], camera, batch.index[own])
        shares.append(micro_batches(share, size, made.discriminator.group_size, torch.float64))
    return shares


def whole_batch(made: GAN, shares: list[list[Part]]) -> None:
    """What the processes of a split batch tell each other."""
    parts = [part for share in shares for part in share]
    if len(parts) > 1:
        # one message instead of one per process: the same tensors in the same order
        made.phases.weigh_fakes(parts, lambda value: value)
        own = [Part(p.image, p.camera, p.indices, p.share / len(shares)) for p in parts]
        made.phases.measure_lengths(own, lambda value: value)


def results(made: GAN, size: int, num: int = 1) -> dict[str, Tensor]:
    """Gradients and values of all phases."""
    shares = processes(made, size, num)
    found: dict[str, Tensor] = {}
    whole_batch(made, shares)
    for name in phases_of(made):
        for parts in shares:
            made.zero_grad()
            for part in parts:
                values: dict[str, Tensor] = {}
                for term in getattr(made.phases, f"{name}_loss")(part, values):
                    (term * part.share).backward()
                for key, value in values.items():
                    key = f"{name}: {key}"
                    found[key] = found.get(key, 0) + value.detach() * part.share / num
            for key, parameter in made.named_parameters():
                if parameter.grad is not None:
                    key = f"{name}: {key}"
                    found[key] = found.get(key, 0) + parameter.grad / num
    for k, tracked in enumerate(made.phases.take_tracked()):
        found[f"tracked {k}"] = torch.cat(tracked).mean(dim=0)
    found["signs"] = made.adaptive_p.take_signs()
    return found


def phases_of(made: GAN) -> Iterator[str]:
    yield "generator"
    if made.losses.density.weight > 0:
        yield "density"
    if made.losses.path_length.weight > 0:
        yield "path_length"
    yield "discriminator"
    if made.losses.lazy_d:
        yield "r1"


@pytest.mark.parametrize("case", CASES)
def test_the_split_of_a_batch_has_no_effect(case):
    made = CASES[case]()
    whole = results(made, BATCH)
    assert any(value.abs().max() > 0 for value in whole.values())
    for size, num in ((1, 1), (2, 2)):
        if size % made.discriminator.group_size:
            continue
        split = results(made, size, num)
        assert split.keys() == whole.keys()
        for name, value in whole.items():
            scale = value.abs().max().clamp(min=1e-3)
            difference = float((split[name] - value).abs().max() / scale)
            assert difference < 1e-9, f"{name}, parts of {size} on {num}: {difference:.1e}"


def test_every_option_is_in_a_case():
    """A new field of losses, fakes or augmentation must be tried above."""
    made = [make() for make in CASES.values()]
    for group, of in (
        (Losses, lambda gan: gan.losses),
        (Fakes, lambda gan: gan.fakes),
        (Augmentation, lambda gan: gan.phases.augmentation),
    ):
        for field in fields(group):
            tried = {repr(getattr(of(each), field.name)) for each in made}
            assert len(tried) > 1, f"{group.__name__}.{field.name} is never changed"
    assert {type(each.discriminator).__name__ for each in made} == set(DISCRIMINATORS)
    assert {type(each.generator).__name__ for each in made} == set(GENERATORS)


def test_path_length_takes_one_in_batch_shrink_images_of_every_batch():
    made = gan(*STYLE, path_length=PathLength(1.0, batch_shrink=3))
    taken, draws = [], made.phases.draws

    def watched(indices, phase):
        taken.append(list(indices))
        return draws(indices, phase)

    made.phases.draws = watched
    for part in processes(made, 1, 1)[0]:
        list(made.phases.path_length_loss(part, values := {}))
        assert (float(values["path/length"]) > 0) == (part.indices[0] in (12, 15))
    assert taken == [[12], [13], [14], [15]]  # those of weight 0 run, so that gradients exist
    taken.clear()
    list(made.phases.path_length_loss(processes(made, 4, 1)[0][0], {}))
    assert taken == [[12, 15]]


@pytest.mark.parametrize(
    ("generator", "judge", "option", "says"),
    [
        ("GRAM", "GRAMDiscriminator", {"shared_origin": True}, "GRAM has shared_origin true"),
        ("GRAMHD", "GRAMDiscriminator", {"shared_origin": True}, "GRAMHD has shared_origin true"),
    ],
)
def test_options_that_tie_an_image_to_its_batch_are_refused_where_it_is_split(
    generator, judge, option, says
):
    made = gan(generator, judge, g=option, d={"patch": False})
    parts = processes(made, 2, 1)[0]
    check_split(made.generator, [])
    with pytest.raises(ValueError, match=f"{says}.*micro_batch_size"):
        check_split(made.generator, parts)
    check_split(gan(generator, judge, d={"patch": False}).generator, parts)


def test_eg3d_s_published_limits_are_refused_for_split_batches():
    from gan3d.rendering import RenderOptions

    for limits, bound in (("official", "render.auto_limits official"), ("clipped", "")):
        render = RenderOptions(ray_start="auto", ray_end="auto", auto_limits=limits)
        cls = GENERATORS["EG3D"]
        assert cls(**cls.tiny | {"render": render}).batch_bound() == bound


class Lazy(Selective):
    """Half the weight for fakes below the mean of all."""

    def weights(self, logits, among, images_seen):
        weights = torch.where(among < among.mean(), 0.5, 1.0)
        return torch.where(logits < among.mean(), 0.5, 1.0) / weights.mean()


def test_any_selective_game_is_given_the_whole_batch():
    made = gan(*STYLE, adversarial=Lazy())
    whole, split = results(made, BATCH), results(made, 1)
    for name, value in whole.items():
        torch.testing.assert_close(split[name], value, rtol=1e-9, atol=1e-12)


def test_the_run_tells_the_discriminator_the_spread_of_all_labels(posed_zip):
    from gan3d.data.datamodule import PosedImagesModule

    made = gan("EG3D", "DualDiscriminator", fakes=Fakes(), d={"disc_c_noise": 1.0})
    data = PosedImagesModule(str(posed_zip), num_workers=0)
    made._trainer = type("Trainer", (), {"datamodule": data})()
    data.setup()
    made.setup("fit")
    assert isinstance(made.phases.poses, DatasetPoses)
    torch.testing.assert_close(
        made.discriminator.label_std.float(), data.labels.std(dim=0), rtol=0.1, atol=2e-3
    )
    assert not any(name.endswith(".label_std") for name in made.state_dict())


def test_discriminators_without_label_noise_ignore_the_spread():
    for cls in DISCRIMINATORS.values():
        judge: Discriminator = cls(**cls.tiny)
        before = {name: value.clone() for name, value in judge.state_dict().items()}
        judge.know_labels(torch.ones(25))
        assert all(torch.equal(before[name], value) for name, value in judge.state_dict().items())
