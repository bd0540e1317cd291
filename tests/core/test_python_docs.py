"""docs/python.md does what it says, in an interpreter without ComfyUI."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lora_core.files.writer import write_lora
from tests.core.lora_tensors import pair

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
LAYERS = ("unet.mid_block.attn1.to_q", "unet.mid_block.attn1.to_v")


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> tuple[Path, str]:
    """The folder in which the page's blocks ran, and what they printed."""
    folder = tmp_path_factory.mktemp("python")
    generator = torch.Generator().manual_seed(2)
    for name, rank in (("style", 4), ("character", 6)):
        tensors = {}
        for layer in LAYERS:
            endings = (".lora_B.weight", ".lora_A.weight")
            tensors |= pair(layer, generator, out=24, inner=20, rank=rank, names=endings)
        write_lora(tensors, {"ss_output_name": name}, folder / f"{name}.safetensors", replace=False)
    (folder / "page.py").write_text("\n".join(BLOCKS), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "page.py"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_every_block_of_the_page_runs_and_says_something(ran):
    assert len(BLOCKS) == 5
    assert "style.safetensors" in ran[1]
    assert "sha256:" in ran[1]
    assert "rank" in ran[1]


def delta(path: Path, module: str, up: str, down: str) -> torch.Tensor:
    tensors = load_file(path)
    return tensors[f"{module}.{up}.weight"].double() @ tensors[f"{module}.{down}.weight"].double()


def test_the_files_it_writes_are_what_the_page_promises(ran):
    folder, _ = ran
    kohya = load_file(folder / "style_kohya.safetensors")
    assert {key.split(".")[0] for key in kohya} == {
        "lora_unet_mid_block_attn1_to_q",
        "lora_unet_mid_block_attn1_to_v",
    }
    assert {tensor.dtype for tensor in kohya.values()} == {torch.float16}
    both = load_file(folder / "both.safetensors")
    ranks = {tensor.shape[0] for key, tensor in both.items() if "down" in key or "lora_A" in key}
    assert ranks == {8}
    (name,) = {key.rpartition(".lora")[0] for key in both if "to_q" in key and ".lora" in key}
    endings = (
        ("lora_B", "lora_A") if any("lora_A" in key for key in both) else ("lora_up", "lora_down")
    )
    exact = 0.8 * delta(folder / "style.safetensors", LAYERS[0], "lora_B", "lora_A")
    exact += 0.9 * delta(folder / "character.safetensors", LAYERS[0], "lora_B", "lora_A")
    scale = float(both[f"{name}.alpha"]) / 8 if f"{name}.alpha" in both else 1.0
    found = scale * delta(folder / "both.safetensors", name, *endings)
    best = torch.linalg.svdvals(exact)[8:].norm()
    assert float((found - exact).norm()) <= 1.001 * float(best) + 1e-5 * float(exact.norm())
    assert (folder / "small.safetensors").stat().st_size <= 1.5 * (
        folder / "style.safetensors"
    ).stat().st_size
