"""GAN(LightningModule): the one harness that trains every generator against every discriminator.

One iteration (one global batch of real images) runs up to five phases, each with its own optimizer
step; `phases.py` begins with all of it on one screen. Every schedule and stage is a function of
`images_seen`; every draw is a function of (seed, image index), see gan3d.randomness. Lightning
counts one step per iteration, whatever the number of optimizer steps.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_type_hints

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.profiler import record_function

from gan3d.augment import AdaptiveP, Augmentation
from gan3d.camera import Camera, DatasetPoses
from gan3d.checkpoints.portable import as_asked
from gan3d.checkpoints.runs import VIEW_KEY, networks_of, read_checkpoint, unpack_config
from gan3d.checkpoints.weights import copy_frozen, init_from
from gan3d.discriminators import Discriminator
from gan3d.generators import Generator, Rendering
from gan3d.host import number, set_number, unshared_memory
from gan3d.layers.precision import full_precision
from gan3d.randomness import Randomness, key
from gan3d.schedules import crossed
from gan3d.training.compatibility import check_compatibility, check_split
from gan3d.training.ema import EMA
from gan3d.training.fakes import Fakes
from gan3d.training.loggers import log_metrics
from gan3d.training.loss_scale import SCALE, LossScale, without_overflow
from gan3d.training.losses import Losses, Selective
from gan3d.training.micro_batches import Part, micro_batches
from gan3d.training.nan_guard import GradientWatch
from gan3d.training.optimizers import Adam
from gan3d.training.phases import Phases
from gan3d.training.precisions import float32_products, refuse_unfit, slow
from gan3d.training.ray_gradients import RayGradients
from gan3d.training.run import Run
from gan3d.training.running_means import RunningMeans
from gan3d.training.sampling import Sampling
from gan3d.training.sharding import whole
from gan3d.training.stages import Stage, Stages, names_of
from gan3d.training.strategies import (
    GANDDPStrategy,
    mean_over_processes,
    over_processes,
    refuse_strategy,
)

log = logging.getLogger(__name__)


class GAN(LightningModule):
    """Trains a generator against a discriminator.

    Args:
        generator: the model; its defaults are the published full-size model.
        discriminator: its opponent; pairs that cannot work are refused at once.
        fakes: how fakes are drawn and rendered: cameras, conditioning, mixing, ramps.
        augmentation: what happens to an image before the discriminator sees it.
        rays: which rays carry the generator's gradient, and how many at once.
        ema: average of the generator.
        optimizer_g: Adam of the generator, before the correction for lazy regularization.
        optimizer_d: Adam of the discriminator, before that correction.
        run: seed, length, logging, micro-batches, stages, starting weights.
        **losses: the fields of `Losses`: adversarial, r1, r2, density, path_length, pose, latent,
            patch, consistency.
    """

    images_seen: Tensor
    iterations: Tensor
    path_mean: Tensor
    stage_index: Tensor

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        fakes: Fakes = Fakes(),
        augmentation: Augmentation = Augmentation(),
        rays: RayGradients = RayGradients(),
        ema: EMA = EMA(),
        optimizer_g: Adam = Adam(lr=0.0025),
        optimizer_d: Adam = Adam(lr=0.002),
        run: Run = Run(),
        **losses,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = generator, discriminator
        self.generator_ema = copy.deepcopy(generator).eval().requires_grad_(False)
        self.fakes, self.run, self.losses = fakes, run, Losses(**losses)
        self.ema, self.optimizer_g, self.optimizer_d = ema, optimizer_g, optimizer_d
        self.stages, self.frozen_parts = Stages(run.stages), names_of(run.freeze)
        # Lightning's seed_everything leaves its seed in the environment.
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if run.seed is None else run.seed

        if run.init_from is not None:
            networks: dict[str, nn.Module] = {
                "generator": generator,
                "generator_ema": self.generator_ema,
            }
            if run.init_discriminator:
                networks["discriminator"] = discriminator
            init_from(run.init_from, networks, partial=run.init_partial)

        for name in ("images_seen", "iterations"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        self.register_buffer("stage_index", torch.tensor(-1))
        self.register_buffer("path_mean", torch.zeros(()))
        self.micro_batch_size: int | None = None  # of a process; None is its share of the batch
        self.adaptive_p = AdaptiveP(augmentation.ada)
        self.phases = Phases(
            generator,
            discriminator,
            draws=self.draws,
            seed=self.seed,
            poses=fakes.poses or DatasetPoses(),
            adaptive_p=self.adaptive_p,
            losses=self.losses,
            fakes=fakes,
            augmentation=augmentation,
            rays=rays,
        )
        check_compatibility(self.phases, self.stages, self.frozen_parts)
        self.running_means = RunningMeans()
        # What StopOnSignal notes in this process, and what all processes knew in an iteration.
        self.asked_to_stop, self.stop_agreed = 0, False
        self.sampling = Sampling()

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: Path | str,
        map_location: torch.device | str | None = None,
        **arguments,
    ) -> GAN:
        """The harness of a checkpoint of `gan3d fit`: its networks, settings, averages and counts.

        Nothing is imported or executed that the checkpoint names. To go on training, give the
        checkpoint to `Trainer.fit(ckpt_path=..)`, which restores the optimizers, too.

        Args:
            checkpoint_path: checkpoints/last.ckpt or kimg-*.ckpt of a run.
            map_location: device of the result.
            **arguments: arguments of this class in place of the recorded ones.

        Raises:
            ValueError: the file is no checkpoint of gan3d, or asks for what is not known here.
        """
        content = read_checkpoint(checkpoint_path)
        generator, discriminator = networks_of(content, "generator")
        hints = get_type_hints(cls.__init__) | get_type_hints(Losses)
        recorded = {
            name: as_asked(value, hints[name])
            for name, value in unpack_config(content)["model"].items()
            if name not in ("generator", "discriminator", *arguments)
        }
        if "run" in recorded:  # its weights are these
            recorded["run"] = replace(recorded["run"], init_from=None)
        module = cls(generator, discriminator, **recorded, **arguments)
        module.load_state_dict(content["state_dict"])
        module.running_means.load_state_dict(content.get("running_means", {}))
        return module if map_location is None else module.to(map_location)

    # ------------------------------------------------------------ draws and schedules

    @property
    def seen(self) -> int:
        """`images_seen`, as the host knows it."""
        return int(number(self.images_seen))

    def forward(self, z: Tensor, camera: Camera | None = None, **options) -> Rendering:
        """The EMA generator's rendering."""
        return self.generator_ema(z, camera, **options)

    def draws(self, indices: Iterable[int], phase: str) -> Randomness:
        """The random draws of some images in one phase, on this module's device."""
        dtype = cast(torch.dtype, self.dtype)
        return Randomness(self.seed, list(indices), phase, device=self.device, dtype=dtype)

    def sample_cameras(self, draw: Randomness) -> Camera | None:
        """Rendering cameras for fakes; None for a pair that needs none."""
        return self.phases.poses.sample(draw) if self.phases.needs_cameras else None

    def resolution_at(self, images_seen: int) -> int | None:
        """Side of what the average renders after so many images: that of the last one's stage, for
        which it was trained; None: the generator's own.
        """
        stage = self.stages.at(max(images_seen - 1, 0))
        if stage.resolution is not None:
            return stage.resolution
        value = self.fakes.raw_resolution.at(images_seen)
        return None if value is None else round(value)

    def resolution_now(self) -> int | None:
        """`resolution_at` this point of the run."""
        return self.resolution_at(self.seen)

    # ------------------------------------------------------------ one iteration

    def training_step(self, batch, batch_idx: int) -> None:
        phases, losses = self.phases, self.losses
        seen, iteration = self.seen, int(number(self.iterations))
        batch_size = len(batch) * self.trainer.world_size
        # Code outside ours that draws from torch's global generator resumes exactly, too.
        torch.manual_seed(key(self.seed, seen, self.global_rank, "global"))

        # stage, learning rates, micro-batches
        stage, phases.batch_size = self._enter_stage(seen), batch_size
        networks = (self.generator, self.discriminator)
        g, d = cast(list, self.optimizers())
        self.optimizer_g.adjust(g, stage.lr_g, losses.lazy_g)
        self.optimizer_d.adjust(d, stage.lr_d, losses.lazy_d)
        size = stage.micro_batch_size or self.micro_batch_size or len(batch)
        dtype = cast(torch.dtype, self.dtype)
        parts = micro_batches(batch, size, self.discriminator.group_size, dtype)
        step = PhaseStep(self, parts)
        split = parts if len(parts) > 1 or self.trainer.world_size > 1 else []
        check_split(self.generator, split)

        # generator, with the steps of its lazy regularizers
        with uncounted(g, d):
            with whole(*networks if isinstance(losses.game, Selective) else ()):
                phases.weigh_fakes(split, over_processes)
            step("generator", self.generator, g, phases.generator_loss, networks)
            if losses.density.weight > 0 and iteration % losses.density.interval == 0:
                step("density", self.generator, g, phases.density_loss)
            if losses.path_length.weight > 0 and iteration % losses.path_length.interval == 0:
                with whole(self.generator):
                    phases.measure_lengths(split, lambda value: mean_over_processes([value])[0])
                step("path_length", self.generator, g, phases.path_length_loss)

        # discriminator: the step by which Lightning counts this iteration
        step("discriminator", self.discriminator, d, phases.discriminator_loss, networks)

        # lazy gradient penalties
        if losses.lazy_d and iteration % losses.lazy_d == 0:
            with uncounted(d):
                uses = networks if losses.r2.gamma > 0 else ()
                step("r1", self.discriminator, d, phases.r1_loss, uses)

        # running statistics, strength of the augmentation, average
        with record_function("average"):
            self._follow(step.values, iteration, batch_size)
            average, generator = self.generator_ema, self.generator
            self.ema.update(average, generator, images_seen=seen, batch_size=batch_size)

        # logs: the one reading of values from the device
        with record_function("reading"):
            read = step.read()
        self.stop_agreed = read.pop("stop", 0.0) > 0
        self.adaptive_p.told(read.get("augment/p", 0.0))
        read = without_overflow(read)
        step.watch.check(read, seen, [i for part in parts for i in part.indices])
        self.running_means.add(read)
        set_number(self.images_seen, seen + batch_size)
        set_number(self.iterations, iteration + 1)
        if crossed(seen, seen + batch_size, self.run.log_every_kimg):
            metrics = self._log(seen + batch_size)
            shown = {name: torch.tensor(value) for name, value in metrics.items()}
            self.log_dict(shown, logger=False, rank_zero_only=True)  # for the progress bar
        self._stop_when_done()

    def _enter_stage(self, seen: int) -> Stage:
        """Sets what follows the schedules; at the beginning of a stage, its frozen parts become the
        average's.
        """
        index, stage = self.stages.index(seen), self.stages.at(seen)
        frozen = {*self.frozen_parts, *names_of(stage.freeze)}
        named = self.generator.named_parameters() if frozen else ()
        self._frozen = {p for name, p in named if self.generator.is_part_of(name, frozen)}
        if index != number(self.stage_index):
            trained = set(self._trainable[self.generator]) - self._frozen
            copy_frozen(self.generator, self.generator_ema, trained)
            set_number(self.stage_index, index)
        self.phases.images_seen, self.phases.stage = seen, stage
        self.phases.path_mean = self.path_mean
        self.discriminator.fade = stage.fade(seen)
        self.generator.density_noise = self.fakes.density_noise.at(seen) or 0.0
        return stage

    def _follow(self, values: dict[str, Tensor], iteration: int, batch_size: int) -> None:
        """Moves what follows the means over all images of the iteration, and all processes."""
        own = [torch.cat(some).mean(dim=0, keepdim=True) for some in self.phases.take_tracked()]
        own.append(self.adaptive_p.take_signs())
        if "path/length" in values:
            own.append(values["path/length"])
        if self.trainer.world_size > 1:  # a signal to one process stops all of them
            asked = float(self.asked_to_stop)
            own.insert(0, self.images_seen.new_full((), asked, dtype=torch.float32))
        means = mean_over_processes(own)

        if self.trainer.world_size > 1:
            values["stop"] = means.pop(0)
        if "path/length" in values:
            length = means.pop().to(self.path_mean)
            length = torch.where(length.isfinite(), length, self.path_mean)  # a skipped step
            self.path_mean.lerp_(length, self.losses.path_length.decay)
        self.adaptive_p.update(means.pop(), iteration, batch_size)
        self.generator.track(*means, batch_size=batch_size)
        if self.phases.augmentation.ada.enabled:
            values["augment/p"] = self.adaptive_p.value()

    def _stop_when_done(self) -> None:
        if self.seen >= self.run.total_kimg * 1000:
            self.trainer.should_stop = True

    # ------------------------------------------------------------ evaluation of the average

    def sample(self, indices: Iterable[int], phase: str = "evaluation") -> Rendering:
        """Fakes of the EMA generator, one per index: each has its own z and a camera of the pose
        prior.
        """
        draw = self.draws(indices, phase)
        z = draw.normal("z", self.generator.z_dim)
        return self(z, self.sample_cameras(draw), resolution=self.resolution_now())

    def validation_step(self, batch, batch_idx: int) -> dict[str, Tensor | None]:
        """Fakes, as many as the batch has images; callbacks.Evaluation measures them."""
        return maps_of(self.sample(batch.index.tolist()))

    test_step = validation_step

    def predict_step(self, batch, batch_idx: int) -> dict[str, Tensor | None]:
        """Scenes of `sampling` by their numbers [b], or as many as the batch has images."""
        numbers = batch if isinstance(batch, Tensor) else batch.index
        dtype = cast(torch.dtype, self.dtype)
        draw = Randomness(self.sampling.seed, numbers.tolist(), device=self.device, dtype=dtype)
        z = draw.normal("z", self.generator.z_dim)
        shown = self(
            z,
            self.sample_cameras(draw),
            truncation=self.sampling.truncation,
            resolution=self.resolution_now(),
        )
        return maps_of(shown)

    # ------------------------------------------------------------ around the iterations

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        networks = (self.generator, self.discriminator)
        self._trainable = {
            net: [p for p in net.parameters() if p.requires_grad] for net in networks
        }
        return [
            self.optimizer_g.build(self._trainable[self.generator], self.losses.lazy_g),
            self.optimizer_d.build(self._trainable[self.discriminator], self.losses.lazy_d),
        ]

    def setup(self, stage: str) -> None:
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit":
            asked = self.run.micro_batch_size
            self.micro_batch_size = self._fitting(data) if asked == "auto" else asked
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
            self.losses.pose.real_weight > 0 or isinstance(phases.poses, DatasetPoses)
        ):
            if not (phases.needs_cameras or self.losses.pose.enabled):
                return
            raise ValueError(
                f"{type(self.generator).__name__} and {type(self.discriminator).__name__} need the "
                "camera of every image, and the data set has no labels; add a dataset.json "
                "(docs/data.md), or train StyleGAN2"
            )
        if self.discriminator.camera_conditioned:
            cameras = phases.poses.sample(Randomness(self.seed, range(4096), "labels"))
            self.discriminator.know_labels(cameras.label().std(dim=0))

    def _fitting(self, data: Any) -> int | None:
        """The micro-batch that fits the device's memory; None is the whole share of a process."""
        trainer = self.trainer
        device = trainer.strategy.root_device
        there = unshared_memory(device)
        if there is None:
            return None
        if data is None:
            raise ValueError(
                "micro_batch_size auto needs the batch size before training; train on a "
                "LightningDataModule with a batch_size, or set a number"
            )
        # It trains a copy of this, without numbers.
        from gan3d.training.estimate.micro_batch import largest_micro_batch
        from gan3d.training.estimate.needs import Spread

        share = data.batch_size // trainer.world_size
        spread = Spread(
            data.batch_size,
            trainer.world_size,
            precision=trainer.precision,
            posed=data.labels is not None,
            sharded=getattr(trainer.strategy, "sharded", ()),
            copies=getattr(trainer.strategy, "copies", 1),
        )
        size, needed = largest_micro_batch(self, spread, there)
        size = int(over_processes(torch.tensor([size], device=device)).min())
        log.info(
            f"micro_batch_size auto: {size} of the {share} images of a process at once, for which "
            f"about {needed / 2**30:.1f} GiB of {there / 2**30:.1f} are needed"
        )
        return size

    def configure_model(self) -> None:
        """The networks get their precision before they read a checkpoint, not after it: Lightning
        would read numbers of 64 bits into 32.
        """
        self.trainer.strategy.precision_plugin.convert_module(self)

    def on_fit_start(self) -> None:
        # While training, callbacks evaluate, by kimg.
        self._limit_val_batches, self.trainer.limit_val_batches = self.trainer.limit_val_batches, 0
        precision, networks = self.trainer.precision, (self.generator, self.discriminator)
        refuse_unfit(precision, self.device, networks)
        if (sentence := slow(precision, self.device, networks)) is not None:
            log.warning(sentence)
        plugin = self.trainer.precision_plugin
        self.phases.scale = LossScale(getattr(plugin, "scaler", None))
        refuse_strategy(self.trainer.strategy)
        self._around_fit = ExitStack()
        products = float32_products(self.run.matmul_precision, self.device)
        self._around_fit.enter_context(products)

    def on_train_start(self) -> None:
        # Read once; then the host knows them.
        for buffer in (self.images_seen, self.iterations, self.stage_index, self.adaptive_p.p):
            number(buffer)
        self.running_means.start(self.seen)
        self._stop_when_done()

    def on_train_end(self) -> None:
        self._log(self.seen)
        for parameters in self._trainable.values():
            for parameter in parameters:
                parameter.requires_grad_(True)

    def on_fit_end(self) -> None:
        self.trainer.limit_val_batches = self._limit_val_batches
        self._around_fit.close()

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["running_means"] = self.running_means.state_dict()
        checkpoint[VIEW_KEY] = self._view()

    def _view(self) -> dict[str, float]:
        """How scenes are seen: typical camera, and resolution where it is not the generator's."""
        view: dict[str, float] = {}
        if self.generator.has_camera:
            view["radius"], view["fov"] = self.phases.poses.typical()
        side = self.resolution_now()
        own = getattr(self.generator, "raw_resolution", self.generator.img_resolution)
        if side is not None and side != own:
            view["resolution"] = side
        return view

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.running_means.load_state_dict(checkpoint["running_means"])

    def _log(self, images_seen: int) -> dict[str, float]:
        metrics = self.running_means.read(images_seen, self.device)
        if metrics:
            log_metrics(self.loggers, metrics, images_seen)
        return metrics


def maps_of(shown: Rendering) -> dict[str, Tensor | None]:
    """A rendering as a dictionary: Lightning takes frozen dataclasses apart."""
    return {
        "image": shown.image,
        "raw": shown.raw,
        "depth": shown.depth,
        "opacity": shown.opacity,
    }


class PhaseStep:
    """Optimizer steps of one iteration: one call per phase, a range of its name in a profile.

    Attributes:
        values: what the phases logged, scalars on the device, means over the parts.
        watch: the gradient norms of all phases.
    """

    def __init__(self, module: GAN, parts: list[Part]):
        self.module, self.parts = module, parts
        self.values: dict[str, Tensor] = {}
        self.watch = GradientWatch()

    def __call__(
        self,
        name: str,
        network: Generator | Discriminator,
        optimizer,
        loss: Callable[[Part, dict[str, Tensor]], Iterator[Tensor]],
        uses: Sequence[nn.Module] = (),
    ) -> None:
        """One optimizer step on the mean over the parts of what `loss` yields.

        Args:
            name: of the phase.
            network: that learns.
            optimizer: of it.
            loss: (part, values to log) -> scalars.
            uses: networks that `loss` runs, where it runs more than `network`.
        """
        module, trainable = self.module, self.module._trainable
        strategy = module.trainer.strategy
        with record_function(name):
            for each in (module.generator, module.discriminator):
                learns = each is network
                for parameter in trainable[each]:
                    wanted = learns and not (module._frozen and parameter in module._frozen)
                    parameter.requires_grad_(wanted)
            optimizer.zero_grad(set_to_none=True)
            scaling = module.phases.scale
            if (scale := scaling.start(module.device)) is not None:
                self.values.setdefault(SCALE, scale)

            with ExitStack() as around:
                around.enter_context(whole(*uses or (network,)))
                if isinstance(strategy, GANDDPStrategy):
                    around.enter_context(strategy.reducing(name, network, trainable[network]))
                for part in self.parts:
                    self._backward(part, loss)
            scaling.unscale(optimizer.optimizer)
            self.values[f"gradient/{name}"] = self.watch.watch(name, network, trainable[network])
            adam = module.optimizer_g if network is module.generator else module.optimizer_d
            adam.clip(trainable[network])
            optimizer.step()

    def _backward(
        self, part: Part, loss: Callable[[Part, dict[str, Tensor]], Iterator[Tensor]]
    ) -> None:
        """Backward passes of a part; what it logs is added up."""
        of_part: dict[str, Tensor] = {}
        for term in loss(part, of_part):
            # Every operation's gradient has the precision that the operation had; what gradients
            # call themselves must not be lowered once more.
            with full_precision(term):
                self.module.manual_backward(term * part.share)
        for key_, value in of_part.items():
            self.values[key_] = self.values.get(key_, 0) + value.detach() * part.share

    def read(self) -> dict[str, float]:
        """All values, read from the device together."""
        dtype = torch.promote_types(cast(torch.dtype, self.module.dtype), torch.float32)
        stacked = torch.stack([value.detach().to(dtype) for value in self.values.values()])
        return dict(zip(self.values, stacked.tolist(), strict=True))


@contextmanager
def uncounted(*optimizers) -> Iterator[None]:
    """Steps taken inside are not counted by Lightning, which counts every optimizer step as one."""
    hooks = [(optimizer._on_before_step, optimizer._on_after_step) for optimizer in optimizers]
    for optimizer in optimizers:
        optimizer._on_before_step = optimizer._on_after_step = lambda: None
    try:
        yield
    finally:
        for optimizer, (before, after) in zip(optimizers, hooks):
            optimizer._on_before_step, optimizer._on_after_step = before, after
