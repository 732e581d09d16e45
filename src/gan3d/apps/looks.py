"""What a viewer shows: scenes by seeds and truncation, seen from any camera, as fast as is asked
for. Nothing here knows of browsers.

Look --map, mix--> ws --represent--> a remembered scene --render(camera, resolution)--> a picture
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gan3d.apps.pictures import PAPER, DepthRange, draw
from gan3d.apps.samples import latents
from gan3d.apps.views import evaluating
from gan3d.apps.walks import mixed
from gan3d.camera import Camera
from gan3d.camera.pinhole import DEFAULT_FOV, intrinsics_from_focal
from gan3d.generators.contract import Generator, Rendering

NOTHING = "nothing"  # a layer: white paper, for an overlay alone
SCENES = 8  # remembered of each model
SLACK = 1.5  # times as long may a frame take for twice the resolution


@dataclass(frozen=True, eq=False)
class Exhibit:
    """A model, and how its scenes were seen in training.

    Attributes:
        name: shown to the user.
        generator: any generator.
        radius: distance of the cameras, world units.
        fov: field of view, degrees.
        resolution: of the rendering at rest; None is the model's own.
    """

    name: str
    generator: Generator
    radius: float = 2.7
    fov: float = DEFAULT_FOV
    resolution: int | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """What there is to show, of `pictures.LAYERS`."""
        if not self.generator.has_camera:
            return ("image",)
        raw = ("raw",) if self.generator.has_raw else ()
        return ("image", *raw, "depth", "normals", "opacity")

    @cached_property
    def side(self) -> int:
        """Resolution at rest, side of the grid of rays; one view of it tells."""
        if not self.generator.has_camera:
            return self.generator.img_resolution
        view = Scenes(self).render(Look(), self.front())
        assert view.depth is not None
        return view.depth.shape[-1]

    def front(self) -> Camera:
        """The frontal camera."""
        return Camera.from_angles(0.0, 0.0, radius=self.radius, fov=self.fov)

    def distances(self) -> tuple[float, float]:
        """The smallest and the largest distance from which something is seen, world units."""
        near, far = 0.3 * self.radius, 4 * self.radius
        if self.generator.ray_limits is not None:
            start, end = self.generator.ray_limits
            quarter = self.generator.scene_extent / 4
            near, far = max(near, start + quarter), min(far, end - quarter)
        return min(near, self.radius), max(far, self.radius)


@dataclass(frozen=True)
class Look:
    """Which scene: that of a seed, on the way to another one, with the styles of a third.

    Attributes:
        seed: of the scene.
        truncation: psi; 1 is none.
        towards: seed of another scene.
        share: how far it is gone towards that one, on a straight line in w, 0 to 1.
        styles: seed of the styles.
        cut: number of the first latent that is of `styles`; None mixes no styles.
    """

    seed: int = 0
    truncation: float = 1.0
    towards: int = 1
    share: float = 0.0
    styles: int = 2
    cut: int | None = None


class Scenes:
    """The scenes of a model, of which the last ones are remembered: one for each look."""

    def __init__(self, exhibit: Exhibit):
        self.exhibit = exhibit
        self._kept: OrderedDict[Look, Any] = OrderedDict()

    def forget(self) -> None:
        """Forgets all scenes: the model has changed."""
        self._kept.clear()

    def scene(self, look: Look) -> Any:
        """The scene of a look, computed once."""
        if look not in self._kept:
            with evaluating(self.exhibit.generator, lock_view=True) as generator:
                self._kept[look] = generator.represent(self._ws(look))
            if len(self._kept) > SCENES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(look)
        return self._kept[look]

    def render(
        self, look: Look, camera: Camera | None, *, resolution: int | None = None, raw: bool = False
    ) -> Rendering:
        """A view of a look, without gradients and with locked colors.

        Args:
            look: which scene.
            camera: one camera; None for 2D models.
            resolution: of `Generator.render`; None is that at rest.
            raw: request the raw image.
        """
        generator, scene = self.exhibit.generator, self.scene(look)
        if not generator.has_camera:
            with evaluating(generator):
                return generator.render(scene, None, raw=raw)
        assert camera is not None
        camera = camera.to(next(generator.parameters()))
        with evaluating(generator, lock_view=True):
            return generator.render(
                scene, camera, resolution=resolution or self.exhibit.resolution, raw=raw
            )

    def picture(
        self, look: Look, camera: Camera | None, layer: str, *, resolution: int | None = None
    ) -> np.ndarray:
        """One layer of a view, uint8 [H W 3]; white where the model has no such layer.

        The colors of depth reach from the front of the scene's cube to its back, so that they do
        not flicker while the camera moves.

        Args:
            look: which scene.
            camera: one camera; None for 2D models.
            layer: of `pictures.LAYERS`, or `NOTHING`.
            resolution: of `Generator.render`; None is that at rest.
        """
        if layer not in self.exhibit.layers:
            side = self.exhibit.generator.img_resolution
            return np.full((side, side, 3), PAPER, dtype=np.uint8)
        view = self.render(look, camera, resolution=resolution, raw=layer == "raw")
        if camera is None:
            return draw(view, layer)[0]
        middle, reach = float(camera.origins.norm()), self.exhibit.generator.scene_extent / 2
        span = DepthRange(middle - reach, middle + reach)
        return draw(view, layer, camera.to(view.image), span)[0]

    def _ws(self, look: Look) -> Tensor:
        """Latents of a look, [1 n w]."""
        ws = self._mapped(look.seed, look.truncation)
        if look.share:
            ws = torch.lerp(ws, self._mapped(look.towards, look.truncation), look.share)
        if look.cut is not None and ws.shape[1] > 1:
            styles = self._mapped(look.styles, look.truncation)
            ws = mixed(ws, styles, min(max(look.cut, 1), ws.shape[1] - 1))
        return ws

    def _mapped(self, seed: int, truncation: float) -> Tensor:
        generator = self.exhibit.generator
        z = latents(generator, [seed])
        condition = None
        if generator.has_camera:
            condition = generator.frontal_condition(self.exhibit.front().to(z), 1)
        return generator.map(z, condition, truncation=truncation)


class FramePace:
    """The resolution that keeps the frame rate while the camera moves: the one at rest, halved as
    often as the times of the last frames ask for, but not for little gain.

    A frame at rest begins anew: a machine may be busy for a while.

    Args:
        side: resolution at rest.
        seconds: of a frame, at most.
        least: the smallest resolution.
    """

    def __init__(self, side: int, *, seconds: float = 0.1, least: int = 8):
        self.seconds = seconds
        self.sides = [side]
        while self.sides[-1] % 2 == 0 and self.sides[-1] // 2 >= least:
            self.sides.append(self.sides[-1] // 2)
        self._took: dict[int, float] = {}  # seconds, by resolution

    def resolution(self) -> int:
        """Of the next frame: the largest that is expected to keep the time. Where none does, the
        largest that takes little more than the fastest.
        """
        fits = [side for side in self.sides if self._expected(side) <= self.seconds]
        if fits:
            return max(fits)
        if self.sides[-1] not in self._took:
            return self.sides[-1]
        fastest = min(self._took.values())
        return max(side for side, took in self._took.items() if took <= SLACK * fastest)

    def took(self, side: int, seconds: float) -> None:
        """Notes the time of a frame."""
        if side == self.sides[0]:
            self._took.clear()
        self._took[side] = seconds

    def _expected(self, side: int) -> float:
        """Seconds of a frame: as measured, else in proportion to its rays."""
        if not self._took:
            return 0.0
        known = min((s for s in self._took if s >= side), default=max(self._took))
        return self._took[known] * (side / known) ** 2


@dataclass(frozen=True)
class Frame:
    """What is shown at a moment.

    Attributes:
        pictures: one per model, uint8 [H W 3].
        sides: resolution of each.
        seconds: that rendering took.
        at: when it was ready, seconds of `time.monotonic`.
    """

    pictures: tuple[np.ndarray, ...]
    sides: tuple[int, ...]
    seconds: float
    at: float


class Gallery:
    """Models that are seen from one camera, beside each other.

    The camera is that of the first model with a camera; the others are seen from the same
    direction, at their own distance, through their own lens.
    """

    def __init__(self, exhibits: list[Exhibit]):
        self.exhibits = exhibits
        self.scenes = [Scenes(exhibit) for exhibit in exhibits]
        self.lead = next((e for e in exhibits if e.generator.has_camera), None)

    @property
    def layers(self) -> list[str]:
        """All layers that a model has."""
        return list(dict.fromkeys(layer for e in self.exhibits for layer in e.layers))

    def forget(self) -> None:
        """Forgets all scenes: the models have changed."""
        for scenes in self.scenes:
            scenes.forget()

    def paces(self) -> list[FramePace]:
        """A pace for each model, which share the time of a frame."""
        seconds = 0.1 / len(self.exhibits)
        return [FramePace(exhibit.side, seconds=seconds) for exhibit in self.exhibits]

    def frame(
        self, look: Look, camera: Camera | None, layer: str, paces: list[FramePace], *, moving: bool
    ) -> Frame:
        """A picture of each model.

        Args:
            look: which scene.
            camera: one camera, of the first model with one.
            layer: of `pictures.LAYERS`, or `NOTHING`.
            paces: of each model; they learn from this frame.
            moving: whether the frame rate counts more than the resolution.
        """
        pictures, sides, start = [], [], time.monotonic()
        for scenes, pace in zip(self.scenes, paces, strict=True):
            side = pace.resolution() if moving else pace.sides[0]
            scenes.scene(look)  # computed once; its time is not that of a frame
            began = time.perf_counter()
            pictures.append(
                scenes.picture(look, self._seen(scenes.exhibit, camera), layer, resolution=side)
            )
            pace.took(side, time.perf_counter() - began)
            sides.append(side)
        now = time.monotonic()
        return Frame(tuple(pictures), tuple(sides), now - start, now)

    def _seen(self, exhibit: Exhibit, camera: Camera | None) -> Camera | None:
        """The camera of one model."""
        if camera is None or not exhibit.generator.has_camera:
            return None
        assert self.lead is not None
        if exhibit is self.lead:
            return camera
        nearer = camera.scale(exhibit.radius / self.lead.radius)
        lens = exhibit.front().focal / self.lead.front().focal
        return Camera(nearer.cam2world, intrinsics_from_focal(camera.focal * lens))
