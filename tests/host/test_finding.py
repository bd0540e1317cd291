"""A workflow finds its LoRAs by content on a running host, and never uses another file in silence."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import CHARACTER, STYLE, Prompt, only, pixels, twin, with_rows
from safetensors.torch import load_file, save_file

from tools.devkit.host_client import Finished, PromptFailed, PromptRefused


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def loras(host) -> Path:
    return host.base / "models" / "loras"


@pytest.fixture
def index(host) -> Path:
    return host.base / "user" / "__lora_loom" / "index.json"


@pytest.fixture
def loader_prompt(client) -> Prompt:
    return twin(client, "one_lora")


def node_id(prompt: Prompt, kind: str) -> str:
    (found,) = [key for key, node in prompt.items() if node["class_type"] == kind]
    return found


def with_lora(prompt: Prompt, name: str, lock: dict[str, Any] | None = None) -> Prompt:
    """A copy of the prompt in which the loader names this LoRA, with this lock."""
    prompt = copy.deepcopy(prompt)
    only(prompt, "LoomLoader")["inputs"] |= {
        "lora_name": name,
        "lora_lock": json.dumps(lock) if lock else "",
    }
    return prompt


def loader_ui(prompt: Prompt, finished: Finished) -> dict[str, Any]:
    return finished.outputs[node_id(prompt, "LoomLoader")]


def refusal(client, prompt: Prompt, kind: type[PromptFailed] = PromptFailed) -> str:
    with pytest.raises(kind) as failure:
        client.run(prompt)
    assert failure.value.node_type in ("LoomLoader", "LoomStack")
    return str(failure.value)


def test_a_run_tells_the_lock_and_writes_the_index(client, loras, index, loader_prompt):
    shutil.copyfile(loras / STYLE, loras / "locked.safetensors")
    prompt = with_lora(loader_prompt, "locked.safetensors")
    (text,) = loader_ui(prompt, client.run(prompt))["loom_lock"]
    lock = json.loads(text)
    assert lock["name"] == "locked.safetensors"
    assert lock["sha256"] == sha256(loras / "locked.safetensors")
    assert len(lock["autov3"]) == 12
    assert lock["base"] == "SD1.5"
    row = json.loads(index.read_text())["files"][str((loras / "locked.safetensors").resolve())]
    assert (row["sha256"], row["autov3"], row["base"]) == (
        lock["sha256"],
        lock["autov3"],
        lock["base"],
    )


def test_a_renamed_file_runs_by_its_hash_and_is_said(client, loras, host, loader_prompt):
    (loras / "moved").mkdir(exist_ok=True)
    shutil.copyfile(loras / STYLE, loras / "before.safetensors")
    lock = {"name": "before.safetensors", "sha256": sha256(loras / "before.safetensors")}
    expected = pixels(client, with_lora(loader_prompt, "before.safetensors"))
    # Another file than the toy one: metadata aside, the same weights would be found too.
    tensors = {key: tensor * 1.5 for key, tensor in load_file(loras / STYLE).items()}
    save_file(tensors, loras / "before.safetensors")
    lock["sha256"] = sha256(loras / "before.safetensors")
    stronger = pixels(client, with_lora(loader_prompt, "before.safetensors"))
    assert not np.array_equal(expected, stronger)
    (loras / "before.safetensors").rename(loras / "moved" / "after.safetensors")
    prompt = with_lora(loader_prompt, "before.safetensors", lock)
    finished = client.run(prompt)
    (report,) = loader_ui(prompt, finished)["text"]
    assert "found by its hash as moved" in report
    assert "the workflow named before.safetensors" in report
    assert "found by its hash as moved" in host.log()
    assert np.array_equal(pixels(client, prompt), stronger)
    rows = [{"lora": "before.safetensors", "model": 0.8, "clip": 0.8, "sha256": lock["sha256"]}]
    stack = with_rows(twin(client, "style_and_character"), rows)
    (said,) = client.run(stack).outputs[node_id(stack, "LoomStack")]["text"]
    assert "found by its hash as moved" in said


def test_a_file_that_was_never_hashed_is_found_too(client, loras, index, loader_prompt):
    tensors = {key: tensor * 0.5 for key, tensor in load_file(loras / STYLE).items()}
    save_file(tensors, loras / "from_elsewhere.safetensors")
    digest = sha256(loras / "from_elsewhere.safetensors")
    assert not index.exists() or digest not in index.read_text()
    prompt = with_lora(loader_prompt, "their_name.safetensors", {"sha256": digest})
    bars: list[tuple[str, float, float]] = []
    finished = client.run(prompt, on_progress=lambda *bar: bars.append(bar))
    (report,) = loader_ui(prompt, finished)["text"]
    assert "found by its hash as from_elsewhere.safetensors" in report
    ours = [bar[1:] for bar in bars if bar[0] == node_id(prompt, "LoomLoader")]
    assert ours
    assert ours[-1][0] == ours[-1][1] >= (loras / "from_elsewhere.safetensors").stat().st_size
    assert digest in index.read_text()


def test_edited_metadata_is_no_other_lora(client, loras, loader_prompt):
    tensors = {key: tensor * 0.7 for key, tensor in load_file(loras / STYLE).items()}
    path = loras / "edited.safetensors"
    save_file(tensors, path)
    prompt = with_lora(loader_prompt, path.name)
    (text,) = loader_ui(prompt, client.run(prompt))["loom_lock"]
    save_file(tensors, path, {"modelspec.title": "Rain"})
    prompt = with_lora(loader_prompt, path.name, json.loads(text))
    (report,) = loader_ui(prompt, client.run(prompt))["text"]
    assert "its metadata was edited since; the weights are the same" in report


def test_another_file_under_the_name_is_refused_with_both_hashes_and_accepted_on_demand(
    client, loras, loader_prompt
):
    path = loras / "replaced_by_hand.safetensors"
    gone = "1" * 64
    shutil.copyfile(loras / CHARACTER, path)
    lock: dict[str, Any] = {"name": path.name, "sha256": gone}
    for prompt in (
        with_lora(loader_prompt, path.name, lock),
        with_rows(twin(client, "style_and_character"), [{"lora": path.name, "sha256": gone}]),
    ):
        message = refusal(client, prompt)
        assert gone in message
        assert sha256(path) in message
        assert '"accept": true' in message
        # By now all is hashed, so that it is refused before the graph runs.
        assert sha256(path) in refusal(client, prompt, PromptRefused)
    accepted = with_lora(loader_prompt, path.name, lock | {"accept": True})
    (report,) = loader_ui(accepted, client.run(accepted))["text"]
    assert "accepted as it is" in report
    assert np.array_equal(
        pixels(client, accepted), pixels(client, with_lora(loader_prompt, path.name))
    )
    rows = [{"lora": path.name, "sha256": gone, "accept": True}]
    assert pixels(client, with_rows(twin(client, "style_and_character"), rows)).std() > 1


def test_what_is_nowhere_is_named_with_its_hash_and_the_nearest_name(client, loader_prompt):
    lock = {"sha256": "2" * 64, "autov3": "3" * 12}
    message = refusal(client, with_lora(loader_prompt, "loom_toy_stlye.safetensors", lock))
    assert "LoRA 'loom_toy_stlye.safetensors' not found" in message
    assert "2" * 64 in message
    assert f"The nearest names: {STYLE}" in message


def test_a_hash_opens_nothing_outside_the_loras_folders(client, host, loader_prompt):
    model = host.base / "models" / "checkpoints" / "loom_toy.safetensors"
    name = "../checkpoints/loom_toy.safetensors"
    prompt = with_lora(loader_prompt, name, {"sha256": sha256(model)})
    assert "points outside the loras folders" in refusal(client, prompt, PromptRefused)


def test_a_folder_that_came_in_front_is_said(client, loras, loader_prompt):
    (loras / "people").mkdir(exist_ok=True)
    shutil.copyfile(loras / CHARACTER, loras / "people" / "only_here.safetensors")
    prompt = with_lora(loader_prompt, "only_here.safetensors")
    (report,) = loader_ui(prompt, client.run(prompt))["text"]
    assert "found as people" in report


def test_the_node_follows_the_file_that_its_hash_means(client, loras, loader_prompt):
    """Nothing changed: nothing runs again. The file behind the hash moves to another name: the node runs again."""
    tensors = {key: tensor * 0.3 for key, tensor in load_file(loras / STYLE).items()}
    save_file(tensors, loras / "follow_a.safetensors")
    digest = sha256(loras / "follow_a.safetensors")
    prompt = with_lora(loader_prompt, "follow_a.safetensors", {"sha256": digest})
    loader = node_id(prompt, "LoomLoader")
    assert loader in client.run(prompt).executed
    assert client.run(prompt).executed == ()
    (loras / "follow_a.safetensors").rename(loras / "follow_b.safetensors")
    finished = client.run(prompt)
    assert loader in finished.executed
    assert "found by its hash as follow_b" in loader_ui(prompt, finished)["text"][0]


def test_inspect_shows_the_hashes(client, loras, loader_prompt):
    only(loader_prompt, "LoomInspect")["inputs"]["lora_name"] = CHARACTER
    inspect = node_id(loader_prompt, "LoomInspect")
    (report,) = client.run(loader_prompt).outputs[inspect]["text"]
    assert f"sha256: {sha256(loras / CHARACTER)}" in report
