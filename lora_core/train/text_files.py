"""Caption files: sidecars beside pictures, and metadata.jsonl. Text only; a name in a file never leaves its folder."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path

from ..errors import DatasetError

SIDECARS = (".txt", ".caption")
METADATA = "metadata.jsonl"
_NAME_FIELDS = ("file_name", "file", "image")
_TEXT_FIELDS = ("text", "caption", "prompt")
_MOST_CAPTION_BYTES = 64 << 10
_MOST_METADATA_BYTES = 64 << 20
# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def one_line(text: str) -> str:
    """The caption on one line: line ends and runs of spaces become one space."""
    return " ".join(text.split())


def read_caption(path: Path, label: str) -> str:
    """A caption file as one line. UTF-8, or any Unicode with a byte-order mark. Raises DatasetError."""
    return one_line(_read_text(path, label, _MOST_CAPTION_BYTES))


def read_metadata(path: Path, label: str) -> dict[str, str]:
    """metadata.jsonl -> {file name inside its folder, with forward slashes: caption}.

    One JSON object a line, such as {"file_name": "a.png", "text": "a red ring"}. Raises DatasetError that names the
    line: not JSON, no name or text, a name that leaves the folder, the same name twice.
    """
    captions: dict[str, str] = {}
    for number, line in enumerate(_read_text(path, label, _MOST_METADATA_BYTES).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{label}, line {number}"
        name, caption = _entry(line, where)
        if name in captions:
            raise DatasetError(f"{where}: '{name}' is named a second time. Keep one of its lines.")
        captions[name] = caption
    return captions


def _entry(line: str, where: str) -> tuple[str, str]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f'{where}: not JSON ({error}). Write {{"file_name": "a.png", "text": "a caption"}}.'
        ) from error
    if not isinstance(entry, dict):
        raise DatasetError(f"{where}: must be a JSON object; found {line.strip():.80}.")
    name = _text_of(entry, _NAME_FIELDS, where)
    return _inside(name, where), one_line(_text_of(entry, _TEXT_FIELDS, where))


def _text_of(entry: dict[str, object], fields: tuple[str, ...], where: str) -> str:
    for field in fields:
        if field in entry:
            value = entry[field]
            if isinstance(value, str):
                return value
            raise DatasetError(f"{where}: '{field}' must be text; found {value!r:.80}.")
    raise DatasetError(f"{where}: has none of the fields {', '.join(fields)}.")


def _inside(name: str, where: str) -> str:
    """The name with forward slashes; refused where it could point out of its folder."""
    parts = name.replace("\\", "/").split("/")
    leaves = ".." in parts or parts[0] == "" or re.match(r"^[A-Za-z]:", name) or "\0" in name
    if leaves:
        raise DatasetError(
            f"{where}: '{name}' points outside its folder. Only pictures in the folder itself are read."
        )
    return "/".join(part for part in parts if part not in ("", "."))


def _read_text(path: Path, label: str, most: int) -> str:
    try:
        size = path.stat().st_size
        if size > most:
            raise DatasetError(
                f"{label}: {size} bytes; a file of this kind has at most {most}. Is it another file's content?"
            )
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{label}: cannot be read ({error.strerror}).") from error
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeError as error:
        raise DatasetError(
            f"{label}: not {encoding.upper()} text ({error.reason} at byte {error.start}). Save it as UTF-8."
            if isinstance(error, UnicodeDecodeError)
            else f"{label}: not {encoding.upper()} text. Save it as UTF-8."
        ) from error
    if any(ord(sign) < 32 and sign not in "\t\n\r\f" for sign in text):
        raise DatasetError(
            f"{label}: holds control characters, so it is not plain UTF-8 text. Save it as UTF-8."
        )
    return text
