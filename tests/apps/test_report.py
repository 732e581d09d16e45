"""The report: one self-contained file with the content of a run folder."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from gan3d.apps.curves import Curve, curve_svg, log_ticks, thinned, ticks
from gan3d.apps.report import key_figures, spread, write_report
from gan3d.apps.run_files import read_run
from gan3d.apps.video import write_video
from gan3d.results import MARKER
from gan3d.training.loggers import DiskLogger

VOID = {"meta", "img", "line", "polyline", "br"}


class Tags(HTMLParser):
    """Fails on tags that are not closed in order; collects all addresses."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.addresses = []
        self.text = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "poster")]

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    return tags


@pytest.fixture
def run_dir(tmp_path):
    run = tmp_path / "my <run>"
    logger = DiskLogger(run)
    for step in range(0, 5001, 500):
        losses = {"loss/generator": 1.0 + step / 1e4, "loss/discriminator": 0.5}
        logger.log_metrics(losses, step=step)
        if step % 1000 == 0:
            measures = {"distance/frechet": 3.0 / (1 + step), "alarm/flatness": 0.05}
            logger.log_metrics(measures, step=step)
            logger.log_image("fakes", [np.full((8, 8, 3), step % 251, np.uint8)], step=step)
    marks = {"distance/floor": 1e-4, "distance/mean_image": 4.0, "bad": float("nan")}
    logger.log_metrics(marks, step=5000)
    video = write_video(tmp_path / "o.mp4", np.zeros((3, 16, 16, 3), np.uint8))
    logger.log_video("orbit", [video], step=5000)
    (run / "config.yaml").write_text("model:\n  note: <script>alert(1)</script> & more\n")
    return run


def test_the_page_contains_everything_and_loads_nothing_from_outside(run_dir):
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    page = path.read_text(encoding="utf-8")
    addresses = parsed(page).addresses
    assert addresses
    assert all(address.startswith("data:") for address in addresses)
    assert not re.search(r"https?://|url\(|@import|<link|<script", page)


def test_the_last_picture_and_video_are_in_the_page_byte_for_byte(run_dir):
    page = write_report(run_dir).read_text(encoding="utf-8")
    contents = [base64.b64decode(address.split(",")[1]) for address in parsed(page).addresses]
    assert (run_dir / "pictures" / "fakes_000005000.png").read_bytes() in contents
    assert (run_dir / "videos" / "orbit_000005000.mp4").read_bytes() in contents


def test_text_of_the_user_is_escaped(run_dir):
    page = write_report(run_dir).read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page
    assert "<title>my &lt;run&gt;</title>" in page


def test_key_figures_are_the_last_logged(run_dir):
    figures = {what: figure for figure, what in key_figures(read_run(run_dir))}
    assert figures["thousand images seen"] == "5"
    assert figures["Frechet distance at the end (not FID)"] == f"{3 / 5001:.3g}"
    assert figures["relief of the heads, camera radii (a plane: 0)"] == "0.05"


def test_the_best_distance_is_reported_if_it_is_not_the_last(tmp_path):
    logger = DiskLogger(tmp_path)
    for step, value in ((0, 3.0), (1000, 0.5), (2000, 0.7)):
        logger.log_metrics({"distance/frechet": value}, step=step)
    assert ("0.5", "best Frechet distance, at 1 kimg") in key_figures(read_run(tmp_path))


def test_a_run_without_pictures_or_without_metrics_still_has_a_report(tmp_path):
    DiskLogger(tmp_path / "numbers").log_metrics({"loss/generator": 1.0}, step=1)
    DiskLogger(tmp_path / "looks").log_image("fakes", [np.zeros((8, 8, 3), np.uint8)], step=1)
    for name in ("numbers", "looks"):
        parsed(write_report(tmp_path / name).read_text(encoding="utf-8"))


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"neither metrics\.csv nor pictures"):
        write_report(tmp_path)


def test_a_report_can_be_written_again(run_dir):
    first = write_report(run_dir).read_bytes()
    assert write_report(run_dir).read_bytes() == first
    assert not list(run_dir.glob("*.tmp"))


def test_moments_are_few_and_keep_the_ends(tmp_path):
    moments = [(1000 * i, tmp_path) for i in range(100)]
    chosen = spread(moments, 6)
    assert (chosen[0], chosen[-1], len(chosen)) == (moments[0], moments[-1], 6)
    assert spread(moments[:3], 6) == moments[:3]


def test_a_curve_runs_from_corner_to_corner_of_its_range():
    svg = curve_svg("title", [Curve("a", [(0, 0.0), (1000, 10.0)])])
    pairs = re.search(r'points="([^"]+)', svg)[1].split()
    (x1, y1), (x2, y2) = [tuple(map(float, pair.split(","))) for pair in pairs]
    assert x1 < x2
    assert y1 > y2
    parsed(svg)


def test_a_logarithmic_curve_of_equal_ratios_is_straight():
    svg = curve_svg("title", [Curve("a", [(0, 1.0), (1000, 10.0), (2000, 100.0)])], log=True)
    heights = [float(pair.split(",")[1]) for pair in re.search(r'points="([^"]+)', svg)[1].split()]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.11)


def test_curves_survive_constants_and_values_that_are_not_finite():
    nan, inf = float("nan"), float("inf")
    for points in (
        [(0, 1.0), (1, 1.0)],
        [(5, 0.0), (5, 0.0)],
        [(0, nan), (1, 2.0), (2, inf)],
        [(0, nan), (1, nan)],
    ):
        for log in (False, True):
            assert "nan" not in curve_svg("title", [Curve("a", points)], log=log)


def test_ticks_are_round_numbers_inside_the_range():
    assert ticks(0, 60) == [0, 20, 40, 60]
    assert ticks(0.11, 0.43) == pytest.approx([0.2, 0.3, 0.4])
    assert log_ticks(-1, 1) == pytest.approx([0.1, 0.2, 0.5, 1, 2, 5, 10])
    assert log_ticks(-3, 3) == pytest.approx([0.001, 0.01, 0.1, 1, 10, 100, 1000])


def test_thinning_keeps_the_mean_and_the_last_step():
    points = [(i, float(i)) for i in range(1000)]
    few = thinned(points, 100)
    assert len(few) == 100
    assert few[-1][0] == 999
    assert sum(value for _, value in few) / 100 == pytest.approx(499.5)


def test_large_pictures_of_the_progress_are_reduced_but_not_the_last_one(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1200, 3), dtype=np.uint8)
    logger = DiskLogger(tmp_path)
    for step in (0, 1000):
        logger.log_image("fakes", [noise], step=step)
    addresses = parsed(write_report(tmp_path).read_text(encoding="utf-8")).addresses
    files = [io.BytesIO(base64.b64decode(address.split(",")[1])) for address in addresses]
    sizes = [Image.open(file).size for file in files]
    assert sizes == [(1200, 1000), (800, 667), (800, 667)]


def test_a_report_is_made_anew_but_replaces_no_page_of_somebody_else(run_dir):
    page = write_report(run_dir)
    assert write_report(run_dir) == page
    page.write_text("<!doctype html> mine")
    with pytest.raises(ValueError, match=r"report.html exists already.*--overwrite"):
        write_report(run_dir)
    assert page.read_text() == "<!doctype html> mine"
    write_report(run_dir, overwrite=True)
    assert "gan3d report" in page.read_text()


def test_a_report_embeds_nothing_from_outside_of_its_run(run_dir, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (3, 3), (1, 2, 3)).save(secret)
    encoded = base64.b64encode(secret.read_bytes()).decode()
    (run_dir / "pictures" / "mine_000000001.png").symlink_to(secret)
    config = tmp_path / "id_rsa"
    config.write_text("a private key")
    (run_dir / "config.yaml").unlink(missing_ok=True)
    (run_dir / "config.yaml").symlink_to(config)
    page = write_report(run_dir).read_text()
    assert encoded not in page
    assert "a private key" not in page
    (run_dir / "pictures" / "mine_000000001.png").unlink()
    (run_dir / "pictures" / "mine_000000001.png").write_bytes(secret.read_bytes())
    assert encoded in write_report(run_dir).read_text()


def test_the_page_says_what_was_trained_and_how_to_do_it_again(run_dir):
    assert "How it was trained" not in write_report(run_dir).read_text()
    plan = {"data": "heads<32>.zip: 4,000 images", "device": "cpu (A processor), 1 thread"}
    (run_dir / MARKER).write_text(json.dumps({"run": "1", "plan": plan}))
    tags = parsed(write_report(run_dir).read_text())
    assert "heads<32>.zip: 4,000 images" in tags.text
    assert "cpu (A processor), 1 thread" in tags.text
    config = run_dir / "config.yaml"
    assert f"lightning fit --config {config} --run_dir ANOTHER_FOLDER" in tags.text
    for broken in ("", "[]", '{"plan": 3}'):
        (run_dir / MARKER).write_text(broken)
        assert read_run(run_dir).plan == {}


def test_trained_models_are_shown_beside_the_run_first(run_dir):
    folder = run_dir / "zoo" / "eg3d_heads32"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(folder / "sheet.png")
    (folder / "notes.txt").write_text("no picture")
    page = write_report(run_dir).read_text()
    shown = base64.b64encode((folder / "sheet.png").read_bytes()).decode()
    assert page.index(shown) < page.index("<h2>Results</h2>")
    assert "eg3d_heads32, trained before: sheet." in parsed(page).text
    assert len(read_run(run_dir).compared) == 1
