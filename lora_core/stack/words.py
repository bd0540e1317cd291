"""Words and facts of a whole stack."""

from __future__ import annotations

from collections.abc import Iterable

from ..files.facts import LoraFacts, facts_text
from .rows import StackRow


def joined_words(rows: Iterable[tuple[StackRow, LoraFacts]]) -> str:
    """The trigger words of a stack as one prompt text, in stack order, each once (capitals do not count).

    A row's own choice goes before what its file names; words that the file does not name are kept.
    """
    words: dict[str, str] = {}
    for row, facts in rows:
        named = (word.value for word in facts.words) if row.words is None else row.words
        for word in named:
            if stripped := word.strip():
                words.setdefault(stripped.casefold(), stripped)
    return ", ".join(words.values())


def stack_facts(rows: Iterable[tuple[StackRow, LoraFacts]]) -> str:
    """What is known of every LoRA of a stack, for people and to go along with a workflow or a picture."""
    return "\n\n".join(
        "\n".join(filter(None, [_head(row), facts_text(facts)])) for row, facts in rows
    )


def _head(row: StackRow) -> str:
    chosen = "" if row.words is None else f", words chosen: {', '.join(row.words) or 'none'}"
    return f"{row.name} (model {row.model:g}, clip {row.clip:g}{chosen})"
