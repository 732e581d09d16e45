"""The page of the benchmark, in Debian's Chromium where it is there."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan3d.apps.video import write_video
from gan3d.bench.page import write_page
from gan3d.bench.results import write_result
from gan3d.bench.table import Board, leaderboard


def value(of: float) -> dict:
    return {"value": of, "low": of - 1, "high": of + 1}


@pytest.fixture
def board(tmp_path, record) -> Board:
    """Three models, two of them with an orbit."""
    results = []
    for name, same, threed in (("a", 9.0, 10.0), ("b", 30.0, 8.0), ("flat", 5.0, None)):
        picture = np.full((8, 8, 3), 80, dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
        values, absent = {"fd_headnet/same": value(same)}, {}
        pictures = {"sheet": f"{name}.png"}
        if threed is None:
            absent["fd_headnet/3d"] = "<b>no camera</b>"
        else:
            values["fd_headnet/3d"] = value(threed)
            write_video(tmp_path / f"{name}.mp4", np.zeros((4, 16, 16, 3), np.uint8))
            pictures["orbit"] = f"{name}.mp4"
        result = record(model__name=name, values=values, absent=absent, pictures=pictures)
        results.append((write_result(tmp_path / f"{name}.json", result), result))
    return leaderboard(results)


def test_the_page_needs_nothing_but_itself_and_shows_names_as_they_are(board, tmp_path, links_in):
    path = write_page(tmp_path / "board.html", board)
    text = path.read_text()
    links = links_in(text)
    assert len(links) == 5
    assert all(link.startswith("data:") for link in links)
    assert "http" not in re.sub(r"data:[^\"]*", "", text)
    assert "<b>no camera</b>" not in text
    assert text.count("class='best'") == 2  # the least same distance, the least 3d distance


def test_a_picture_that_is_not_beside_its_result_is_named(board, tmp_path):
    (tmp_path / "b.mp4").unlink()
    with pytest.raises(ValueError, match=r"b\.json names the picture b\.mp4"):
        write_page(tmp_path / "board.html", board)


def test_columns_sort_videos_load_and_nothing_goes_wrong(board, tmp_path, browser):
    path = write_page(tmp_path / "board.html", board)
    browser.get(Path(path).as_uri())

    def rows() -> list[str]:
        cells = browser.find_elements("css selector", "table.sortable tbody td:first-child")
        return [cell.text for cell in cells]

    def click(heading: str) -> None:
        buttons = browser.find_elements("css selector", "table.sortable th button")
        next(button for button in buttons if button.text == heading).click()

    assert rows() == ["b", "a", "flat"]
    click("Frechet distance, headnet, same")
    assert rows() == ["flat", "a", "b"]  # 5, 9, 30: as numbers, not as texts
    click("Frechet distance, headnet, same")
    assert rows() == ["b", "a", "flat"]
    for _ in range(2):  # what is missing stays last
        click("Frechet distance, headnet, 3d")
        assert rows()[-1] == "flat"
    click("model")
    assert rows() == ["a", "b", "flat"]

    ready = """const done = arguments[0], media = [...document.querySelectorAll("video, img")];
      const isReady = m => m.tagName === "IMG" ? m.naturalWidth > 0 : m.readyState >= 2;
      const wait = k => media.every(isReady) || k === 0
        ? done(media.map(m => [m.tagName, isReady(m), m.error ? m.error.message : ""]))
        : setTimeout(wait, 100, k - 1);
      wait(100);"""
    browser.set_script_timeout(30)
    media = browser.execute_async_script(ready)
    assert sorted(tag for tag, _, _ in media) == ["IMG"] * 3 + ["VIDEO"] * 2
    assert all(is_ready for _, is_ready, _ in media), media
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
