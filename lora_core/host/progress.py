"""The bar of the running node, and the person's wish to stop."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.utils


def progress_of(total: int) -> Callable[[int], None]:
    """A function that moves the running node's bar to so many of `total`.

    It raises what the host raises in a node that was interrupted.
    """
    bar = comfy.utils.ProgressBar(total)

    def advance(done: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(done)

    return advance
