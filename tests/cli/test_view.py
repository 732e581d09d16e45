"""The verb `view`, by the program itself: it serves its page until it is interrupted."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch

from gan3d.generators import EG3D, StyleGAN2

pytest.importorskip("viser")


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_it_serves_models_beside_each_other_until_it_is_interrupted(tmp_path, port):
    torch.manual_seed(0)
    EG3D(**EG3D.tiny).save_pretrained(tmp_path / "heads")
    StyleGAN2(**StyleGAN2.tiny).save_pretrained(tmp_path / "flat")
    words = [sys.executable, "-m", "gan3d", "view", "heads", "flat", "--port", str(port)]
    program = subprocess.Popen(
        words,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = ""
        while "look at heads, flat" not in said:
            line = program.stderr.readline()
            assert line, said
            said += line
        assert f"http://127.0.0.1:{port}" in said
        with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=10) as page:
            assert b"<title>" in page.read()
        program.send_signal(signal.SIGINT)
        try:
            out, rest = program.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            program.send_signal(signal.SIGABRT)  # prints where its threads are
            pytest.fail(program.communicate()[1])
    finally:
        program.kill()
    assert program.returncode == 0, rest
    assert out == "the viewer is closed\n"
    assert "Traceback" not in rest


def test_what_cannot_be_shown_is_refused_in_one_sentence(cli, tmp_path, port):
    torch.manual_seed(0)
    StyleGAN2(**StyleGAN2.tiny).save_pretrained(tmp_path / "flat")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        code, _, said = cli("view", "flat", "--port", port)
    assert code == 2
    assert f"port {port} of 127.0.0.1 is in use" in said
    assert len(said.splitlines()) == 1
    code, _, said = cli("view", "flat", "--port", port, "--fov", 12)
    assert code == 2
    assert "a 2D model: leave out --fov" in said
    code, _, said = cli("view", "flat", "--port", 70000)
    assert code == 2
    assert "from 1 to 65535" in said
    code, _, said = cli("view", "falt", "--port", port)
    assert code == 2
    assert "did you mean flat?" in said


def test_a_run_with_a_page_ends_with_the_same_parameters_and_closes_it(cli, tiny, port):
    ends = []
    for name, words in (("plain", []), ("seen", ["--view", port])):
        code, _, said = cli("fit", "--config", tiny, "--run_dir", name, *words)
        assert code == 0, said
        assert (f"http://127.0.0.1:{port}" in said) == bool(words)
        ends.append(torch.load(f"{name}/checkpoints/last.ckpt", weights_only=True)["state_dict"])
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        code, _, said = cli("fit", "--config", tiny, "--run_dir", "late", "--view", port)
    assert code == 2
    assert f"port {port} of 127.0.0.1 is in use" in said
    assert not Path("late").exists()
