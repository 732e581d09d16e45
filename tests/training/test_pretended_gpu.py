"""What runs on a GPU keeps to its device, and an iteration waits once: asked without a GPU."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader

from gan3d.apps.epi import epi
from gan3d.apps.fusion import fuse
from gan3d.apps.manifold_export import export_manifolds
from gan3d.apps.samples import sample
from gan3d.apps.stylize import style_sheet
from gan3d.apps.symmetry import yaw_sheet
from gan3d.apps.video import orbit_frames
from gan3d.augment import ADA, Augmentation, Blur
from gan3d.augment.ada import PRESETS
from gan3d.augment.diffaug import DiffAugment
from gan3d.camera import Camera, GaussianPose, frontal
from gan3d.cli import configs
from gan3d.discriminators import DISCRIMINATORS, Discriminator, check_pair
from gan3d.generators import GENERATORS, Generator
from gan3d.host import set_number
from gan3d.metrics import FrechetDistance, SmallFeatures, flatness, z_sensitivity
from gan3d.metrics.equivariance import measure_equivariance
from gan3d.metrics.heads import measure_heads
from gan3d.metrics.measure import (
    Protocol,
    collect,
    fake_pictures,
    latent_batches,
    movable,
    path_steps,
)
from gan3d.metrics.reprojection import pairwise_reprojection
from gan3d.metrics.symmetry import encoding_curve, mirror_symmetry
from gan3d.randomness import Randomness
from gan3d.schedules import Ramp
from gan3d.training.callbacks import Distributions, Evaluation, KimgProgressBar, Snapshots
from gan3d.training.checkpoints import Checkpoints
from gan3d.training.estimate import device as gpu
from gan3d.training.estimate.repeated import RepeatedBatch
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
    PosePrediction,
    Relativistic,
)
from gan3d.training.ray_gradients import RayGradients
from gan3d.training.run import Run

BATCH = 4
# What ADA does beside turning pictures whose poses are predicted.
UNTURNED = replace(PRESETS["bgcfnc"], xflip=0, rotate90=0, rotate=0)
pytestmark = pytest.mark.filterwarnings("ignore")


def quick(names: Iterable[str], *fast: str) -> list[Any]:
    """Names to test; all but the fast ones are marked slow."""
    return [n if n in fast else pytest.param(n, marks=pytest.mark.slow) for n in sorted(names)]


@pytest.fixture(autouse=True)
def device() -> Iterator[torch.device]:
    with gpu.pretending():
        yield gpu.DEVICE


class Windows(Callback):
    """Remembers which events belong to which iteration: those until the next one begins.

    Each iteration is the first one of a stage, in which all phases run.
    """

    def __init__(self, log: Any, starts: Sequence[float]):
        self.notes, self.starts = log, starts
        self.begun: list[int] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.begun.append(len(self.notes.events))
        stage = min(batch_idx, len(self.starts) - 1)
        set_number(pl_module.images_seen, round(1000 * self.starts[stage]))
        set_number(pl_module.iterations, 0)

    def on_train_end(self, trainer, pl_module) -> None:
        self.begun.append(len(self.notes.events))

    def waits(self) -> list[int]:
        """Waits of each iteration."""
        counts = []
        for begin, end in zip(self.begun, self.begun[1:]):
            counts.append(sum(e.kind in gpu.WAITS for e in self.notes.events[begin:end]))
        return counts


def train(
    gan: GAN, data: RepeatedBatch, *callbacks: Callback, starts: Sequence[float] = (0.0,)
) -> tuple[Any, Windows]:
    """Trains on the pretended device, and asserts that nothing runs on both sides.

    Args:
        gan: the harness.
        data: batches, one per iteration.
        *callbacks: further ones.
        starts: kimg at which the iterations begin; the last of them is repeated.
    """
    with gpu.watching() as log:
        windows = Windows(log, starts)
        trainer = Trainer(
            strategy=gpu.PretendedStrategy(log),
            max_epochs=-1,
            max_steps=data.iterations,
            logger=False,
            callbacks=[windows, *callbacks],
            enable_checkpointing=any(isinstance(c, Checkpoints) for c in callbacks),
            enable_progress_bar=any(isinstance(c, KimgProgressBar) for c in callbacks),
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(gan, data)
    mixed = log.of("mixed")
    assert not mixed, gpu.in_lines(mixed)
    return log, windows


def everything(generator: Generator, discriminator: Discriminator, **options: Any) -> GAN:
    """All losses, draws and augmentations that the pair has."""
    lazy: dict[str, Any] = {"path_length": PathLength(weight=1.0, interval=2)}
    if generator.has_field:
        lazy = {"density": DensityRegularization(weight=1.0, interval=2, num_points=20)}
    posed = discriminator.predicts_pose and generator.has_camera
    ada = ADA(transforms=UNTURNED if posed else PRESETS["bgcfnc"], interval=1)
    latent = discriminator.latent_dim == generator.z_dim
    is_enlarged = generator.has_raw and generator.raw_resolution < generator.img_resolution
    fakes = Fakes(
        style_mixing=0.5,
        density_noise=Ramp(1.0) if generator.has_field else Ramp(),
        raw_resolution=Ramp(16, 16) if type(generator).__name__ == "EG3D" else Ramp(),
    )
    return GAN(
        generator,
        discriminator,
        **{
            "fakes": fakes,
            "augmentation": Augmentation(Blur(2.0), ada, DiffAugment(enabled=True)),
            "r1": R1(gamma=1.0, interval=2),
            "r2": R2(gamma=1.0),
            "pose": PosePrediction(1.0, 1.0) if posed else PosePrediction(),
            "latent": LatentPrediction(1.0) if latent else LatentPrediction(),
            "patch": Patches(0.1 if discriminator.predicts_patches else 0.0),
            "consistency": CrossResolution(1.0 if is_enlarged else 0.0),
            "run": Run(log_every_kimg=BATCH / 1000),
        }
        | lazy
        | options,
    )


def fitting(generator: Generator) -> Iterator[Discriminator]:
    """The tiny discriminators that judge a generator's images."""
    for _, cls in sorted(DISCRIMINATORS.items()):
        discriminator = cls(**cls.tiny)
        try:
            check_pair(generator, discriminator)
        except ValueError:
            continue
        yield discriminator


def tiny(name: str) -> Generator:
    return GENERATORS[name](**GENERATORS[name].tiny)


@pytest.mark.parametrize("name", quick(GENERATORS, "EG3D", "StyleGAN2"))
def test_an_iteration_waits_once_when_it_reads_what_it_logs(name):
    generator = tiny(name)
    discriminator = list(fitting(generator))[-1]
    log, windows = train(everything(generator, discriminator), RepeatedBatch(32, BATCH, 2))
    first, *later = windows.waits()
    since = windows.begun[1]
    print(f"{name}: waits {first}, then {later}; pinned {log.of('pinned', since=since).total()}")
    assert later == [1], gpu.in_lines(log.of(*gpu.WAITS, since=since))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_every_pair_keeps_to_its_device_and_waits_once(name):
    for discriminator in fitting(tiny(name)):
        log, windows = train(everything(tiny(name), discriminator), RepeatedBatch(32, BATCH, 2))
        first, *later = windows.waits()
        print(f"{name}, {type(discriminator).__name__}: waits {first}, then {later}")
        assert later == [1], gpu.in_lines(log.of(*gpu.WAITS, since=windows.begun[1]))


INDEPENDENT = sorted(name for name in GENERATORS if tiny(name).independent_pixels)


@pytest.mark.parametrize("mode", ["chunked", "partial"])
@pytest.mark.parametrize("name", quick(INDEPENDENT, "CIPS3D"))
def test_chunks_of_rays_and_views_keep_to_the_device(name, mode):
    generator = tiny(name)
    rays = RayGradients(mode, num_rays=500, chunk=300)
    options = {"rays": rays, "consistency": CrossResolution(), "adversarial": Relativistic()}
    if generator.strict_3d:
        options["fakes"] = Fakes(views=2)
    gan = everything(generator, next(fitting(generator)), **options)
    log, windows = train(gan, RepeatedBatch(32, BATCH, 2))
    assert windows.waits()[1] == 1, gpu.in_lines(log.of(*gpu.WAITS, since=windows.begun[1]))


def on_device(name: str) -> tuple[Generator, torch.Tensor, Camera | None]:
    """A tiny generator on the device, two z and two cameras."""
    generator = tiny(name).to(gpu.DEVICE).eval()
    draw = Randomness(0, range(2), device=gpu.DEVICE)
    camera = GaussianPose().sample(draw) if generator.has_camera else None
    return generator, draw.normal("z", generator.z_dim), camera


@pytest.mark.parametrize("name", INDEPENDENT)
def test_pixels_may_be_named_on_the_host(name):
    generator, z, camera = on_device(name)
    draw = Randomness(0, range(2), device=gpu.DEVICE)
    scene = generator.represent(generator.map(z, camera))
    with gpu.watching() as log:
        shown = generator.render(scene, camera, rays=torch.tensor([3, 77]), randomness=draw)
    assert shown.image.shape == (2, 3, 2, 1)
    assert not log.of("mixed", *gpu.WAITS), gpu.in_lines(log.of("mixed", *gpu.WAITS))


# ------------------------------------------------------------ the packaged configs at full size


COMPLETE = [name for name in configs.names() if not configs.summary(name).startswith("Overlay")]


def most_waits(gan: GAN) -> int:
    """The stated number of waits per iteration."""
    if type(gan.generator).__name__ != "EG3D":
        return 4
    return 3 if gan.adaptive_p.ada.enabled else 2


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPLETE)
def test_a_config_trains_at_full_size_in_every_stage(name):
    config = yaml.safe_load((configs.folder() / name).read_text())
    config["model"].setdefault("run", {})["micro_batch_size"] = None
    for stage in config["model"]["run"].get("stages") or []:
        stage.pop("micro_batch_size", None)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(GAN, "model")
    with torch.device(gpu.DEVICE):
        gan = parser.instantiate_classes(parser.parse_object({"model": config["model"]})).model

    starts = [stage.from_kimg for stage in gan.stages]
    batch = max(gan.discriminator.group_size, 2)
    posed = config["data"].get("use_labels", True)
    side = gan.generator.img_resolution
    data = RepeatedBatch(side, batch, len(starts), posed)
    log, windows = train(gan, data, starts=starts)
    print(f"{name}: waits {windows.waits()} in the first iteration of each stage")
    assert max(windows.waits()) <= most_waits(gan), gpu.in_lines(log.of(*gpu.WAITS))


# ------------------------------------------------------------ callbacks, metrics and apps


def nothing(*args: Any, **options: Any) -> None:
    """In place of what a callback does when it is due."""


@pytest.mark.parametrize("name", quick(["EG3D", "StyleGAN2"], "StyleGAN2"))
def test_callbacks_that_look_on_do_not_wait(name, tmp_path, monkeypatch):
    for cls, method in (
        (Snapshots, "act"),
        (Evaluation, "act"),
        (Distributions, "act"),
        (Checkpoints, "save"),
    ):
        monkeypatch.setattr(cls, method, nothing)
    generator = tiny(name)
    watching = [KimgProgressBar(), Snapshots(), Evaluation(), Distributions()]
    callbacks = [*watching, Checkpoints(tmp_path)]
    gan = everything(generator, next(fitting(generator)))
    log, windows = train(gan, RepeatedBatch(32, BATCH, 2), *callbacks)
    assert windows.waits()[1:] == [1], gpu.in_lines(log.of(*gpu.WAITS, since=windows.begun[1]))


class Held(RepeatedBatch):
    """With held-out images, on which training is evaluated."""

    def val_dataloader(self) -> list[DataLoader]:
        return [self.train_dataloader()]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["EG3D", "StyleGAN2"])
def test_snapshots_and_evaluation_keep_to_the_device(name):
    callbacks = [
        Snapshots(every_kimg=BATCH / 1000, num_heads=2, video_heads=1, video_frames=2),
        Evaluation(every_kimg=BATCH / 1000, batch_size=3),
        Distributions(every_kimg=BATCH / 1000, num_images=4, batch_size=4),
    ]
    for callback in callbacks:
        gan = everything(tiny(name), next(fitting(tiny(name))))
        walk(type(callback).__name__, partial(train, gan, Held(32, BATCH, 2), callback))


def walk(name: str, function: Callable[[], Any]) -> None:
    """Runs a function up to the first step that depends on values and refuses the pretended ones,
    and asserts that nothing before it runs on both sides.
    """
    stopped = "to its end"
    with gpu.watching() as log:
        try:
            function()
        except (ValueError, ArithmeticError, torch.linalg.LinAlgError) as error:
            assert log.of(*gpu.WAITS), f"{name} refuses before it has read anything"
            stopped = f"up to: {error}"
    print(f"{name}: {stopped:.90}")
    assert not log.of("mixed"), f"{name}: {gpu.in_lines(log.of('mixed'))}"


@pytest.mark.parametrize("name", quick(GENERATORS, "EG3D", "PiGAN", "StyleGAN2"))
def test_metrics_keep_to_the_device(name):
    generator, z, camera = on_device(name)
    protocol = Protocol(num=4, batch_size=2, noise=True)
    posed = generator.has_camera or generator.camera_conditioned
    cameras = GaussianPose().sample if posed else None
    features = SmallFeatures().to(gpu.DEVICE)

    def pictures():
        return fake_pictures(generator, protocol, cameras)

    def frechet():
        distance = FrechetDistance(features).to(gpu.DEVICE)
        for real in (True, False):
            for images in pictures():
                distance.update(images, real=real)
        return float(distance.compute())

    def steps():
        for sampling in ("end", "full"):
            list(path_steps(generator, features, protocol, cameras, sampling=sampling))

    walk("frechet", frechet)
    walk("features", lambda: collect(pictures(), {"small": features}))
    for conditioning in ("frontal", "independent"):
        other = replace(protocol, conditioning=conditioning)
        made = fake_pictures(generator, other, cameras)
        walk(conditioning, lambda made=made: collect(made, {"small": features}))
    walk("path length", steps)
    walk("z sensitivity", lambda: float(z_sensitivity(next(pictures()))))
    if generator.movable:
        latents = latent_batches(generator, protocol, cameras)
        walk("equivariance", lambda: measure_equivariance(movable(generator), latents))
    if camera is not None:
        scene = generator.represent(generator.map(z[:1], camera[:1]))
        views = generator.render(scene, camera)
        walk("flatness", lambda: float(flatness(views.depth, views.opacity, camera).mean()))
        walk("reprojection", lambda: pairwise_reprojection(views, camera).mean_psnr)
        for relief in (True, False):
            walk("heads", lambda relief=relief: measure_heads(generator, [z], relief=relief))
        walk("symmetry", lambda: mirror_symmetry(generator, z, num=2).score)
    if hasattr(generator, "encoding"):
        scene = generator.represent(generator.map(z[:1], None))
        encode = partial(generator.encoding, scene)
        walk("encoding", lambda: encoding_curve(lambda p: encode(p[None])[0], 0.5, num=9, like=z))


@pytest.mark.parametrize("name", sorted(name for name in GENERATORS if tiny(name).has_camera))
def test_apps_keep_to_the_device(name, tmp_path):
    generator, z, camera = on_device(name)
    scene = generator.represent(generator.map(z[:1], camera[:1]))
    walk("sample", lambda: sample(generator, [0, 1]))
    walk("frames", lambda: orbit_frames(generator, z, camera, conditioning=frontal(camera)))
    walk("line", lambda: epi(generator, scene, camera))
    walk("sheet", lambda: style_sheet([(generator, 0.7)], z, camera))
    walk("yaws", lambda: yaw_sheet(generator, z, num=2))
    walk("fusion", lambda: fuse(generator, scene, camera, voxels=8))
    if name == "GRAMHD":
        walk("surfaces", lambda: export_manifolds(tmp_path / "s.glb", generator.surfaces(scene)))
