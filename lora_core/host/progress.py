"""The host's progress bar and stop button, for work of ours that takes long."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.utils


def node_progress() -> Callable[[int, int], None]:
    """(done, of how many) -> the bar on the running node. Raises the host's own exception where the user pressed stop."""
    bar = comfy.utils.ProgressBar(1)

    def report(done: int, of: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, of)

    return report
