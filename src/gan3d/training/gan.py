"""GAN(LightningModule): the one harness that trains every generator against every discriminator.

One iteration (one global batch of real images) runs up to five phases (phases.py), each with its
own optimizer step:

    generator       every iteration
    density         every `density.interval` iterations
    path_length     every `path_length.interval` iterations
    discriminator   every iteration
    r1              every `r1.interval` iterations

then the EMA generator follows and `images_seen` grows by the global batch. Every schedule and stage
is a function of `images_seen`; every draw is a function of (seed, image index), see
gan3d.randomness. Lightning counts one step per iteration, whatever the number of optimizer steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from gan3d.augment import ADA, AdaptiveP, Blur
from gan3d.augment.diffaug import DiffAugment
from gan3d.camera import Camera, DatasetPoses, PosePrior
from gan3d.checkpoints.weights import copy_frozen
from gan3d.checkpoints.weights import init_from as load_weights
from gan3d.discriminators import Discriminator
from gan3d.generators import Generator, Rendering
from gan3d.randomness import Randomness, key
from gan3d.schedules import Ramp, crossed
from gan3d.training.compatibility import check_compatibility
from gan3d.training.ema import EMA
from gan3d.training.losses import (
    R1,
    Adversarial,
    CrossResolution,
    DensityRegularization,
    LatentPrediction,
    NonSaturating,
    Patches,
    PathLength,
    PoseConditioning,
    PosePrediction,
    lazy_interval,
)
from gan3d.training.micro_batches import Part, micro_batches
from gan3d.training.nan_guard import GradientWatch
from gan3d.training.optimizers import Adam
from gan3d.training.phases import Phases
from gan3d.training.ray_gradients import RayGradients
from gan3d.training.running_means import RunningMeans
from gan3d.training.stages import Stage, Stages, names_of


class GAN(LightningModule):
    """Trains a generator against a discriminator.

    Args:
        generator: the model, by name or class path; its defaults are the published full-size model.
        discriminator: its judge; pairs that can not work are refused at once.
        adversarial: the game; None is the non-saturating loss.
        r1: gradient penalty on real images.
        density: density regularization (needs a generator with a field).
        path_length: path length regularization (StyleGAN2).
        pose: the discriminator tells the pose (GRAM, pi-GAN).
        latent: the discriminator tells z (pi-GAN).
        patch: the game on patches, beside that on images (GRAM-HD).
        consistency: the shrunk image is the raw image (GRAM-HD).
        conditioning: generator pose conditioning, used where the generator is camera conditioned.
        style_mixing: probability that an image's later latents come from a second z.
        blur: blur of what the discriminator sees, fading.
        augment: augmentation of all that the discriminator sees, as strong as it overfits (ADA).
        diffaug: augmentation of all that the discriminator sees, always (DiffAugment).
        rays: which rays carry the generator's gradient, and how many at once.
        raw_resolution: side of the volume-rendered image, a ramp in kimg; the generator's own where
            not given.
        density_noise: standard deviation of noise on densities in training, a ramp in kimg.
        stages: of a progressive run, in order: resolution, batch size, learning rates and more from
            some kimg on.
        freeze: parts of the generator that are not trained, such as nerf; they are the average's.
        poses: where the cameras of fakes come from; None draws them from the data set's labels.
        ema: average of the generator.
        optimizer_g: Adam of the generator, before the correction for lazy regularization.
        optimizer_d: Adam of the discriminator, likewise.
        micro_batch_size: images per forward pass and process; smaller than the batch, gradients
            accumulate, and the result (minibatch standard deviation included) stays that of the
            whole batch. None: the whole batch.
        seed: of weights' successors: every draw of the run. (Initial weights follow
            --seed_everything.)
        total_kimg: the run ends after so many thousand real images.
        log_every_kimg: metrics are averaged over so many thousand images, then logged.
        init_from: weights to start from, with a fresh count of images: a portable file or a run's
            checkpoint.
        init_discriminator: whether the discriminator starts from them, too; false where it is
            another one, whose tensors of the same name and shape mean something else (the stages of
            GRAM-HD).
    """

    images_seen: Tensor
    iterations: Tensor
    path_mean: Tensor
    stage_index: Tensor

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        adversarial: Adversarial | None = None,
        r1: R1 = R1(),
        density: DensityRegularization = DensityRegularization(),
        path_length: PathLength = PathLength(),
        pose: PosePrediction = PosePrediction(),
        latent: LatentPrediction = LatentPrediction(),
        patch: Patches = Patches(),
        consistency: CrossResolution = CrossResolution(),
        conditioning: PoseConditioning = PoseConditioning(),
        style_mixing: float = 0.0,
        blur: Blur = Blur(),
        augment: ADA = ADA(),
        diffaug: DiffAugment = DiffAugment(),
        rays: RayGradients = RayGradients(),
        raw_resolution: Ramp = Ramp(),
        density_noise: Ramp = Ramp(),
        stages: list[Stage] | None = None,
        freeze: str | list[str] | None = None,
        poses: PosePrior | None = None,
        ema: EMA = EMA(),
        optimizer_g: Adam = Adam(lr=0.0025),
        optimizer_d: Adam = Adam(lr=0.002),
        micro_batch_size: int | None = None,
        seed: int = 0,
        total_kimg: float = 25000.0,
        log_every_kimg: float = 1.0,
        init_from: str | None = None,
        init_discriminator: bool = True,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = generator, discriminator
        self.generator_ema = copy.deepcopy(generator).eval().requires_grad_(False)
        if init_from is not None:
            judges = {"discriminator": discriminator} if init_discriminator else {}
            load_weights(
                init_from, {"generator": generator, "generator_ema": self.generator_ema, **judges}
            )
        self.ema, self.optimizer_g, self.optimizer_d = ema, optimizer_g, optimizer_d
        self.lazy_g, self.lazy_d = (
            lazy_interval(density, path_length),
            r1.interval if r1.lazy else 0,
        )
        self.density_noise, self.stages, self.frozen_parts = (
            density_noise,
            Stages(stages),
            names_of(freeze),
        )
        self.micro_batch_size, self.seed, self.total_kimg = micro_batch_size, seed, total_kimg
        self.log_every_kimg = log_every_kimg
        for name in ("images_seen", "iterations"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        self.register_buffer("stage_index", torch.tensor(-1))
        self.register_buffer("path_mean", torch.zeros(()))
        self.adaptive_p = AdaptiveP(augment)
        self.phases = Phases(
            generator,
            discriminator,
            draws=self.draws,
            seed=seed,
            poses=poses or DatasetPoses(),
            adaptive_p=self.adaptive_p,
            adversarial=adversarial or NonSaturating(),
            r1=r1,
            density=density,
            path_length=path_length,
            pose=pose,
            latent=latent,
            patch=patch,
            consistency=consistency,
            conditioning=conditioning,
            style_mixing=style_mixing,
            blur=blur,
            augment=augment,
            diffaug=diffaug,
            rays=rays,
            raw_resolution=raw_resolution,
        )
        check_compatibility(self.phases, self.stages, self.frozen_parts, density_noise)
        self.running_means = RunningMeans()

    # ------------------------------------------------------------ what others ask for

    def forward(self, z: Tensor, camera: Camera | None = None, **options) -> Rendering:
        """The EMA generator's rendering."""
        return self.generator_ema(z, camera, **options)

    def draws(self, indices: Iterable[int], phase: str) -> Randomness:
        """The random draws of some images in one phase, on this module's device."""
        return Randomness(
            self.seed, list(indices), phase, device=self.device, dtype=cast(torch.dtype, self.dtype)
        )

    def sample_cameras(self, draw: Randomness) -> Camera | None:
        """Rendering cameras for fakes; None for a pair that needs none."""
        return self.phases.poses.sample(draw) if self.phases.needs_cameras else None

    def raw_resolution_now(self) -> int | None:
        """Side of the raw image at this point of the schedule; None: the generator's own."""
        value = self.phases.raw_resolution.at(int(self.images_seen))
        return None if value is None else round(value)

    # ------------------------------------------------------------ one iteration

    def training_step(self, batch, batch_idx: int) -> None:
        seen, iteration, phases = int(self.images_seen), int(self.iterations), self.phases
        batch_size = len(batch) * self.trainer.world_size
        stage, phases.batch_size = self._enter_stage(seen), batch_size
        torch.manual_seed(
            key(self.seed, seen, self.global_rank, "global")
        )  # code outside ours resumes exactly, too
        size = stage.micro_batch_size or self.micro_batch_size or len(batch)
        dtype = cast(torch.dtype, self.dtype)
        parts, watch = (
            micro_batches(batch, size, self.discriminator.group_size, dtype),
            GradientWatch(),
        )
        values: dict[str, Tensor] = {}
        g, d = cast(list, self.optimizers())
        self.optimizer_g.set_rate(g, stage.lr_g, self.lazy_g)
        self.optimizer_d.set_rate(d, stage.lr_d, self.lazy_d)
        hooks = d._on_before_step, d._on_after_step
        self._uncounted(g, d)
        self._phase("generator", self.generator, g, phases.generator_loss, parts, values, watch)
        if phases.density.weight > 0 and iteration % phases.density.interval == 0:
            self._phase("density", self.generator, g, phases.density_loss, parts, values, watch)
        if phases.path_length.weight > 0 and iteration % phases.path_length.interval == 0:
            self._phase(
                "path_length", self.generator, g, phases.path_length_loss, parts, values, watch
            )
            length = self.trainer.strategy.reduce(values["path/length"], reduce_op="mean")
            self.path_mean.lerp_(length.to(self.path_mean), phases.path_length.decay)
        d._on_before_step, d._on_after_step = (
            hooks  # the step by which Lightning counts this iteration
        )
        self._phase(
            "discriminator", self.discriminator, d, phases.discriminator_loss, parts, values, watch
        )
        self._uncounted(g, d)
        if phases.r1.lazy and iteration % phases.r1.interval == 0:
            self._phase("r1", self.discriminator, d, phases.r1_loss, parts, values, watch)

        over_processes = partial(self.trainer.strategy.reduce, reduce_op="mean")
        means = [
            over_processes(torch.cat(some).mean(dim=0, keepdim=True))
            for some in phases.take_tracked()
        ]
        self.generator.track(*means, batch_size=batch_size)
        self.adaptive_p.update(over_processes, iteration, batch_size)
        if phases.augment.enabled:
            values["augment/p"] = torch.tensor(self.adaptive_p.probability, device=self.device)
        self.ema.update(self.generator_ema, self.generator, images_seen=seen, batch_size=batch_size)
        read = dict(
            zip(
                values,
                torch.stack([v.detach().float() for v in values.values()]).tolist(),
                strict=True,
            )
        )
        watch.check(read, seen, [i for part in parts for i in part.indices])
        self.running_means.add(read)
        self.images_seen += batch_size
        self.iterations += 1
        if crossed(seen, seen + batch_size, self.log_every_kimg):
            self.log_dict(
                self._log(seen + batch_size), logger=False, rank_zero_only=True
            )  # for the progress bar
        self._stop_when_done()

    def _enter_stage(self, seen: int) -> Stage:
        """Sets what follows the schedules; at the beginning of a stage, its frozen parts become the
        average's.
        """
        index, stage = self.stages.index(seen), self.stages.at(seen)
        frozen = {*self.frozen_parts, *names_of(stage.freeze)}
        self._frozen = {
            p
            for name, p in self.generator.named_parameters()
            if self.generator.is_part_of(name, frozen)
        }
        if index != int(self.stage_index):
            copy_frozen(
                self.generator,
                self.generator_ema,
                set(self._trainable[self.generator]) - self._frozen,
            )
            self.stage_index.fill_(index)
        self.phases.images_seen, self.phases.stage, self.phases.path_mean = (
            seen,
            stage,
            self.path_mean,
        )
        self.discriminator.fade = stage.fade(seen)
        self.generator.density_noise = self.density_noise.at(seen) or 0.0
        return stage

    def _stop_when_done(self) -> None:
        if int(self.images_seen) >= self.total_kimg * 1000:
            self.trainer.should_stop = True

    def _phase(
        self,
        name: str,
        network: Generator | Discriminator,
        optimizer,
        loss: Callable[[Part, dict[str, Tensor]], Iterator[Tensor]],
        parts: list[Part],
        values: dict[str, Tensor],
        watch: GradientWatch,
    ) -> None:
        """One optimizer step on the mean over the parts of what `loss` yields."""
        for each in (self.generator, self.discriminator):
            for parameter in self._trainable[each]:
                parameter.requires_grad_(each is network and parameter not in self._frozen)
        optimizer.zero_grad(set_to_none=True)
        for part in parts:
            of_part: dict[str, Tensor] = {}
            for term in loss(part, of_part):
                self.manual_backward(term * part.share)
            for key_, value in of_part.items():
                values[key_] = values.get(key_, 0) + value.detach() * part.share
        if hasattr(self.trainer.strategy, "reduce_gradients"):
            self.trainer.strategy.reduce_gradients(self._trainable[network])
        values[f"gradient/{name}"] = watch.watch(name, network)
        (self.optimizer_g if network is self.generator else self.optimizer_d).clip(
            self._trainable[network]
        )
        optimizer.step()

    @staticmethod
    def _uncounted(*optimizers) -> None:
        """Steps taken from here on are not counted by Lightning (it would count every optimizer
        step as one).
        """
        for optimizer in optimizers:
            optimizer._on_before_step = optimizer._on_after_step = lambda: None

    # ------------------------------------------------------------ evaluation: the EMA generator's images

    def sample(self, indices: Iterable[int], phase: str = "evaluation") -> Rendering:
        """Fakes of the EMA generator, one per index: each has its own z and a camera of the pose
        prior.
        """
        draw = self.draws(indices, phase)
        z = draw.normal("z", self.generator.z_dim)
        return self(z, self.sample_cameras(draw), resolution=self.raw_resolution_now())

    def predict_step(self, batch, batch_idx: int) -> dict[str, Tensor | None]:
        """Fakes, as many as the batch has images (a dictionary: Lightning takes frozen dataclasses
        apart).
        """
        shown = self.sample(batch.index.tolist())
        return {
            "image": shown.image,
            "raw": shown.raw,
            "depth": shown.depth,
            "opacity": shown.opacity,
        }

    validation_step = test_step = predict_step  # callbacks.Evaluation measures them

    # ------------------------------------------------------------ around the iterations

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        networks = (self.generator, self.discriminator)
        self._trainable = {
            net: [p for p in net.parameters() if p.requires_grad] for net in networks
        }
        return [
            self.optimizer_g.build(self._trainable[self.generator], self.lazy_g),
            self.optimizer_d.build(self._trainable[self.discriminator], self.lazy_d),
        ]

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if data is None:
            return
        if data.image_resolution != self.generator.img_resolution:
            raise ValueError(
                f"the images have {data.image_resolution} px, the generator makes "
                f"{self.generator.img_resolution} px; set --data.resolution "
                f"{self.generator.img_resolution} for larger images, or another img_resolution"
            )
        data.batch_size_at = lambda images_seen: self.stages.at(images_seen).batch_size
        phases = self.phases
        if data.labels is not None and isinstance(phases.poses, DatasetPoses):
            phases.poses = phases.poses.bind(data.labels)
        elif data.labels is None and (
            phases.pose.real_weight > 0 or isinstance(phases.poses, DatasetPoses)
        ):
            if not (phases.needs_cameras or phases.pose.enabled):
                return
            raise ValueError(
                f"{type(self.generator).__name__} and {type(self.discriminator).__name__} need the "
                "camera of every image, and the data set has no labels; add a dataset.json "
                "(docs/data.md), or train StyleGAN2"
            )

    def on_fit_start(self) -> None:
        # While training, callbacks evaluate, by kimg.
        self._limit_val_batches, self.trainer.limit_val_batches = self.trainer.limit_val_batches, 0
        if self.trainer.precision == "16-mixed":
            raise ValueError(
                "precision 16-mixed: its gradient scaler hides infinite gradients; use bf16-mixed"
            )
        if self.trainer.world_size > 1 and not hasattr(self.trainer.strategy, "reduce_gradients"):
            raise ValueError(
                f"strategy {type(self.trainer.strategy).__name__} can not train two networks with "
                "several backward passes each; use --trainer.strategy gan_ddp"
            )

    def on_train_start(self) -> None:
        self.running_means.start(int(self.images_seen))
        self._stop_when_done()

    def on_train_end(self) -> None:
        self._log(int(self.images_seen))
        for parameters in self._trainable.values():
            for parameter in parameters:
                parameter.requires_grad_(True)

    def on_fit_end(self) -> None:
        self.trainer.limit_val_batches = self._limit_val_batches

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["running_means"] = self.running_means.state_dict()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.running_means.load_state_dict(checkpoint["running_means"])

    def _log(self, images_seen: int) -> dict[str, float]:
        metrics = self.running_means.read(images_seen, self.device)
        for logger in self.loggers if metrics else ():
            logger.log_metrics(metrics, step=images_seen)
        return metrics
