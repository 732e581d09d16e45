"""GAN(LightningModule): the one harness that trains every generator against every discriminator.

One iteration (one global batch of real images) runs up to five phases, each with its own optimiser step:

    generator       adversarial loss of fresh fakes                              every iteration
    density         density regularisation (3D models)                           every `density.interval` iterations
    path_length     path length regularisation (2D models)                       every `path_length.interval` iterations
    discriminator   adversarial loss of fresh fakes and of the batch's reals     every iteration
    r1              gradient penalty on the reals                                every `r1.interval` iterations

then the EMA generator follows and `images_seen` grows by the global batch. Every schedule is a function of
`images_seen`; every draw is a function of (seed, image index), see gan3d.randomness. Lightning counts one step per
iteration, whatever the number of optimiser steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from gan3d.augment import ADA, AdaptiveP, Blur, augment_pair, blur
from gan3d.camera import Camera, DatasetPoses, PosePrior
from gan3d.checkpoints.weights import init_from as load_weights
from gan3d.discriminators import Discriminator, Judgement, check_pair
from gan3d.ema import EMA
from gan3d.generators import Generator, Rendering
from gan3d.guards import GradientWatch
from gan3d.layers.resize import filtered_resizing
from gan3d.losses import (
    R1,
    Adversarial,
    DensityRegularisation,
    NonSaturating,
    PathLength,
    PoseConditioning,
    lazy_interval,
)
from gan3d.micro_batches import Part, micro_batches
from gan3d.optimizers import Adam
from gan3d.randomness import Randomness, key
from gan3d.schedules import Ramp, crossed
from gan3d.style_mixing import mix_styles
from gan3d.tally import Tally


class GAN(LightningModule):
    """Trains a generator against a discriminator.

    Args:
        generator: the model, by name or class path; its defaults are the published full-size model.
        discriminator: its judge; pairs that can not work are refused at once.
        adversarial: the game; None is the non-saturating loss.
        r1: gradient penalty on real images.
        density: density regularisation (needs a generator with a field).
        path_length: path length regularisation (StyleGAN2).
        conditioning: generator pose conditioning, used where the generator is camera conditioned.
        style_mixing: probability that an image's later latents come from a second z.
        blur: blur of what the discriminator sees, fading.
        augment: augmentation of all that the discriminator sees, as strong as it overfits (ADA).
        raw_resolution: side of the volume-rendered image, a ramp in kimg; the generator's own where not given.
        poses: where the cameras of fakes come from; None draws them from the data set's labels.
        ema: average of the generator.
        optimizer_g: Adam of the generator, before the correction for lazy regularisation.
        optimizer_d: Adam of the discriminator, likewise.
        micro_batch_size: images per forward pass and process; smaller than the batch, gradients accumulate, and the
            result (minibatch standard deviation included) stays that of the whole batch. None: the whole batch.
        seed: of weights' successors: every draw of the run. (Initial weights follow --seed_everything.)
        total_kimg: the run ends after so many thousand real images.
        log_every_kimg: metrics are averaged over so many thousand images, then logged.
        init_from: weights to start from, with a fresh count of images: a portable file or a run's checkpoint.
    """

    images_seen: Tensor
    iterations: Tensor
    path_mean: Tensor

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        adversarial: Adversarial | None = None,
        r1: R1 = R1(),
        density: DensityRegularisation = DensityRegularisation(),
        path_length: PathLength = PathLength(),
        conditioning: PoseConditioning = PoseConditioning(),
        style_mixing: float = 0.0,
        blur: Blur = Blur(),
        augment: ADA = ADA(),
        raw_resolution: Ramp = Ramp(),
        poses: PosePrior | None = None,
        ema: EMA = EMA(),
        optimizer_g: Adam = Adam(lr=0.0025),
        optimizer_d: Adam = Adam(lr=0.002),
        micro_batch_size: int | None = None,
        seed: int = 0,
        total_kimg: float = 25000.0,
        log_every_kimg: float = 1.0,
        init_from: str | None = None,
    ):
        super().__init__()
        self.automatic_optimization = False
        check_pair(generator, discriminator)
        if density.weight > 0 and not generator.has_field:
            raise ValueError(
                f"density regularisation needs a generator with a field, {type(generator).__name__} has none; "
                "set --model.density.weight 0"
            )
        self.generator, self.discriminator = generator, discriminator
        self.generator_ema = copy.deepcopy(generator).eval().requires_grad_(False)
        if init_from is not None:
            networks = {"generator": generator, "generator_ema": self.generator_ema, "discriminator": discriminator}
            load_weights(init_from, networks)
        self.adversarial = adversarial or NonSaturating()
        self.r1, self.density, self.path_length = r1, density, path_length
        self.lazy_g = lazy_interval(density, path_length)
        self.conditioning, self.blur = conditioning, blur
        self.augment, self.adaptive_p = augment, AdaptiveP(augment)
        self.style_mixing, self.raw_resolution, self.poses = style_mixing, raw_resolution, poses or DatasetPoses()
        self.ema, self.optimizer_g, self.optimizer_d = ema, optimizer_g, optimizer_d
        self.micro_batch_size, self.seed, self.total_kimg = micro_batch_size, seed, total_kimg
        self.log_every_kimg = log_every_kimg
        self.register_buffer("images_seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("iterations", torch.zeros((), dtype=torch.int64))
        self.register_buffer("path_mean", torch.zeros(()))
        self.tally = Tally()

    # ------------------------------------------------------------------ what a generator is asked for

    def forward(self, z: Tensor, camera: Camera | None = None, **options) -> Rendering:
        """The EMA generator's rendering."""
        return self.generator_ema(z, camera, **options)

    def draws(self, indices: Iterable[int], phase: str) -> Randomness:
        """The random draws of some images in one phase, on this module's device."""
        return Randomness(self.seed, list(indices), phase, device=self.device, dtype=cast(torch.dtype, self.dtype))

    def sample_cameras(self, draw: Randomness) -> Camera | None:
        """Rendering cameras for fakes; None for a pair that needs none."""
        return self.poses.sample(draw) if self.needs_cameras else None

    @property
    def needs_cameras(self) -> bool:
        generator = self.generator
        return generator.has_camera or generator.camera_conditioned or self.discriminator.camera_conditioned

    def raw_resolution_now(self) -> int | None:
        """Side of the raw image at this point of the schedule; None: the generator's own."""
        value = self.raw_resolution.at(int(self.images_seen))
        return None if value is None else round(value)

    def _latents(self, draw: Randomness, camera: Camera | None) -> tuple[Tensor, Tensor]:
        """ws for synthesis (mixed) and as mapped (for w_avg), both [b n w]."""
        generator, condition = self.generator, camera
        if camera is not None and generator.camera_conditioned:
            other = self.poses.sample(draw.in_phase("swap"))
            condition = self.conditioning(camera, other, draw, int(self.images_seen))
        ws = mapped = generator.map(draw.normal("z", generator.z_dim), condition)
        if self.style_mixing > 0:
            ws = mix_styles(ws, generator.map(draw.normal("z_mix", generator.z_dim), camera), draw, self.style_mixing)
        return ws, mapped

    def _fakes(self, draw: Randomness) -> tuple[Rendering, Camera | None, Tensor, Tensor]:
        """Fakes, their cameras, the latents they are made of, and the latents as mapped."""
        camera = self.sample_cameras(draw)
        ws, mapped = self._latents(draw, camera)
        scene, resolution = self.generator.represent(ws, randomness=draw), self.raw_resolution_now()
        return self.generator.render(scene, camera, resolution=resolution, randomness=draw), camera, ws, mapped

    def _reals(self, part: Part) -> tuple[Tensor, Tensor | None]:
        """Real image and, for dual discrimination, the raw image that stands beside it."""
        if not self.discriminator.needs_raw:
            return part.image, None
        side = self.raw_resolution_now() or self.generator.raw_resolution
        raw = filtered_resizing(part.image, side)
        return part.image, blur(raw, self.blur.sigma_at(int(self.images_seen)))

    def _shown(self, image: Tensor, raw: Tensor | None, draw: Randomness) -> tuple[Tensor, Tensor | None]:
        """What the discriminator gets to see of an image and its raw image: blurred, and augmented together."""
        image = blur(image, self.blur.sigma_at(int(self.images_seen)))
        raw = raw if self.discriminator.needs_raw else None
        draw = Randomness(draw.seed, draw.indices, f"{draw.phase}/augment", dtype=draw.dtype)  # CPU: small matrices
        return augment_pair(image, raw, self.augment.pipe, self.adaptive_p.probability, draw)

    def _judge(self, image: Tensor, raw: Tensor | None, camera: Camera | None, draw: Randomness) -> Judgement:
        return self.discriminator(image, raw=raw, camera=camera, randomness=draw)

    # ------------------------------------------------------------------ the phases: each yields the loss of a part

    def _generator_loss(self, part: Part, values: dict[str, Tensor]) -> Iterator[Tensor]:
        draw = self.draws(part.indices, "generator")
        fake, camera, _, _ = self._fakes(draw)
        logits = self._judge(*self._shown(fake.image, fake.raw, draw), camera, draw).logits
        values["loss/generator"] = loss = self.adversarial.generator(logits).mean()
        yield loss

    def _density_loss(self, part: Part, values: dict[str, Tensor]) -> Iterator[Tensor]:
        draw = self.draws(part.indices, "density")
        ws, _ = self._latents(draw, self.sample_cameras(draw))
        representation = self.generator.represent(ws, randomness=draw)
        sigma = lambda points: self.generator.field(representation, points)[0]  # noqa: E731
        values["loss/density"] = loss = self.density(sigma, draw, self.generator.scene_extent).mean()
        yield loss * self.density.interval

    def _path_length_loss(self, part: Part, values: dict[str, Tensor]) -> Iterator[Tensor]:
        some = [i for i in part.indices if i % self.path_length.batch_shrink == 0]
        draw = self.draws(some or part.indices, "path_length")
        fake, _, ws, _ = self._fakes(draw)
        lengths = self.path_length.lengths(ws, fake.image, draw)
        values["path/length"] = lengths.mean()
        values["loss/path_length"] = loss = self.path_length(lengths, self.path_mean).mean()
        yield loss * self.path_length.interval

    def _discriminator_loss(self, part: Part, values: dict[str, Tensor]) -> Iterator[Tensor]:
        draw = self.draws(part.indices, "discriminator")
        with torch.no_grad():
            fake, camera, _, mapped = self._fakes(draw)
        self._mapped.append(mapped)
        fake_logits = self._judge(*self._shown(fake.image, fake.raw, draw), camera, draw).logits
        loss_fake = self.adversarial.fake(fake_logits).mean()
        yield loss_fake
        draw = draw.in_phase("real")
        real_logits = self._judge(*self._shown(*self._reals(part), draw), part.camera, draw).logits
        self.adaptive_p.collect(real_logits)
        loss_real = self.adversarial.real(real_logits).mean()
        values["loss/discriminator"] = loss_fake.detach() + loss_real.detach()
        values["logits/fake"], values["logits/real"] = fake_logits.mean(), real_logits.mean()
        values["signs/real"] = real_logits.sign().mean()
        yield loss_real
        if self.r1.gamma > 0 and self.r1.interval == 1:
            yield from self._r1_loss(part, values)

    def _r1_loss(self, part: Part, values: dict[str, Tensor]) -> Iterator[Tensor]:
        draw = self.draws(part.indices, "r1")

        def judge(image: Tensor, raw: Tensor | None) -> Tensor:
            logits = self._judge(image, raw, part.camera, draw).logits
            self.adaptive_p.collect(logits)
            return logits

        values["loss/r1"] = loss = self.r1(judge, *self._shown(*self._reals(part), draw)).mean()
        yield loss * self.r1.interval

    # ------------------------------------------------------------------ one iteration

    def training_step(self, batch, batch_idx: int) -> None:
        seen, iteration = int(self.images_seen), int(self.iterations)
        batch_size = len(batch) * self.trainer.world_size
        torch.manual_seed(key(self.seed, seen, self.global_rank, "global"))  # code outside ours resumes exactly, too
        size, dtype = self.micro_batch_size or len(batch), cast(torch.dtype, self.dtype)
        parts, watch = micro_batches(batch, size, self.discriminator.group_size, dtype), GradientWatch()
        values: dict[str, Tensor] = {}
        self._mapped: list[Tensor] = []
        g, d = cast(list, self.optimizers())
        hooks = d._on_before_step, d._on_after_step
        self._uncounted(g, d)
        self._phase("generator", self.generator, g, self._generator_loss, parts, values, watch)
        if self.density.weight > 0 and iteration % self.density.interval == 0:
            self._phase("density", self.generator, g, self._density_loss, parts, values, watch)
        if self.path_length.weight > 0 and iteration % self.path_length.interval == 0:
            self._phase("path_length", self.generator, g, self._path_length_loss, parts, values, watch)
            length = self.trainer.strategy.reduce(values["path/length"], reduce_op="mean")
            self.path_mean.lerp_(length.to(self.path_mean), self.path_length.decay)
        d._on_before_step, d._on_after_step = hooks  # the step by which Lightning counts this iteration
        self._phase("discriminator", self.discriminator, d, self._discriminator_loss, parts, values, watch)
        self._uncounted(g, d)
        if self.r1.lazy and iteration % self.r1.interval == 0:
            self._phase("r1", self.discriminator, d, self._r1_loss, parts, values, watch)

        over_processes = partial(self.trainer.strategy.reduce, reduce_op="mean")
        self.generator.track(over_processes(torch.cat(self._mapped).mean(dim=0, keepdim=True)))
        self.adaptive_p.update(over_processes, iteration, batch_size)
        if self.augment.enabled:
            values["augment/p"] = torch.tensor(self.adaptive_p.probability, device=self.device)
        self.ema.update(self.generator_ema, self.generator, images_seen=seen, batch_size=batch_size)
        read = dict(zip(values, torch.stack([v.detach().float() for v in values.values()]).tolist(), strict=True))
        watch.check(read, seen, [i for part in parts for i in part.indices])
        self.tally.add(read)
        self.images_seen += batch_size
        self.iterations += 1
        if crossed(seen, seen + batch_size, self.log_every_kimg):
            self.log_dict(self._log(seen + batch_size), logger=False, rank_zero_only=True)  # for the progress bar
        self._stop_when_done()

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
        """One optimiser step on the mean over the parts of what `loss` yields."""
        for each in (self.generator, self.discriminator):
            for parameter in self._trainable[each]:
                parameter.requires_grad_(each is network)
        optimizer.zero_grad(set_to_none=True)
        for part in parts:
            of_part: dict[str, Tensor] = {}
            for term in loss(part, of_part):
                self.manual_backward(term / len(parts))
            for key_, value in of_part.items():
                values[key_] = values.get(key_, 0) + value.detach() / len(parts)
        if hasattr(self.trainer.strategy, "reduce_gradients"):
            self.trainer.strategy.reduce_gradients(self._trainable[network])
        values[f"gradient/{name}"] = watch.watch(name, network)
        optimizer.step()

    @staticmethod
    def _uncounted(*optimizers) -> None:
        """Steps taken from here on are not counted by Lightning (it would count every optimiser step as one)."""
        for optimizer in optimizers:
            optimizer._on_before_step = optimizer._on_after_step = lambda: None

    # ------------------------------------------------------------------ evaluation: the EMA generator's images

    def sample(self, indices: Iterable[int], phase: str = "evaluation") -> Rendering:
        """Fakes of the EMA generator, one per index: each has its own z and a camera of the pose prior."""
        draw = self.draws(indices, phase)
        z = draw.normal("z", self.generator.z_dim)
        return self(z, self.sample_cameras(draw), resolution=self.raw_resolution_now())

    def predict_step(self, batch, batch_idx: int) -> dict[str, Tensor | None]:
        """Fakes, as many as the batch has images (a dictionary: Lightning takes frozen dataclasses apart)."""
        shown = self.sample(batch.index.tolist())
        return {"image": shown.image, "raw": shown.raw, "depth": shown.depth, "opacity": shown.opacity}

    validation_step = test_step = predict_step  # callbacks.Evaluation measures them

    # ------------------------------------------------------------------ around the iterations

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        networks = (self.generator, self.discriminator)
        self._trainable = {net: [p for p in net.parameters() if p.requires_grad] for net in networks}
        lazy_d = self.r1.interval if self.r1.lazy else 0
        return [
            self.optimizer_g.build(self._trainable[self.generator], self.lazy_g),
            self.optimizer_d.build(self._trainable[self.discriminator], lazy_d),
        ]

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if data is None:
            return
        if data.labels is not None and isinstance(self.poses, DatasetPoses):
            self.poses = self.poses.bind(data.labels)
        elif data.labels is None and self.needs_cameras:
            raise ValueError(
                f"{type(self.generator).__name__} and {type(self.discriminator).__name__} need the camera of every "
                "image, and the data set has no labels; add a dataset.json (docs/data.md), or train StyleGAN2"
            )

    def on_fit_start(self) -> None:
        # While training, callbacks evaluate, by kimg.
        self._limit_val_batches, self.trainer.limit_val_batches = self.trainer.limit_val_batches, 0
        if self.trainer.precision == "16-mixed":
            raise ValueError("precision 16-mixed: its gradient scaler hides infinite gradients; use bf16-mixed")
        if self.trainer.world_size > 1 and not hasattr(self.trainer.strategy, "reduce_gradients"):
            raise ValueError(
                f"strategy {type(self.trainer.strategy).__name__} can not train two networks with several backward "
                "passes each; use --trainer.strategy gan_ddp"
            )

    def on_train_start(self) -> None:
        self.tally.start(int(self.images_seen))
        self._stop_when_done()

    def on_train_end(self) -> None:
        self._log(int(self.images_seen))
        for parameters in self._trainable.values():
            for parameter in parameters:
                parameter.requires_grad_(True)

    def on_fit_end(self) -> None:
        self.trainer.limit_val_batches = self._limit_val_batches

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["tally"] = self.tally.state_dict()

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.tally.load_state_dict(checkpoint["tally"])

    def _log(self, images_seen: int) -> dict[str, float]:
        metrics = self.tally.read(images_seen, self.device)
        for logger in self.loggers if metrics else ():
            logger.log_metrics(metrics, step=images_seen)
        return metrics
