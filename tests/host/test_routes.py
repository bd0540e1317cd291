"""What the pack answers over HTTP: facts of a LoRA, and nothing of any other file."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

STYLE = "loom_toy_style.safetensors"


def refused(client, **query: str) -> str:
    with pytest.raises(urllib.error.HTTPError) as caught:
        client.get("/loom/facts", **query)
    assert caught.value.code == 400
    return json.loads(caught.value.read())["error"]


def index_of(host) -> Path:
    found = list(host.base.glob("user/**/lora_loom/index.json"))
    return found[0] if found else host.base / "none"


def test_the_facts_of_a_lora_come_from_its_header(client):
    facts: dict[str, Any] = client.get("/loom/facts", name=STYLE)
    assert facts["name"] == STYLE
    assert facts["kind"] == "SD1.5, rank 2 to 15, alpha 2 to 15, LoCon"
    assert facts["made_for"] == "SD1.5"
    assert facts["modules"] > 0
    assert facts["size"] > 0
    assert facts["preview"] is None
    assert all(set(word) == {"value", "source"} for word in facts["words"])


def test_it_answers_under_the_prefix_that_the_page_uses(client):
    assert client.get("/api/loom/facts", name=STYLE)["name"] == STYLE


def test_nothing_is_hashed_for_it(host, client):
    index = index_of(host)
    before = index.read_bytes() if index.is_file() else b""
    style = next(host.base.rglob(STYLE))
    fresh = shutil.copyfile(style, style.with_name("never_run.safetensors"))
    try:
        facts = client.get("/loom/facts", name=fresh.name)
    finally:
        fresh.unlink()
    assert facts["hashes"] is None
    assert (index_of(host).read_bytes() if index_of(host).is_file() else b"") == before


def test_a_name_is_found_as_a_run_finds_it(client):
    assert client.get("/loom/facts", name="loom_toy_style")["name"] == STYLE


@pytest.mark.parametrize(
    "name",
    [
        "../checkpoints/loom_toy.safetensors",
        "/etc/passwd",
        "..\\checkpoints\\loom_toy.safetensors",
        "C:/secret.safetensors",
        "a/../../checkpoints/loom_toy.safetensors",
    ],
)
def test_a_name_that_leaves_the_folders_is_refused(client, name):
    assert "outside the loras folders" in refused(client, name=name)


@pytest.mark.parametrize("name", ["", " ", "no_such_lora.safetensors", "a\0b"])
def test_a_name_of_nothing_is_refused_in_words(client, name):
    assert refused(client, name=name)


def test_a_broken_file_is_said_to_be_one(host, client):
    path = host.base / "models" / "loras" / "broken_facts.safetensors"
    path.write_bytes(b"\xff" * 100)
    try:
        facts = client.get("/loom/facts", name=path.name)
    finally:
        path.unlink()
    assert facts["kind"] is None
    assert "not a readable safetensors file" in facts["fault"]


def test_the_preview_is_where_the_hosts_own_route_finds_it(host, client):
    from PIL import Image

    # A copy: newer hosts show no picture beside a link that leads out of the folder.
    style = next(host.base.rglob(STYLE))
    copied = shutil.copyfile(style, style.with_name("with_picture.safetensors"))
    picture = copied.with_name("with_picture.preview.png")
    Image.new("RGB", (8, 8), (200, 10, 10)).save(picture)
    try:
        preview = client.get("/loom/facts", name=copied.name)["preview"]
        address = f"/experiment/models/preview/loras/{preview['index']}/{preview['name']}"
        assert client.get_bytes(address)
    finally:
        picture.unlink()
        copied.unlink()


def test_block_strengths_are_checked_as_a_run_reads_them(client):
    assert client.get("/loom/facts", name=STYLE, blocks="IN04=0.5")["blocks_fault"] is None
    fault = client.get("/loom/facts", name=STYLE, blocks="IN04=lots")["blocks_fault"]
    assert "'lots' is not a finite number" in fault


@pytest.mark.parametrize("body", [b"no JSON", b'"12"', b"[1]"])
def test_a_wish_to_stop_in_another_form_is_refused(host, body):
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{host.url}/loom/stop", body, headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(asked)
    assert caught.value.code == 400
    assert "The body must be JSON such as" in json.loads(caught.value.read())["error"]
