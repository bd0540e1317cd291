"""The ring web: the page of a real ComfyUI in a real Chromium.

A page can be drawn in several ways: the host's own page, and a newer one, on the classic canvas and with Nodes 2.0 (Vue).
A test that asks for `page` and is marked `every_page` runs in each; the others are dealt out, each to one way, where
LOOM_FULL does not ask for all of them.
"""

from __future__ import annotations

import os
import re
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from tools.devkit import pins
from tools.devkit.base_directory import SETTINGS, standard_base
from tools.devkit.environment import located
from tools.devkit.host_client import HostClient
from tools.devkit.host_process import Host, running_host
from tools.devkit.pages import chromium, opened

ENVIRONMENT = located()


@dataclass(frozen=True)
class Drawing:
    """A version of the page (None: the one that the interpreter has) and how it draws nodes."""

    version: str | None
    vue: bool

    def __str__(self) -> str:
        return f"{self.version or 'own-page'}-{'vue' if self.vue else 'classic'}"


def drawings() -> list[Drawing]:
    """Nodes 2.0 of the old page moves nodes about when it loads a graph, so it is left out."""
    found = [Drawing(None, vue=False)]
    if ENVIRONMENT.frontend_root(pins.NEWER_FRONTEND).is_dir():
        newer = pins.NEWER_FRONTEND
        found += [Drawing(newer, vue=False), Drawing(newer, vue=True)]
    return found


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if os.environ.get("LOOM_FULL"):
        return
    dealt = {True: [], False: []}
    for item in items:
        dealt[_has_its_turn(item)].append(item)
    config.hook.pytest_deselected(items=dealt[False])
    items[:] = dealt[True]


def _has_its_turn(item: pytest.Item) -> bool:
    """Which way a test is dealt goes by its name alone, so that it is the same in every run."""
    params = getattr(item, "callspec", None)
    drawing = params.params.get("drawing") if params is not None else None
    if drawing is None or item.get_closest_marker("every_page"):
        return True
    ways = drawings()
    name = item.nodeid.replace(str(drawing), "")
    # Not the lowest bits: names that are much alike fall together by them.
    return ways[(zlib.crc32(name.encode()) >> 8) % len(ways)] == drawing


@pytest.fixture(scope="session", params=drawings(), ids=str)
def drawing(request) -> Drawing:
    return request.param


@pytest.fixture(scope="session")
def hosts(tmp_path_factory):
    """A function from a page version to a running host that serves it."""
    running: dict[str | None, Host] = {}
    with ExitStack() as stack:

        def host_of(version: str | None) -> Host:
            if version not in running:
                base = standard_base(tmp_path_factory.mktemp("web"))
                root = ENVIRONMENT.frontend_root(version) if version else None
                host = running_host(ENVIRONMENT, base, front_end_root=root)
                running[version] = stack.enter_context(host)
            return running[version]

        yield host_of


@pytest.fixture(scope="session")
def client(hosts, drawing) -> HostClient:
    """A client of the host that serves the page, its settings as the drawing wants them."""
    client = HostClient(hosts(drawing.version).url)
    client.post("/settings", {**SETTINGS, "Comfy.VueNodes.Enabled": drawing.vue})
    return client


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright, chromium(playwright) as found:
        yield found


@pytest.fixture(scope="session")
def page(browser, client):
    """A page that the tests share; each loads its own graph into it."""
    with opened(browser, client.url) as page:
        yield page


@pytest.fixture
def fresh_page(browser, client):
    """A page for a test that leaves it unfit for others."""
    with opened(browser, client.url) as page:
        yield page


@pytest.fixture
def save_screenshot(request, drawing):
    """A function that saves what the page shows, under a name and the way it is drawn."""

    def save(page: Page, name: str) -> Path:
        folder = ENVIRONMENT.screenshots
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / re.sub(r"[^\w.-]+", "_", f"{name}-{drawing}.png")
        page.screenshot(path=path)
        return path

    return save
