"""The page in another language: node names, the pack's own texts, and nothing that it cannot read."""

from __future__ import annotations

import json

from stack_page import open_rows
from test_page import COMPLAINTS_WITHIN

from tools.devkit.environment import ROOT
from tools.devkit.pages import OUR_NODE, READY_LIMIT, opened


def words(language: str, name: str) -> dict:
    return json.loads((ROOT / "locales" / language / f"{name}.json").read_text("utf-8"))


def test_nodes_and_rows_speak_the_language_of_the_page(browser, client):
    client.post("/settings", {"Comfy.Locale": "de"})
    try:
        with opened(browser, client.url) as page:
            said: list[str] = []
            page.on("console", lambda message: said.append(message.text))
            page.reload(wait_until="domcontentloaded")
            page.wait_for_function(
                "node => window.app?.graph && window.LiteGraph?.registered_node_types[node]",
                arg=OUR_NODE,
                timeout=READY_LIMIT,
            )
            titles = page.evaluate(
                "ids => ids.map((id) => window.LiteGraph.createNode(id).title)",
                list(words("de", "nodeDefs")),
            )
            open_rows(page, [{"lora": "loom_toy_style.safetensors", "model": 0.8}])
            page.wait_for_timeout(COMPLAINTS_WITHIN)
            add = page.locator(".loom-add").inner_text()
    finally:
        client.post("/settings", {"Comfy.Locale": "en"})
    assert titles == [each["display_name"] for each in words("de", "nodeDefs").values()]
    assert add.strip() == words("de", "main")["loraLoom"]["add"]
    # What the page's own texts lack is not ours.
    assert [text for text in said if "ompilation error" in text] == []
