"""Branches with gradients: as the merged weight would, nothing left behind, going on from an existing LoRA."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import autocast
from torch.nn import Conv2d, Linear

from lora_core.adapters import AdapterFile, LowRank
from lora_core.algebra.steps import run, steps_of
from lora_core.errors import TrainError
from lora_core.files.parse import parse_state_dict
from lora_core.stack.blocktable import block_table
from lora_core.targets import TargetMap
from lora_core.train import adapters
from lora_core.train.adapters import (
    FAMILIES,
    attached,
    chosen_layers,
    new_branches,
    trainable_layers,
)
from lora_core.train.choosing import in_blocks, ranks_of
from lora_core.train.fused import linear_with_branch, merging_is_cheaper


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(
            [Conv2d(3, 6, 3, stride=2, padding=1, dilation=1), Conv2d(6, 5, 1)]
        )
        self.ends = torch.nn.ModuleList([Linear(5, 7)])

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
    """Branches none of whose factors is zero any longer, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for branch in branches:
        factors = {
            name: torch.nn.Parameter(
                p.detach().double()
                + 0.3 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
            )
            for name, p in branch.factors.items()
        }
        made.append(replace(branch, factors=factors))
    return made


def picture(seed=1):
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).double()


def merged_output(net, branches, x):
    """The network computed in plain torch with the formula's weight in place of W, by its own file's reading."""
    weights = dict(net.named_parameters())
    for branch in branches:
        key = f"{branch.path}.weight"
        weights[key] = branch.changed(weights[key])
    return torch.func.functional_call(net, weights, (x,))


@pytest.mark.parametrize("family", FAMILIES)
def test_output_and_gradients_are_those_of_the_merged_weight(family):
    net = network()
    branches = filled(new_branches(trainable_layers(net), 2, 1.0, seed=5, family=family, block=3))
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


@pytest.mark.parametrize("family", FAMILIES)
def test_the_saved_file_is_read_as_the_very_weight_that_training_saw(family):
    """By the reader and the steps that put a LoRA on a model, which know nothing of the trainer."""
    net = network().float()
    branches = filled(new_branches(trainable_layers(net), 2, 1.0, seed=5, family=family, block=3))
    adapter = parse_state_dict(adapters.state_dict_of(branches), "made")
    assert not adapter.leftovers
    assert len(adapter.modules) == len(branches)
    for branch in branches:
        weight = net.get_parameter(f"{branch.path}.weight").detach().double()
        steps = steps_of([(adapter.modules[branch.path], 1.0)])
        assert torch.allclose(run(weight.clone(), steps), branch.changed(weight), atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_going_on_from_a_file_of_the_family_starts_from_its_weights(family):
    net = network().float()
    layers = trainable_layers(net)
    made = filled(new_branches(layers, 2, 1.0, seed=5, family=family, block=3))
    tensors = adapters.state_dict_of(made)
    new = new_branches(layers, 4, 4.0, seed=0)
    again = adapters.continued(new, layers, parse_state_dict(tensors, "made"))
    found = adapters.state_dict_of(again)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], tensors[key].float()) for key in tensors)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_branch_changes_nothing_and_a_detached_one_leaves_nothing(family):
    net = network().float()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    plain = net(picture().float())
    branches = new_branches(trainable_layers(net), 4, 4.0, seed=0, family=family)
    with attached(net, branches):
        assert torch.allclose(net(picture().float()), plain, atol=1e-6)
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
    branch = new_branches({"ends.0": Linear(5, 7)}, 16, 8.0, 0)[0]
    assert (branch.rank, branch.scale) == (5, 0.5)


def test_under_autocast_weights_and_gradients_stay_float32():
    net = network().bfloat16()
    branches = new_branches(trainable_layers(net), 4, 4.0, seed=0)
    with attached(net, branches), autocast("cpu", dtype=torch.bfloat16):
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


def test_a_rank_of_its_own_for_layers_by_pattern():
    layers = trainable_layers(network())
    ranks = ranks_of(layers, "# all blocks\nblocks = 4\nblocks.1 = 2 / 3\nends = 0", 8, 4.0)
    assert ranks == {"blocks.0": (4, 2.0), "blocks.1": (2, 3.0)}
    made = new_branches(layers, 8, 4.0, 0, ranks=ranks)
    assert [(branch.path, branch.rank, branch.alpha) for branch in made] == [
        ("blocks.0", 4, 2.0),
        ("blocks.1", 2, 3.0),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing = 4", "no chosen layer has 'nothing'"),
        ("blocks", "is no line such as"),
        ("blocks = 4 / x", "is no line such as"),
        ("blocks = 4 / 0", "has alpha 0"),
        ("( = 4", "no regular expression"),
        (".* = 0", "every layer has rank 0"),
    ],
)
def test_a_wrong_line_of_ranks_is_told(text, message):
    with pytest.raises(TrainError, match=message):
        ranks_of(trainable_layers(network()), text, 8, 4.0)


UNET = ("input_blocks.1.1.to_q", "input_blocks.1.1.to_v", "middle_block.1.to_q")


def unet_table():
    shapes = {f"diffusion_model.{path}.weight": (4, 4) for path in UNET}
    return block_table(TargetMap({}, shapes))


def test_the_block_language_says_which_layers_are_trained():
    layers = {path: Linear(4, 4) for path in UNET}

    def left(text):
        return list(in_blocks(layers, text, unet_table(), "diffusion_model."))

    assert left("") == list(UNET)
    assert left("*=0, IN01=1") == list(UNET[:2])
    assert left("*.q=0") == [UNET[1]]
    with pytest.raises(TrainError, match="0.5 is neither 0 nor 1"):
        left("IN01=0.5")
    with pytest.raises(TrainError, match="leaves none of the 3"):
        left("*=0")
    with pytest.raises(TrainError, match="Blocks to train: .*OUT09"):
        left("OUT09=0")


@pytest.mark.parametrize(("rows", "merges"), [(1, False), (4000, True)])
@pytest.mark.parametrize("bias", [True, False])
def test_beside_or_merged_a_linear_layer_gives_the_same_gradients(rows, merges, bias):
    generator = torch.Generator().manual_seed(2)
    shapes = [(rows, 12), (10, 12), (4, 12), (10, 4)]
    x, weight, down, up = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    offset = torch.randn(10, generator=generator, dtype=torch.float64) if bias else None
    assert merging_is_cheaper(rows, weight.shape, 4) == merges
    found = []
    for way in (
        lambda x, a, b: linear_with_branch(x, weight, offset, a, b, 0.7),
        lambda x, a, b: torch.nn.functional.linear(x, weight + 0.7 * b @ a, offset),
    ):
        learning = [t.clone().requires_grad_() for t in (x.unsqueeze(0), down, up)]
        y = way(*learning)
        found.append([y, *torch.autograd.grad(y.square().mean(), learning)])
    for ours, plain in zip(*found, strict=True):
        assert torch.allclose(ours, plain, atol=1e-12)


@pytest.mark.parametrize("merges", [False, True])
def test_a_linear_of_a_size_that_onednn_is_asked_for_has_the_gradients_of_float64(merges):
    rows, inside, out, rank = (4000, 96, 64, 24) if merges else (600, 96, 320, 8)
    assert merging_is_cheaper(rows, torch.Size((out, inside)), rank) == merges
    generator = torch.Generator().manual_seed(5)
    shapes = ((rows, inside), (rank, inside), (out, rank), (out, inside), (out,))
    drawn = [torch.randn(shape, generator=generator) * 0.2 for shape in shapes]
    found = []
    for numbers in (drawn, [each.double() for each in drawn]):
        x, down, up = (each.clone().requires_grad_() for each in numbers[:3])
        y = linear_with_branch(x, numbers[3], numbers[4], down, up, 0.7)
        found.append([y, *torch.autograd.grad(y.square().mean(), (x, down, up))])
    for single, double in zip(*found, strict=True):
        assert float((single.detach().double() - double.detach()).norm()) <= 2e-6 * float(
            double.detach().norm()
        )


def test_a_forward_that_another_took_over_is_called_and_left_alone():
    net = network().float()
    layer, asked = net.ends[0], []
    plain = layer.forward

    def theirs(x):
        asked.append(x.shape)
        return plain(x)

    layer.forward = theirs
    branches = new_branches(trainable_layers(net), 4, 4.0, seed=0)
    with attached(net, branches):
        net(picture().float())
    assert asked
    assert layer.forward is theirs
    assert all("forward" not in each.__dict__ for each in net.modules() if each is not layer)
