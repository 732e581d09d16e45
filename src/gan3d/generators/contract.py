"""What every generator is: the contract between models, the harness, the metrics and the apps.

    z, camera --map--> ws --represent--> representation --render(camera)--> Rendering

`ws` are the latents ([b n w]); a *representation* is a scene without a camera (tri-planes,
manifolds, field weights): a value that may be cached and rendered from anywhere. Nothing here
imports Lightning.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from gan3d.camera import Camera, Rays, frontal
from gan3d.pretrained import write_pretrained
from gan3d.randomness import Randomness
from gan3d.rendering import Background

# Why a network does not train in float16.
UNPUBLISHED = "it was published in float32"
UNBOUNDED = "its activations are not bounded (published: conv_clamp 256)"
# Opacity above which a pixel shows a surface: it has a depth there.
SURFACE_OPACITY = 0.5


def background_color(background: Background, randomness: Randomness | None, num: int) -> Tensor:
    """The color behind `num` scenes in [-1, 1], [num 3].

    "random" is the uniform draw "background" of each image, and middle gray without draws.
    """
    if background == "random" and randomness is not None:
        return 2 * randomness.uniform("background", 3) - 1
    return torch.full((num, 3), {"white": 1.0, "black": -1.0, "random": 0.0}[background])


@dataclass(frozen=True)
class Rendering:
    """What a generator shows of a scene.

    Attributes:
        image: [b 3 H W], about [-1, 1].
        raw: the volume-rendered image before super-resolution, [b 3 h w], or None.
        depth: camera-space z (not distance along the ray), world units, [b 1 h w], or None (2D
            models). What a ray sees on average: models whose opacity may stay below 1 say how they
            count the rest.
        opacity: accumulated alpha in [0, 1], [b 1 h w], or None.
        extras: whatever else the model has to show, by name.
    """

    image: Tensor
    raw: Tensor | None = None
    depth: Tensor | None = None
    opacity: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)


class SurfaceLayer(NamedTuple):
    """One surface of a scene that consists of surfaces, with its picture (GRAM-HD's radiance
    manifolds).

    Texture coordinates are those of `grid_sample` with align_corners False: grid (x, y) in [-1, 1]
    spans the picture from edge to edge, x along its rows, y along its columns, row 0 at y = -1.

    Attributes:
        name: of the surface.
        points: a lattice of points on it, world coordinates [h w 3].
        valid: whether the surface is there, bool [h w]; what is not valid may hold anything.
        grid: where a point's color stands in the picture, [h w 2].
        texture: rgb as in images, about [-1, 1], and occupancy alpha in [0, 1]: [4 H W].
    """

    name: str
    points: Tensor
    valid: Tensor
    grid: Tensor
    texture: Tensor


GENERATORS: dict[str, type[Generator]] = {}


class Generator(nn.Module, ABC):
    """Base of all generators. Registration is the class statement: a concrete subclass is known by
    its class name.

    Facts (set per class or per instance): `z_dim`, `w_dim`, `num_ws`, `img_resolution`,
    `raw_resolution` (where `has_raw`), `scene_extent` (side of the cube that holds the scene, world
    units), `ray_limits` (distances from the camera between which rays are sampled; None: wherever
    the scene is). Capabilities:

        has_camera          False: a 2D model
        camera_conditioned  map uses the camera
        has_field           field() works
        has_raw             there is a raw image beside the image
        strict_3d           all views show one scene (with `lock_view`, if colors depend on views)
        any_resolution      renders images of any size
        independent_pixels  render(rays=...) gives exactly those pixels of the whole image, whatever
        the others are
        movable             synthesize() takes a transform of the picture

    `parts` names what may be frozen (`--model.run.freeze nerf`): for each part the beginnings of
    its parameters' names; `style_parts` what stylization may mix, where it is finer than `parts`
    ("mapping" is the mapping network); `style_affine` is how the names of the weights end that make
    styles of w, if they do so by an affine map. `tiny` are constructor arguments of an instance
    that runs in seconds on a CPU: every registry-walking test uses it. `starts_from` says in words
    what trained weights a training starts from, where random ones lead nowhere.

    `no_float16` says why a model does not train in float16: those do whose published training did,
    with the same bounds; "" is no reason.
    `background` is what stands behind scenes (None: the scenes have one of their own); the harness
    puts it behind masked real images, too.
    `density_noise` is the standard deviation of noise on densities while rendering with a
    `randomness`: the harness sets it from its schedule before an iteration, and to 0 for
    evaluation; models with a field honor it.
    `lock_view` gives every color the direction (0, 0, -1): models whose colors depend on the view
    honor it, and are strictly 3D while it is set. Videos and measures of consistency set it.

    `forward` changes no state: running statistics move by `track` only. Randomness comes from the
    argument `randomness`, or is off. `arguments` are those of the constructor, defaults included,
    kept for checkpoints.
    """

    z_dim: int
    w_dim: int
    num_ws: int
    img_resolution: int
    raw_resolution: int
    scene_extent: float = 1.0
    ray_limits: tuple[float, float] | None = None
    camera_conditioned: bool = False
    independent_pixels: bool = False
    density_noise: float = 0.0
    lock_view: bool = False
    background: Background | None = None
    movable: bool = False
    has_camera: ClassVar[bool] = True
    has_field: ClassVar[bool] = False
    has_raw: ClassVar[bool] = False
    strict_3d: bool = False
    any_resolution: ClassVar[bool] = False
    parts: Mapping[str, tuple[str, ...]] = {}
    style_parts: Mapping[str, tuple[str, ...]] = {}
    style_affine: ClassVar[str] = ""
    no_float16: str = UNPUBLISHED
    starts_from: ClassVar[str] = ""
    tiny: ClassVar[dict[str, Any]] = {}
    arguments: dict[str, Any]

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        register(cls, GENERATORS, "generator")

    def __new__(cls, *args, **kwargs):
        instance = super().__new__(cls)
        instance.__dict__["arguments"] = arguments_of(cls, args, kwargs)
        return instance

    @abstractmethod
    def map(
        self,
        z: Tensor,
        camera: Camera | None = None,
        *,
        truncation: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """Latents of z.

        Args:
            z: [b z_dim], N(0, I).
            camera: the *conditioning* camera (not the rendering one); None is neutral conditioning.
            truncation: psi; 1 is none, 0 gives the mean latent.
            truncation_cutoff: number of latents to truncate, from the first on; None truncates all.

        Returns:
            ws [b num_ws w_dim].
        """

    @abstractmethod
    def represent(self, ws: Tensor, *, randomness: Randomness | None = None) -> Any:
        """The scene of ws [b n w]: a value without a camera in it. `randomness=None`: constant
        noise.
        """

    @abstractmethod
    def render(
        self,
        representation: Any,
        camera: Camera | None = None,
        *,
        resolution: int | None = None,
        rays: Tensor | None = None,
        raw: bool = True,
        randomness: Randomness | None = None,
    ) -> Rendering:
        """Shows a scene.

        Args:
            representation: what `represent` returned.
            camera: the rendering camera, b views (None for 2D models).
            resolution: side of the grid of rays; None is the model's own. Models with
                super-resolution keep their image size, models with `any_resolution` return images
                of this size.
            rays: pixel indices (row-major) to render, [r]; every map of the rendering is then a
                column of pixels, [b c r 1], with the draws that these pixels have in the whole
                image. None renders all. Only for models with `independent_pixels`.
            raw: whether to show the raw image, for models that pay for it separately (GRAM-HD);
                others may show it anyway.
            randomness: jitter of samples and noise; None is deterministic.
        """

    def forward(
        self,
        z: Tensor,
        camera: Camera | None = None,
        *,
        truncation: float = 1.0,
        truncation_cutoff: int | None = None,
        resolution: int | None = None,
        raw: bool = True,
        randomness: Randomness | None = None,
    ) -> Rendering:
        """render(represent(map(z, camera)), camera)."""
        ws = self.map(z, camera, truncation=truncation, truncation_cutoff=truncation_cutoff)
        representation = self.represent(ws, randomness=randomness)
        return self.render(
            representation, camera, resolution=resolution, raw=raw, randomness=randomness
        )

    def field(
        self, representation: Any, points: Tensor, directions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Density and color at points [b p 3] (world): (sigma [b p 1] as the network gives it, rgb
        [b p c]).
        """
        raise ValueError(
            f"{type(self).__name__} has no 3D field; choose a generator with has_field"
        )

    def synthesize(self, ws: Tensor, transform: Tensor | None = None) -> Tensor:
        """The picture of ws [b n w], moved by a transform of its input [3 3] or [b 3 3], of models
        that are `movable`.

        Args:
            ws: [b n w].
            transform: output to input coordinates (the inverse of the motion), picture widths, y
                down.
        """
        raise ValueError(
            f"{type(self).__name__} takes no transform of its picture, so there is no equivariance "
            "to measure; choose StyleGAN3, or EG3D with a StyleGAN3 backbone"
        )

    def surfaces(self, representation: Any) -> list[SurfaceLayer]:
        """The surfaces of one scene, of models that consist of them."""
        raise ValueError(
            f"{type(self).__name__} has no surfaces with pictures; use a model of radiance "
            "manifolds, such as GRAMHD, or make a mesh of it: gan3d mesh"
        )

    def frontal_condition(self, cameras: Camera, num: int) -> Camera | None:
        """The camera that `map` takes for `num` scenes shown from some cameras, where no pose is
        meant: a frontal camera like them.

        A generator that is conditioned on the pose has never seen another "neutral" camera: without
        one, EG3D gets 25 zeros, and makes other, worse heads. None for generators that are not
        conditioned.
        """
        return frontal(cameras).select([0] * num) if self.camera_conditioned else None

    def save_pretrained(
        self,
        path: Path | str,
        discriminator: nn.Module | None = None,
        *,
        facts: Mapping[str, Any] | None = None,
        half: bool = False,
    ) -> Path:
        """Writes this generator as `gan3d.from_pretrained` reads it.

        Args:
            path: a file by the name of `<name>.safetensors`, else a folder: model.safetensors,
                config.json, README.md.
            discriminator: kept with it, if given.
            facts: more to keep: numbers, texts, lists and dictionaries of them.
            half: keep weights as float16, in half the bytes.

        Returns:
            the path.

        Example:
            >>> import gan3d
            >>> folder = gan3d.PiGAN(**gan3d.PiGAN.tiny).save_pretrained("heads")
            >>> sorted(path.name for path in folder.iterdir())
            ['README.md', 'config.json', 'model.safetensors']
            >>> type(gan3d.from_pretrained("heads")).__name__
            'PiGAN'
        """
        pair = {"generator": self, "discriminator": discriminator}
        networks = {kind: network for kind, network in pair.items() if network is not None}
        return write_pretrained(path, networks, facts=facts, half=half)

    def is_part_of(self, name: str, parts: Iterable[str]) -> bool:
        """Whether the parameter of a name belongs to one of some `parts`."""
        return any(name.startswith(self.parts[part]) for part in parts)

    def batch_bound(self) -> str:
        """The option, if one is on, by which an image depends on the others of its forward pass.

        Such options exist for comparisons with published code. The harness refuses them for batches
        that are split.
        """
        return ""

    def statistics(self, representation: Any) -> Tensor | None:
        """Statistics of new scenes, to be passed to `track`, [b k], or None.

        StyleGAN3: mean squares of activations.
        """
        return None

    def regularizers(
        self, representation: Any, randomness: Randomness | None = None
    ) -> Mapping[str, Tensor]:
        """Penalties of a scene that the generator minimizes, by name, with their weights in them.

        The harness adds their means to the generator's loss and logs each as `loss/<name>`.
        Weights are arguments of the generator; what is off is left out.

        Args:
            representation: b scenes.
            randomness: draws of the generator phase.

        Returns:
            one value per image, [b] each.
        """
        return {}

    def track(self, ws: Tensor, statistics: Tensor | None = None, *, batch_size: int = 32) -> None:
        """Moves running statistics (w_avg, magnitudes) by one batch; the only call that does.

        Args:
            ws: freshly mapped latents [b n w], or their mean over the whole batch, [1 n w].
            statistics: statistics of their scenes [b k], or their mean over the whole batch, [1 k].
            batch_size: images in the whole batch, for averages whose half-life is counted in
                images.
        """


class RayView(NamedTuple):
    """The rays of b views, and how values along them become maps.

    Attributes:
        camera: of the b views.
        rays: b views of r rays.
        randomness: their draws, those of the whole view where only some rays are seen.
        side: of the whole view, pixels.
        whole: whether all its rays are here.
    """

    camera: Camera
    rays: Rays
    randomness: Randomness | None
    side: int
    whole: bool

    def places(self) -> Tensor:
        """Where the rays pass the picture: (u, v) in [-1, 1], u to the right, v down, [b r 2].

        Without gradient: a ray keeps its place when its camera moves.
        """
        pixels, _ = self.camera.project(self.rays.origins + self.rays.directions)
        return (2 * pixels - 1).detach()

    def maps(self, values: Tensor) -> Tensor:
        """[b r c] -> [b c h w] of a whole view, [b c r 1] of some rays."""
        if self.whole:
            return rearrange(values, "b (h w) c -> b c h w", h=self.side)
        return rearrange(values, "b r c -> b c r 1")


def cast_rays(
    generator: Generator,
    camera: Camera | None,
    side: int,
    rays: Tensor | None,
    randomness: Randomness | None,
) -> RayView:
    """What a generator with a camera looks along: see `Generator.render` for the arguments.

    Raises:
        ValueError: there is no camera.
    """
    if camera is None:
        name = type(generator).__name__
        raise ValueError(
            f"{name} renders from a camera, got None; give render() a Camera of b views"
        )
    if rays is not None and randomness is not None:
        randomness = randomness.chosen(rays, side * side)
    return RayView(camera, camera.rays(side, rays), randomness, side, rays is None)


def label_of(z: Tensor, camera: Camera | None, c_dim: int) -> Tensor | None:
    """The label that a 2D model is conditioned on, [b c_dim]: zeros without a camera, None where
    c_dim is 0.
    """
    if c_dim == 0:
        return None
    return z.new_zeros(len(z), c_dim) if camera is None else camera.label()


def check_whole(generator: Generator, resolution: int | None, rays: Tensor | None) -> None:
    """Refuses anything but whole images of the generator's own size, for those that make nothing
    else.
    """
    if resolution not in (None, generator.img_resolution) or rays is not None:
        raise ValueError(
            f"{type(generator).__name__} shows whole images of {generator.img_resolution} px, got "
            f"resolution {resolution} and {'no' if rays is None else 'chosen'} rays; leave both "
            "out and resize or crop the image"
        )


def register(cls: type, registry: dict[str, Any], kind: str) -> None:
    """Adds a concrete class to a registry under its own name; two classes of one name are
    refused.
    """
    if inspect.isabstract(cls):
        return
    known = registry.get(cls.__name__)
    if known is not None and (known.__module__, known.__qualname__) != (
        cls.__module__,
        cls.__qualname__,
    ):
        raise ValueError(
            f"two {kind}s are called {cls.__name__}: {known.__module__} and {cls.__module__}; "
            "rename one of them"
        )
    registry[cls.__name__] = cls


def arguments_of(cls: type, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What cls(*args, **kwargs) is made with, by name, defaults included; a wrong call is left to
    the constructor.
    """
    signature = inspect.signature(cls.__init__)  # type: ignore[misc]
    try:
        bound = signature.bind_partial(None, *args, **kwargs)
    except TypeError:
        return {}
    bound.apply_defaults()
    taken, parameters = dict(bound.arguments), list(signature.parameters.values())
    del taken[parameters[0].name]  # self
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            taken |= taken.pop(parameter.name)
    return taken
