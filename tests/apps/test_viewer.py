"""The viewer: its page in Chromium, and what it does without one."""

import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gan3d
from gan3d.apps.glb import Mesh, glb_bytes
from gan3d.apps.looks import Exhibit, Frame
from gan3d.apps.overlays import surface_points
from gan3d.apps.recording import Recording
from gan3d.apps.turns import ServedTurns
from gan3d.apps.viewer import Viewer, view
from gan3d.apps.viewer_session import OVERLAY
from gan3d.camera import Camera
from gan3d.generators import EG3D, Rendering, StyleGAN2

pytest.importorskip("viser")

RED, GREEN = 0, 1  # channels


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def eg3d() -> EG3D:
    torch.manual_seed(0)
    return EG3D(**EG3D.tiny).eval()


def listeners(port: int) -> set[str]:
    """Addresses of this machine on which a port is listened on."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    local = [line.split()[1] for line in lines if line.split()[3] == "0A"]
    found = [address.split(":") for address in local]
    return {
        socket.inet_ntoa(bytes.fromhex(host)[::-1])
        for host, number in found
        if int(number, 16) == port
    }


# -- without a browser -----------------------------------------------------------------------------


def test_it_listens_on_this_machine_alone_unless_asked_otherwise(eg3d, port):
    with view(eg3d, port=port) as viewer:
        assert viewer.url == f"http://127.0.0.1:{port}"
        assert listeners(port) == {"127.0.0.1"}
    assert listeners(port) == set()
    with view(eg3d, port=port, host="0.0.0.0"):
        assert listeners(port) == {"0.0.0.0"}


def test_a_port_in_use_and_a_strange_host_are_refused_with_a_remedy(eg3d, port):
    in_use = pytest.raises(ValueError, match=f"port {port} .* is in use.*such as {port + 1}")
    with view(eg3d, port=port), in_use:
        view(eg3d, port=port)
    with pytest.raises(ValueError, match=r"host 203\.0\.113\.9.*give 127\.0\.0\.1"):
        view(eg3d, port=port, host="203.0.113.9")
    with pytest.raises(ValueError, match="no models"):
        view({}, port=port)


def test_python_has_it_by_one_call_and_prints_nothing(eg3d, port, capsys):
    viewer = gan3d.view({"a": eg3d, "b": StyleGAN2(**StyleGAN2.tiny)}, port=port)
    viewer.close()
    viewer.close()
    assert capsys.readouterr().out == ""
    assert [exhibit.name for exhibit in viewer.gallery.exhibits] == ["a", "b"]


def test_served_turns_render_in_the_thread_that_serves_and_end_when_closed():
    turns, seen = ServedTurns(), []
    asking = [
        threading.Thread(target=lambda: seen.append(turns.run(threading.get_ident)))
        for _ in range(2)
    ]
    for thread in asking:
        thread.start()
    done, deadline = 0, time.monotonic() + 5
    while done < 2 and time.monotonic() < deadline:
        done += turns.serve()
    for thread in asking:
        thread.join(5)
    assert seen == [threading.get_ident()] * 2
    assert turns.serve() == 0

    late = threading.Thread(target=lambda: seen.append(turns.run(lambda: 1 / 0)))
    late.start()
    while turns._waiting.empty():
        time.sleep(0.001)
    turns.close()
    late.join(5)
    assert seen[2:] == [None]
    assert turns.run(lambda: 1) is None


def test_the_error_of_a_job_is_raised_where_it_was_asked_for():
    turns = ServedTurns()
    errors = []

    def ask():
        try:
            turns.run(lambda: 1 / 0)
        except ZeroDivisionError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while not errors and thread.is_alive():
        turns.serve()
    thread.join(5)
    assert len(errors) == 1


def test_points_lie_where_the_depth_says_and_have_the_colors_of_their_pixels(egg):
    cameras = Camera.from_angles(torch.tensor([0.0, 0.8]), 0.1, radius=2.7)
    with torch.no_grad():
        views = egg.render(None, cameras)
    points, colors = surface_points(views, cameras)
    radius = egg.radius_at(torch.from_numpy(points))
    assert len(points) > 400
    assert (radius - 1).abs().max() < 0.1
    expected = np.clip((points / 0.4 + 1) * 127.5, 0, 255)
    assert np.abs(colors - expected).mean() < 6


def test_points_of_a_flat_depth_lie_in_a_plane_across_the_view_through_a_wide_lens():
    camera = Camera.from_angles(0.4, 0.2, radius=2.0, fov=90.0)
    depth, opacity = torch.full((1, 1, 9, 9), 1.5), torch.ones(1, 1, 9, 9)
    opacity[..., 0, :] = 0.2  # nothing is there
    points, _ = surface_points(Rendering(torch.zeros(1, 3, 9, 9), None, depth, opacity), camera)
    assert len(points) == 72
    pixels, z = camera.project(torch.from_numpy(points)[None])
    assert torch.allclose(z, torch.tensor(1.5), atol=1e-5)
    places = (torch.arange(9) + 0.5) / 9
    assert torch.allclose(pixels[0, :9, 0], places, atol=1e-5)


def test_a_recording_keeps_the_time_of_its_frames(tmp_path):
    import imageio.v3 as iio

    def frame(shade: int, at: float, side: int = 16) -> Frame:
        return Frame((np.full((side, side, 3), shade, np.uint8),), (side,), 0.01, at)

    recording = Recording(100.0)
    for shade, at, side in ((0, 99.0, 16), (120, 101.0, 8), (250, 101.5, 300)):
        recording.add(frame(shade, at, side))
    path = tmp_path / "view.mp4"
    path.write_bytes(recording.video(102.0, fps=10))
    frames = iio.imread(path, plugin="FFMPEG")
    assert frames.shape == (20, 300, 300, 3)
    shades = frames.mean(axis=(1, 2, 3))
    expected = [0] * 10 + [120] * 5 + [250] * 5
    assert np.abs(shades - expected).max() < 6
    with pytest.raises(ValueError, match="no frames"):
        Recording(0.0).video(1.0)


# -- in Chromium -----------------------------------------------------------------------------------


def until(ready, seconds: float = 30.0):
    """What `ready` returns, as soon as it is true."""
    end = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < end, "the page did not come so far"
        time.sleep(0.02)
    return found


def opened(browser, viewer, number: int):
    """A session of the viewer's in a small window of the browser, without notices."""
    browser.set_window_size(1000, 560)
    browser.get(viewer.url)
    session = until(lambda: viewer.sessions.get(number))
    for button in browser.find_elements("css selector", ".mantine-Notification-closeButton"):
        button.click()
    return session


def calm(session):
    """The frame of a session at its full resolution, when nothing is left to do."""

    def rests():
        frame = session.frame
        full = tuple(pace.sides[0] for pace in session.paces)
        busy = session._asked.is_set() or frame is None or frame.sides != full
        return None if busy else frame

    until(rests)
    time.sleep(0.3)
    return until(rests)


def canvas_of(browser) -> np.ndarray:
    """The left part of the page, which no panel covers, as the user sees it."""
    import io

    shown = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    return np.asarray(shown)[:, : shown.width // 2].astype(float)


def drag(browser, right: int, down: int):
    from selenium.webdriver.common.action_chains import ActionChains

    canvas = browser.find_element("css selector", "canvas")
    chain = ActionChains(browser).move_to_element_with_offset(canvas, -80, 60).click_and_hold()
    chain.move_by_offset(right // 2, down // 2).move_by_offset(right // 2, down // 2)
    chain.release().perform()


def set_slider(browser, label: str):
    """Moves a slider of the panel to its left end by the keyboard."""
    xpath = f"//label[normalize-space()='{label}']/ancestor::*[.//*[@role='slider']][1]"
    slider = browser.find_element("xpath", f"{xpath}//*[@role='slider']")
    slider.send_keys("\ue011")  # Home


def test_two_browsers_drag_and_slide_and_nothing_goes_wrong(eg3d, port, browser):
    with view(eg3d, port=port) as viewer:
        first = opened(browser, viewer, 0)
        before = calm(first)

        # a drag changes the picture
        yaw = float(first.camera().yaw_pitch()[0])
        drag(browser, 60, 0)
        until(lambda: abs(float(first.camera().yaw_pitch()[0]) - yaw) > 0.1)
        turned = calm(first)
        assert turned.pictures[0].shape == before.pictures[0].shape
        assert not np.array_equal(turned.pictures[0], before.pictures[0])

        # a slider changes it, here and not in another browser
        browser.switch_to.new_window("window")
        second = opened(browser, viewer, 1)
        calm(second)
        unmoved = canvas_of(browser)
        set_slider(browser, "truncation")
        until(lambda: second.panel.look().truncation == 0.0)
        mean = calm(second)
        assert first.panel.look().truncation == 1.0
        assert not np.array_equal(mean.pictures[0], before.pictures[0])
        assert np.abs(canvas_of(browser) - unmoved).max() > 8
        logs = browser.get_log("browser")
        assert not [line for line in logs if line["level"] == "SEVERE"], logs


@pytest.mark.slow
def test_a_mesh_stands_in_the_page_upright_with_its_nose_to_the_front(eg3d, port, browser):
    """A mesh with a green top and a red nose over white paper, from the front and from the left."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]

    def box(center, size, color):
        faces = [f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))]
        points = np.asarray(center) + np.asarray(size) * corners
        return Mesh(points.astype(np.float32), np.array(faces), np.tile(np.uint8(color), (8, 1)))

    top = box((0, 0.2, 0), (0.2, 0.05, 0.2), (0, 255, 0))
    nose = box((0, 0, 0.25), (0.04, 0.04, 0.05), (255, 0, 0))

    def where(channel: int) -> np.ndarray | None:
        """Mean place (x, y) of the pixels in which a channel prevails, in heights of the page."""
        shown = canvas_of(browser)
        others = np.delete(shown, channel, axis=-1).max(axis=-1)
        rows, columns = np.nonzero(shown[..., channel] - others > 60)
        return np.array([columns.mean(), rows.mean()]) / len(shown) if len(rows) > 20 else None

    with view(eg3d, port=port) as viewer:
        session = opened(browser, viewer, 0)
        calm(session)
        session.panel.view["layer"].value = "nothing"
        session.ask()
        calm(session)
        session.client.scene.add_glb(OVERLAY, glb_bytes([top, nose]))
        until(lambda: where(GREEN) is not None and where(RED) is not None)
        assert where(GREEN)[1] < where(RED)[1] - 0.05  # up is up
        assert abs(where(GREEN)[0] - where(RED)[0]) < 0.02
        drag(browser, -120, 0)  # the camera goes to +x, where the nose points to the left
        until(lambda: float(session.camera().yaw_pitch()[0]) > 0.3)
        until(lambda: where(RED)[0] < where(GREEN)[0] - 0.05)


@pytest.mark.slow
def test_a_2d_model_has_no_camera_and_says_so(port, browser):
    torch.manual_seed(0)
    flat = Exhibit("flat", StyleGAN2(**StyleGAN2.tiny).eval())
    with Viewer([flat], port=port) as viewer:
        session = opened(browser, viewer, 0)
        frame = calm(session)
        assert session.camera() is None
        assert "StyleGAN2 is a 2D model" in browser.find_element("tag name", "body").text
        drag(browser, 60, 0)
        assert np.array_equal(calm(session).pictures[0], frame.pictures[0])
