"""`--logger wandb` without an account (trial 24): the run trains, its record waits on the disk."""

import os

import pytest


def test_a_run_without_a_key_trains_and_says_how_to_send_its_record(
    cli, tiny, tmp_path, monkeypatch
):
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # settings are read once per process; the environment names its service
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        del os.environ[name]
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    code, _, said = cli("fit", "--config", tiny, "--logger", "wandb")
    wandb.teardown()
    assert code == 0, said
    assert "Traceback" not in said
    assert said.count("W&B goes on offline: there is no key (wandb login)") == 1
    assert "wandb sync" in said
    assert list((tmp_path / "runs" / "tiny" / "wandb").glob("offline-run-*/*.wandb"))
    os.environ.pop("WANDB_MODE", None)  # Lightning sets it
