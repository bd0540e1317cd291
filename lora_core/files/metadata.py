"""What a LoRA file says about itself in its safetensors metadata. All values are strings; any may be broken."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping

from ..adapters import AdapterFile
from .bases import base_named
from .lenient import TEXT, Unreadable, dig, json_of, number_of, text_of, texts_of
from .said import LoraFacts, Said
from .words import derived_words, said_words, words_of

_TRIGGER_FIELDS = ("modelspec.trigger_phrase", "ss_trigger_words", "trained_words", "trigger_words")
# What sd-scripts writes as a title where nobody gave one.
_EMPTY_TITLE = re.compile(r"^[A-Za-z-]+@\d+$")

# Fact -> the fields that tell it, best first.
_TEXTS = {
    "title": ("modelspec.title",),
    "author": ("modelspec.author",),
    "licence": ("modelspec.license",),
    "base": ("modelspec.architecture", "ss_base_model_version", "base_model"),
    "usage": ("modelspec.usage_hint",),
    "merged_from": ("modelspec.merged_from", "ss_merged_from"),
}
_TRAINING = {
    "rank": ("ss_network_dim",),
    "alpha": ("ss_network_alpha",),
    "network": ("ss_network_module",),
    "steps": ("ss_steps", "ss_max_train_steps"),
    "epochs": ("ss_epoch", "ss_num_epochs"),
    "images": ("ss_num_train_images",),
    "resolution": ("ss_resolution", "modelspec.resolution"),
    "learning rate": ("ss_learning_rate",),
    "model learning rate": ("ss_unet_lr",),
    "text-encoder learning rate": ("ss_text_encoder_lr",),
    "optimizer": ("ss_optimizer",),
    "schedule": ("ss_lr_scheduler",),
    "seed": ("ss_seed",),
    "clip skip": ("ss_clip_skip",),
    "trained on": ("ss_sd_model_name",),
    "comment": ("ss_training_comment",),
    "date": ("modelspec.date", "ss_training_finished_at", "ss_training_started_at"),
}
_NUMBERS = {"rank", "alpha", "steps", "epochs", "images", "seed", "clip skip"}
# Fields that hold JSON -> fact -> the keys to it. Of ai-toolkit and OneTrainer.
_TRAINING_JSON = {
    "training_info": {"steps": ("step",), "epochs": ("epoch",)},
    "ot_config": {
        "rank": ("lora_rank",),
        "alpha": ("lora_alpha",),
        "epochs": ("epochs",),
        "resolution": ("resolution",),
        "learning rate": ("learning_rate",),
        "optimizer": ("optimizer", "optimizer"),
        "trained on": ("base_model_name",),
    },
}
_PEFT_FIELD = "lora_adapter_metadata"
_PEFT = {"r": "rank", "lora_alpha": "alpha", "base_model_name_or_path": "trained on"}


def metadata_facts(metadata: Mapping[str, str]) -> LoraFacts:
    """What the author and the trainer put down by name. Never raises: what is broken becomes a note."""
    notes: list[str] = []
    named = {fact: _first(metadata, fields) for fact, fields in _TEXTS.items()}
    if named["title"] is not None and _EMPTY_TITLE.match(named["title"].value):
        named["title"] = None
    named["base"] = _in_words(named["base"])
    words: list[Said[str]] = []
    for field in _TRIGGER_FIELDS:
        said, left_out = said_words(metadata.get(field), f"{field} in the file")
        words += said
        notes += left_out
    tags = texts_of(metadata.get("modelspec.tags"))
    about = text_of(metadata.get("modelspec.description"), TEXT, lines=True)
    return LoraFacts(
        title=named["title"],
        base=named["base"],
        author=named["author"],
        licence=named["licence"],
        usage=named["usage"],
        merged_from=named["merged_from"],
        description=Said(about, "modelspec.description in the file") if about else None,
        words=tuple(words),
        tags=Said(tuple(tags), "modelspec.tags in the file") if tags else None,
        training={**_training_json(metadata, notes), **_training(metadata, notes)},
        notes=tuple(notes),
    )


def guessed_facts(metadata: Mapping[str, str]) -> LoraFacts:
    """What may be concluded from the metadata where nobody says it: the least trusted of all."""
    return LoraFacts(
        title=_first(metadata, ("ss_output_name", "name")),
        base=_in_words(_first(metadata, ("ss_sd_model_name",))),
        words=derived_words(metadata),
    )


def _first(metadata: Mapping[str, str], fields: tuple[str, ...]) -> Said[str] | None:
    texts = ((field, text_of(metadata.get(field))) for field in fields)
    return next((Said(text, f"{field} in the file") for field, text in texts if text), None)


def _in_words(base: Said[str] | None) -> Said[str] | None:
    """A base with our name for it in front, where it has one: "SDXL (stable-diffusion-xl-v1-base/lora)"."""
    named = base_named(base.value) if base is not None else None
    if base is None or named is None or named == base.value:
        return base
    return Said(f"{named} ({base.value})", base.source)


def _training(metadata: Mapping[str, str], notes: list[str]) -> dict[str, Said[str]]:
    found: dict[str, Said[str]] = {}
    for fact, fields in _TRAINING.items():
        said = _first(metadata, fields)
        if said is None:
            continue
        if fact in _NUMBERS and number_of(said.value) is None:
            notes.append(f"{said.source} is '{said.value:.40}', not a number")
            continue
        read = {"date": _date, "resolution": _resolution}.get(fact, str)
        found[fact] = Said(read(said.value), said.source)
    return found


def _training_json(metadata: Mapping[str, str], notes: list[str]) -> dict[str, Said[str]]:
    """Facts from the fields that hold JSON; PEFT's names each value by the part it belongs to ("transformer.r")."""
    found: dict[str, Said[str]] = {}
    for field in (*_TRAINING_JSON, _PEFT_FIELD):
        if not isinstance(metadata.get(field), str):
            continue
        value = json_of(metadata[field])
        if isinstance(value, Unreadable):
            notes.append(f"{field} in the file {value.reason}")
            continue
        paths = {fact: dig(value, *keys) for fact, keys in _TRAINING_JSON.get(field, {}).items()}
        if field == _PEFT_FIELD and isinstance(value, dict):
            named = [(key.rpartition(".")[2], item) for key, item in value.items()]
            paths = {_PEFT[key]: item for key, item in named if key in _PEFT}
        for fact, item in paths.items():
            if (text := text_of(item)) and (fact not in _NUMBERS or number_of(item) is not None):
                found[fact] = Said(text, f"{field} in the file")
    return found


def _date(text: str) -> str:
    """Seconds since 1970 as a day; anything else as it is written."""
    seconds = number_of(text)
    if seconds is None or not 0 < seconds < 1e11:
        return text
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%d")


def _resolution(text: str) -> str:
    """kohya's "(1024, 1024)" as 1024x1024."""
    numbers = re.findall(r"\d{1,6}", text)
    return "x".join(numbers) if re.fullmatch(r"[\[(]?[\d\s,x]+[\])]?", text) else text


def trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The words that the file itself names, in order, without repeats. Empty where it names none."""
    words = (word for field in _TRIGGER_FIELDS for word in words_of(metadata.get(field)))
    return tuple(dict.fromkeys(words))


def title(adapter: AdapterFile) -> str:
    """The author's title, or the name of the file."""
    said = metadata_facts(adapter.metadata).title or guessed_facts(adapter.metadata).title
    return adapter.label if said is None else said.value
