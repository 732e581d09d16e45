"""What fits together in a run: refused before training, with what is missing and what to set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from gan3d.discriminators import check_pair
from gan3d.generators import Generator
from gan3d.training.micro_batches import Part
from gan3d.training.phases import Phases
from gan3d.training.stages import Stages, names_of

# Transforms of ADA after which a picture shows another pose.
TURNING = ("xflip", "rotate90", "rotate")


def check_split(generator: Generator, parts: Sequence[Part]) -> None:
    """Refuses a generator whose images depend on their forward pass, for a batch that is split.

    Args:
        generator: that is trained.
        parts: of this process; none if the batch is not split.

    Raises:
        ValueError: naming the option.
    """
    bound = generator.batch_bound()
    if parts and bound:
        raise ValueError(
            f"{type(generator).__name__} has {bound}, by which an image depends on the others of "
            "its forward pass, so micro-batches and processes would change the result; switch it "
            "off, or train on one process without micro_batch_size"
        )


def check_compatibility(phases: Phases, stages: Stages, freeze: Iterable[str]) -> None:
    """Refuses losses, stages and parts that the two networks cannot serve.

    Raises:
        ValueError: naming what is missing and which argument to change.
    """
    generator, discriminator = phases.generator, phases.discriminator
    losses, fakes = phases.losses, phases.fakes
    g, d = type(generator).__name__, type(discriminator).__name__
    check_pair(generator, discriminator)
    phases.rays.check(generator)
    if losses.density.weight > 0 and not generator.has_field:
        raise ValueError(
            f"density regularization needs a generator with a field, {g} has none; set "
            "--model.density.weight 0"
        )
    if losses.consistency.weight > 0 and not generator.has_raw:
        raise ValueError(
            f"consistency compares image and raw image, {g} has none; set "
            "--model.consistency.weight 0"
        )
    if losses.consistency.weight > 0 and phases.rays.mode != "full":
        raise ValueError(
            f"consistency compares whole images; set --model.rays.mode full, got {phases.rays.mode}"
        )
    if losses.pose.enabled and not discriminator.predicts_pose:
        raise ValueError(
            f"{d} predicts no pose; set predicts_pose, if that is one of its arguments, or the "
            "weights of --model.pose to 0"
        )
    if losses.latent.weight > 0 and discriminator.latent_dim != generator.z_dim:
        size = discriminator.latent_dim
        predicted = f"predicts a z of {size}" if size else "predicts no z"
        raise ValueError(
            f"{d} {predicted}, {g} has one of {generator.z_dim}; match them or set "
            "--model.latent.weight 0"
        )
    if losses.patch.weight > 0 and not discriminator.predicts_patches:
        raise ValueError(
            f"{d} does not judge patches; set --model.patch.weight 0, or take one that does"
        )
    if any((fakes.density_noise.initial, fakes.density_noise.final)) and not generator.has_field:
        raise ValueError(
            f"fakes.density_noise needs a generator with a field, {g} has none; leave it out"
        )
    if losses.pose.enabled and not generator.has_camera:
        raise ValueError(
            f"{g} has no camera whose pose could be predicted; set --model.pose.weight 0"
        )
    pipe = phases.augmentation.ada.pipe
    turning = [name for name in TURNING if getattr(pipe, name) > 0]
    if losses.pose.enabled and turning:
        raise ValueError(
            f"{d} predicts poses, and ADA's {', '.join(turning)} would turn pictures whose poses "
            "it is told as they were; set --model.augmentation.ada.preset color, or the weights of "
            "--model.pose to 0"
        )
    if fakes.views > 1 and not generator.strict_3d:
        raise ValueError(
            f"views {fakes.views} needs a generator whose views all show one scene, {g} is not "
            "strictly 3D; set --model.fakes.views 1"
        )
    for stage in stages:
        if stage.gamma is not None and not losses.penalized:
            raise ValueError(
                f"a stage has gamma {stage.gamma}, but there is no R1 penalty (r1.gamma is 0); "
                "set --model.r1.gamma to the weight before that stage"
            )
        if stage.num_rays is not None:
            replace(phases.rays, num_rays=stage.num_rays)  # refuses mode full
        for part in (*freeze, *names_of(stage.freeze)):
            if part not in generator.parts:
                known = ", ".join(generator.parts) or "none"
                raise ValueError(f"{g} has no part {part!r} to freeze; its parts: {known}")
        if stage.resolution in (None, generator.img_resolution):
            continue
        if not generator.any_resolution:
            raise ValueError(
                f"a stage has resolution {stage.resolution}, but {g} makes images of "
                f"{generator.img_resolution} px only; leave out the stage's resolution"
            )
        if stage.resolution not in discriminator.img_resolutions:
            raise ValueError(
                f"a stage has resolution {stage.resolution}, {d} judges "
                f"{', '.join(map(str, discriminator.img_resolutions))} px; choose one of these"
            )
        if stage.resolution > generator.img_resolution:
            raise ValueError(
                f"a stage has resolution {stage.resolution}, above img_resolution "
                f"{generator.img_resolution}; raise img_resolution"
            )
