"""The phases of an iteration: what each shows the discriminator, and the loss that comes of it.

    generator       adversarial loss of fresh fakes, pose, patch and cross-resolution losses
    density         density regularization (3D models)
    path_length     path length regularization (2D models)
    discriminator   adversarial loss of fresh fakes and of the batch's reals, pose losses; R1 if its interval is 1
    r1              gradient penalty on the reals

A phase is a generator of scalars: the harness (gan.py) runs backward through each, times the part's
share of the batch, and makes one optimizer step. Nothing here imports Lightning or changes a
weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gan3d.augment import ADA, AdaptiveP, Blur, augment_pair, blur
from gan3d.augment.diffaug import DiffAugment
from gan3d.camera import Camera, PosePrior
from gan3d.discriminators import Discriminator, DiscriminatorOutput
from gan3d.generators import Generator, Rendering
from gan3d.layers.resize import filtered_resizing
from gan3d.randomness import Randomness
from gan3d.schedules import Ramp
from gan3d.training.losses import (
    R1,
    Adversarial,
    CrossResolution,
    DensityRegularization,
    LatentPrediction,
    Patches,
    PathLength,
    PoseConditioning,
    PosePrediction,
)
from gan3d.training.micro_batches import Part
from gan3d.training.ray_gradients import RayGradients, SceneView, render_partially, replay
from gan3d.training.stages import Stage
from gan3d.training.style_mixing import mix_styles

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Latents:
    """Latents of fakes: z [b z], ws as used (styles mixed) and as mapped [b n w], and the rendering
    cameras.
    """

    z: Tensor
    ws: Tensor
    mapped: Tensor
    camera: Camera | None


@dataclass
class Phases:
    """The losses of a run's phases; the names are those of GAN's arguments.

    Attributes:
        draws: (image indices, phase) -> their random draws.
        images_seen: by the run, before this iteration; the harness sets it.
        batch_size: of this iteration, over all processes; the harness sets it.
        stage: that the iteration belongs to; the harness sets it.
        path_mean: running mean of the path lengths; the harness moves and sets it.
        tracked: what running statistics are to learn from this iteration's scenes: pairs (mapped
            ws, statistics).
    """

    generator: Generator
    discriminator: Discriminator
    draws: Callable[[Iterable[int], str], Randomness]
    seed: int
    poses: PosePrior
    adaptive_p: AdaptiveP
    adversarial: Adversarial
    r1: R1
    density: DensityRegularization
    path_length: PathLength
    pose: PosePrediction
    latent: LatentPrediction
    patch: Patches
    consistency: CrossResolution
    conditioning: PoseConditioning
    style_mixing: float
    blur: Blur
    augment: ADA
    diffaug: DiffAugment
    rays: RayGradients
    raw_resolution: Ramp
    images_seen: int = 0
    batch_size: int = 1
    stage: Stage = field(default_factory=Stage)
    path_mean: Tensor = field(default_factory=lambda: torch.zeros(()))
    tracked: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)

    # ------------------------------------------------------------ the phases: each yields the loss of a part

    def generator_loss(self, part: Part, values: Values) -> Iterator[Tensor]:
        draw = self.draws(part.indices, "generator")
        latents = self.latents(draw)
        view = self._view(latents, draw, raw=self._judges_raw or self.consistency.weight > 0)
        rays = (
            self.rays
            if self.stage.num_rays is None
            else replace(self.rays, num_rays=self.stage.num_rays)
        )
        selected = rays.selected(view.num_pixels, self.seed, self.images_seen)
        if rays.mode != "chunked":
            shown = view.render() if selected is None else render_partially(view, selected)
            yield self._loss_of_fakes(shown, latents, draw, values)
            return
        with torch.no_grad():
            shown = view.render()
        leaves = {"image": shown.image.detach().requires_grad_()}
        if self._judges_raw and shown.raw is not None:
            leaves["raw"] = (
                shown.raw.clone().requires_grad_()
            )  # the same tensor as the image in some models
        shown = replace(shown, image=leaves["image"], raw=leaves.get("raw"))
        loss = self._loss_of_fakes(shown, latents, draw, values)
        gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        yield from replay(view, gradients, selected, rays.chunk, part.share)

    def density_loss(self, part: Part, values: Values) -> Iterator[Tensor]:
        draw = self.draws(part.indices, "density")
        representation = self.generator.represent(self.latents(draw).ws, randomness=draw)
        sigma = lambda points: self.generator.field(representation, points)[0]  # noqa: E731
        values["loss/density"] = loss = self.density(
            sigma, draw, self.generator.scene_extent
        ).mean()
        yield loss * self.density.interval

    def path_length_loss(self, part: Part, values: Values) -> Iterator[Tensor]:
        some = [i for i in part.indices if i % self.path_length.batch_shrink == 0]
        draw = self.draws(some or part.indices, "path_length")
        latents = self.latents(draw)
        lengths = self.path_length.lengths(
            latents.ws, self._view(latents, draw).render().image, draw
        )
        values["path/length"] = lengths.mean()
        values["loss/path_length"] = loss = self.path_length(lengths, self.path_mean).mean()
        yield loss * self.path_length.interval

    def discriminator_loss(self, part: Part, values: Values) -> Iterator[Tensor]:
        draw = self.draws(part.indices, "discriminator")
        with torch.no_grad():
            latents = self.latents(draw)
            view = self._view(latents, draw, raw=self._judges_raw)
            fake = view.render()
            self.tracked.append((latents.mapped, self.generator.statistics(view.scene)))
        judged = self.judge(*self.shown(fake.image, fake.raw, draw), latents.camera, draw)
        values["logits/fake"] = judged.logits.mean()
        loss_fake = self._game(self.adversarial.fake, judged) + self._predictions(
            judged, latents, values, "fake"
        )
        yield loss_fake
        draw = draw.in_phase("real")
        judged = self.judge(*self.shown(*self.reals(part), draw), part.camera, draw)
        self.adaptive_p.collect(judged.logits)
        loss_real = self._game(self.adversarial.real, judged)
        if self.pose.real_weight > 0:
            assert judged.pose is not None
            assert part.camera is not None
            error = self.pose(judged.pose, part.camera).mean()
            values["pose/real"] = error
            loss_real = loss_real + self.pose.real_weight * error
        values["loss/discriminator"] = loss_fake.detach() + loss_real.detach()
        values["logits/real"], values["signs/real"] = (
            judged.logits.mean(),
            judged.logits.sign().mean(),
        )
        yield loss_real
        if self.r1.gamma != 0 and self.r1.interval == 1:
            yield from self.r1_loss(part, values)

    def r1_loss(self, part: Part, values: Values) -> Iterator[Tensor]:
        draw = self.draws(part.indices, "r1")
        separate = False

        def judge(image: Tensor, raw: Tensor | None) -> Tensor:
            nonlocal separate
            if self.r1.of == "image":
                image, raw = self.shown(image, raw, draw)
            judged = self.judge(image, raw, part.camera, draw)
            self.adaptive_p.collect(judged.logits)
            realness = judged.logits
            if judged.patch_logits is not None and self.patch.in_r1:
                realness = realness + self.patch.realness(judged.patch_logits)
            if judged.raw_logits is not None:
                separate, realness = True, realness + judged.raw_logits
            return realness

        image, raw = self.reals(part)
        r1 = self.r1.weighted(self.stage.gamma, image.shape[-1], self.batch_size)
        if self.r1.of == "input":
            image, raw = self.shown(image, raw, draw)
        penalty = r1(judge, image, raw).mean()
        # Image and raw image judged apart are two judgements, of which losses are averaged.
        values["loss/r1"] = loss = penalty / 2 if separate else penalty
        yield loss * self.r1.interval

    def take_tracked(self) -> list[list[Tensor]]:
        """What running statistics learn from the iteration, parts of [b n w] and, where there are
        any, [b k].
        """
        mapped, statistics = zip(*self.tracked, strict=True)
        self.tracked = []
        return [list(mapped), list(statistics)] if statistics[0] is not None else [list(mapped)]

    # ------------------------------------------------------------ what the discriminator sees

    @property
    def _judges_raw(self) -> bool:
        return self.discriminator.needs_raw and self.stage.judge_raw

    def resolution(self) -> int | None:
        """Side of what is rendered at this point of the schedules; None: the generator's own."""
        if self.stage.resolution is not None:
            return self.stage.resolution
        value = self.raw_resolution.at(self.images_seen)
        return None if value is None else round(value)

    def latents(self, draw: Randomness) -> Latents:
        """Latents and cameras of fakes."""
        generator = self.generator
        camera = condition = self.poses.sample(draw) if self.needs_cameras else None
        if (
            camera is not None and generator.has_camera and generator.camera_conditioned
        ):  # a 2D model's is its label
            other = self.poses.sample(draw.in_phase("swap"))
            condition = self.conditioning(camera, other, draw, self.images_seen)
        z = draw.normal("z", generator.z_dim)
        ws = mapped = generator.map(z, condition)
        if self.style_mixing > 0:
            ws = mix_styles(
                ws,
                generator.map(draw.normal("z_mix", generator.z_dim), camera),
                draw,
                self.style_mixing,
            )
        return Latents(z, ws, mapped, camera)

    @property
    def needs_cameras(self) -> bool:
        generator, discriminator = self.generator, self.discriminator
        return (
            generator.has_camera or generator.camera_conditioned or discriminator.camera_conditioned
        )

    def reals(self, part: Part) -> tuple[Tensor, Tensor | None]:
        """Real images at the stage's resolution and, where raw images are judged, what stands
        beside them.
        """
        image, side = part.image, self.stage.resolution
        if side is not None and side != image.shape[-1]:
            image = filtered_resizing(image, side)
        if not self._judges_raw:
            return image, None
        side = self.resolution() or self.generator.raw_resolution
        return image, blur(
            filtered_resizing(part.image, side), self.blur.sigma_at(self.images_seen)
        )

    def shown(
        self, image: Tensor, raw: Tensor | None, draw: Randomness
    ) -> tuple[Tensor, Tensor | None]:
        """What the discriminator gets to see of an image and its raw image: blurred, and
        augmented.
        """
        image = blur(image, self.blur.sigma_at(self.images_seen))
        raw = raw if self._judges_raw else None
        draw = Randomness(
            draw.seed, draw.indices, f"{draw.phase}/augment", dtype=draw.dtype
        )  # CPU: small matrices
        image, raw = augment_pair(image, raw, self.augment.pipe, self.adaptive_p.probability, draw)
        enabled = self.diffaug.enabled if self.stage.diffaug is None else self.stage.diffaug
        if enabled:
            image = self.diffaug(image, draw)
            raw = None if raw is None else self.diffaug(raw, draw.in_phase("raw"))
        return image, raw

    def judge(
        self, image: Tensor, raw: Tensor | None, camera: Camera | None, draw: Randomness
    ) -> DiscriminatorOutput:
        return self.discriminator(image, raw=raw, camera=camera, randomness=draw)

    # ------------------------------------------------------------ parts of losses

    def _view(self, latents: Latents, draw: Randomness, raw: bool = False) -> SceneView:
        scene: Any = self.generator.represent(latents.ws, randomness=draw)
        return SceneView(self.generator, scene, latents.camera, self.resolution(), raw, draw)

    def _loss_of_fakes(
        self, fake: Rendering, latents: Latents, draw: Randomness, values: Values
    ) -> Tensor:
        """The generator's loss of the fakes of a part, a scalar."""
        judged = self.judge(*self.shown(fake.image, fake.raw, draw), latents.camera, draw)
        loss = self._game(
            lambda logits: self.adversarial.generator(logits, self.images_seen), judged
        )
        values["loss/generator"] = loss
        loss = loss + self._predictions(judged, latents, values, "generator")
        if self.consistency.weight > 0:
            assert fake.raw is not None
            maps = (fake.extras.get("maps"), fake.extras.get("raw_maps"))
            values["loss/consistency"] = difference = self.consistency(
                fake.image, fake.raw, *maps
            ).mean()
            loss = loss + difference
        return loss

    def _game(self, loss: Callable[[Tensor], Tensor], judged: DiscriminatorOutput) -> Tensor:
        """Mean adversarial loss over what was judged; image and raw image, where judged apart,
        weigh one half each.
        """
        logits = (
            judged.logits
            if judged.raw_logits is None
            else torch.cat([judged.logits, judged.raw_logits])
        )
        total = loss(logits).mean()
        if self.patch.weight > 0:
            assert judged.patch_logits is not None
            total = total + self.patch(loss, judged.patch_logits).mean()
        return total

    def _predictions(
        self, judged: DiscriminatorOutput, latents: Latents, values: Values, of: str
    ) -> Tensor | float:
        """Losses of what the discriminator predicts of fakes."""
        loss: Tensor | float = 0.0
        if self.pose.weight > 0:
            assert judged.pose is not None
            assert latents.camera is not None
            values[f"pose/{of}"] = error = self.pose(judged.pose, latents.camera).mean()
            loss = loss + self.pose.weight * error
        if self.latent.weight > 0:
            assert judged.latent is not None
            loss = loss + self.latent(judged.latent, latents.z).mean()
        return loss
