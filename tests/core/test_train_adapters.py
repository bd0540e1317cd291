"""Branches with gradients: as the merged weight would, nothing left behind, going on from an existing LoRA."""

from __future__ import annotations

import pytest
import torch

from lora_core.adapters import AdapterFile, LowRank
from lora_core.errors import TrainError
from lora_core.train import adapters
from lora_core.train.adapters import attached, chosen_layers, new_branches, trainable_layers


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(
            [torch.nn.Conv2d(3, 6, 3, stride=2, padding=1, dilation=1), torch.nn.Conv2d(6, 5, 1)]
        )
        self.ends = torch.nn.ModuleList([torch.nn.Linear(5, 7)])

    def forward(self, x):
        x = self.blocks[1](torch.tanh(self.blocks[0](x)))
        return self.ends[0](x.movedim(1, -1))


def network(seed=0):
    torch.manual_seed(seed)
    made = Network().double()
    for parameter in made.parameters():
        parameter.requires_grad_(False)
    return made


def filled(branches, seed=3):
    """Branches whose up is no longer zero, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for branch in branches:
        up = torch.randn(branch.up.shape, generator=generator, dtype=torch.float64)
        made.append(
            adapters.Branch(
                branch.path,
                torch.nn.Parameter(branch.down.detach().double()),
                torch.nn.Parameter(up),
                branch.alpha,
            )
        )
    return made


def picture(seed=1):
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).double()


def merged_output(net, branches, x):
    """The network computed in plain torch with W + scale * up @ down in place of W."""
    weights = dict(net.named_parameters())
    for branch in branches:
        key = f"{branch.path}.weight"
        delta = branch.scale * branch.up.flatten(1) @ branch.down.flatten(1)
        weights[key] = weights[key] + delta.reshape(weights[key].shape)
    return torch.func.functional_call(net, weights, (x,))


def test_output_and_gradients_are_those_of_the_merged_weight():
    net = network()
    branches = filled(new_branches(trainable_layers(net), 4, 2.0, seed=5))
    parameters = adapters.parameters_of(branches)
    with attached(net, branches):
        beside = net(picture())
        ours = torch.autograd.grad(beside.square().mean(), parameters)
    merged = merged_output(net, branches, picture())
    theirs = torch.autograd.grad(merged.square().mean(), parameters)
    assert torch.allclose(beside, merged, atol=1e-12)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, atol=1e-12)
        assert mine.abs().max() > 0


def test_a_new_branch_changes_nothing_and_a_detached_one_leaves_nothing():
    net = network().float()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    plain = net(picture().float())
    branches = new_branches(trainable_layers(net), 4, 4.0, seed=0)
    with attached(net, branches):
        assert torch.equal(net(picture().float()), plain)
    with pytest.raises(ZeroDivisionError), attached(net, branches):
        raise ZeroDivisionError
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(layer._forward_hooks for layer in net.modules())
    assert set(net.state_dict()) == set(before)


def test_new_numbers_depend_on_seed_and_path_alone():
    layers = trainable_layers(network())
    some = {"ends.0": layers["ends.0"]}
    alone, among = new_branches(some, 4, 4.0, 7)[0], new_branches(layers, 4, 4.0, 7)[-1]
    assert torch.equal(alone.down, among.down)
    assert not torch.equal(new_branches(some, 4, 4.0, 8)[0].down, alone.down)


def test_a_rank_above_the_layers_own_is_lowered_and_the_scale_stays():
    branch = new_branches({"ends.0": torch.nn.Linear(5, 7)}, 16, 8.0, 0)[0]
    assert (branch.rank, branch.scale) == (5, 0.5)


def test_under_autocast_weights_and_gradients_stay_float32():
    net = network().bfloat16()
    branches = new_branches(trainable_layers(net), 4, 4.0, seed=0)
    with attached(net, branches), torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(picture().bfloat16())
    out.float().square().mean().backward()
    dtypes = {None if p.grad is None else p.grad.dtype for p in adapters.parameters_of(branches)}
    assert dtypes == {torch.float32}
    with attached(net, branches):
        assert net(picture().bfloat16()).dtype == torch.bfloat16


def test_patterns_choose_layers_and_a_pattern_without_any_is_an_error():
    net = network()
    assert list(chosen_layers(net, pattern=r"^ends")) == ["ends.0"]
    assert set(chosen_layers(net, "all layers")) == {"blocks.0", "blocks.1", "ends.0"}
    with pytest.raises(TrainError, match="No layer of the model is chosen by 'nothing'"):
        chosen_layers(net, pattern="nothing")
    with pytest.raises(TrainError, match="no regular expression"):
        chosen_layers(net, pattern="(")


def test_going_on_starts_from_the_very_weights():
    net = network()
    layers = trainable_layers(net)
    up, down = torch.randn(7, 3), torch.randn(3, 5)
    old = AdapterFile("old", {"ends.0": LowRank(up, down, 1.5)})
    branches = adapters.continued(new_branches(layers, 4, 4.0, 0), layers, old)
    branch = next(one for one in branches if one.path == "ends.0")
    assert torch.equal(branch.up, up)
    assert torch.equal(branch.down, down)
    assert branch.scale == 0.5
    assert len(branches) == 3


@pytest.mark.parametrize(
    ("path", "shape", "message"),
    [("ends.0", (6, 3), "shape"), ("ends.1", (7, 3), "no such layer")],
)
def test_going_on_from_what_does_not_fit_is_refused(path, shape, message):
    layers = trainable_layers(network())
    old = AdapterFile("old", {path: LowRank(torch.randn(shape), torch.randn(3, 5), None)})
    with pytest.raises(TrainError, match=message):
        adapters.continued(new_branches(layers, 4, 4.0, 0), layers, old)
