"""Foreseen errors end a run in words, without a traceback."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from gan3d.cli.errors import RunFailed, Silent, exit_code, explaining, in_words
from gan3d.cli.options import flat

CONFIG = {
    "data": {"num_workers": 3, "batch_size": 32},
    "model": {"run": {"micro_batch_size": None}, "rays": {"mode": "full"}},
}


def said(error: Exception, strategy=None) -> Exception:
    with pytest.raises(Exception) as caught, explaining(CONFIG, flat, lambda: strategy):
        raise error
    return caught.value


class Dying(Dataset):
    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)

    def __len__(self):
        return 2


def test_a_killed_data_worker_is_said_with_its_cure():
    with pytest.raises(RuntimeError) as caught:
        next(iter(DataLoader(Dying(), num_workers=1)))
    told = said(caught.value)
    assert exit_code(told) == 1
    assert "a data worker (process" in str(told)
    assert "--data.num_workers smaller (now 3)" in str(told)
    assert "--ckpt_path last" in str(told)


def test_used_up_memory_names_the_options_with_their_values():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**45, dtype=torch.uint8)
    told = str(said(caught.value))
    assert told.startswith("the memory is used up (32768.00 GiB more were asked for)")
    for option in ("run.micro_batch_size smaller (now None)", "data.batch_size smaller (now 32)"):
        assert option in told
    assert "model.rays.mode (now full): chunked" in told
    gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has ..")
    assert "the memory of the GPU is used up (20.00 MiB more" in str(said(gpu))
    assert "--batch_size" in str(in_words(MemoryError()))


def test_a_mistake_in_the_program_stays_what_it_is():
    for error in (TypeError("x"), RuntimeError("size mismatch"), ValueError("y")):
        assert said(error) is error
        assert in_words(error) is error
    assert exit_code(TypeError("x")) is exit_code(RuntimeError("x")) is None


LOST = RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1")


def process(code):
    return SimpleNamespace(poll=lambda: code)


@pytest.fixture
def beats(tmp_path, monkeypatch):
    monkeypatch.setattr("gan3d.training.processes.folder_of_beats", lambda: tmp_path / "beats")
    return tmp_path / "beats"


def strategy(rank=0, codes=()):
    launcher = SimpleNamespace(procs=[process(code) for code in codes])
    return SimpleNamespace(global_rank=rank, world_size=1 + len(codes or "1"), launcher=launcher)


def test_the_first_process_says_which_one_was_killed(beats):
    told = said(LOST, strategy(codes=(1, -signal.SIGKILL)))
    assert str(told).startswith("process 2 was killed (SIGKILL; out of memory?)")
    assert exit_code(told) == 1


def test_the_first_process_ends_with_the_cause_of_the_one_that_failed(beats):
    error = ValueError("the picture is broken")
    assert said(error, strategy(rank=2)) is error
    told = said(LOST, strategy(codes=(1, 1)))
    assert str(told).startswith("process 2 failed: the picture is broken")


def test_a_process_that_lost_the_first_one_speaks_only_if_that_is_gone(beats, monkeypatch):
    monkeypatch.setattr("gan3d.training.processes.PATIENCE", 0.4)
    assert isinstance(said(LOST, strategy(rank=1)), Silent)
    parent = os.getppid()
    monkeypatch.setattr(os, "getppid", iter([parent, 1, 1]).__next__)
    told = said(LOST, strategy(rank=1))
    assert str(told).startswith("process 0 was killed")
    assert not isinstance(told, Silent)


def test_one_process_alone_has_lost_no_other():
    assert said(LOST, SimpleNamespace(global_rank=0, world_size=1)) is LOST


def test_the_command_line_says_a_failed_run_without_a_traceback(cli, monkeypatch):
    def fails(*_):
        raise RunFailed("process 1 was killed", "go on")

    monkeypatch.setattr("gan3d.cli._dispatch", fails)
    code, _, told = cli("fit")
    assert code == 1
    assert told == "gan3d: error: process 1 was killed\n  go on\n"
    monkeypatch.setattr("gan3d.cli._dispatch", lambda _: (_ for _ in ()).throw(Silent()))
    assert cli("fit")[::2] == (1, "")
