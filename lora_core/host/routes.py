"""The pack's own HTTP routes; the host answers each under /api too."""

from __future__ import annotations

from typing import Any

import server

from . import watching


def register_routes() -> None:
    """Add the routes to the running server; where the host is a library there is none."""
    running = getattr(server.PromptServer, "instance", None)
    if running is None:
        return
    running.routes.post("/loom/stop")(_stop)
    running.routes.get("/loom/train")(_train)


async def _stop(request: Any) -> Any:
    """{"node": id} or {}: end the running training after its step and keep what it has."""
    try:
        said = await request.json() if request.can_read_body else {}
        node = said.get("node")
    except (ValueError, AttributeError):
        return _json({"error": 'The body must be JSON such as {"node": "12"}, or empty.'}, 400)
    return _json({"stopping": watching.ask_to_stop(None if node is None else str(node))})


async def _train(_: Any) -> Any:
    return _json(watching.curves())


def _json(said: Any, status: int = 200) -> Any:
    return server.web.json_response(said, status=status)
