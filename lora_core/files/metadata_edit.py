"""The metadata of a file that is saved: what it had, the user's edits, title and words."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ..errors import SaveError

# Said by the writer for the new bytes; those of the old file would lie.
HASH_FIELDS = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")
# PEFT's settings of the file as it was: names, ranks and alphas of its modules.
PEFT_SETTINGS = "lora_adapter_metadata"


def edited(
    metadata: Mapping[str, str], edits: str, title: str = "", words: str = ""
) -> dict[str, str]:
    """The metadata with the edits done; all other fields (ss_*, modelspec.*, ...) stay as they were.

    edits: a JSON object, or lines of key=value; an empty value removes the field. title, words: empty changes
    nothing. Raises SaveError.
    """
    result = {key: value for key, value in metadata.items() if key not in HASH_FIELDS}
    for key, value in {
        **({"modelspec.title": title.strip()} if title.strip() else {}),
        **({"modelspec.trigger_phrase": words.strip()} if words.strip() else {}),
        **_edits(edits),
    }.items():
        if value:
            result[key] = value
        else:
            result.pop(key, None)
    for key, value in result.items():
        _check_text(key, key)
        _check_text(key, value)
    return result


def _edits(text: str) -> dict[str, str]:
    if not text.strip():
        return {}
    if text.lstrip().startswith("{"):
        return _from_json(text)
    edits = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        key, equals, value = line.partition("=")
        if not equals or not key.strip():
            raise SaveError(
                f"Metadata line {number} is '{line.strip()[:60]}'; write key=value, one a line, or a JSON object."
            )
        edits[key.strip()] = value.strip()
    return edits


def _from_json(text: str) -> dict[str, str]:
    """A JSON object; metadata is text only, so other values are kept as the JSON they are."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SaveError(
            f"The metadata is no JSON: {error}. Or write key=value, one a line."
        ) from None
    return {
        key: value if isinstance(value, str) else "" if value is None else json.dumps(value)
        for key, value in said.items()
    }


def _check_text(key: str, value: str) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise SaveError(
            f"The metadata {ascii(key)[:80]} is no valid Unicode text; type it again."
        ) from None
