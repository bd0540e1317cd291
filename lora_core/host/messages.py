"""Words and stops that a node sends to the page."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import Any

from comfy_execution.graph_utils import ExecutionBlocker

log = logging.getLogger(__name__)


def warn_on_node(warnings: Iterable[str], node_id: str | None) -> None:
    """Show warnings under the node and keep them in the log; nothing where there are none."""
    text = "\n".join(warnings)
    if text:
        log.warning("LoRA Loom: %s", text)
    show_on_node(text, node_id)


def show_on_node(text: str, node_id: str | None) -> None:
    """Show a text under the node while the page is open; an empty one clears what stood there.

    Without a server (scripts, tests) there is no page and nothing to do.
    """
    # Looked up, not imported: where no server runs, importing it would build the whole web side.
    prompt_server = getattr(sys.modules.get("server"), "PromptServer", None)
    server = getattr(prompt_server, "instance", None)
    if server is not None and node_id is not None:
        server.send_progress_text(text, node_id)


def stop_with(message: str) -> Any:
    """An output value that stops every node which reads it, with this message."""
    return ExecutionBlocker(message)
