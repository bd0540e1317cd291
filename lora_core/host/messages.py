"""Stops that a node sends to whoever reads its outputs."""

from __future__ import annotations

from typing import Any

from comfy_execution.graph_utils import ExecutionBlocker


def stop_with(message: str) -> Any:
    """An output value that stops every node which reads it, with this message."""
    return ExecutionBlocker(message)
