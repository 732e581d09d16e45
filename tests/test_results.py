"""Results on disk: refused where something is, whole or not at all."""

import os

import pytest

from gan3d.results import refuse_existing, write_whole


def test_what_is_there_is_refused_unless_it_may_be_replaced(tmp_path):
    there, link = tmp_path / "a", tmp_path / "link"
    there.write_text("mine")
    link.symlink_to(tmp_path / "nowhere")
    refuse_existing([tmp_path / "new"], overwrite=False)
    for path in (there, link):
        with pytest.raises(ValueError, match=r"exists already.*--overwrite true"):
            refuse_existing([tmp_path / "new", path], overwrite=False)
    refuse_existing([there, link], overwrite=True)


def test_a_file_is_written_beside_its_place_with_its_suffix(tmp_path):
    seen = []

    def write(path):
        seen.append(path)
        path.write_text("new")

    assert write_whole(tmp_path / "deep" / "a.png", write).read_text() == "new"
    assert seen[0].parent == tmp_path / "deep"
    assert seen[0].suffix == ".png"
    assert os.listdir(tmp_path / "deep") == ["a.png"]


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail(partial):
        partial.write_text("half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_whole(path, fail)
    assert os.listdir(tmp_path) == ["a.txt"]
    assert path.read_text() == "old"
