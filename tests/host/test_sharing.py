"""What a workflow needs is said, and a picture keeps the workflow's own facts untouched."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from typing import Any

import pytest
from graphs import CHARACTER, STYLE, Prompt, only, twin, with_rows
from PIL import Image

from tools.devkit.environment import ROOT
from tools.devkit.host_client import PromptRefused


def digest(host, name: str) -> str:
    return hashlib.sha256((host.base / "models" / "loras" / name).read_bytes()).hexdigest()


def node_id(prompt: Prompt, kind: str) -> str:
    (found,) = [key for key, node in prompt.items() if node["class_type"] == kind]
    return found


def with_text_outputs(prompt: Prompt) -> Prompt:
    """The appended outputs of Loom Inspect, each shown by a node of core."""
    inspect = node_id(prompt, "LoomInspect")
    for name, slot in (("needs", 3), ("hashes", 4), ("list", 5)):
        prompt[name] = {"class_type": "PreviewAny", "inputs": {"source": [inspect, slot]}}
    return prompt


def test_what_a_stack_needs_is_listed_with_the_hashes_of_its_files(client, host):
    prompt = with_text_outputs(twin(client, "share_a_workflow"))
    outputs = client.run(prompt).outputs
    needs, hashes, listed = (outputs[name]["text"][0] for name in ("needs", "hashes", "list"))
    assert needs.startswith("This workflow needs 2 LoRAs (")
    for name in (STYLE, CHARACTER):
        sha256 = digest(host, name)
        size = (host.base / "models" / "loras" / name).stat().st_size
        assert f"sha256: {sha256}" in needs
        assert f"size: {size:,} bytes" in needs
        assert f'"lora:{name.removesuffix(".safetensors")}": "{sha256[:10]}"' in hashes
        assert f"{name.removesuffix('.safetensors')}:{sha256[:10]}:" in listed
    assert "trigger words: ohwx" in needs
    (report,) = outputs[node_id(prompt, "LoomInspect")]["text"]
    assert report.startswith(needs)
    assert report.count("on the connected model:") == 2


def test_every_missing_row_is_named_before_the_graph_runs(client):
    rows: list[dict[str, Any]] = [
        {"lora": "gone.safetensors"},
        {"lora": "lost.safetensors"},
        {"lora": STYLE},
    ]
    with pytest.raises(PromptRefused) as refusal:
        client.run(with_rows(twin(client, "style_and_character"), rows))
    assert "'gone.safetensors' not found" in str(refusal.value)
    assert "'lost.safetensors' not found" in str(refusal.value)


def test_a_lost_file_is_said_with_hash_size_and_what_to_search_for(client):
    rows = [{"lora": "lost.safetensors", "sha256": "4" * 64, "autov3": "5" * 12, "size": 999}]
    with pytest.raises(Exception, match="To get the very file") as failure:
        client.run(with_rows(twin(client, "style_and_character"), rows))
    assert "999 bytes" in str(failure.value)
    assert "4444444444 or 555555555555" in str(failure.value)


def test_a_saved_picture_keeps_the_workflows_own_facts_and_nothing_is_added(client, host):
    """What the page sends along is written by core's SaveImage as it came; our nodes never touch it."""
    prompt = with_rows(
        twin(client, "style_and_character"),
        [{"lora": STYLE, "sha256": digest(host, STYLE)}, {"lora": CHARACTER}],
    )
    facts = {"workflow": {"nodes": [], "extra": {"note": "as it was"}}, "mine": {"a": [1, 2]}}
    body = {
        "prompt": prompt,
        "client_id": client.client_id,
        "extra_data": {"extra_pnginfo": facts},
    }
    record = client.history(client.post("/prompt", body)["prompt_id"], limit=300)
    assert record["status"]["status_str"] == "success"
    (view,) = record["outputs"][node_id(prompt, "SaveImage")]["images"]
    info = Image.open(io.BytesIO(client.fetch_image(view))).info
    assert {key: json.loads(info[key]) for key in facts} == facts
    saved = json.loads(info["prompt"])
    # The host itself adds what IS_CHANGED answered; that must not tell where a person's files lie.
    assert {key: {**node, "is_changed": None} for key, node in saved.items()} == {
        key: {**node, "is_changed": None} for key, node in prompt.items()
    }
    assert str(host.base) not in info["prompt"]
    assert str(ROOT) not in info["prompt"]
    assert set(info) == {"prompt", *facts}
    assert digest(host, STYLE) in info["prompt"]


def test_the_index_hashes_a_folder_under_its_bar_and_names_copies(client, host):
    folder = host.base / "models" / "loras" / "to_index"
    folder.mkdir(exist_ok=True)
    for name in ("one", "two"):
        shutil.copyfile(host.base / "models" / "loras" / STYLE, folder / f"{name}.safetensors")
    graph: Prompt = {"1": {"class_type": "LoomIndex", "inputs": {"folder": "to_index"}}}
    bars: list[tuple[str, float, float]] = []
    (report,) = client.run(graph, on_progress=lambda *bar: bars.append(bar)).outputs["1"]["text"]
    assert "2 LoRA files in to_index: 2 hashed now" in report
    assert "the same file: to_index/one.safetensors, to_index/two.safetensors" in report
    assert bars[-1][1] == bars[-1][2] > 0
    assert client.run(graph).executed == ()
    (folder / "two.safetensors").unlink()
    (report,) = client.run(graph).outputs["1"]["text"]
    assert "1 LoRA files in to_index: 0 hashed now (0.00 GB), 1 known before." in report
    only(graph, "LoomIndex")["inputs"]["folder"] = "nowhere"
    with pytest.raises(PromptRefused, match="No LoRA lies in a folder 'nowhere'.*to_index"):
        client.run(graph)
