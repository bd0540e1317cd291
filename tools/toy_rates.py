"""How often the toy's style and character are seen, alone and stacked, through the host's nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tools import toy_card, toy_measure
from tools.toy_measure import Loaded, Shown

SEEDS = tuple(range(1, 17))
STYLE, CHARACTER = "loom_toy_style", "loom_toy_character"
CARELESS = "_careless"
# What each file is loaded at, for the model and for the text encoder.
STRENGTHS = {
    STYLE: 0.8,
    CHARACTER: 0.9,
    STYLE + CARELESS: 0.8,
    CHARACTER + CARELESS: 0.9,
}
BOTH_WORDS = "ohwx zwx on a {ground} ground"


@dataclass(frozen=True)
class Row:
    """One row of a picture sheet: LoRA names, a prompt, and its ground."""

    name: str
    loras: tuple[str, ...]
    prompt: str
    ground: str = "dark"


def rows(suffix: str, ground: str) -> tuple[Row, ...]:
    """Return the four rows that show whether a pair stacks, for the pair with this suffix."""
    prompt = BOTH_WORDS.format(ground=ground)
    style, character = STYLE + suffix, CHARACTER + suffix
    return (
        Row("no LoRA", (), prompt, ground),
        Row("style", (style,), prompt, ground),
        Row("character", (character,), prompt, ground),
        Row("style + character", (style, character), prompt, ground),
    )


def rate(shown: Sequence[Shown], ground: str) -> dict[str, float]:
    """Return the shares of pictures with the style, the character, both, and the right ground."""
    seen = [one.reading for one in shown]
    count = len(seen)
    return {
        "style": round(sum(one.style for one in seen) / count, 4),
        "character": round(sum(one.character for one in seen) / count, 4),
        "both": round(sum(one.style and one.character for one in seen) / count, 4),
        "ground": round(sum(one.ground == ground for one in seen) / count, 4),
    }


def measure_row(
    base: Loaded, folder: Path, row: Row, seeds: Sequence[int] = SEEDS
) -> tuple[dict[str, Any], list[Image.Image]]:
    """Return a row's entry for the card and its pictures."""
    files = [(folder / f"{name}.safetensors", STRENGTHS[name]) for name in row.loras]
    loaded = toy_measure.with_loras(base, files)
    shown = toy_measure.show(loaded, [row.prompt] * len(seeds), seeds)
    loras = [{"file": f"{name}.safetensors", "strength": STRENGTHS[name]} for name in row.loras]
    entry = {"row": row.name, "loras": loras, "prompt": row.prompt, "seeds": list(seeds)}
    return {**entry, **rate(shown, row.ground)}, [one.picture for one in shown]


def recommended() -> dict[str, Any]:
    """Return the values that the demo uses."""
    return {
        **asdict(toy_measure.SETTINGS),
        "seeds": list(SEEDS),
        "loras": {
            "style": {"file": f"{STYLE}.safetensors", "strength": STRENGTHS[STYLE]},
            "character": {"file": f"{CHARACTER}.safetensors", "strength": STRENGTHS[CHARACTER]},
        },
        "triggers": {"style": "ohwx", "character": "zwx"},
        "rows": [
            {"name": row.name, "loras": list(row.loras), "prompt": row.prompt}
            for row in rows("", "dark")
        ],
    }


def measure(checkpoint: Path, folder: Path, work: Path) -> None:
    """Measure both pairs and write the card; sheets of the pictures go to the work folder.

    All four rows of each pair on the dark ground; on the others the careful stack alone.
    """
    base = toy_measure.load_base(checkpoint)
    stacked = [row for ground in ("grey", "light") for row in rows("", ground)[3:]]
    wanted = {
        "careful": [*rows("", "dark"), *stacked],
        "careless": list(rows(CARELESS, "dark"))[1:],
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for pair, some in wanted.items():
        pictures: list[Image.Image] = []
        found[pair] = []
        for row in some:
            entry, made = measure_row(base, folder, row)
            found[pair].append(entry)
            pictures += made
            print({key: entry[key] for key in ("row", "prompt", "style", "character", "both")})
            toy_measure.sheet(pictures, len(SEEDS)).save(work / f"{pair}.png")
    toy_card.update("rates", found)
    toy_card.update("recommended", recommended())
