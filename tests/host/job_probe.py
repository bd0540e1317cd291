"""train_worker.py, and besides a digest of the whole frozen network before and after, and its bytes, from each rank.

job_probe.py OUT JOB ...        OUT: folder for rank-N.json
LOOM_OTHER_VERSION_ON=N         rank N says that its pack is of version 0.0.0
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def digest(network) -> str:
    """sha256 over all weights and buffers, of this rank's part where they are in pieces."""
    from lora_core.train.pieces import own_part

    found = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        part = own_part(tensor.detach()).cpu().contiguous().reshape(-1)
        found.update(name.encode())
        found.update(part.view(importlib.import_module("torch").uint8).numpy().tobytes())
    return found.hexdigest()


def watched(run: Any, seen: dict[str, Any]) -> Any:
    """run_job, with the network looked at before and after."""

    def run_and_look(work, ranks):
        jobs: Any = importlib.import_module("lora_core.host.job_run")
        pieces: Any = importlib.import_module("lora_core.train.pieces")
        ready = jobs._ready

        def loaded(*asked):
            data, model = ready(*asked)
            network = model.model.diffusion_model
            seen.update(network=network, before=digest(network), rank=ranks.rank)
            seen["bytes"] = pieces.bytes_held(network)
            return data, model

        jobs._ready = loaded
        path = run(work, ranks)
        seen["after"] = digest(seen.pop("network"))
        seen["sent"] = ranks.sent
        return path

    return run_and_look


if __name__ == "__main__":
    out, sys.argv = Path(sys.argv[1]), [str(ROOT / "train_worker.py"), *sys.argv[2:]]
    sys.path[0] = str(ROOT)
    worker: Any = importlib.import_module("train_worker")
    found: dict[str, Any] = {}
    importing = importlib.import_module

    def patched(name: str, *more: Any) -> Any:
        module: Any = importing(name, *more)
        if name == "lora_core.host.job_run" and not found:
            found["patched"] = True
            if os.environ.get("LOOM_OTHER_VERSION_ON") == os.environ.get("RANK", "0"):
                real = module.versions
                module.versions = lambda: real() | {"LoRA Loom's version": "0.0.0"}
            module.run_job = watched(module.run_job, found)
        return module

    worker.importlib = type("Importing", (), {"import_module": staticmethod(patched)})
    status = worker.main(sys.argv[1:])
    (out / f"rank-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found))
    importlib.import_module("lora_core.train.ranks").leave(status)
