"""A checkpoint that does not fit is refused in one short message, before anything is loaded."""

import pytest
import torch
from torch import nn

import gan3d
from gan3d.checkpoints.agreement import refuse_misfit
from gan3d.checkpoints.runs import CONFIG_KEY, pack_config


class Net(nn.Module):
    def __init__(self, width: int = 3):
        super().__init__()
        self.a, self.b = nn.Linear(2, width), nn.Linear(width, 2)
        self.register_buffer("images_seen", torch.tensor(8))


def content(net: Net) -> dict:
    optimizer = torch.optim.Adam(net.parameters())
    sum(p.sum() for p in net.parameters()).backward()
    optimizer.step()
    return {
        "state_dict": net.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "loops": {},
        "running_means": {},
        CONFIG_KEY: pack_config({}),
    }


def said(checkpoint: dict, net: Net | None = None) -> str:
    net = net or Net()
    with pytest.raises(ValueError, match="this is gan3d") as refused:
        refuse_misfit(checkpoint, net.state_dict(), [list(net.parameters())])
    assert len(str(refused.value)) < 400
    return str(refused.value)


def test_what_fits_is_not_refused():
    net = Net()
    refuse_misfit(content(net), net.state_dict(), [list(net.parameters())])
    weights_alone = {"state_dict": net.state_dict()}
    refuse_misfit(weights_alone, net.state_dict())
    fresh = content(net)
    fresh["optimizer_states"][0]["state"] = {}  # of a run that took no step yet
    refuse_misfit(fresh, net.state_dict(), [list(net.parameters())])


def test_missing_unknown_and_misshapen_tensors_are_named_the_first_three_of_them():
    checkpoint = content(Net(width=4))
    assert "a.weight has shape (4, 2), expected (3, 2)" in said(checkpoint)
    del checkpoint["state_dict"]["b.bias"]
    checkpoint["state_dict"]["c"] = torch.zeros(1)
    text = said(checkpoint)
    assert "b.bias is missing; c is not known; a.weight has shape" in text
    assert "and 2 more" in text


def test_who_wrote_it_and_in_which_format_is_said():
    version = gan3d.__version__
    checkpoint = content(Net(width=4))
    this = f"this is gan3d {version}"
    assert said(checkpoint).endswith(f"(format 1, written by gan3d {version}; {this})")
    checkpoint[CONFIG_KEY] = "["
    assert said(checkpoint).endswith(f"(of no known format; {this}, which writes 1)")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c.update(state_dict=7), "state_dict is int"),
        (lambda c: c["state_dict"].update({"a.bias": "x"}), "a.bias is str, expected a tensor"),
        (
            lambda c: c["state_dict"].update({"a.bias": torch.zeros(3, dtype=torch.int64)}),
            "a.bias has torch.int64, expected torch.float32",
        ),
        (lambda c: c["state_dict"].update(images_seen=torch.tensor(-5)), "images_seen is -5"),
        (
            lambda c: c["state_dict"].update(images_seen=torch.tensor(2**62)),
            "images_seen is 4611686018427387904",
        ),
        (lambda c: c.pop("running_means"), "running_means is missing"),
        (lambda c: c.pop("optimizer_states"), "optimizer_states is missing"),
        (lambda c: c.update(optimizer_states=[]), "not that of 1 optimizers"),
        (lambda c: c.update(optimizer_states=[[]]), "optimizer_states.0 is not the state"),
        (lambda c: c["optimizer_states"][0]["param_groups"][0]["params"].pop(), "is of 3 tensors"),
        (
            lambda c: c["optimizer_states"][0]["state"][1].update(exp_avg=torch.zeros(5)),
            "optimizer_states.0.state.1.exp_avg has shape (5,), expected (3,)",
        ),
        (
            lambda c: c["optimizer_states"][0]["state"][1].pop("exp_avg_sq"),
            "optimizer_states.0.state.1.exp_avg_sq is NoneType, expected a tensor",
        ),
    ],
)
def test_each_misfit_has_its_words(change, expected):
    checkpoint = content(Net())
    change(checkpoint)
    assert expected in said(checkpoint)
