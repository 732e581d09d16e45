"""The verb `view`: models in a browser, from a camera that the mouse moves."""

from __future__ import annotations

import contextlib
from pathlib import Path

from gan3d.apps.looks import Exhibit
from gan3d.apps.viewer import HOST, PORT, Viewer, refuse_port
from gan3d.cli.messages import say
from gan3d.cli.models import load_shown


def view_models(
    models: list[str],
    port: int = PORT,
    host: str = HOST,
    radius: float | None = None,
    fov: float | None = None,
    resolution: int | None = None,
    device: str = "auto",
) -> str:
    """Shows models in a browser, beside each other, until it is interrupted (Ctrl-C).

    The camera follows the mouse. A panel has seeds, truncation, style mixing, ways from one scene
    to another, layers, points and meshes over the picture, and keeps pictures and videos of what
    is seen. While something moves the resolution is as low as the frame rate asks for.

    Args:
        models: files (.safetensors, .ckpt), folders, run folders, or names (docs/checkpoints.md);
            of a training checkpoint the average is taken.
        port: of the page.
        host: address that is listened on: 127.0.0.1 is this machine alone, 0.0.0.0 is all that
            reach it.
        radius: distance of the cameras; by default as in training, else 2.7.
        fov: field of view, degrees; by default as in training, else 18.83.
        resolution: of the rendering at rest; by default as in training.
        device: cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.
    """
    refuse_port(host, port)
    exhibits = []
    for model in models:
        generator, seen = load_shown(model, device, radius=radius, fov=fov, resolution=resolution)
        name = Path(model).name
        if seen is None:
            exhibits.append(Exhibit(name, generator))
        else:
            exhibits.append(Exhibit(name, generator, seen.radius, seen.fov, seen.resolution))
    # an interruption ends the page, whenever it comes
    with contextlib.suppress(KeyboardInterrupt), Viewer(exhibits, port=port, host=host) as viewer:
        say(f"look at {', '.join(models)}: {viewer.url} (Ctrl-C ends)")
        viewer.wait()
    return "the viewer is closed"
