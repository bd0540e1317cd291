"""Facts picked out of the JSON that sites and other packs write; a field that is missing or of another type is no fact."""

from __future__ import annotations

from .lenient import TEXT, dig, number_of, text_of, texts_of, without_markup
from .said import LoraFacts, Said, joined
from .words import said_words


def picked(
    document: object,
    name: str,
    title: tuple[str, ...] = (),
    base: tuple[str, ...] = (),
    about: tuple[str, ...] = (),
    tags: tuple[str, ...] = (),
) -> LoraFacts:
    """The facts that stand under these keys; no keys, no fact."""
    head = text_of(dig(document, *title)) if title else ""
    model = text_of(dig(document, *base)) if base else ""
    text = text_of(without_markup(dig(document, *about)), TEXT, lines=True) if about else ""
    listed = texts_of(dig(document, *tags)) if tags else []

    def source(keys: tuple[str, ...]) -> str:
        field = ".".join(keys)
        return f"{name}{field}" if name.endswith(".") else f"{name}: {field}"

    return LoraFacts(
        title=Said(head, source(title)) if head else None,
        base=Said(model, source(base)) if model else None,
        description=Said(text, source(about)) if text else None,
        tags=Said(tuple(listed), source(tags)) if listed else None,
    )


def strengths(single: object, bounds: tuple[object, object], source: str) -> LoraFacts:
    strength, low, high = number_of(single), number_of(bounds[0]), number_of(bounds[1])
    span = (low, high) if low is not None and high is not None and low <= high else None
    return LoraFacts(
        strength=None if strength is None else Said(strength, source),
        strength_range=None if span is None else Said(span, source),
    )


def civitai_version(version: object, source: str) -> LoraFacts:
    """A model version as Civitai's interface gives it. source: what stands in front of its field names."""
    words, notes = said_words(dig(version, "trainedWords"), f"{source}trainedWords")
    creator = dig(version, "creator")
    author = text_of(dig(creator, "username")) or text_of(dig(creator, "name"))
    licence = _civitai_licence(dig(version, "model"))
    name = source.removesuffix(": ")
    own = picked(
        version, name, title=("model", "name"), base=("baseModel",), about=("description",)
    )
    model = picked(version, name, about=("model", "description"), tags=("model", "tags"))
    said = LoraFacts(
        author=Said(author, f"{source}creator") if author else None,
        licence=Said(licence, f"{source}model") if licence else None,
        words=words,
        notes=notes,
    )
    return joined((own, model, said))


def _civitai_licence(model: object) -> str:
    """Civitai's four permissions in words; "" where none is given."""
    sold = dig(model, "allowCommercialUse")
    sold = ", ".join(texts_of(sold if isinstance(sold, list | str) else None))
    permissions = (
        ("allowNoCredit", "no credit needed", "credit the author"),
        ("allowDerivatives", "merges allowed", "no merges"),
        ("allowDifferentLicense", "other terms allowed", "same terms"),
    )
    said = [
        yes if dig(model, key) else no
        for key, yes, no in permissions
        if isinstance(dig(model, key), bool)
    ]
    return "; ".join([*said, *([f"commercial use: {sold}"] if sold else [])])
