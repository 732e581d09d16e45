"""A page for browsers in which models are looked at: a free camera, seeds, layers, meshes.

    viewer = view(generator)     # prints where
    viewer.close()

The page is viser's; every picture is rendered by our renderer, for each browser its own.
"""

from __future__ import annotations

import contextlib
import errno
import io
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from gan3d.apps.canvas import canvas_fov
from gan3d.apps.looks import Exhibit, Gallery
from gan3d.apps.packages import needed
from gan3d.apps.turns import Turns
from gan3d.apps.viewer_session import Session
from gan3d.camera import Camera
from gan3d.generators.contract import Generator

HOST = "127.0.0.1"  # this machine alone
PORT = 8080


def view(
    models: Generator | Mapping[str, Generator],
    camera: Camera | None = None,
    *,
    port: int = PORT,
    host: str = HOST,
    resolution: int | None = None,
) -> Viewer:
    """Shows models in a browser while Python goes on.

    Args:
        models: any generator, or several by name, which stand beside each other.
        camera: one frontal camera, as in training; None is that of EG3D (radius 2.7, fov 18.83).
            Published GRAM and CIPS-3D need `Camera.from_angles(0, 0, radius=1, fov=12)`.
        port: of the page.
        host: address that is listened on; 127.0.0.1 is this machine alone, 0.0.0.0 is all that
            reach it.
        resolution: of `Generator.render` while nothing moves; None is the model's own.

    Returns:
        the viewer, open until `.close()`.

    Raises:
        ValueError: the port is in use, the host is not this machine's, there are no models, or
            viser is not installed.

    Example:
        >>> import gan3d
        >>> viewer = gan3d.view(gan3d.EG3D(**gan3d.EG3D.tiny), port=18931)
        >>> viewer.url
        'http://127.0.0.1:18931'
        >>> viewer.close()
    """
    if isinstance(models, Generator):
        models = {type(models).__name__: models}
    front = Camera.from_angles(0.0, 0.0) if camera is None else camera
    radius, fov = float(front.origins[0].norm()), float(front.fov[0])
    exhibits = [Exhibit(name, model, radius, fov, resolution) for name, model in models.items()]
    return Viewer(exhibits, port=port, host=host)


class Viewer:
    """A page that shows models until it is closed.

    Args:
        exhibits: the models, beside each other.
        port: of the page.
        host: address that is listened on.
        turns: when the models may be rendered; None is at any time, one frame after the other.

    Raises:
        ValueError: there are no models, the port is in use, the host is not this machine's, or
            viser is not installed.
    """

    def __init__(
        self,
        exhibits: Sequence[Exhibit],
        *,
        port: int = PORT,
        host: str = HOST,
        turns: Turns | None = None,
    ):
        if not exhibits:
            raise ValueError("got no models to view; give one or more")
        viser = needed("viser", "the viewer needs")
        refuse_port(host, port)
        self.gallery, self.turns = Gallery(list(exhibits)), turns or Turns()
        for exhibit in exhibits:
            _ = exhibit.side  # rendered here, in the thread that has the models
        self.sessions: dict[int, Session] = {}
        self._closed = False
        self.url = f"http://{host}:{port}"
        with _without_banner():
            self.server = viser.ViserServer(host=host, port=port, label="gan3d", verbose=False)
        self._lay_out()
        self.server.on_client_connect(self._open)
        self.server.on_client_disconnect(self._leave)

    def _lay_out(self) -> None:
        """What is the same for all browsers."""
        server = self.server
        server.gui.configure_theme(show_logo=False, show_share_button=False)
        server.gui.main_panel.dock_right()
        server.scene.set_up_direction("+y")
        lead = self.gallery.lead
        if lead is not None:
            server.initial_camera.position = (0.0, 0.0, lead.radius)
            server.initial_camera.look_at = (0.0, 0.0, 0.0)
            server.initial_camera.fov = canvas_fov(lead.fov, 1, 1.0)

    def _open(self, client: Any) -> None:
        self.sessions[client.client_id] = Session(client, self.gallery, self.turns)

    def _leave(self, client: Any) -> None:
        session = self.sessions.pop(client.client_id, None)
        if session is not None:
            session.close()

    def ask_again(self) -> None:
        """Lets every browser ask for what it shows once more."""
        for session in list(self.sessions.values()):
            session.ask(moving=False)

    def wait(self) -> None:
        """Returns when the viewer is closed."""
        while not self._closed:  # no lock, which an interruption could leave taken
            time.sleep(0.2)

    def close(self) -> None:
        """Ends the page; browsers say that the connection is lost."""
        if self._closed:
            return
        self._closed = True
        self.turns.close()
        for session in list(self.sessions.values()):
            session.close()
        with _without_banner():
            self.server.stop()

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()


def _without_banner() -> contextlib.redirect_stdout:
    """Swallows what viser prints of itself."""
    return contextlib.redirect_stdout(io.StringIO())


def refuse_port(host: str, port: int) -> None:
    """Refuses a port on which nothing can be served.

    Raises:
        ValueError: it is in use, only root may have it, or the host is not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(
                f"port {port} of {host} is in use, perhaps by another viewer; give a free one, "
                f"such as {port + 1 if port < 65535 else 8080}"
            ) from error
        if error.errno == errno.EACCES:
            raise ValueError(f"port {port} is root's; give one from 1024 on") from error
        raise ValueError(
            f"nothing can be served on host {host}: {error.strerror or error}; give 127.0.0.1 "
            "(this machine alone) or 0.0.0.0 (all that reach it)"
        ) from error
