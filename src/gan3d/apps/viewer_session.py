"""One browser of a viewer: its panel of controls, and the thread that renders what it asks for.

a drag, a slider --> ask() --> thread: coarse frames while something moves, then one at rest, then
                                       the overlay
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from gan3d import __version__
from gan3d.apps.canvas import beside, canvas_fov, client_camera, on_canvas
from gan3d.apps.glb import glb_bytes
from gan3d.apps.looks import NOTHING, Frame, Gallery, Look
from gan3d.apps.overlays import mesh_of, points_of
from gan3d.apps.recording import Recording
from gan3d.apps.stamps import write_png
from gan3d.apps.turns import Turns
from gan3d.camera import Camera

REST = 0.2  # seconds without a change until the picture is rendered at its full resolution
OVERLAY = "/overlay"  # of the scene of a browser

log = logging.getLogger(__name__)


class ControlPanel:
    """The controls of a browser.

    Args:
        gui: viser's, of one client.
        gallery: what is shown.
    """

    def __init__(self, gui: Any, gallery: Gallery):
        self.lead = gallery.lead
        names = " · ".join(exhibit.name for exhibit in gallery.exhibits)
        gui.add_markdown(f"**{names}**")
        self.rate = gui.add_markdown("")
        self.scene = self._scene(gui, max(e.generator.num_ws for e in gallery.exhibits))
        self.view = self._view(gui, gallery)
        with gui.add_folder("Keep"):
            self.picture = gui.add_button("Picture (PNG)")
            self.record = gui.add_button("Record")

    def _scene(self, gui: Any, num_ws: int) -> dict[str, Any]:
        """Which scene: `Look`, field by field."""
        controls = {}
        with gui.add_folder("Scene"):
            controls["seed"] = gui.add_number("seed", 0, min=0, step=1)
            controls["truncation"] = gui.add_slider("truncation", 0.0, 1.2, 0.01, 1.0)
            controls["towards"] = gui.add_number("towards seed", 1, min=0, step=1)
            controls["share"] = gui.add_slider("how far", 0.0, 1.0, 0.01, 0.0)
            one = num_ws < 2
            controls["styles"] = gui.add_number("styles of seed", 2, min=0, step=1, disabled=one)
            hint = "a scene has a single latent" if one else "how many latents are its styles"
            most = max(1, num_ws - 1)
            controls["mixed"] = gui.add_slider(
                "styles", 0, most, 1, 0, disabled=one, hint=f"{hint}, from the finest on"
            )
        self.num_ws = num_ws
        return controls

    def _view(self, gui: Any, gallery: Gallery) -> dict[str, Any]:
        """How it is seen."""
        controls: dict[str, Any] = {}
        with gui.add_folder("View"):
            flat = [e for e in gallery.exhibits if not e.generator.has_camera]
            for kind in dict.fromkeys(type(exhibit.generator).__name__ for exhibit in flat):
                gui.add_markdown(f"{kind} is a 2D model: it has no camera to move.")
            controls["layer"] = gui.add_dropdown("layer", [*gallery.layers, NOTHING])
            if self.lead is not None:
                controls["fov"] = gui.add_slider(
                    "field of view", 2.0, 90.0, 0.1, round(self.lead.fov, 1), hint="degrees"
                )
                self.front = gui.add_button("Front")
            if self.lead is not None and len(gallery.exhibits) == 1:
                controls["overlay"] = gui.add_dropdown("overlay", ["none", "points", "mesh"])
        return controls

    def look(self) -> Look:
        """What the controls ask for."""
        values = {name: control.value for name, control in self.scene.items()}
        mixed = values.pop("mixed")
        return Look(**values, cut=self.num_ws - mixed if mixed else None)

    @property
    def layer(self) -> str:
        return self.view["layer"].value

    @property
    def overlay(self) -> str:
        return self.view["overlay"].value if "overlay" in self.view else "none"

    @property
    def fov(self) -> float:
        """Of the first model with a camera, degrees."""
        return self.view["fov"].value if self.lead is not None else 0.0


class Session:
    """A browser that looks at some models.

    Args:
        client: viser's handle of it.
        gallery: what is shown.
        turns: when the models may be rendered.
    """

    def __init__(self, client: Any, gallery: Gallery, turns: Turns):
        self.client, self.gallery, self.turns = client, gallery, turns
        self.panel = ControlPanel(client.gui, gallery)
        self.paces = gallery.paces()
        self.recording: Recording | None = None
        self.frame: Frame | None = None
        self._laid: tuple[str, Look] | None = None
        self._asked, self._moving, self._closed = threading.Event(), False, False
        self._connect()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()
        self.ask()

    def ask(self, *, moving: bool = True) -> None:
        """Asks for a new frame.

        Args:
            moving: whether more are likely to follow, so that the frame rate counts.
        """
        self._moving = moving
        self._asked.set()

    def close(self) -> None:
        """Ends the thread after the frame that it is at."""
        self._closed = True
        self._asked.set()

    def _connect(self) -> None:
        """Controls and mouse to `ask`, buttons to what they do."""
        panel = self.panel
        for control in (*panel.scene.values(), *panel.view.values()):
            control.on_update(lambda _: self.ask())
        panel.picture.on_click(lambda _: self._send_picture())
        panel.record.on_click(lambda _: self._record())
        lead = panel.lead
        if lead is None:
            return
        camera = self.client.camera
        camera.max_orbit_distance = lead.distances()[1]
        camera.min_orbit_distance = lead.distances()[0]
        camera.on_update(lambda _: self.ask())
        panel.front.on_click(lambda _: self._to_front())

    def _to_front(self) -> None:
        camera, lead = self.client.camera, self.panel.lead
        assert lead is not None
        with self.client.atomic():
            camera.up_direction = (0.0, 1.0, 0.0)
            camera.position = (0.0, 0.0, lead.radius)
            camera.look_at = (0.0, 0.0, 0.0)

    def camera(self) -> Camera | None:
        """Where the browser's camera stands; None if all models are 2D."""
        if self.panel.lead is None:
            return None
        state = self.client.camera
        return client_camera(state.wxyz, state.position, self.panel.fov)

    def _work(self) -> None:
        """Renders what is asked for, until closed."""
        sharp = True
        while True:
            asked = self._asked.wait(None if sharp else REST)
            if self._closed:
                return
            self._asked.clear()
            try:
                sharp = self._render(moving=asked and self._moving)
            except Exception as error:  # the browser is where the user looks
                log.exception("the viewer could not render")
                self.client.add_notification("This cannot be shown", str(error), color="red")
                sharp = True

    def _render(self, *, moving: bool) -> bool:
        """Shows a frame; returns whether there is nothing left to do."""
        look, camera, layer = self.panel.look(), self.camera(), self.panel.layer
        frame = self.turns.run(
            partial(self.gallery.frame, look, camera, layer, self.paces, moving=moving)
        )
        if frame is None:
            return True
        self._show(frame)
        full = tuple(pace.sides[0] for pace in self.paces)
        if frame.sides != full:
            return False
        wanted = (self.panel.overlay, look)
        if wanted != self._laid:
            if moving:
                return False  # the scene may change again
            self._lay(*wanted)
        return True

    def _show(self, frame: Frame) -> None:
        self.frame = frame
        if self.recording is not None:
            self.recording.add(frame)
        aspect, num = self.client.camera.aspect, len(frame.pictures)
        if self.panel.lead is not None:
            self.client.camera.fov = canvas_fov(self.panel.fov, num, aspect)
        canvas = on_canvas(frame.pictures, aspect)
        self.client.scene.set_background_image(canvas, format="jpeg", jpeg_quality=90)
        sides = ", ".join(f"{side} px" for side in frame.sides)
        is_rendered = self.panel.layer != NOTHING
        self.panel.rate.content = f"{1 / frame.seconds:.1f} frames/s · {sides}" * is_rendered

    def _lay(self, kind: str, look: Look) -> None:
        """Lays points or a mesh over the picture, in place of what lay there."""
        scene = self.client.scene
        scene.remove_by_name(OVERLAY)
        self._laid = kind, look
        exhibit = self.gallery.exhibits[0]
        if kind == "points":
            job = lambda: points_of(exhibit, self.gallery.scenes[0].scene(look))  # noqa: E731
            if (made := self.turns.run(job)) is not None:
                size = 0.25 * exhibit.generator.scene_extent / exhibit.side
                scene.add_point_cloud(OVERLAY, *made, point_size=size, point_shape="circle")
        elif kind == "mesh":
            busy = self.client.add_notification("Mesh", "is being made", loading=True)
            try:
                mesh = self.turns.run(lambda: mesh_of(exhibit, self.gallery.scenes[0].scene(look)))
            finally:
                busy.remove()
            if mesh is not None:
                scene.add_glb(OVERLAY, glb_bytes([mesh]))

    def facts(self) -> dict[str, str]:
        """How what is seen was made, for the metadata of a file."""
        names = ", ".join(exhibit.name for exhibit in self.gallery.exhibits)
        found = {"Software": f"gan3d {__version__}", "model": names, "layer": self.panel.layer}
        found |= {name: f"{value}" for name, value in vars(self.panel.look()).items()}
        if (camera := self.camera()) is None:
            return found
        (yaw,), (pitch,) = camera.yaw_pitch()
        seen = {"yaw": yaw, "pitch": pitch, "radius": camera.origins.norm(), "fov": camera.fov[0]}
        return found | {name: f"{float(value):.4g}" for name, value in seen.items()}

    def _send_picture(self) -> None:
        """Offers the last frame as a file."""
        if self.frame is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            path = write_png(Path(folder) / "view.png", beside(self.frame.pictures), self.facts())
            self.client.send_file_download("view.png", path.read_bytes())

    def _record(self) -> None:
        """Begins to record, or offers what was recorded as a file."""
        if self.recording is None:
            self.recording = Recording(time.monotonic())
            if self.frame is not None:
                self.recording.add(self.frame)
            self.panel.record.label = "Stop recording"
            return
        recording, self.recording = self.recording, None
        self.panel.record.label = "Record"
        comment = ", ".join(f"{name} {value}" for name, value in self.facts().items())
        video = recording.video(time.monotonic(), comment=comment)
        self.client.send_file_download("view.mp4", video)
