"""Bad input: the graph fails on that node with a message that names file, key or row; ComfyUI stays up."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from graphs import STYLE, pixels, twin, with_rows
from safetensors.torch import load_file, save_file

from tools.devkit.host_client import PromptFailed


def nan_weights(good):
    tensors = load_file(good)
    key = next(name for name in tensors if name.endswith("lora_up.weight"))
    tensors[key].view(-1)[0] = float("nan")
    return tensors


def for_sdxl(good):
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    return {
        f"{name}.lora_up.weight": torch.ones(640, 4),
        f"{name}.lora_down.weight": torch.ones(4, 2048),
    }


def clashing(good):
    tensors = load_file(good)
    key = next(name for name in tensors if name.endswith("lora_up.weight"))
    tensors[key] = torch.ones(tensors[key].shape[0] + 1, *tensors[key].shape[1:])
    return tensors


def of_nothing_known(good):
    return {
        "some.layer.lora_A.weight": torch.ones(2, 4),
        "some.layer.lora_B.weight": torch.ones(4, 2),
    }


def vera(good):
    return {
        "lora_unet_mid_block_attn.vera_lambda_b": torch.ones(2),
        "lora_unet_mid_block_attn.vera_lambda_d": torch.ones(2),
    }


# A file's content: bytes, the share of the good file that is left, or its tensors made from the good file.
Content = bytes | float | Callable[[Path], dict[str, torch.Tensor]]
FILES: dict[str, tuple[Content, str]] = {
    "empty.safetensors": (b"", "empty.safetensors: the file is empty"),
    "truncated.safetensors": (0.5, "truncated.safetensors: not a readable safetensors file"),
    "webpage.safetensors": (
        b"<html>not found</html>" * 99,
        "webpage.safetensors: not a readable safetensors file",
    ),
    "nan.safetensors": (nan_weights, "lora_up.weight' holds 1 values that are NaN"),
    "sdxl.safetensors": (for_sdxl, "sdxl.safetensors: this LoRA is for SDXL; the model is SD1.5"),
    "clash.safetensors": (clashing, "shapes do not fit this model"),
    "unknown.safetensors": (
        of_nothing_known,
        "none of its keys fits this model, first 'some.layer'",
    ),
    "vera.safetensors": (vera, "VeRA adapters are not read"),
}
ROWS = {
    "missing file": (
        '[{"lora": "gone.safetensors"}]',
        "LoRA 'gone.safetensors' not found in the loras folders",
    ),
    "nearest name": ('[{"lora": "loom_toy_stlye.safetensors"}]', f"The nearest names: {STYLE}"),
    "out of the folder": (
        '[{"lora": "../checkpoints/loom_toy.safetensors"}]',
        "points outside the loras folders",
    ),
    "absolute path": ('[{"lora": "/etc/passwd"}]', "points outside the loras folders"),
    "windows path": ('[{"lora": "C:\\\\x.safetensors"}]', "points outside the loras folders"),
    "malformed JSON": ('[{"lora": ', "The rows are not JSON"),
    "strength NaN": (
        f'[{{"lora": "{STYLE}", "model": NaN}}]',
        "Row 1: '" + STYLE + "': the model strength is nan",
    ),
    "unknown field": (
        f'[{{"lora": "{STYLE}", "strenght": 1}}]',
        "Row 1 has an unknown field 'strenght'",
    ),
}


def fails_with(client, prompt, kind: str, message: str) -> None:
    """The prompt fails on the node of this kind with this message, and the host is still there."""
    with pytest.raises(PromptFailed) as failure:
        client.run(prompt)
    assert failure.value.node_type == kind
    assert message in str(failure.value)
    assert client.get("/system_stats")["system"]["comfyui_version"]


@pytest.fixture(scope="module")
def base_picture(client):
    return pixels(client, with_rows(twin(client, "style_and_character"), []))


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_fails_on_its_node_and_nothing_is_half_applied(client, host, base_picture, name):
    content, message = FILES[name]
    loras = host.base / "models" / "loras"
    good = loras / STYLE
    if callable(content):
        save_file(content(good), loras / name)
    else:
        whole = good.read_bytes()
        (loras / name).write_bytes(
            content if isinstance(content, bytes) else whole[: int(len(whole) * content)]
        )
    base = twin(client, "style_and_character")
    bad_second = with_rows(copy.deepcopy(base), [{"lora": STYLE}, {"lora": name}])
    fails_with(client, bad_second, "LoomStack", message)
    # On the very model that the failed stack was for: it is still loaded.
    assert (pixels(client, with_rows(base, [])) == base_picture).all()


@pytest.mark.parametrize("case", ROWS)
def test_a_bad_row_fails_on_its_node(client, case):
    rows, message = ROWS[case]
    fails_with(client, with_rows(twin(client, "style_and_character"), rows), "LoomStack", message)


def test_a_name_of_the_loader_that_leaves_the_folder_is_refused(client):
    prompt = twin(client, "one_lora")
    for node in prompt.values():
        if node["class_type"] == "LoomLoader":
            node["inputs"]["lora_name"] = "../checkpoints/loom_toy.safetensors"
    fails_with(client, prompt, "LoomLoader", "points outside the loras folders")


def test_a_strength_of_the_loader_that_is_no_number_is_refused(client):
    prompt = twin(client, "one_lora")
    for node in prompt.values():
        if node["class_type"] == "LoomLoader":
            node["inputs"]["strength_model"] = float("nan")
    fails_with(
        client, prompt, "LoomLoader", "the model strength is nan; it must be a finite number"
    )


def test_rows_that_come_by_a_link_are_checked_when_they_run(client):
    prompt = with_rows(twin(client, "style_and_character"), [])
    prompt["text"] = {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "{broken"}}
    for node in prompt.values():
        if node["class_type"] == "LoomStack":
            node["inputs"]["rows"] = ["text", 0]
    fails_with(client, prompt, "LoomStack", "The rows are not JSON")
