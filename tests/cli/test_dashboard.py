"""`gan3d dashboard`: what it asks for, and where it puts the page or the workspace."""

import json

import pytest

from gan3d.training.loggers import DiskLogger


@pytest.fixture
def two_runs(tmp_path):
    for name in ("a", "b"):
        for step in (0, 1000):
            DiskLogger(tmp_path / name).log_metrics({"loss/generator": 1.0}, step=step)


def test_runs_go_to_a_page_and_a_dry_run_writes_nothing(cli, tmp_path, two_runs):
    (tmp_path / "empty").mkdir()
    code, _, said = cli("dashboard", "a", "b", "--dry_run", "true")
    assert code == 0, said
    assert not (tmp_path / "dashboard.html").exists()
    code, _, said = cli("dashboard", "a", "b", "empty")
    assert code == 0, said
    assert "empty holds neither" in said
    assert "loss/generator" in (tmp_path / "dashboard.html").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a", "c"], "runs c: there is no such file or folder"),
        (["a/metrics.csv"], "is a file; give the folders of runs"),
        (["a", "--moments", "0"], "--moments 0 is out of range"),
        (["a", "--out", "page.pdf"], "does not end in .html"),
        ([], "a dashboard needs runs, or a project of W&B"),
        (["a", "--wandb", "me/gan3d"], "not both"),
        (["--wandb", "gan3d"], "--wandb gan3d is not ENTITY/PROJECT"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_a_sentence(cli, two_runs, words, says):
    code, _, said = cli("dashboard", *words)
    assert code == 2
    assert says in said
    assert "Traceback" not in said


def test_a_workspace_goes_to_a_file_or_is_printed_without_a_key(cli, tmp_path):
    pytest.importorskip("wandb_workspaces")
    words = ["dashboard", "--wandb", "me/gan3d", "--name", "heads"]
    code, printed, said = cli(*words, "--dry_run", "true")
    assert code == 0, said
    assert json.loads(printed)["displayName"] == "heads"
    code, _, said = cli(*words, "--out", "workspace.json")
    assert code == 0, said
    assert json.loads((tmp_path / "workspace.json").read_text())["project"] == "gan3d"
