"""The frozen model of a job: which file the graph's MODEL came from, and that file loaded again in another process."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import comfyui_version
import folder_paths
import torch

from ..errors import TrainError
from ..train.job import BaseFile, sha256_of
from ..train.job_data import JobData
from .hashing import hash_files, known_hashes
from .training_data import fingerprint
from .training_key import acts_beside, sampling_of

CHECKPOINTS, DIFFUSION_MODELS = "checkpoints", "diffusion_models"
# Core's loader nodes: the folder of their file, and the input that names it.
_LOADERS = {
    "CheckpointLoaderSimple": (CHECKPOINTS, "ckpt_name"),
    "unCLIPCheckpointLoader": (CHECKPOINTS, "ckpt_name"),
    "ImageOnlyCheckpointLoader": (CHECKPOINTS, "ckpt_name"),
    "UNETLoader": (DIFFUSION_MODELS, "unet_name"),
}
_FAST = "fp8_e4m3fn_fast"
_WEIGHT = "weight/"
_AWAY = "Take it off, or save the model as a checkpoint (core's Save Checkpoint) and load that."

Prompt = Mapping[str, Any]


def pack_version() -> str:
    """As the pack's pyproject.toml has it."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    found = re.search(r'^version = "([^"]+)"', text, re.MULTILINE)
    return found[1] if found else "unknown"


def versions() -> dict[str, str]:
    """What must be the same on all machines of a job."""
    return {
        "LoRA Loom's version": pack_version(),
        "ComfyUI's version": str(comfyui_version.__version__),
        "torch's version": str(torch.__version__).split("+")[0],
    }


def base_of(model: Any, prompt: Prompt | None, node: str | None) -> tuple[BaseFile, Path]:
    """The file of a loaded MODEL, found by the graph (an API prompt) from the training node upwards. Hashes it, with a bar.

    Raises TrainError where no process could load the same MODEL from a file.
    """
    loader = _loader(prompt or {}, node or "")
    kind = loader["class_type"]
    folder, named = _LOADERS[kind]
    name = loader["inputs"].get(named)
    path = folder_paths.get_full_path(folder, name) if isinstance(name, str) else None
    if path is None:
        raise TrainError(f"The file of {kind} ({name}) is not known before the graph runs.")
    if acts_beside(model) or model.object_patches:
        raise TrainError(
            "Something acts on MODEL beside its weights (a live stack, a wrapper, another noise schedule), which a job "
            f"cannot take along. A stack can be baked (mode of Loom Apply Stack). {_AWAY}"
        )
    return BaseFile(
        folder,
        str(name),
        _hashed(Path(path)),
        Path(path).stat().st_size,
        str(model.model.get_dtype()).removeprefix("torch."),
        loader["inputs"].get("weight_dtype") == _FAST,
        fingerprint(model.model.diffusion_model),
        repr(sampling_of(model)),
    ), Path(path)


def _hashed(path: Path) -> str:
    """sha256 of a file, from the index where it has been hashed before."""
    known = known_hashes(path)
    if known is not None:
        return known.sha256
    found = hash_files([path])
    if found.faults:
        raise TrainError(found.faults[path])
    return found.hashes[path].sha256


def _loader(prompt: Prompt, node: str) -> Any:
    """The loader node at the top of the chain of MODEL inputs."""
    seen: list[str] = []
    while node in prompt and node not in seen:
        seen.append(node)
        at = prompt[node]
        if at["class_type"] in _LOADERS:
            return at
        above = at["inputs"].get("model")
        node = str(above[0]) if isinstance(above, list) else ""
    last = prompt[seen[-1]]["class_type"] if seen else "nothing"
    raise TrainError(
        f"A job needs the model's file, and MODEL comes from {last}, not from one of {', '.join(_LOADERS)} through "
        f"nodes with one model input. {_AWAY}"
    )


def changed_weights(model: Any) -> dict[str, torch.Tensor]:
    """Weights of a loaded MODEL that LoRAs are baked into, by their pieces' names. Raises TrainError.

    A host that keeps them apart from the weights (partly loaded, dynamic memory) has no such weights to give.
    """
    patched = [key for key, some in model.patches.items() if some]
    apart = [key for key in patched if key not in model.backup]
    if apart:
        raise TrainError(
            f"{len(apart)} of the model's patched weights ({apart[0]}, ...) are put together only while it computes. "
            f"{_AWAY}"
        )
    return {
        f"{_WEIGHT}{key}": comfy.utils.get_attr(model.model, key).detach().cpu().clone()
        for key in patched
    }


def check_base(base: BaseFile, path: Path | None) -> Path:
    """The model's file on this machine, which must be the one that the job was written with. Raises TrainError."""
    found = str(path) if path else folder_paths.get_full_path(base.folder, base.name)
    if found is None or not Path(found).is_file():
        raise TrainError(
            f"The model {base.name} is not in the folder {base.folder} of this ComfyUI. Put it there, or name it with "
            f"--model PATH (sha256 {base.sha256})."
        )
    size = Path(found).stat().st_size
    sha256 = sha256_of(Path(found)) if size == base.size else f"of a file of {size} bytes"
    if sha256 != base.sha256:
        raise TrainError(
            f"{Path(found).name} is not the model that the job was written with: sha256 {sha256[:40]} instead of "
            f"{base.sha256[:40]}. Bring the same file, or write the job anew."
        )
    return Path(found)


def find_base(base: BaseFile, path: Path | None) -> Path:
    """The file without its bytes looked at, for a rank whose neighbour has done that."""
    return path or Path(folder_paths.get_full_path_or_raise(base.folder, base.name))


def load_base(base: BaseFile, path: Path, data: JobData) -> Any:
    """The MODEL alone, as the graph had it. Raises TrainError where it comes to other weights."""
    options: dict[str, Any] = {"dtype": getattr(torch, base.dtype)}
    if base.fast:
        options["fp8_optimizations"] = True
    if base.folder == CHECKPOINTS:
        found = comfy.sd.load_checkpoint_guess_config(
            str(path), output_vae=False, output_clip=False, model_options=options
        )
        model = found[0]
    else:
        model = comfy.sd.load_diffusion_model(str(path), model_options=options)
    with torch.no_grad():
        for name in data.names(_WEIGHT):
            live = comfy.utils.get_attr(model.model, name.removeprefix(_WEIGHT))
            live.copy_(data.pieces(name)["value"])
    _check_loaded(base, model)
    return model


def _check_loaded(base: BaseFile, model: Any) -> None:
    if fingerprint(model.model.diffusion_model) != base.weights:
        raise TrainError(
            f"{base.name} was loaded to other weights than the graph had, though the file is the same. Is this the same "
            f"ComfyUI version, and does it keep the weights in {base.dtype}?"
        )
    if repr(sampling_of(model)) != base.sampling:
        raise TrainError(
            f"{base.name} samples otherwise here than in the graph (its kind of prediction, shift or noise levels). {_AWAY}"
        )
