"""What is in a LoRA, as text for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .account import Account, describe, row_warnings
from .adapters import AdapterFile
from .files.facts import LoraFacts, facts_text, gather
from .files.identity import FileHashes, stored_autov3
from .files.naming import is_text_encoder
from .stack.lock import Identified

_SHOWN_LEFTOVERS = 20


def inspect_report(
    adapter: AdapterFile,
    account: Account | None = None,
    hashes: FileHashes | None = None,
    facts: LoraFacts | None = None,
) -> str:
    """Title, kind, size, parts, facts and leftovers; with an account also what fits the connected model.

    facts: what file and sidecars say; None: only what the file's own metadata says.
    """
    facts = gather(adapter.metadata) if facts is None else facts
    text_encoder = sum(is_text_encoder(name) for name in adapter.modules)
    adapters = (*adapter.modules.values(), *adapter.differences.values())
    dtypes = sorted({str(item.tensors[0].dtype).removeprefix("torch.") for item in adapters})
    words = [word.value for word in facts.words]
    lines = [
        facts.title.value if facts.title is not None else adapter.label,
        f"file: {adapter.label}, {adapter.nbytes / 1e6:.2f} MB of weights, {', '.join(dtypes) or 'no weights read'}",
        f"made for: {describe(adapter)}",
        f"adapters: {len(adapter.modules) - text_encoder} on the model, {text_encoder} on text encoders",
        f"trigger words: {', '.join(words) or 'none named'}",
    ]
    if hashes is not None:
        lines += _hash_lines(adapter, hashes)
    if adapter.differences:
        lines.append(f"whole differences: {len(adapter.differences)} of weights and biases")
    lines += [
        f"not read: {left.key}: {left.reason}" for left in adapter.leftovers[:_SHOWN_LEFTOVERS]
    ]
    hidden = len(adapter.leftovers) - _SHOWN_LEFTOVERS
    if hidden > 0:
        lines.append(f"and {hidden} more keys that were not read")
    if known := facts_text(facts):
        lines += ["what is said about it:", known]
    if account is not None:
        lines += ["on the connected model:", account.report()]
    return "\n".join(lines)


def _hash_lines(adapter: AdapterFile, hashes: FileHashes) -> list[str]:
    """The hashes, and where the metadata claims another: then the weights were changed after it was written."""
    claims = stored_autov3(adapter.metadata)
    return [
        f"sha256: {hashes.sha256}",
        f"AutoV2: {hashes.autov2}, AutoV3: {hashes.autov3}",
        *(
            f"{field} says {claim}: the weights were changed since it was written"
            for field, claim in claims.items()
            if claim != hashes.autov3
        ),
    ]


def page_rows(rows: Iterable[Identified], account: Account | None) -> list[dict[str, Any]]:
    """What the page marks its rows with after a run: what each was found to be, and how it fits the model.

    base, model_base: of the LoRA and of the MODEL, null where they are not known or nothing was matched. warnings: what
    the report warns of in this row.
    """
    told = {} if account is None else {id(entry.row): entry for entry in account.rows}
    listed = []
    for item in rows:
        entry = told.get(id(item.row))
        fit = {"base": item.base, "model_base": None, "warnings": []}
        if entry is not None:
            fit |= {"model_base": entry.model_base, "warnings": row_warnings(entry)}
        listed.append({**item.facts(), **fit})
    return listed
