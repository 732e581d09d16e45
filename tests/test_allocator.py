"""The allocator keeps what is freed, or is left alone: counted in page faults of a new process."""

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

import gan3d.cli
from gan3d.allocator import keep_memory

GLIBC = platform.system() == "Linux" and platform.libc_ver()[0] == "glibc"

# Frees a block of 64 MB, then counts the faults of pages of the next one.
COUNT = """
import resource
def fault():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytes(1) * (64 << 20)
    bytearray(b"x") * (64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
fault()
print(fault())
"""
PAGES = (64 << 20) // os.sysconf("SC_PAGE_SIZE")


def faults(start: str, malloc: str | None) -> int:
    env = {name: value for name, value in os.environ.items() if name != "GAN3D_MALLOC"}
    env |= {} if malloc is None else {"GAN3D_MALLOC": malloc}
    done = subprocess.run(
        [sys.executable, "-c", start + COUNT], capture_output=True, text=True, env=env, check=True
    )
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(not GLIBC, reason="mallopt belongs to glibc")
def test_a_verb_makes_the_allocator_keep_what_is_freed_unless_it_is_told_not_to():
    verb = "from gan3d.cli import main\nmain(['configs'])\n"
    assert faults(verb, None) < PAGES / 100
    # Huge pages, where the kernel has them, are 512 at once.
    assert faults(verb, "default") >= PAGES / 512


@pytest.mark.parametrize("verb", gan3d.cli.TRAINER_VERBS)
def test_so_does_a_verb_of_the_trainer_before_it_runs(monkeypatch, verb):
    order = []
    module = SimpleNamespace(run=lambda *_: order.append("runs") or 0)
    name = "estimate" if verb == "estimate" else "trainer"
    monkeypatch.setitem(sys.modules, f"gan3d.cli.{name}", module)
    monkeypatch.setattr(gan3d.cli, "keep_memory", lambda: order.append("keeps"))
    assert gan3d.cli.main([verb]) == 0
    assert order == ["keeps", "runs"]


@pytest.mark.skipif(not GLIBC, reason="mallopt belongs to glibc")
def test_only_what_computes_touches_the_allocator():
    assert faults("from gan3d.cli import main\nmain(['--version'])\n", None) >= PAGES / 512


def test_the_allocator_is_left_alone_elsewhere(monkeypatch):
    monkeypatch.delenv("GAN3D_MALLOC", raising=False)
    for system, library in (("Darwin", ""), ("Windows", ""), ("Linux", "musl")):
        monkeypatch.setattr(platform, "system", lambda system=system: system)
        monkeypatch.setattr(platform, "libc_ver", lambda library=library: (library, ""))
        assert not keep_memory()


def test_another_value_of_the_variable_is_refused(monkeypatch):
    monkeypatch.setenv("GAN3D_MALLOC", "jemalloc")
    with pytest.raises(ValueError, match=r"'jemalloc'; expected 'default'"):
        keep_memory()
