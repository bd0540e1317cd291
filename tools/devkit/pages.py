"""The page of a running ComfyUI in a real Chromium, for the tests of the page and for pictures of it.

with sync_playwright() as playwright, chromium(playwright) as browser, opened(browser, host.url) as page: ...
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, Playwright, Route

from tools.devkit.browser import find_browser

OUR_NODE = "LoomLoader"
READY_LIMIT = 120_000  # ms
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium(playwright: Playwright) -> Iterator[Browser]:
    """The browser of this machine, without a window."""
    program = find_browser()
    assert program is not None, "no Chromium: python dev.py test web installs it"
    browser = playwright.chromium.launch(
        executable_path=str(program), args=list(CHROMIUM_FLAGS), headless=True
    )
    yield browser
    browser.close()


@contextmanager
def opened(browser: Browser, url: str, width: int = 1400, height: int = 900) -> Iterator[Page]:
    """A page of ComfyUI, ready for use, that reaches no server but its own."""
    context = browser.new_context(viewport={"width": width, "height": height})

    def stay_local(route: Route) -> None:
        local = route.request.url.startswith((url, "data:", "blob:"))
        route.continue_() if local else route.abort()

    context.route("**/*", stay_local)
    page = context.new_page()
    # Not "networkidle": the page keeps its websocket open.
    page.goto(url, wait_until="domcontentloaded", timeout=READY_LIMIT)
    wait_until_ready(page)
    yield page
    context.close()


def wait_until_ready(page: Page) -> None:
    """Until the page has loaded the graph that it starts with: one that is loaded before would be replaced by it."""
    page.wait_for_function(
        "node => window.LiteGraph?.registered_node_types[node] && window.app?.graph?.nodes.length"
        " && window.app.extensionManager?.workflow?.activeWorkflow",
        arg=OUR_NODE,
        timeout=READY_LIMIT,
    )
