"""For tests: a node that says what a ComfyUI process holds, after it let go of all that it can."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import json
from pathlib import Path
from typing import Any

import comfy.model_management
import torch


def resident() -> int:
    """Bytes of memory that the process has now; 0 where that cannot be told."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * 4096 if status.exists() else 0


def tensors() -> tuple[int, int]:
    """How many tensors Python holds, and the bytes of their storages, each counted once."""
    found = [item for item in gc.get_objects() if isinstance(item, torch.Tensor)]
    storages = {
        item.untyped_storage().data_ptr(): item.untyped_storage().nbytes() for item in found
    }
    return len(found), sum(storages.values())


def digest(model: Any) -> str:
    """sha256 of every weight of the model, as it is without patches."""
    whole = hashlib.sha256()
    for key, tensor in sorted(model.model.state_dict().items()):
        whole.update(key.encode() + tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


class LoomTestWatch:
    CATEGORY = "test"
    RETURN_TYPES = ()
    FUNCTION = "watch"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "turn": ("INT", {"default": 0})}}

    def watch(self, model: Any, turn: int) -> dict[str, Any]:
        comfy.model_management.unload_all_models()
        gc.collect()
        with contextlib.suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).malloc_trim(0)  # where the C library has it
        count, size = tensors()
        facts = {"resident": resident(), "tensors": count, "bytes": size, "weights": digest(model)}
        return {"ui": {"text": [json.dumps(facts)]}}


NODE_CLASS_MAPPINGS = {"LoomTestWatch": LoomTestWatch}
