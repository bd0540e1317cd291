"""Extraction as the node calls it: two MODELs (and CLIPs), or two files of the host's lists, to one LORA_MODEL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths

from ..adapters import Leftover
from ..errors import LoraFileError, MergeError
from ..files.reader import file_stamp
from ..files.tensorfile import TensorFile, open_tensors
from ..merge.extract import ExtractOrder, Parameter, extract
from ..targets import Target, TargetMap
from .merging import Answer, answer_of, progress_bar
from .targets import clip_targets, model_targets
from .weights import weight_of

NO_MODEL_FILE = "[the MODEL inputs]"
_FOLDERS = ("checkpoints", "diffusion_models")
# What a file calls its parts -> how a LoRA names them. What stands in no row of it is not compared.
_PARTS = (
    ("model.diffusion_model.", "diffusion_model."),
    ("diffusion_model.", "diffusion_model."),
    ("cond_stage_model.transformer.", "text_encoders.clip_l.transformer."),
    ("conditioner.embedders.0.transformer.", "text_encoders.clip_l.transformer."),
)
_OTHERS = ("first_stage_model.", "vae.", "cond_stage_model.", "conditioner.", "text_encoders.")


@dataclass(frozen=True)
class Pair:
    """tuned, base: MODELs, CLIPs, or None where nothing is connected."""

    tuned: Any = None
    base: Any = None


def model_files() -> list[str]:
    """Checkpoints and diffusion models as the host lists them, with the folder in front."""
    return [
        f"{folder}/{name}" for folder in _FOLDERS for name in folder_paths.get_filename_list(folder)
    ]


def model_files_stamp(*names: str | None) -> str:
    """Changes when one of the files does."""
    chosen = [name for name in names if name not in (None, NO_MODEL_FILE)]
    return repr([file_stamp(_path(str(name))) for name in chosen])


def extract_difference(
    order: ExtractOrder, tuned_file: str, base_file: str, models: Pair, clips: Pair = Pair()
) -> Answer:
    """What was tuned minus what it was tuned from, as a LORA_MODEL. Raises LoraError; then there is no result.

    Two connected MODELs (and CLIPs), or two files, which are read a weight at a time; not a mixture.
    """
    named = [name for name in (tuned_file, base_file) if name != NO_MODEL_FILE]
    connected = [each for each in (models.tuned, models.base) if each is not None]
    if len(named) == 2 and not connected:
        parameters, lost = _of_files(*(open_tensors(_path(name), name) for name in named))
        label = f"{tuned_file} - {base_file}"
    elif len(connected) == 2 and not named:
        parameters, lost = _of_models(models, clips)
        label = "tuned MODEL - base MODEL"
    else:
        raise MergeError(
            "An extraction needs two models of one kind: connect tuned_model and base_model, or choose two files. "
            f"Here {len(connected)} MODELs are connected and {len(named)} files chosen."
        )
    return answer_of(extract(parameters, order, label, lost, progress=progress_bar()))


def _path(name: str) -> Path:
    """Raises LoraFileError."""
    folder, _, rest = name.partition("/")
    found = folder_paths.get_full_path(folder, rest) if folder in _FOLDERS else None
    if found is None:
        raise LoraFileError(f"'{name}' is not in the models folders. Press R after adding it.")
    return Path(found)


def _of_models(models: Pair, clips: Pair) -> tuple[list[Parameter], list[Leftover]]:
    bases = [model_targets(each).base for each in (models.tuned, models.base)]
    if bases[0] != bases[1]:
        raise MergeError(
            f"The tuned MODEL is {bases[0]}, the base MODEL {bases[1]}: their difference is no LoRA. "
            "Connect a model and what it was tuned from."
        )
    parameters, lost = _compared(models.tuned, models.base, model_targets(models.base))
    if clips.tuned is not None and clips.base is not None:
        of_clip = _compared(clips.tuned.patcher, clips.base.patcher, clip_targets(clips.base))
        parameters, lost = parameters + of_clip[0], lost + of_clip[1]
    return parameters, lost


def _compared(tuned: Any, base: Any, targets: TargetMap) -> tuple[list[Parameter], list[Leftover]]:
    """The parameters that both patchers have under a LoRA's name. Their patches count; nothing is loaded."""
    new, old = tuned.get_key_patches(), base.get_key_patches()
    names = _names(targets)
    parameters, lost = [], []
    for key in new:
        name, kind = names.get(key, (key, ""))
        shapes = [tuple(each[key][0][0].shape) for each in (new, old) if key in each]
        reason = _unfit(name, kind, shapes)
        if reason is None:
            parameters.append(Parameter(name, kind, shapes[0], _reader(new[key], old[key], key)))
        elif kind or shapes[:1] != shapes[1:]:
            lost.append(Leftover(key, reason))
    lost += [Leftover(key, "only the base model has it") for key in old if key not in new]
    return parameters, lost


def _names(targets: TargetMap) -> dict[str, tuple[str, str]]:
    """Weight or bias -> (its module's name in a LoRA file, kind), in ComfyUI's own naming where it has that."""
    found: dict[str, str] = {}
    for name, target in targets.names.items():
        own = name in (stem := target.key.removesuffix(".weight"), f"text_encoders.{stem}")
        if target == Target(target.key) and (own or target.key not in found):
            found[target.key] = name
    names = {key: (name, "weight") for key, name in found.items()}
    for key, name in found.items():
        bias = key.removesuffix("weight") + "bias"
        if key.endswith(".weight") and bias in targets.shapes:
            names[bias] = (name, "bias")
    return names


def _unfit(name: str, kind: str, shapes: list[tuple[int, ...]]) -> str | None:
    if len(shapes) < 2:
        return "only the tuned model has it"
    if shapes[0] != shapes[1]:
        return f"it has shape {shapes[0]} in the tuned model and {shapes[1]} in the base"
    return None if kind else "no LoRA file has a name for it"


def _reader(new: list[Any], old: list[Any], key: str) -> Callable[[], tuple[Any, Any]]:
    return lambda: (weight_of(new, key), weight_of(old, key))


def _of_files(tuned: TensorFile, base: TensorFile) -> tuple[list[Parameter], list[Leftover]]:
    """The parameters that both files have; tensors of other parts are counted by part."""
    for file in (tuned, base):
        if any(
            "scaled_fp8" in key or key.endswith((".scale_weight", ".weight_scale"))
            for key in file.entries
        ):
            raise MergeError(
                f"{file.label}: its weights are quantised with scales. Load both models with a loader node and connect "
                "them to tuned_model and base_model."
            )
    bare = not any(
        key.startswith(("model.diffusion_model.", "diffusion_model.")) for key in tuned.entries
    )
    parameters, lost = [], []
    skipped: dict[str, int] = {}
    for key, entry in tuned.entries.items():
        found = _named(key, bare)
        if found is None:
            skipped[key.split(".")[0]] = skipped.get(key.split(".")[0], 0) + 1
            continue
        shapes = [tuple(f.entries[key].shape) for f in (tuned, base) if key in f.entries]
        reason = _unfit(*found, shapes)
        if reason is None and entry.dtype.is_floating_point:
            read = _file_reader(tuned, base, key)
            parameters.append(Parameter(*found, shapes[0], read))
        elif reason is not None:
            lost.append(Leftover(key, reason))
    lost += [
        Leftover(key, "only the base model has it")
        for key in base.entries
        if key not in tuned.entries and _named(key, bare) is not None
    ]
    lost += _skipped(skipped)
    return parameters, lost


def _file_reader(tuned: TensorFile, base: TensorFile, key: str) -> Callable[[], tuple[Any, Any]]:
    return lambda: (tuned.read(key), base.read(key))


def _skipped(counts: Mapping[str, int]) -> Iterator[Leftover]:
    for part, count in counts.items():
        yield Leftover(f"{part}.* ({count} tensors)", "this part of the file is not compared")


def _named(key: str, bare: bool) -> tuple[str, str] | None:
    """(module name, kind) of a file's tensor; None for parts that are not compared."""
    stem, _, kind = key.rpartition(".")
    if kind not in ("weight", "bias"):
        stem, kind = key, "weight"
    for prefix, name in _PARTS:
        if stem.startswith(prefix):
            return name + stem[len(prefix) :], kind
    if bare and not key.startswith(_OTHERS):
        return f"diffusion_model.{stem}", kind
    return None
