"""What stands in a rows box -> LoraStack: our own rows, or what a person pasted there from another pack.

Text that begins with { or [ is JSON: ours, read by rows_json as strictly as ever, or one of the forms of foreign.py,
which have marks of their own. Any other text is read as <lora:...> tags, and may hold nothing else.
"""

from __future__ import annotations

import json

from ..errors import StackError
from ..files.finding import FindName
from .foreign import Foreign, is_foreign, read_foreign
from .rows_json import parse_rows
from .tags import has_tags, read_tags


def read_rows(text: str, find: FindName) -> Foreign:
    """The rows that are switched on, and what of pasted text could not be read.

    find: a name as other packs write it -> the listed name; our own rows keep theirs. Raises StackError or
    LoraFileError.
    """
    if not text.lstrip().startswith(("{", "[")) and has_tags(text):
        return _tags(text, find)
    try:
        document = json.loads(text)
        if is_foreign(document):
            return read_foreign(document, find)
    except (ValueError, RecursionError):
        pass  # no JSON, or nested past all reason: our own reader says what is wrong
    return Foreign(parse_rows(text))


def _tags(text: str, find: FindName) -> Foreign:
    read = read_tags(text, find)
    if other := read.text.strip(" ,\t\r\n"):
        raise StackError(
            f"The rows hold more than tags: '{other:.80}'. Put a prompt with tags into Loom Tags."
        )
    return Foreign(read.stack, tuple(line.strip() for line in read.report if line.startswith("  ")))
