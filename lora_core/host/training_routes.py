"""What the pack answers over HTTP about trainings."""

from __future__ import annotations

from typing import Any

from . import watching
from .answers import as_json


async def answer_stop(request: Any) -> Any:
    """POST /loom/stop, {"node": id} or no body: end the running training after its step and keep what it has."""
    try:
        said = await request.json() if request.can_read_body else {}
        node = said.get("node")
    except (ValueError, AttributeError):
        return as_json({"error": 'The body must be JSON such as {"node": "12"}, or empty.'}, 400)
    return as_json({"stopping": watching.ask_to_stop(None if node is None else str(node))})


async def answer_train(_: Any) -> Any:
    """GET /loom/train: the curves of this process's trainings by node id. Changes nothing."""
    return as_json(watching.curves())


ROUTES = {("POST", "/loom/stop"): answer_stop, ("GET", "/loom/train"): answer_train}
