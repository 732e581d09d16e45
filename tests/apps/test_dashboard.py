"""Dashboards: the page of several runs, in Debian's Chromium where it is there, and the workspace
of W&B, built and serialized without a network.
"""

import json
import re
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan3d.apps.clouds import point_cloud, read_cloud
from gan3d.apps.dashboard import row_of, short_names, write_dashboard
from gan3d.apps.histograms import Panel, histograms
from gan3d.apps.logged import KEYS
from gan3d.apps.run_files import read_run
from gan3d.apps.summary import MEANING, values_of
from gan3d.apps.video import write_video
from gan3d.apps.workspace import save_workspace, workspace_text
from gan3d.camera import Camera
from gan3d.generators.contract import Rendering
from gan3d.training.loggers import DiskLogger


def write_run(folder: Path, level: float, gamma: float, generator: str = "EG3D") -> Path:
    """A run of 4 kimg whose distance ends at `level`, its pictures darker with every kimg."""
    disk = DiskLogger(folder)
    for kimg in range(5):
        step = kimg * 1000
        values = {"distance/frechet": level + 4 - kimg, "speed/images_per_second": 10.0 + kimg}
        disk.log_metrics({**values, "own/number": float(kimg)}, step=step)
        shade = np.full((8, 8, 3), 200 - 40 * kimg, np.uint8)
        disk.log_image("fakes", [shade], step=step)
    cloud = np.array([[0, 0, 0, 255, 0, 0], [1, 0, 0, 0, 255, 0]], np.float32)
    disk.log_cloud("cloud", cloud, step=4000)
    model = {"generator": {"class_path": generator, "init_args": {"z_dim": 8}}}
    disk.log_hyperparams({"model": {**model, "r1": {"gamma": gamma}}, "run_dir": str(folder)})
    return folder


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    folders = [
        write_run(tmp_path / "a", 9.0, gamma=1.0),
        write_run(tmp_path / "b", 30.0, gamma=1.0),
        write_run(tmp_path / "c", 5.0, gamma=5.0, generator="GRAM"),
    ]
    write_video(tmp_path / "some.mp4", np.zeros((4, 16, 16, 3), np.uint8))
    DiskLogger(folders[0]).log_video("orbit", [tmp_path / "some.mp4"], step=4000)
    return folders


def test_the_page_needs_nothing_but_itself(runs, tmp_path, links_in):
    assert write_dashboard(tmp_path / "page.html", runs) == []
    text = (tmp_path / "page.html").read_text()
    links = links_in(text)
    assert links
    assert all(link.startswith("data:") for link in links)
    assert "http" not in re.sub(r"data:[^\"']*", "", text)


def test_columns_sort_the_slider_moves_pictures_runs_hide_and_nothing_goes_wrong(
    runs, tmp_path, browser
):
    path = tmp_path / "page.html"
    write_dashboard(path, runs)
    browser.get(path.as_uri())

    def run(script: str):
        return browser.execute_script(f"return {script}")

    # the table
    def rows() -> list[str]:
        cells = browser.find_elements("css selector", "table.sortable tbody td:first-child")
        return [cell.text for cell in cells][:3]

    def click(heading: str) -> None:
        buttons = browser.find_elements("css selector", "table.sortable th button")
        next(button for button in buttons if button.text == heading).click()

    assert rows() == ["a", "b", "c"]
    click("frechet")
    assert rows() == ["c", "a", "b"]  # 5, 9, 30: as numbers, not as texts
    click("frechet")
    assert rows() == ["b", "a", "c"]

    # the slider
    picture = "document.querySelector('img[data-key=fakes]')"
    shades = []
    for place in (4, 1):
        run(f"(kimg.value = {place}, kimg.dispatchEvent(new Event('input')))")
        run("true")
        shades.append(run(f"{picture}.src"))
        caption = run(f"{picture}.closest('figure').querySelector('figcaption span').textContent")
        assert caption == f"{place} kimg"
    assert shades[0] != shades[1]

    # curves, and runs that are hidden
    drawn = "[...document.querySelectorAll('polyline')].filter(l => l.checkVisibility()).length"
    assert run(drawn) == 9  # the distance, the speed, and what gan3d does not know, of three runs
    browser.find_element("css selector", ".legend input").click()
    assert run(drawn) == 6

    # the cloud has two points, red and green
    pixels = run(
        "[...document.querySelectorAll('canvas')[1].getContext('2d')"
        ".getImageData(0, 0, 360, 360).data]"
    )
    colors = {tuple(pixels[k : k + 3]) for k in range(0, len(pixels), 4) if pixels[k + 3]}
    assert colors == {(255, 0, 0), (0, 255, 0)}
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_where_configs_differ_is_listed_and_folders_are_not(runs, tmp_path):
    write_dashboard(tmp_path / "page.html", runs)
    text = (tmp_path / "page.html").read_text()
    differ = text[text.index("Where the configs differ") :]
    assert "model.r1.gamma" in differ
    assert "z_dim" not in differ
    assert "run_dir" not in differ


def test_a_run_that_trains_is_shown_as_far_as_it_is_and_an_empty_folder_is_named(runs, tmp_path):
    table = runs[0] / "metrics.csv"
    table.write_text(table.read_text() + "5000,1.")  # a line that is not finished
    (runs[0] / "pictures" / "fakes_000004000.png").write_bytes(b"not yet")
    (runs[0] / "summary.json").write_text('{"config":')
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "metrics.csv").write_text("step,loss/gen")
    left_out = write_dashboard(tmp_path / "page.html", [*runs, tmp_path / "new"])
    assert row_of(read_run(runs[0]))["kimg"] == 4
    assert any(f"{tmp_path / 'new'} holds neither" in line for line in left_out)
    assert any("fakes_000004000.png cannot be read" in line for line in left_out)
    with pytest.raises(ValueError, match=r"new holds neither .* give the folders of runs"):
        write_dashboard(tmp_path / "none.html", [tmp_path / "new"])


def test_what_is_left_out_is_said(runs, tmp_path):
    DiskLogger(runs[0]).log_image("fakes", [np.zeros((8, 900, 3), np.uint8)], step=4000)
    left_out = write_dashboard(tmp_path / "page.html", runs, moments=2)
    assert "6 of 15 pictures are shown, spread over the runs (--moments)" in left_out
    assert "pictures are reduced to 640 pixels (--side): fakes" in left_out


def test_names_are_as_long_as_it_takes(tmp_path):
    folders = [tmp_path / "x" / "run", tmp_path / "y" / "run"]
    assert short_names(folders) == ["x/run", "y/run"]
    assert short_names(folders[:1]) == ["run"]


def test_the_row_of_a_run_has_final_and_best_values():
    columns = {
        "distance/frechet": [(0, 9.0), (1000, 2.0), (2000, 3.0), (3000, float("nan"))],
        "speed/images_per_second": [(1000, 1.0), (2000, 5.0), (3000, 6.0)],
        "memory/peak_gib": [(1000, 1.0), (2000, 4.0)],
    }
    row = values_of(columns)
    assert row == {
        "kimg": 3.0,
        "frechet": 3.0,
        "frechet_best": 2.0,
        "frechet_best_kimg": 1.0,
        "images_per_second": 5.0,
        "memory_gib": 4.0,
    }
    assert set(row) <= set(MEANING)


# -- what runs log ---------------------------------------------------------------------------------


def test_the_cloud_of_a_plane_lies_in_the_plane_from_all_sides(tmp_path):
    cameras = Camera.from_angles(torch.tensor([0.0, -0.5, 0.5]), torch.zeros(3), radius=2.7, fov=20)
    rays = cameras.rays(16)
    distance = -rays.origins[..., 2] / rays.directions[..., 2]
    depth = (distance[..., None] * rays.cosines).reshape(-1, 1, 16, 16)
    image = torch.full((3, 3, 32, 32), 1.0)
    opacity = torch.ones_like(depth)
    opacity[..., :4] = 0.0
    cloud = point_cloud(Rendering(image, depth=depth, opacity=opacity), cameras)
    assert cloud.shape == (3 * 16 * 12, 6)
    assert np.abs(cloud[:, 2]).max() < 1e-5
    assert np.array_equal(np.unique(cloud[:, 3:]), [255])
    path = DiskLogger(tmp_path).log_cloud("cloud", cloud, step=3)
    assert path == tmp_path / "clouds" / "cloud_000000003.ply"
    assert np.array_equal(read_cloud(path), cloud)
    with pytest.raises(ValueError, match="no depth"):
        point_cloud(Rendering(image), cameras)


def test_histograms_draw_every_panel_also_of_values_that_are_not_finite():
    values = np.array([0.0, 1.0, np.nan])
    one = histograms([Panel("logits", {"fakes": values, "reals": values + 1})])
    two = histograms([Panel("yaw", {"set": values}), Panel("pitch", {"set": values[2:]})])
    assert isinstance(one, Image.Image)
    assert two.width == 2 * one.width
    assert len(one.getcolors(one.width * one.height)) > 10


# -- W&B -------------------------------------------------------------------------------------------


def test_the_workspace_has_a_panel_for_every_key_over_kimg_without_a_network(monkeypatch):
    pytest.importorskip("wandb_workspaces")
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it wants a network"))
    spec = json.loads(workspace_text("me", "gan3d", "heads"))
    assert (spec["entity"], spec["project"], spec["displayName"]) == ("me", "gan3d", "heads")
    section = spec["spec"]["section"]
    panels = [p for s in section["panelBankConfig"]["sections"] for p in s["panels"]]
    lines = {p["config"]["metrics"][0]: p["config"] for p in panels if "metrics" in p["config"]}
    media = {key for p in panels for key in p["config"].get("mediaKeys", [])}
    assert set(lines) == {key.name for key in KEYS if key.kind == "number"}
    assert media == {key.name for key in KEYS if key.kind != "number"}
    assert {config["xAxis"] for config in lines.values()} == {"kimg"}
    assert section["settings"]["xAxis"] == "kimg"
    columns = section["runSets"][0]["runFeed"]["columnPinned"]
    assert "summary:summary/frechet_best" in columns


def test_saving_a_workspace_without_a_key_says_what_to_do(tmp_path, monkeypatch):
    pytest.importorskip("wandb_workspaces")
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    wandb.teardown()  # settings are read once per process
    with pytest.raises(ValueError, match=r"me/gan3d .*wandb login.*--out workspace\.json") as told:
        save_workspace("me", "gan3d", "heads")
    assert "\n" not in str(told.value)
