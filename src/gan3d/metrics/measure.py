"""Samples any generator for the metrics: pictures, steps in latent space, latents to move.

Every random draw is a function of a `Protocol`'s seed and the number of the image, so it does not
depend on the batch size. Generators are expected in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from gan3d.camera import Camera
from gan3d.camera.poses import typical_view
from gan3d.generators.contract import Generator
from gan3d.metrics.equivariance import Synthesize
from gan3d.metrics.features import quantized
from gan3d.metrics.path_length import EPSILON, Sampling, Space, path_points, squared_steps
from gan3d.randomness import Randomness

Cameras = Callable[[Randomness], Camera]  # one camera per image
# Which camera `Generator.map` takes: the one that renders the image, a frontal one, or another
# draw of the same cameras. A model may hide in its latents what only the rendering camera should
# know: `same` then flatters it.
Conditioning = Literal["same", "frontal", "independent"]
Embed = Callable[[Tensor], Tensor]  # [b 3 H W] in [-1, 1] -> [b c]
Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class Protocol:
    """How the pictures of a measurement are sampled.

    Args:
        num: number of pictures (or pairs of latents).
        batch_size: pictures per batch; for equivariance, a batch shares one motion.
        seed: seed of all draws.
        truncation: psi of `Generator.map`.
        resolution: resolution of `Generator.render`; None uses the model's own.
        noise: draw noise inputs and ray jitter; False uses constant noise.
        conditioning: camera of `Generator.map`. "frontal" has yaw = pitch = 0 and the median
            radius and field of view of the rendering cameras, "independent" is drawn as they are,
            with other draws. Only generators that are `camera_conditioned` see a difference.
        first: number of the first picture.
    """

    num: int = 50_000
    batch_size: int = 4
    seed: int = 0
    truncation: float = 1.0
    resolution: int | None = None
    noise: bool = False
    conditioning: Conditioning = "same"
    first: int = 0

    def __post_init__(self) -> None:
        if self.num < 1 or self.batch_size < 1:
            raise ValueError(
                f"{self.num} pictures in batches of {self.batch_size}; both are 1 or more"
            )

    @property
    def num_batches(self) -> int:
        return -(-self.num // self.batch_size)

    @property
    def indices(self) -> range:
        """Numbers of the pictures."""
        return range(self.first, self.first + self.num)

    def batches(self) -> Iterator[Protocol]:
        """Yields every batch as a protocol of its own."""
        for start in self.indices[:: self.batch_size]:
            num = min(self.batch_size, self.indices.stop - start)
            yield replace(self, num=num, first=start)

    def draws(self, device: torch.device | str = "cpu") -> Iterator[Randomness]:
        """Yields the randomness of each batch."""
        for batch in self.batches():
            yield Randomness(self.seed, batch.indices, "measure", device=device)

    def conditions(self, generator: Generator, cameras: Cameras | None) -> Cameras | None:
        """Where the cameras of `Generator.map` come from; None: they are those of the rendering."""
        if self.conditioning == "same" or cameras is None or not generator.camera_conditioned:
            return None
        if self.conditioning == "independent":
            return lambda draw: cameras(draw.in_phase("conditioning"))
        radius, fov = typical_view(cameras)
        front = Camera.from_angles(0.0, 0.0, radius=radius, fov=fov).to(_device(generator))
        return lambda draw: front.select([0] * len(draw))


@torch.no_grad()
def fake_pictures(
    generator: Generator, protocol: Protocol, cameras: Cameras | None = None
) -> Iterator[Tensor]:
    """Yields pictures [b 3 H W] of z ~ N(0, I), batch by batch, in [-1, 1], rounded to 8 bits.

    Args:
        generator: any generator.
        protocol: number of pictures and sampling options.
        cameras: returns the camera of each image; None for generators without a camera.

    Raises:
        ArithmeticError: a picture is not finite.
    """
    conditions = protocol.conditions(generator, cameras)
    for draw in protocol.draws(_device(generator)):
        camera = _camera(generator, cameras, draw)
        z = draw.normal("z", generator.z_dim)
        condition = camera if conditions is None else conditions(draw)
        ws = generator.map(z, condition, truncation=protocol.truncation)
        images = _picture(generator, protocol, draw, camera, ws)
        if not bool(images.isfinite().all()):
            raise ArithmeticError(f"{type(generator).__name__} made pictures that are not finite")
        yield quantized(images).float() / 127.5 - 1


@torch.no_grad()
def path_steps(
    generator: Generator,
    embed: Embed,
    protocol: Protocol,
    cameras: Cameras | None = None,
    *,
    space: Space = "w",
    sampling: Sampling = "end",
    epsilon: float = EPSILON,
) -> Iterator[Tensor]:
    """Yields squared perceptual steps [b] on paths between pairs of z, batch by batch.

    Both ends of a step share camera and noise.

    Args:
        generator: any generator.
        embed: images [b 3 h w] in [-1, 1] -> perceptual embeddings [b c].
        protocol: number of pairs and sampling options.
        cameras: returns the camera of each pair; None for generators without a camera.
        space: latent space of the paths, "w" or "z".
        sampling: "end" steps at the start of a path, "full" at a uniform position.
        epsilon: length of a step, relative to the path.
    """
    conditions = protocol.conditions(generator, cameras)
    for draw in protocol.draws(_device(generator)):
        camera = _camera(generator, cameras, draw)
        condition = camera if conditions is None else conditions(draw)
        latents = partial(generator.map, camera=condition, truncation=protocol.truncation)

        # the path, and the position on it
        z0 = draw.normal("z", generator.z_dim)
        z1 = draw.normal("z.other", generator.z_dim)
        if sampling == "full":
            t = draw.uniform("path")
        else:
            t = torch.zeros(len(draw), device=draw.device)

        # the step
        if space == "w":
            start, end = path_points(latents(z0), latents(z1), t, space, epsilon)
        else:
            start, end = (latents(z) for z in path_points(z0, z1, t, space, epsilon))
        picture = partial(_picture, generator, protocol, draw, camera)
        yield squared_steps(picture, embed, start, end, epsilon=epsilon)


@torch.no_grad()
def latent_batches(
    generator: Generator, protocol: Protocol, cameras: Cameras | None = None
) -> Iterator[tuple[Tensor, Randomness]]:
    """Yields latents and the randomness of their images, for `measure_equivariance`."""
    conditions = protocol.conditions(generator, cameras)
    for draw in protocol.draws(_device(generator)):
        if not generator.camera_conditioned:
            condition = None
        elif conditions is None:
            condition = _camera(generator, cameras, draw)
        else:
            condition = conditions(draw)
        z = draw.normal("z", generator.z_dim)
        yield generator.map(z, condition, truncation=protocol.truncation), draw


def movable(generator: Generator) -> Synthesize:
    """The generator as a function (ws, transform) -> picture.

    Raises:
        ValueError: the generator has no transform of its input.
    """
    if not generator.movable:
        raise ValueError(
            f"{type(generator).__name__} takes no transform of its picture, so there is no "
            "equivariance to measure; choose StyleGAN3, or EG3D with a StyleGAN3 backbone"
        )
    return generator.synthesize


@torch.no_grad()
def collect(
    batches: Iterable[Tensor], networks: Mapping[Name, nn.Module | Embed]
) -> dict[Name, Tensor]:
    """Features [n c] of all pictures by each network, on the CPU.

    Args:
        batches: pictures [b 3 H W] in [-1, 1].
        networks: the networks, by name.

    Returns:
        The features, by the name of the network.
    """
    rows: dict[Name, list[Tensor]] = {name: [] for name in networks}
    for images in batches:
        for name, network in networks.items():
            rows[name].append(network(images).float().cpu())
    return {name: torch.cat(parts) for name, parts in rows.items()}


def _picture(
    generator: Generator, protocol: Protocol, draw: Randomness, camera: Camera | None, ws: Tensor
) -> Tensor:
    randomness = draw if protocol.noise else None
    scene = generator.represent(ws, randomness=randomness)
    return generator.render(
        scene, camera, resolution=protocol.resolution, raw=False, randomness=randomness
    ).image


def _camera(generator: Generator, cameras: Cameras | None, draw: Randomness) -> Camera | None:
    if cameras is not None:
        return cameras(draw)
    if generator.has_camera or generator.camera_conditioned:
        raise ValueError(
            f"{type(generator).__name__} needs a camera for every picture and got none; give "
            "cameras, such as those of a data set (--data)"
        )
    return None


def _device(generator: Generator) -> torch.device:
    return next(generator.parameters()).device
