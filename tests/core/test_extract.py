"""The difference of two models as a LoRA: what comes back, what is whole, what is refused."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch

from lora_core.adapters import LowRank
from lora_core.errors import LoraFileError, MergeError
from lora_core.files.tensorfile import open_tensors
from lora_core.merge.certificate import CERTIFICATE_FIELD
from lora_core.merge.extract import ExtractOrder, Parameter, extract
from lora_core.merge.ranks import RankRule
from tests.core.merge_rows import delta, exact, factors

ALL = ExtractOrder(RankRule("energy", 1 - 1e-10), 16, torch.float32)


def parameter(name, kind, tuned, base):
    return Parameter(name, kind, tuple(tuned.shape), lambda: (tuned, base))


@pytest.mark.parametrize("shape", [(40, 30), (24, 6, 3, 3), (12, 900)])
def test_a_low_rank_difference_comes_back_at_its_own_rank(shape, generator):
    flat = (shape[0], int(torch.tensor(shape[1:]).prod()))
    change = exact(factors(generator, *flat, 5)).reshape(shape)
    base = torch.randn(shape, generator=generator, dtype=torch.float64)
    given = parameter("diffusion_model.x", "weight", base + change, base)
    done = extract([given], ALL, "tuned")
    adapter = done.file.modules["diffusion_model.x"]
    assert isinstance(adapter, LowRank)
    assert adapter.rank in (
        5,
        6,
    )  # the difference is taken in float32, whose rounding may take a rank
    error = float((delta(adapter).reshape(shape) - change).norm() / change.norm())
    assert error <= 2e-6
    assert adapter.down.shape[1:] == shape[1:]
    assert done.certificate.error == pytest.approx(error, abs=2e-6)


def test_the_certificate_states_the_error_of_what_is_written(generator):
    base, tuned = (torch.randn(40, 30, generator=generator) for _ in range(2))
    order = ExtractOrder(RankRule("rank", 7), 64, torch.float16)
    done = extract([parameter("diffusion_model.x", "weight", tuned, base)], order, "t")
    change = (tuned - base).double()
    adapter = done.file.modules["diffusion_model.x"]
    expected = float((delta(adapter) - change).norm() / change.norm())
    assert done.certificate.layers[0].error == pytest.approx(expected, rel=1e-5)
    best = float(torch.linalg.svdvals(change)[7:].norm() / change.norm())
    assert best <= expected <= best * (1 + 1e-4)
    said = json.loads(done.file.metadata[CERTIFICATE_FIELD])
    assert (said["what"], said["layers"][0][3]) == ("extract", 7)


def test_norms_and_biases_are_whole_and_what_is_the_same_is_left_out(generator):
    base = torch.randn(20, generator=generator)
    given = [
        parameter("diffusion_model.norm", "weight", base + 0.5, base),
        parameter("diffusion_model.norm", "bias", base * 2, base),
        parameter("diffusion_model.same", "weight", torch.ones(4, 4), torch.ones(4, 4)),
    ]
    done = extract(given, ALL, "t")
    assert set(done.file.differences) == {
        ("diffusion_model.norm", kind) for kind in ("weight", "bias")
    }
    whole = done.file.differences["diffusion_model.norm", "weight"]
    torch.testing.assert_close(whole.tensor, torch.full((20,), 0.5))
    assert done.certificate.notes == ("1 of 3 parameters are the same in both models",)


def test_where_factors_would_be_larger_the_difference_is_kept_whole(generator):
    base, tuned = (torch.randn(6, 5, generator=generator) for _ in range(2))
    done = extract([parameter("diffusion_model.x", "weight", tuned, base)], ALL, "t")
    torch.testing.assert_close(
        done.file.differences["diffusion_model.x", "weight"].tensor, tuned - base
    )


def test_numbers_that_are_not_finite_are_named_and_one_layer_is_read_at_a_time(generator):
    alive = []

    def reading(name):
        def read():
            alive.append(name)
            tuned = torch.randn(30, 20, generator=generator)
            if name.endswith("bad"):
                tuned[0, 0] = float("nan")
            return tuned, torch.zeros(30, 20)

        return Parameter(name, "weight", (30, 20), read)

    seen = []
    names = ["diffusion_model.a", "diffusion_model.bad", "diffusion_model.c"]
    done = extract(
        [reading(name) for name in names],
        ExtractOrder(RankRule("rank", 2)),
        "t",
        progress=lambda count, of: seen.append((count, of, list(alive))),
    )
    assert [len(each[2]) for each in seen] == [1, 2, 3]
    assert [(each.key, "not finite" in each.reason) for each in done.certificate.dropped] == [
        ("diffusion_model.bad.weight", True)
    ]


def test_equal_models_and_a_file_size_are_refused_with_the_way_out():
    same = parameter("diffusion_model.x", "weight", torch.ones(4, 4), torch.ones(4, 4))
    with pytest.raises(MergeError, match="applied live"):
        extract([same], ALL, "t")
    with pytest.raises(MergeError, match="no parameter in common"):
        extract([], ALL, "t")
    with pytest.raises(MergeError, match="Loom Resize"):
        ExtractOrder(RankRule("size", 5.0))


def test_a_large_file_is_read_one_tensor_at_a_time(tmp_path, generator):
    tensors = {
        "b": torch.randn(5, 3, generator=generator).to(torch.bfloat16),
        "a": torch.randn(7, generator=generator),
        "c": torch.randn(2, 2, generator=generator).to(torch.float8_e4m3fn),
    }
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(tensors, path)
    opened = open_tensors(path, "x")
    for name, tensor in tensors.items():
        assert torch.equal(opened.read(name).view(torch.uint8), tensor.view(torch.uint8))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(LoraFileError, match="x"):
        open_tensors(path, "x")
    with pytest.raises(LoraFileError, match="early"):
        [opened.read(name) for name in tensors]


def test_a_single_number_that_differs_is_a_whole_difference():
    number = Parameter(
        "diffusion_model.gate", "weight", (), lambda: (torch.tensor(2.0), torch.tensor(1.5))
    )
    found = extract([number], ExtractOrder(), "gate").file.differences
    assert found["diffusion_model.gate", "weight"].tensor == 0.5
