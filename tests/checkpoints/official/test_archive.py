"""Modules and averages of torch.save are read as data; files that ask for more are refused."""

import os
import pickle
import runpy
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gan3d.checkpoints.official.archive import load_objects
from gan3d.checkpoints.official.networks import Average, Network, read_saved
from gan3d.checkpoints.official.records import Record, UnsafePickleError, state_dict

hostile = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("hostile.py"))))
STATE = {
    "b.weight": torch.arange(6.0).reshape(2, 3),
    "b.bias": torch.ones(2),
    "a.0.weight": torch.eye(2),
}


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class Filled:
    """Pickles as an object that is made by a call, with this state."""

    def __init__(self, state):
        self.state = state

    def __reduce__(self):
        return object.__new__, (Filled,), self.state


def refuse(tmp_path, data: bytes, match: str) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(data)
    with hostile.watching() as seen, pytest.raises(UnsafePickleError, match=match):
        load_objects(path)
    assert seen == []


@pytest.fixture(autouse=True)
def warm(tmp_path_factory):
    """Triggers Python's lazy imports."""
    path = tmp_path_factory.mktemp("warm") / "warm.pth"
    data = hostile.saved_module(STATE, "own.code", "Generator")
    for archive in (data, hostile.rewritten(data, {})):
        path.write_bytes(archive)
        load_objects(path)


def written(tmp_path, data: bytes) -> Path:
    path = tmp_path / "file.pth"
    path.write_bytes(data)
    return path


def test_a_module_of_unknown_code_gives_its_state_dict_in_order_and_its_attributes(tmp_path):
    attributes = {"step": 7, "device": torch.device("cpu"), "side": torch.Size((3, 4))}
    data = hostile.saved_module(STATE, "generators.generators", "ImplicitGenerator3d", **attributes)
    path = written(tmp_path, data)
    with hostile.watching() as seen:
        record = load_objects(path)
        state = state_dict(record)
    assert seen == []
    assert list(state) == list(STATE)
    assert all(torch.equal(state[name], tensor) for name, tensor in STATE.items())
    assert record.class_name == "ImplicitGenerator3d"
    assert [record.state[name] for name in attributes] == [7, "cpu", (3, 4)]
    with pytest.raises(ModuleNotFoundError):
        torch.load(path, weights_only=False)


def test_state_dicts_of_torch_modules_agree_with_torch(tmp_path):
    norms = nn.ModuleList([nn.LayerNorm(4), nn.BatchNorm1d(4)])
    module = nn.Sequential(nn.Linear(3, 4), norms, nn.LeakyReLU(0.2))
    found = state_dict(load_objects(written(tmp_path, hostile.saved(module))))
    expected = module.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_tensors_that_share_a_storage_are_distinguished(tmp_path):
    both = torch.arange(10.0)
    parts = [both[:4], both[4:].reshape(2, 3).t()]
    average = read_saved(written(tmp_path, hostile.saved_average(parts)))
    assert isinstance(average, Average)
    assert torch.equal(average.tensors[0], parts[0])
    assert torch.equal(average.tensors[1], parts[1])
    assert average.facts == {"decay": 0.999, "num_updates": 7}


def test_a_state_dict_of_torch_ema_is_an_average_too(tmp_path):
    content = {"decay": 0.9, "num_updates": None}
    content |= {"shadow_params": [torch.ones(2)], "collected_params": None}
    average = read_saved(written(tmp_path, hostile.saved(content)))
    assert isinstance(average, Average)
    assert average.facts == {"decay": 0.9, "num_updates": None}


CALLS = [
    (os.system, "true"),
    (eval, "1"),
    (exec, "1"),
    (__import__, "os"),
    (getattr, "a", "b"),
    (subprocess.Popen, ["true"]),
    (torch.load, "x"),
    (torch.hub.load, "x"),
    (pickle.loads, b"N."),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0].__name__)
@pytest.mark.parametrize("where", ["module", "average", "tensors", "alone"])
def test_a_call_hidden_in_a_module_or_an_average_is_refused_by_name(tmp_path, call, where):
    trap = Calls(*call)
    data = {
        "module": lambda: hostile.saved_module(STATE, "own.code", "Generator", hook=trap),
        "average": lambda: hostile.saved_average([torch.ones(1)], collected_params=trap),
        "tensors": lambda: hostile.saved_average([torch.ones(1), trap]),
        "alone": lambda: hostile.saved(trap),
    }[where]()
    name = call[0].__name__
    refuse(tmp_path, data, rf"(asks for the global|calls) '[\w.]*{name}'.*nothing was executed")


@pytest.mark.parametrize(
    "name", ["os\nsystem", "builtins\neval", "__builtin__\neval", "torch\nload", "__main__\nX"]
)
@pytest.mark.parametrize(
    "end", [b".", b")\x81.", b")\x81}b.", b"(tR."], ids=["alone", "instance", "built", "called"]
)
def test_a_global_of_python_or_torch_is_refused_in_any_use(tmp_path, name, end):
    pickled = b"\x80\x02c" + name.encode() + b"\n" + end
    data = hostile.rewritten(hostile.saved(0), {"data.pkl": pickled})
    refuse(tmp_path, data, "asks for the global")


@pytest.mark.parametrize(
    ("pickled", "match"),
    [
        (
            b"ctorch_ema.ema\nExponentialMovingAverage\n)R.",
            "calls 'torch_ema.ema.ExponentialMovingAverage'",
        ),
        (b"cown.code\nrun\n(X\x02\x00\x00\x00rmtR.", "calls 'own.code.run'"),
        (b"cown.code\nX\n)\x81}b}b.", "a state for what is not a fresh object"),
        (b"cown.code\nX\n)\x81(K\x01K\x02tb.", "a state that is not a dictionary"),
        (b"cown.code\nX\n(K\x01t\x81.", "an instance of what is not a class"),
        (b"cown.code\nX\n}b.", "a state for what is not a fresh object"),
        (b"ctorch\ndevice\n)\x81.", "an instance of what is not a class"),
        (b"ctorch\ndevice\n(K\x01tR.", "a broken device"),
        (
            b"ctorch\ndevice\n}X\x08\x00\x00\x00__code__K\x01sb.",
            "a state for what is not a fresh object",
        ),
        (b"X\x01\x00\x00\x00aQ.", "a broken storage"),
        (
            b"(X\x07\x00\x00\x00storagecown.code\nX\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ.",
            "of no type",
        ),
    ],
)
def test_records_are_neither_called_nor_given_more_than_one_state(tmp_path, pickled, match):
    data = hostile.rewritten(hostile.saved(0), {"data.pkl": b"\x80\x02" + pickled})
    refuse(tmp_path, data, match)


def test_an_object_whose_state_is_a_trap_is_not_built(tmp_path):
    refuse(tmp_path, hostile.saved(Filled({"a": 1})), "asks for the global")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"data/0": None}, "an archive without 'data/0'"),
        ({"data/0": b"\x00" * 23}, "a storage of another size than the pickle states"),
        ({"data/0": b"\x00" * 25}, "a storage of another size than the pickle states"),
        ({"data.pkl": None}, "that torch.save did not write"),
        ({"data.pkl": b""}, "not a pickle"),
        ({"byteorder": b"big"}, "another byte order"),
    ],
)
def test_an_archive_whose_members_are_missing_or_wrong_is_refused(tmp_path, changes, match):
    data = hostile.saved_module({"weight": torch.zeros(6)}, "own.code", "Generator")
    refuse(tmp_path, hostile.rewritten(data, changes), match)


def test_a_compressed_archive_is_refused(tmp_path):
    data = hostile.saved_module({"weight": torch.zeros(2**16)}, "own.code", "Generator")
    refuse(tmp_path, hostile.rewritten(data, {}, zipfile.ZIP_DEFLATED), "compressed or encrypted")


def test_storages_that_overlap_are_refused(tmp_path):
    """Several directory entries of the same bytes would multiply the size of the file."""
    big = torch.zeros(2**12)
    data = hostile.saved_average([big + i for i in range(3)])
    with (
        zipfile.ZipFile(tmp_path / "x.zip", "w") as new,
        zipfile.ZipFile(written(tmp_path, data)) as old,
    ):
        for name in old.namelist():
            if not name.endswith(("data/1", "data/2")):
                new.writestr(name, old.read(name))
        root = new.namelist()[0].partition("/")[0]
        first = new.getinfo(f"{root}/data/0")
        for key in (1, 2):
            twin = zipfile.ZipInfo(f"{root}/data/{key}")
            for field in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(twin, field, getattr(first, field))
            new.filelist.append(twin)
    refuse(tmp_path, (tmp_path / "x.zip").read_bytes(), "storages that overlap")


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\x03\x04", b"hello", b"\x80\x02N."])
def test_files_that_are_not_archives_are_refused(tmp_path, data):
    refuse(tmp_path, data, "broken|refused")


def test_every_truncated_archive_is_refused(tmp_path):
    data = hostile.saved_average(list(STATE.values()))
    for end in range(0, len(data) - 1, 37):
        refuse(tmp_path, data[:end], "refused|broken")


def test_mutated_archives_execute_nothing_and_are_read_or_refused(tmp_path):
    data = hostile.saved_module(STATE, "own.code", "Generator", step=3)
    with zipfile.ZipFile(written(tmp_path, data)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        pickled = archive.read(name)
    # valid archives of mutated pickles
    tries = hostile.mutations(pickled, 500, seed=0)
    files = [hostile.rewritten(data, {"data.pkl": mutated}) for mutated in tries]
    # archives whose bytes are mutated in place
    start = data.find(pickled)
    end = start + len(pickled)
    for mutated in hostile.mutations(pickled, 500, seed=1):
        in_place = mutated[: len(pickled)].ljust(len(pickled), b"\x00")
        files.append(data[:start] + in_place + data[end:])
    outcomes = {"read": 0, "refused": 0}
    with hostile.watching() as seen:
        for changed in files:
            path = tmp_path / "mutated.pth"
            path.write_bytes(changed)
            try:
                content = load_objects(path)
                if type(content) is Record:
                    state_dict(content)
                outcomes["read"] += 1
            except UnsafePickleError:
                outcomes["refused"] += 1
    assert [event for event in seen if not event.startswith("open")] == []  # this test writes
    assert min(outcomes.values()) > 10, outcomes


@pytest.mark.parametrize("content", [3, [torch.ones(1)], {"a": 1}, {}, nn.Linear(1, 1).weight])
def test_a_file_of_something_else_says_what_it_holds(tmp_path, content):
    with pytest.raises(ValueError, match="expected a state dict, a module, or an average"):
        read_saved(written(tmp_path, hostile.saved(content)))


def test_a_plain_state_dict_keeps_its_order(tmp_path):
    network = read_saved(written(tmp_path, hostile.saved(STATE)))
    assert isinstance(network, Network)
    assert list(network.state) == list(STATE)
    with pytest.raises(ValueError, match="there is no file"):
        read_saved(tmp_path / "nothing.pth")


def test_the_old_layout_of_torch_save_is_refused_for_modules(tmp_path):
    path = tmp_path / "old.pth"
    torch.save(nn.Linear(2, 1), path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="nothing was executed"):
        read_saved(path)
    torch.save(nn.Linear(2, 1).state_dict(), path, _use_new_zipfile_serialization=False)
    assert set(read_saved(path).state) == {"weight", "bias"}
