"""A LoRA's header tells its modules without its weights being read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_core.account import describe
from lora_core.errors import LoraFileError
from lora_core.files.outline import read_outline
from lora_core.files.reader import read_adapter

TOYS = sorted(
    (Path(__file__).resolve().parents[2] / "tools" / "toy_model" / "loras").glob("*.safetensors")
)


@pytest.mark.parametrize("path", TOYS, ids=lambda path: path.stem)
def test_it_says_the_same_as_the_whole_file(path):
    outline, whole = read_outline(path, path.name), read_adapter(path, path.name)
    assert describe(outline) == describe(whole)
    assert outline.metadata == whole.metadata
    assert outline.modules.keys() == whole.modules.keys()
    spans = {name: module.span for name, module in whole.modules.items()}
    assert {name: module.span for name, module in outline.modules.items()} == spans


def test_the_weights_are_not_read(tmp_path):
    """Zeros in place of all weights but the alphas make no difference."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(TOYS[0], "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    emptied = {
        key: tensor.clone() if tensor.numel() == 1 else tensor * float("nan")
        for key, tensor in tensors.items()
    }
    path = tmp_path / "nan.safetensors"
    save_file(emptied, path, metadata)
    outline = read_outline(path, "nan")
    assert describe(outline) == describe(read_adapter(TOYS[0], "toy"))
    assert {t.device.type for m in outline.modules.values() for t in m.tensors} == {"meta"}


@pytest.mark.parametrize("content", [b"", b"x", b"\xff" * 64])
def test_what_is_no_lora_is_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(LoraFileError, match="not a readable safetensors"):
        read_outline(path, "x")


def test_another_format_is_not_opened(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(b"code")
    with pytest.raises(LoraFileError, match="not opened"):
        read_outline(path, "x")


def test_more_single_numbers_than_any_lora_has_are_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    save_file({f"a{n}.alpha": torch.ones(()) for n in range(20_001)}, path)
    with pytest.raises(LoraFileError, match="more than 20000 single numbers"):
        read_outline(path, "x")
