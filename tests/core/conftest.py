"""Helpers of the core ring: LoRAs made by hand, seeded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch

WriteLora = Callable[..., Path]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture
def write_lora(tmp_path: Path) -> WriteLora:
    """Write tensors as a safetensors file and return its path."""

    def write(
        tensors: Mapping[str, torch.Tensor],
        name: str = "some.safetensors",
        metadata: dict[str, str] | None = None,
    ) -> Path:
        path = tmp_path / name
        safetensors.torch.save_file(dict(tensors), path, metadata)
        return path

    return write
