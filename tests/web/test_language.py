"""The page in another language: node names, the pack's own texts, and nothing that it cannot read."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Page
from stack_page import open_rows
from test_page import COMPLAINTS_WITHIN

from tools.devkit.environment import ROOT
from tools.devkit.pages import opened, wait_until_ready

TITLES = "ids => ids.map((id) => window.LiteGraph.createNode(id).title)"
CORE = ["CheckpointLoaderSimple", "Load Checkpoint"]


def words(language: str, name: str) -> dict:
    return json.loads((ROOT / "locales" / language / f"{name}.json").read_text("utf-8"))


def load_in_its_language(page: Page) -> None:
    """Load the page anew and wait until ComfyUI's own node has its name in the page's language.

    Page 1.58.1 does not wait for its own texts in another language before it registers nodes and opens a graph.
    """
    page.reload(wait_until="domcontentloaded")
    wait_until_ready(page)
    page.wait_for_function(
        "([node, english]) => window.LiteGraph.createNode(node).title !== english", arg=CORE
    )


def names_and_button(page: Page, ids: list[str]) -> tuple[list[str], str]:
    """The titles of our nodes, and the text of the button that adds a row."""
    titles = page.evaluate(TITLES, ids)
    open_rows(page, [{"lora": "loom_toy_style.safetensors", "model": 0.8}])
    page.wait_for_timeout(COMPLAINTS_WITHIN)
    return titles, page.locator(".loom-add").inner_text().strip()


@pytest.mark.every_page
def test_nodes_and_rows_speak_a_language_that_the_page_offers(browser, client, drawing):
    """Page 1.32.9 drops what packs say of their nodes when its own French comes; the rows keep theirs."""
    names = {
        id: each["display_name"]
        for id, each in words("fr" if drawing.version else "en", "nodeDefs").items()
    }
    said: list[str] = []
    client.post("/settings", {"Comfy.Locale": "fr"})
    try:
        with opened(browser, client.url) as page:
            page.on("console", lambda message: said.append(message.text))
            load_in_its_language(page)
            titles, add = names_and_button(page, list(names))
    finally:
        client.post("/settings", {"Comfy.Locale": "en"})
    assert titles == list(names.values())
    assert add == words("fr", "main")["loraLoom"]["add"]
    # What the page's own texts lack is not ours.
    assert [text for text in said if "ompilation error" in text] == []


@pytest.mark.every_page
def test_german_is_spoken_where_the_page_takes_it_and_english_where_it_does_not(
    browser, client, drawing
):
    """No page has German texts of its own: 1.32.9 shows ours, 1.58.1 sets the language to English."""
    language = "en" if drawing.version else "de"
    names = {id: each["display_name"] for id, each in words(language, "nodeDefs").items()}
    client.post("/settings", {"Comfy.Locale": "de"})
    try:
        with opened(browser, client.url) as page:
            page.wait_for_function(
                "language => window.app.extensionManager.setting.get('Comfy.Locale') === language",
                arg=language,
            )
            page.reload(wait_until="domcontentloaded")
            wait_until_ready(page)
            titles, add = names_and_button(page, list(names))
    finally:
        client.post("/settings", {"Comfy.Locale": "en"})
    assert titles == list(names.values())
    assert add == ("Add LoRA" if language == "en" else words("de", "main")["loraLoom"]["add"])
