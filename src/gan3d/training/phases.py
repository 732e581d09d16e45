"""The phases of an iteration: what each shows the discriminator, and the resulting loss.

One iteration of training, on one screen (G and D in the letters of the papers; every draw belongs
to an image and a phase; `gan.py` adds micro-batches, optimizer steps, averages and logs):

    # generator: every iteration
    z, cameras ~ fakes;  ws = G.map(z, conditioning);  scene = G.represent(ws)
    fake = G.render(scene, camera)                      # `views` cameras: the mean over them
    logits = D(augment(blur(fake)), camera)
    loss = adversarial.generator(logits) + pose, latent, patch, consistency losses
         + sum(G.regularizers(scene))
    step(G)

    # density, path_length: every `interval` iterations, a step of their own
    step(G)  with  interval * density(G.field)
    step(G)  with  interval * path_length(dG/dw)

    # discriminator: every iteration
    fake = G(z, camera)                                 # other z and cameras, no gradient
    loss = adversarial.discriminator(D(augment(fake)), D(augment(real))) + pose, latent losses
         + penalties, if r1.interval is 1: R1 of the same D(augment(real))
    step(D)

    # r1: every `r1.interval` iterations, a step of its own
    step(D)  with  interval * (gamma/2 |dD(real)/dreal|^2 + gamma2/2 |dD(fake)/dfake|^2)

    # around them
    ADA moves p;  G.track(ws);  average.update(G);  images_seen += batch

A phase is a Python generator of scalars: the harness runs backward through each, times the part's
share of the batch, and makes one optimizer step. Nothing here imports Lightning or changes weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gan3d.augment import AdaptiveP, Augmentation, augment_pair, blur
from gan3d.camera import Camera, PosePrior
from gan3d.discriminators import Discriminator, DiscriminatorOutput
from gan3d.generators import Generator, Rendering
from gan3d.generators.contract import background_color
from gan3d.layers.resize import filtered_resizing
from gan3d.randomness import Randomness
from gan3d.training.fakes import Fakes
from gan3d.training.loss_scale import LossScale
from gan3d.training.losses import R1, Losses, Selective, Unpaired
from gan3d.training.micro_batches import Part
from gan3d.training.ray_gradients import (
    RayGradients,
    SceneLeaves,
    SceneView,
    render_partially,
    replay,
)
from gan3d.training.stages import Stage
from gan3d.training.style_mixing import mix_styles

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Latents:
    """Latents of fakes: z [b z], ws as used (styles mixed) and as mapped [b n w], and cameras."""

    z: Tensor
    ws: Tensor
    mapped: Tensor
    camera: Camera | None


@dataclass
class Phases:
    """The losses of a run's phases.

    Attributes:
        draws: (image indices, phase) -> their random draws.
        poses: distribution of the rendering cameras.
        images_seen: by the run, before this iteration; the harness sets it.
        batch_size: of this iteration, over all processes; the harness sets it.
        stage: stage of this iteration; the harness sets it.
        path_mean: running mean of the path lengths; the harness moves and sets it.
        weights: where a batch is split and the game is selective, weights of the generator's
            fakes, by phase and first image; see `weigh_fakes`.
        length_of_batch: where a batch is split, its mean path length; see `measure_lengths`.
        scale: of the losses, for the backward passes inside of a phase; the harness sets it.
        tracked: inputs of the running statistics, from this iteration's scenes: pairs (mapped ws,
            statistics).
    """

    generator: Generator
    discriminator: Discriminator
    draws: Callable[[list[int], str], Randomness]
    seed: int
    poses: PosePrior
    adaptive_p: AdaptiveP
    losses: Losses
    fakes: Fakes
    augmentation: Augmentation
    rays: RayGradients
    images_seen: int = 0
    batch_size: int = 1
    stage: Stage = field(default_factory=Stage)
    path_mean: Tensor = field(default_factory=lambda: torch.zeros(()))
    weights: dict[tuple[str, int], DiscriminatorOutput] = field(default_factory=dict)
    length_of_batch: Tensor | None = None
    scale: LossScale = field(default_factory=LossScale)
    tracked: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)

    # ------------------------------------------------------------ the phases

    def generator_loss(self, part: Part, values: Values) -> Iterator[Tensor]:
        """Adversarial loss of fresh fakes, with the losses of what D predicts, and regularizers."""
        draw = self.draws(part.indices, "generator")
        latents = self.latents(draw)
        scene: Any = self.generator.represent(latents.ws, randomness=draw)
        reals = self._real_logits(part, draw) if self.losses.game.paired else None
        if self.rays.mode != "chunked" and self.fakes.views == 1:
            view = self._view(scene, latents.camera, draw, raw=self._wants_raw)
            loss = self._loss_of_view(view, latents, reals, values)
            yield loss + self._regularizers(scene, draw, values)
            return

        # Several passes over one scene: their gradients gather in its leaves, and enter the
        # networks together.
        leaves = SceneLeaves.of(scene)
        regularizers = self._regularizers(leaves.scene, draw, values)
        if isinstance(regularizers, Tensor):
            yield regularizers
        for camera, draw_k in self._cameras_of_views(latents, draw):
            of_view: Values = {}
            seen = replace(latents, camera=camera)
            view = self._view(leaves.scene, camera, draw_k, raw=self._wants_raw)
            if self.rays.mode == "chunked":
                factor = self.scale.of_backward(part.share)
                yield from self._chunks_of_view(view, seen, reals, of_view, factor)
            else:
                yield self._loss_of_view(view, seen, reals, of_view) / self.fakes.views
            for name, value in of_view.items():
                values[name] = values.get(name, 0) + value.detach() / self.fakes.views
        yield from leaves.through(self.scale.of_backward(part.share))

    def density_loss(self, part: Part, values: Values) -> Iterator[Tensor]:
        """Density regularization of fresh scenes."""
        draw, density = self.draws(part.indices, "density"), self.losses.density
        scene = self.generator.represent(self.latents(draw).ws, randomness=draw)

        def sigma(points: Tensor) -> Tensor:
            return self.generator.field(scene, points)[0]

        values["loss/density"] = loss = density(sigma, draw, self.generator.scene_extent).mean()
        yield loss * density.interval

    def path_length_loss(self, part: Part, values: Values) -> Iterator[Tensor]:
        """Path length regularization on one in `batch_shrink` images of the batch."""
        path_length = self.losses.path_length
        lengths, weight = self._path_lengths(part)
        values["path/length"] = weight * lengths.mean()
        penalty = path_length(lengths, self.path_mean, self.length_of_batch)
        values["loss/path_length"] = loss = weight * penalty.mean()
        yield loss * path_length.interval

    def discriminator_loss(self, part: Part, values: Values) -> Iterator[Tensor]:
        """Adversarial loss of fresh fakes and of the batch's reals; penalties of interval 1."""
        game = self.losses.game
        draw = self.draws(part.indices, "discriminator")

        # fakes
        fake, latents = self._fresh_fakes(draw, track=True)
        of_fakes = self.judge(*self.shown(fake.image, fake.raw, draw), latents.camera, draw)
        values["logits/fake"] = of_fakes.logits.mean()
        loss_fake = self._predictions(of_fakes, latents, values, "fake")
        done: Tensor | float = 0.0
        if isinstance(game, Unpaired):
            loss_fake = loss_fake + self._game(game.fake, of_fakes)
            yield loss_fake  # its graph is gone before the reals are seen
            done = loss_fake.detach()

        # reals; R1 of every step differentiates the logits of this pass, as published
        draw = draw.in_phase("real")
        image, raw = self.reals(part, draw)
        every_step = self.losses.penalized and not self.losses.lazy_d
        of_reals, r1 = (
            self._judged_with_penalty(self._r1(image), image, raw, part.camera, draw)
            if every_step and self.losses.r1.gamma != 0
            else (self.judge(*self.shown(image, raw, draw), part.camera, draw), None)
        )
        self.adaptive_p.collect(of_reals.logits)
        values["logits/real"] = of_reals.logits.mean()
        values["signs/real"] = of_reals.logits.sign().mean()
        if isinstance(game, Unpaired):
            loss_real = self._game(game.real, of_reals)
        else:
            loss_real = self._game(game.discriminator, of_fakes, of_reals) + loss_fake
        pose = self.losses.pose
        if pose.real_weight > 0:
            assert of_reals.pose is not None
            assert part.camera is not None
            values["pose/real"] = error = pose(of_reals.pose, part.camera).mean()
            loss_real = loss_real + pose.real_weight * error
        values["loss/discriminator"] = loss_real.detach() + done
        if r1 is not None:
            values["loss/r1"] = r1
            loss_real = loss_real + r1
        yield loss_real

        if every_step:
            yield from self._r2_loss(part, values)

    def r1_loss(self, part: Part, values: Values) -> Iterator[Tensor]:
        """Gradient penalties on the reals (R1) and on fresh fakes (R2), as a step of their own."""
        if self.losses.r1.gamma != 0:
            draw = self.draws(part.indices, "r1")
            image, raw = self.reals(part, draw)
            judged, penalty = self._judged_with_penalty(
                self._r1(image), image, raw, part.camera, draw
            )
            self.adaptive_p.collect(judged.logits)
            values["loss/r1"] = penalty
            yield penalty * self.losses.r1.interval
        yield from self._r2_loss(part, values)

    def _r2_loss(self, part: Part, values: Values) -> Iterator[Tensor]:
        """Gradient penalty on fresh fakes, if there is one."""
        if self.losses.r2.gamma > 0:
            draw = self.draws(part.indices, "r1").in_phase("fake")
            fake, latents = self._fresh_fakes(draw)
            weighted = replace(self.losses.r1, gamma=self.losses.r2.gamma)
            _, penalty = self._judged_with_penalty(
                weighted, fake.image, fake.raw, latents.camera, draw
            )
            values["loss/r2"] = penalty
            yield penalty * weighted.interval

    def take_tracked(self) -> list[list[Tensor]]:
        """Inputs of the running statistics: parts of [b n w] and, if there are any, of [b k]."""
        mapped, statistics = zip(*self.tracked, strict=True)
        self.tracked = []
        return [list(mapped), list(statistics)] if statistics[0] is not None else [list(mapped)]

    # ------------------------------------------------------------ what parts know of the batch

    @torch.no_grad()
    def weigh_fakes(self, parts: Sequence[Part], gather: Callable[[Tensor], Tensor]) -> None:
        """Before the generator phase of a batch that is split: weighs its fakes, for a selective
        game.

        Args:
            parts: of this process; none if the batch is not split.
            gather: [n] -> [n'] of all processes.
        """
        self.weights = {}
        game = self.losses.game
        if not isinstance(game, Selective):
            return
        of_phases: dict[str, dict[int, DiscriminatorOutput]] = {}
        for part in parts:
            draw = self.draws(part.indices, "generator")
            latents = self.latents(draw)
            scene: Any = self.generator.represent(latents.ws, randomness=draw)
            for camera, draw_k in self._cameras_of_views(latents, draw):
                fake = self._view(scene, camera, draw_k, raw=self._judges_raw).render()
                judged = self.judge(*self.shown(fake.image, fake.raw, draw_k), camera, draw_k)
                of_phases.setdefault(draw_k.phase, {})[part.indices[0]] = judged
        for phase, of_parts in of_phases.items():
            among = gather(torch.cat([judged.all_logits for judged in of_parts.values()]))
            patches = [j.patch_logits for j in of_parts.values() if j.patch_logits is not None]
            among_patches = gather(torch.cat(patches).flatten()) if patches else among
            for first, judged in of_parts.items():
                weights = game.weights(judged.all_logits, among, self.images_seen)
                of_patches = judged.patch_logits
                if of_patches is not None:
                    flat = game.weights(of_patches.flatten(), among_patches, self.images_seen)
                    of_patches = flat.view_as(of_patches)
                self.weights[phase, first] = DiscriminatorOutput(weights, patch_logits=of_patches)

    def measure_lengths(self, parts: Sequence[Part], mean: Callable[[Tensor], Tensor]) -> None:
        """Before the path length phase of a batch that is split: measures its mean path length.

        Args:
            parts: of this process; none if the batch is not split.
            mean: a scalar -> its mean over all processes.
        """
        self.length_of_batch = None
        if not parts:
            return
        total = self.path_mean.new_zeros(())
        for part in parts:
            lengths, weight = self._path_lengths(part, differentiable=False)
            total = total + part.share * weight * lengths.detach().mean().to(total)
        self.length_of_batch = mean(total)

    def _path_lengths(self, part: Part, differentiable: bool = True) -> tuple[Tensor, float]:
        """Path lengths of every `batch_shrink`-th image of the batch that a part has, and the
        weight of their mean, with which the mean over all parts is that of the batch.

        A part that has none runs on one image with weight 0, so that all processes have gradients
        of the same parameters.
        """
        path_length = self.losses.path_length
        shrink = path_length.batch_shrink
        chosen = [i for i in part.indices if (i - self.images_seen) % shrink == 0]
        of_batch = len(range(0, self.batch_size, shrink))
        weight = len(chosen) / len(part.indices) * self.batch_size / of_batch

        draw = self.draws(chosen or part.indices[:1], "path_length")
        latents = self.latents(draw)
        ws = latents.ws
        if not (differentiable and ws.requires_grad):
            ws = ws.detach().requires_grad_()
        scene = self.generator.represent(ws, randomness=draw)
        image = self.scale.up(self._view(scene, latents.camera, draw).render().image)
        lengths = path_length.lengths(ws, image, draw, differentiable=differentiable)
        return self.scale.down(lengths), weight

    # ------------------------------------------------------------ fakes and reals

    @property
    def needs_cameras(self) -> bool:
        generator, discriminator = self.generator, self.discriminator
        return (
            generator.has_camera or generator.camera_conditioned or discriminator.camera_conditioned
        )

    @property
    def _judges_raw(self) -> bool:
        return self.discriminator.needs_raw and self.stage.judge_raw

    @property
    def _wants_raw(self) -> bool:
        return self._judges_raw or self.losses.consistency.weight > 0

    def resolution(self) -> int | None:
        """Side of what is rendered at this point of the schedules; None: the generator's own."""
        if self.stage.resolution is not None:
            return self.stage.resolution
        value = self.fakes.raw_resolution.at(self.images_seen)
        return None if value is None else round(value)

    def latents(self, draw: Randomness) -> Latents:
        """Latents and cameras of fakes."""
        generator = self.generator
        camera = condition = self.poses.sample(draw) if self.needs_cameras else None
        # The camera of a 2D model is its label, which stays.
        if camera is not None and generator.has_camera and generator.camera_conditioned:
            other = self.poses.sample(draw.in_phase("swap"))
            condition = self.fakes.conditioning(camera, other, draw, self.images_seen)
        z = draw.normal("z", generator.z_dim)
        ws = mapped = generator.map(z, condition)
        if self.fakes.style_mixing > 0:
            # unlike eg3d: not with the rendering camera, which would tell the pose
            told = camera if self.fakes.style_mixing_camera == "rendering" else condition
            second = generator.map(draw.normal("z_mix", generator.z_dim), told)
            ws = mix_styles(ws, second, draw, self.fakes.style_mixing)
        return Latents(z, ws, mapped, camera)

    @torch.no_grad()
    def _fresh_fakes(self, draw: Randomness, track: bool = False) -> tuple[Rendering, Latents]:
        """Fakes without gradient; with `track` the running statistics learn from them."""
        latents = self.latents(draw)
        scene: Any = self.generator.represent(latents.ws, randomness=draw)
        if track:
            self.tracked.append((latents.mapped, self.generator.statistics(scene)))
        return self._view(scene, latents.camera, draw, raw=self._judges_raw).render(), latents

    def reals(self, part: Part, draw: Randomness) -> tuple[Tensor, Tensor | None]:
        """Real images at the stage's resolution and, if raw images are judged, raw ones.

        Args:
            part: where it has masks, what lies outside them becomes the generator's background.
            draw: stream "background" of each image.
        """
        full = part.image
        if part.mask is not None and self.generator.background is not None:
            color = background_color(self.generator.background, draw, len(full)).to(full)
            full = torch.lerp(color[:, :, None, None], full, part.mask.to(full))
        image, side = full, self.stage.resolution
        if side is not None and side != image.shape[-1]:
            image = filtered_resizing(image, side)
        if not self._judges_raw:
            return image, None
        raw = filtered_resizing(full, self.resolution() or self.generator.raw_resolution)
        return image, blur(raw, self.augmentation.blur.sigma_at(self.images_seen))

    # ------------------------------------------------------------ what the discriminator sees

    def shown(
        self, image: Tensor, raw: Tensor | None, draw: Randomness
    ) -> tuple[Tensor, Tensor | None]:
        """An image and its raw image as the discriminator sees them: blurred and augmented."""
        image = blur(image, self.augmentation.blur.sigma_at(self.images_seen))
        raw = raw if self._judges_raw else None
        # ADA makes small matrices of its draws: on the CPU.
        ada, draw_ada = self.augmentation.ada, draw.in_phase("augment").on("cpu")
        image, raw = augment_pair(image, raw, ada.pipe, self.adaptive_p.probability, draw_ada)
        diffaug, enabled = self.augmentation.diffaug, self.stage.diffaug
        if diffaug.enabled if enabled is None else enabled:
            diffaug, draw = replace(diffaug, enabled=True), draw.in_phase("diffaug")
            image = diffaug(image, draw)
            raw = None if raw is None else diffaug(raw, draw.in_phase("raw"))
        return image, raw

    def judge(
        self, image: Tensor, raw: Tensor | None, camera: Camera | None, draw: Randomness
    ) -> DiscriminatorOutput:
        return self.discriminator(image, raw=raw, camera=camera, randomness=draw)

    @torch.no_grad()
    def _real_logits(self, part: Part, draw: Randomness) -> DiscriminatorOutput:
        """What a paired game compares the generator's fakes with."""
        draw = draw.in_phase("real")
        return self.judge(*self.shown(*self.reals(part, draw), draw), part.camera, draw)

    # ------------------------------------------------------------ parts of losses

    def _view(
        self, scene: Any, camera: Camera | None, draw: Randomness, raw: bool = False
    ) -> SceneView:
        return SceneView(self.generator, scene, camera, self.resolution(), raw, draw)

    def _cameras_of_views(
        self, latents: Latents, draw: Randomness
    ) -> Iterator[tuple[Camera | None, Randomness]]:
        """Camera and draws of each view of a scene in the generator phase."""
        yield latents.camera, draw
        for k in range(1, self.fakes.views):
            draw_k = draw.in_phase(f"view{k}")
            yield self.poses.sample(draw_k), draw_k

    def _selected(self, view: SceneView) -> Tensor | None:
        """Indices of the rays that carry gradient, [r]; None means all of them."""
        rays = self.rays
        if self.stage.num_rays is not None:
            rays = replace(rays, num_rays=self.stage.num_rays)
        return rays.selected(view.num_pixels, self.seed, self.images_seen, view.draw.device)

    def _loss_of_view(
        self, view: SceneView, latents: Latents, reals: DiscriminatorOutput | None, values: Values
    ) -> Tensor:
        """The generator's loss of one view, by autograd through its rays."""
        selected = self._selected(view)
        fake = view.render() if selected is None else render_partially(view, selected)
        return self._loss_of_fakes(fake, latents, reals, view.draw, values)

    def _chunks_of_view(
        self,
        view: SceneView,
        latents: Latents,
        reals: DiscriminatorOutput | None,
        values: Values,
        factor: Tensor | float,
    ) -> Iterator[Tensor]:
        """Scalars with the gradient of the loss of one view, in the memory of a chunk of rays."""
        with torch.no_grad():
            shown = view.render()
        leaves = {"image": shown.image.detach().requires_grad_()}
        if self._judges_raw and shown.raw is not None:
            # The raw image is the image itself in some models.
            leaves["raw"] = shown.raw.clone().requires_grad_()
        shown = replace(shown, image=leaves["image"], raw=leaves.get("raw"))
        loss = self._loss_of_fakes(shown, latents, reals, view.draw, values) / self.fakes.views
        found = torch.autograd.grad(self.scale.up(loss), list(leaves.values()))
        gradients = dict(zip(leaves, map(self.scale.down, found), strict=True))
        yield from replay(view, gradients, self._selected(view), self.rays.chunk, factor)

    def _loss_of_fakes(
        self,
        fake: Rendering,
        latents: Latents,
        reals: DiscriminatorOutput | None,
        draw: Randomness,
        values: Values,
    ) -> Tensor:
        """The generator's loss of the fakes of a part, a scalar."""
        game, seen = self.losses.game, self.images_seen
        judged = self.judge(*self.shown(fake.image, fake.raw, draw), latents.camera, draw)
        weights = self.weights.get((draw.phase, draw.indices[0]))
        if weights is not None and isinstance(game, Selective):
            loss = self._game(game.weighted, judged, weights)
        elif reals is None:
            loss = self._game(lambda logits: game.generator(logits, seen), judged)
        else:
            loss = self._game(lambda f, r: game.generator(f, seen, r), judged, reals)
        values["loss/generator"] = loss
        loss = loss + self._predictions(judged, latents, values, "generator")
        if self.losses.consistency.weight > 0:
            assert fake.raw is not None
            maps = (fake.extras.get("maps"), fake.extras.get("raw_maps"))
            difference = self.losses.consistency(fake.image, fake.raw, *maps).mean()
            values["loss/consistency"] = difference
            loss = loss + difference
        return loss

    def _regularizers(self, scene: Any, draw: Randomness, values: Values) -> Tensor | float:
        """The generator's own regularizers of a scene, added up."""
        total: Tensor | float = 0.0
        for name, value in self.generator.regularizers(scene, draw).items():
            values[f"loss/{name}"] = mean = value.mean()
            total = total + mean
        return total

    def _game(self, loss: Callable[..., Tensor], *judged: DiscriminatorOutput) -> Tensor:
        """Mean adversarial loss of one side, or of pairs; separate logits of image and raw image
        weigh one half each.
        """
        total = loss(*(j.all_logits for j in judged)).mean()
        if self.losses.patch.weight > 0:
            patches = [j.patch_logits for j in judged if j.patch_logits is not None]
            assert len(patches) == len(judged)
            total = total + self.losses.patch(loss, *patches).mean()
        return total

    def _r1(self, image: Tensor) -> R1:
        """R1 with the weight that it has now, for reals [b 3 H W]."""
        return self.losses.r1.weighted(self.stage.gamma, image.shape[-1], self.batch_size)

    def _judged_with_penalty(
        self,
        penalty: R1,
        image: Tensor,
        raw: Tensor | None,
        camera: Camera | None,
        draw: Randomness,
    ) -> tuple[DiscriminatorOutput, Tensor]:
        """What the discriminator says of some images, and its gradient penalty there, a scalar."""
        patch, outputs = self.losses.patch, []

        def judge(image: Tensor, raw: Tensor | None) -> Tensor:
            if penalty.of == "image":
                image, raw = self.shown(image, raw, draw)
            judged = self.judge(image, raw, camera, draw)
            outputs.append(judged)
            realness = judged.logits
            if judged.patch_logits is not None and patch.in_r1:
                realness = realness + patch.realness(judged.patch_logits)
            if judged.raw_logits is not None:
                realness = realness + judged.raw_logits
            return self.scale.up(realness)

        if penalty.of == "input":
            image, raw = self.shown(image, raw, draw)
        mean = self.scale.down(penalty(judge, image, raw).mean(), power=2)  # a square
        (judged,) = outputs
        # Separate logits for image and raw image: average the two losses.
        return judged, mean if judged.raw_logits is None else mean / 2

    def _predictions(
        self, judged: DiscriminatorOutput, latents: Latents, values: Values, of: str
    ) -> Tensor | float:
        """Losses of what the discriminator predicts from fakes."""
        pose, latent = self.losses.pose, self.losses.latent
        loss: Tensor | float = 0.0
        if pose.weight > 0:
            assert judged.pose is not None
            assert latents.camera is not None
            values[f"pose/{of}"] = error = pose(judged.pose, latents.camera).mean()
            loss = loss + pose.weight * error
        if latent.weight > 0:
            assert judged.latent is not None
            loss = loss + latent(judged.latent, latents.z).mean()
        return loss
