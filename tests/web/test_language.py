"""The page in another language: node names, the pack's own texts, and nothing that it cannot read."""

from __future__ import annotations

import json

from stack_page import open_rows
from test_page import COMPLAINTS_WITHIN

from tools.devkit.environment import ROOT
from tools.devkit.pages import opened, wait_until_ready


def words(language: str, name: str) -> dict:
    return json.loads((ROOT / "locales" / language / f"{name}.json").read_text("utf-8"))


def test_nodes_and_rows_speak_the_language_of_the_page(browser, client):
    client.post("/settings", {"Comfy.Locale": "de"})
    try:
        with opened(browser, client.url) as page:
            said: list[str] = []
            page.on("console", lambda message: said.append(message.text))
            page.reload(wait_until="domcontentloaded")
            wait_until_ready(page)
            # Open: on a busy machine the newer page names its nodes before its languages have come, and keeps the names.
            names = {id: each["display_name"] for id, each in words("de", "nodeDefs").items()}
            page.wait_for_function(
                "([id, name]) => window.LiteGraph.createNode(id).title === name",
                arg=next(iter(names.items())),
            )
            titles = page.evaluate(
                "ids => ids.map((id) => window.LiteGraph.createNode(id).title)", list(names)
            )
            open_rows(page, [{"lora": "loom_toy_style.safetensors", "model": 0.8}])
            page.wait_for_timeout(COMPLAINTS_WITHIN)
            add = page.locator(".loom-add").inner_text()
    finally:
        client.post("/settings", {"Comfy.Locale": "en"})
    assert titles == list(names.values())
    assert add.strip() == words("de", "main")["loraLoom"]["add"]
    # What the page's own texts lack is not ours.
    assert [text for text in said if "ompilation error" in text] == []
