"""Pickles of official code are read as data; files that ask for more are refused."""

import builtins
import os
import pickle
import runpy
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from gan3d.checkpoints.official.unpickle import (
    MAX_OPERATIONS,
    Record,
    UnsafePickleError,
    load,
    state_dict,
)

hostile = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("hostile.py"))))


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("hidden", torch.ones(2), persistent=False)
        self.tied = nn.Parameter(torch.arange(12.0).reshape(3, 4).t())  # not contiguous


def small(protocol: int = 4) -> tuple[nn.Module, bytes]:
    torch.manual_seed(0)
    module = Small()
    options = {"": {"_init_kwargs": {"z_dim": 4, "rendering_kwargs": {"ray_start": 2.25}}}}
    content = {"G": hostile.persistent(module, options), "augment_pipe": None}
    return module, hostile.snapshot(content, protocol)


def refuse(data: bytes, match: str) -> None:
    with hostile.watching() as seen, pytest.raises(UnsafePickleError, match=match):
        load(data)
    assert seen == []


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_snapshot_gives_the_state_dict_of_its_modules_and_its_source_is_not_executed(protocol):
    module, data = small(protocol)
    load(data)  # triggers Python's lazy imports
    with hostile.watching() as seen:
        read = load(data)
        state = state_dict(read["G"])
    assert seen == []
    expected = module.state_dict()
    assert len(state) == 8
    assert set(state) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor)
        assert state[name].dtype == tensor.dtype
    assert read["G"].class_name == "Small"
    assert read["G"].state["_init_kwargs"]["rendering_kwargs"] == {"ray_start": 2.25}
    with pytest.raises((ModuleNotFoundError, RuntimeError)):
        pickle.loads(data)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Calls(os.system, "true"), "system"),
        (Calls(builtins.eval, "1"), "eval"),
        (Calls(builtins.exec, "1"), "exec"),
        (Calls(builtins.__import__, "os"), "__import__"),
        (Calls(builtins.getattr, "a", "b"), "getattr"),
        (Calls(subprocess.Popen, ["true"]), "Popen"),
        (Calls(torch.load, "x"), "torch.serialization.load"),
        (Calls(torch.hub.load, "x"), "load"),
        ({"G": [Calls(os.system, "true")]}, "system"),
        (Calls(torch.storage._load_from_bytes, Calls(os.system, "true")), "system"),
    ],
)
def test_a_function_that_is_not_on_the_list_is_refused_by_name(protocol, value, name):
    data = pickle.dumps(value, protocol)
    refuse(data, rf"asks for the global '[\w.]*{name}'.*nothing was executed")


# What a legacy torch.save begins with: magic number, protocol, system.
HEAD = b"".join(
    pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
)


def test_a_pickle_hidden_in_a_storage_is_refused_as_well():
    inner = HEAD + pickle.dumps(Calls(os.system, "true"), 2)
    data = pickle.dumps(Calls(torch.storage._load_from_bytes, inner), 4)
    refuse(data, r"asks for the global '\w+.system'")


def test_a_dotted_name_does_not_reach_into_an_allowed_module():
    refuse(b"\x80\x04\x8c\x0ctorch._utils\x8c\x0ftorch.os.system\x93.", "torch.os.system")


@pytest.mark.parametrize(
    "data",
    [
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x02(cos\nsystem\n(S'true'\no.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02P1\n.",
        b"\x80\x02K\x01Q.",
        b"\x80\x04\x8c\x0bcollections\x8c\x0bOrderedDict\x93)}\x92.",
    ],
    ids=["INST", "OBJ", "EXT1", "PERSID", "BINPERSID", "NEWOBJ_EX"],
)
def test_operations_that_no_snapshot_needs_are_refused(data):
    refuse(data, "refused")


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize(
    "data",
    [
        REBUILD + b"}X\x08\x00\x00\x00__code__K\x01sb",  # a state for a function
        REBUILD + b"N}X\x0c\x00\x00\x00__defaults__Ns\x86b",  # attributes of a function
        b"ccollections\nOrderedDict\n}X\x0c\x00\x00\x00__setstate__Nsb",
        b"]}b",
        b"ctraining.x\nY\n)\x81}b}b",  # a state twice
        b"ctraining.x\nY\n)\x81(K\x01K\x02tb",
        b"ctraining.x\nY\n)R",  # a class of official code is not called
        b"ctraining.x\nY\n(K\x01t\x81",
        b"K\x01)R",
        b"ccollections\nOrderedDict\n)R)R",  # what a call gives is not called
        b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n}\x85R",
    ],
)
def test_only_inert_records_receive_state_and_calls(data):
    function = torch._utils._rebuild_tensor_v2
    attributes, defaults = vars(function).copy(), function.__defaults__
    refuse(b"\x80\x02" + data + b".", "refused")
    assert vars(function) == attributes
    assert function.__defaults__ == defaults


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x8b\xff\xff\xff\x7f.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
        b"\x80\x04B\xff\xff\xff\xff.",
        b"\x80\x04X\xff\xff\xff\xff.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
    ],
    ids=["LONG4", "BINBYTES8", "BINUNICODE8", "BINBYTES", "BINUNICODE", "FRAME", "BYTEARRAY8"],
)
def test_lengths_beyond_the_file_are_refused(data):
    refuse(data, "refused")


def test_a_memo_index_of_four_billion_costs_nothing():
    assert load(b"\x80\x04Nr\xff\xff\xff\xffj\xff\xff\xff\xff\x86.") == (None, None)


def storage(length: int, data: bytes = b"\x00" * 16, stated: int | None = None) -> bytes:
    """A storage of floats whose length is stated twice, truthfully or not."""
    info = b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    info += b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    info += b"\x8a\x08" + struct.pack("<q", length) + b"NtQ."
    keys = pickle.dumps(["0"], 2)
    return HEAD + info + keys + struct.pack("<q", length if stated is None else stated) + data


def tensor(shape: tuple, stride: tuple, offset: int = 0, blob: bytes | None = None) -> bytes:
    held = Calls(torch.storage._load_from_bytes, storage(4) if blob is None else blob)
    rebuild = torch._utils._rebuild_tensor_v2
    return pickle.dumps(Calls(rebuild, held, offset, shape, stride, False, {}), 4)


def test_a_tensor_stays_inside_its_storage():
    assert load(tensor((2, 2), (2, 1))).tensor().shape == (2, 2)
    assert load(tensor((0,), (1,))).tensor().shape == (0,)


@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [
        ((5,), (1,), 0),
        ((2, 2), (3, 1), 0),
        ((4,), (1,), 1),
        ((10**9,), (0,), 0),
        ((2**40, 2**40), (0, 0), 0),
        ((2,), (-1,), 1),
        ((-1,), (1,), 0),
        ((2,), (1, 1), 0),
        ((1.5,), (1,), 0),
        ((1,) * 100, (1,) * 100, 0),
    ],
)
def test_a_tensor_that_reaches_beyond_its_storage_is_refused(shape, stride, offset):
    refuse(tensor(shape, stride, offset), "refused: a tensor")


@pytest.mark.parametrize(
    "blob",
    [
        storage(2**50),
        storage(4, stated=2**50),
        storage(-1),
        storage(4, b"\x00" * 15),
        storage(4, b"\x00" * 17),
        b"PK\x03\x04",
        b"",
    ],
)
def test_a_storage_of_another_size_than_it_states_is_refused(blob):
    refuse(tensor((4,), (1,), blob=blob), "refused")


DEEP = 200_000  # recursion in C would overflow the stack at about a tenth of it


def test_deep_nesting_neither_recurses_nor_crashes():
    deep = load(b"\x80\x04)" + b"\x85" * DEEP + b".")
    assert type(deep) is tuple
    del deep
    refuse(b"\x80\x04})" + b"\x85" * (DEEP - 10) + b"Ns.", "a key of type tuple")
    refuse(b"\x80\x04\x8f()" + b"\x85" * (DEEP - 10) + b"\x90.", "a key of type tuple")
    refuse(b"\x80\x04" + b"(" * DEEP + b".", "broken|refused")


def test_too_many_operations_are_refused():
    refuse(b"\x80\x04" + b"N0" * MAX_OPERATIONS + b"N.", "more than")


def test_modules_that_contain_themselves_or_multiply_are_refused():
    module = Record("Loop", {"_modules": {}})
    module.state["_modules"]["again"] = module
    with pytest.raises(UnsafePickleError, match="nested without end"):
        state_dict(module)
    for _ in range(30):  # 2 ** 30 modules by name
        module = Record("Twice", {"_modules": {"a": module, "b": module}})
    with pytest.raises(UnsafePickleError, match="nested without end"):
        state_dict(module)


def test_one_large_tensor_under_many_names_is_refused():
    big = load(tensor((2**18,), (1,), blob=storage(2**18, bytes(2**20))))
    with pytest.raises(UnsafePickleError, match="more numbers than the file holds"):
        state_dict(Record("Net", {"_parameters": {f"p{i}": big for i in range(1000)}}))


@pytest.mark.parametrize(
    "data",
    [b"", b".", b"\x80", b"\x80\x04", b"\x80\x04.", b"PK\x03\x04", b"\x80\x04N", b"\x80\x09N."],
)
def test_files_that_are_not_pickles_are_refused(data):
    refuse(data, "refused|broken")


def test_every_truncated_snapshot_is_refused():
    _, data = small()
    for end in range(0, len(data) - 1, 7):
        refuse(data[:end], "refused|broken")


def test_ten_thousand_mutated_pickles_execute_nothing_and_are_loaded_or_refused():
    _, data = small()
    state_dict(load(data)["G"])
    outcomes = {"read": 0, "refused": 0}
    with hostile.watching() as seen:
        for mutated in hostile.mutations(data, 10_000, seed=0):
            try:
                content = load(mutated)
                if type(content) is dict and type(content.get("G")) is Record:
                    state = state_dict(content["G"])
                    assert {type(name) for name in state} <= {str}
                    assert {type(value) for value in state.values()} <= {torch.Tensor}
                outcomes["read"] += 1
            except UnsafePickleError:
                outcomes["refused"] += 1
    assert seen == []
    assert min(outcomes.values()) > 100, outcomes


def test_the_watch_reports_the_calls_of_a_plain_unpickler():
    with hostile.watching() as seen:
        pickle.loads(pickle.dumps(Calls(os.system, "true")))
    assert any(event.startswith("os.system") for event in seen)
    assert "pickle" not in vars(sys.modules["gan3d.checkpoints.official.unpickle"])
