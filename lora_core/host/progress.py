"""The bar of the running node, and the person's wish to stop."""

from __future__ import annotations

from typing import Protocol

import comfy.model_management
import comfy.utils
from PIL import Image

# The longer side of a preview, in pixels.
_PREVIEW = 768


class Advance(Protocol):
    def __call__(self, done: int, preview: Image.Image | None = None) -> None: ...


def progress_of(total: int) -> Advance:
    """A function that moves the running node's bar to so many of `total`, and shows a picture under it.

    It raises what the host raises in a node that was interrupted.
    """
    bar = comfy.utils.ProgressBar(total)

    def advance(done: int, preview: Image.Image | None = None) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        shown = None if preview is None else ("JPEG", preview, _PREVIEW)
        bar.update_absolute(done, total, shown)

    return advance
