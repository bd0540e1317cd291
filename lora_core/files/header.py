"""The header of a safetensors file, read with suspicion: all of it is checked before any tensor is allocated.

The format: 8 bytes little-endian length, that many bytes of JSON, then the tensors without gaps.
https://huggingface.co/docs/safetensors. What is refused here, the safetensors library refuses too, or it would run
out of memory or time.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import torch

from ..errors import LoraFileError

# The library's own limit. A LoRA's header has a few hundred kB, some MB with a picture or tag lists in it.
HEADER_LIMIT = 100_000_000
# Text with one character beyond Latin-1 takes two or four bytes for each: bounded more tightly.
_WIDE_LIMIT = 16_000_000
# Bytes outside of strings: braces, numbers, commas. They become Python objects of 20 times their size.
# A tensor needs about 60; the largest LoRAs have some 10,000 tensors.
_STRUCTURE_LIMIT = 4_000_000
_SMALL_HEADER = 1_000_000
_LONGEST_NAME = 1000
_MOST_DIMENSIONS = 8
# An empty tensor has strides too, which must not run over.
_MOST_EMPTY = 1 << 48
_FIELDS = {"dtype", "shape", "data_offsets"}
_WHOLE = {int}

DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, dtype)
    for name, dtype in (
        ("BOOL", "bool"),
        ("U8", "uint8"),
        ("I8", "int8"),
        ("F8_E4M3", "float8_e4m3fn"),
        ("F8_E5M2", "float8_e5m2"),
        ("F8_E8M0", "float8_e8m0fnu"),
        ("U16", "uint16"),
        ("I16", "int16"),
        ("F16", "float16"),
        ("BF16", "bfloat16"),
        ("U32", "uint32"),
        ("I32", "int32"),
        ("F32", "float32"),
        ("U64", "uint64"),
        ("I64", "int64"),
        ("F64", "float64"),
        ("C64", "complex64"),
    )
    if hasattr(torch, dtype)
}


class Unreadable(LoraFileError):
    """What is wrong with the bytes of a file; the reader says which file it is and what to do."""


class Entry(NamedTuple):
    """One tensor: its bytes are start to stop of the body. A tuple, because a file has thousands."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """entries: in the order of their bytes, which they cover without gaps. body: the size of all tensors together."""

    entries: tuple[Entry, ...]
    metadata: dict[str, str]
    body: int


def read_header(file: BinaryIO, size: int) -> Header:
    """Read and check the header; `file` is left at the first byte of the tensors. size: of the whole file.

    Raises Unreadable, OSError.
    """
    if size < 8:
        raise Unreadable("it is shorter than the 8 bytes that every such file begins with")
    length = int.from_bytes(_exactly(file, 8), "little")
    if length > size - 8:
        raise Unreadable(f"its header claims {length} bytes, more than the file has")
    if length > HEADER_LIMIT:
        raise Unreadable(f"its header claims {length} bytes; {HEADER_LIMIT} are the most")
    fields = _parsed(_exactly(file, length))
    metadata = _metadata(fields.pop("__metadata__", None))
    body = size - 8 - length
    entries = sorted(
        (_entry(name, said, body) for name, said in fields.items()),
        key=lambda entry: (entry.start, entry.stop),
    )
    _check_cover(entries, body)
    return Header(tuple(entries), metadata, body)


def shown(name: str) -> str:
    """A tensor's name for a message, however long it is."""
    return ascii(name) if len(name) <= 80 else f"{ascii(name[:60])}... ({len(name)} characters)"


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    while len(data) < count and (more := file.read(count - len(data))):
        data += more
    if len(data) < count:
        raise Unreadable(f"it ended {count - len(data)} bytes early while it was read")
    return data


def _parsed(raw: bytes) -> dict[str, Any]:
    """The header's JSON object; its size in memory is bounded before it is parsed."""
    if not raw.startswith(b"{"):
        raise Unreadable("where its header should be, there is something else")
    if len(raw) > _SMALL_HEADER:
        _check_structure(raw)
        if len(raw) > _WIDE_LIMIT and not raw.isascii():
            raise Unreadable(f"its header has {len(raw)} bytes of text that is not plain ASCII")
    try:
        text = raw.decode("utf-8")
        del raw
        fields = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        reason = "its header is nested too deeply" if isinstance(error, RecursionError) else error
        raise Unreadable(f"its header is no JSON text: {reason}") from None
    return fields


def _check_structure(raw: bytes) -> None:
    plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    quotes = plain.count(b'"')
    if quotes < _STRUCTURE_LIMIT // 8:
        outside = sum(len(part) for part in plain.split(b'"')[::2])
        if outside <= _STRUCTURE_LIMIT:
            return
    raise Unreadable("its header lists far more than any LoRA has")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"it names {shown(twice)} twice")
    return found


def _metadata(said: Any) -> dict[str, str]:
    if said is None:
        return {}
    if not isinstance(said, dict):
        raise Unreadable("its metadata is no JSON object")
    for key, value in said.items():
        if not isinstance(value, str):
            kind = type(value).__name__
            raise Unreadable(f"the metadata {shown(key)} is of type {kind}; only text is allowed")
        if not (_is_text(key) and _is_text(value)):
            raise Unreadable(f"the metadata {shown(key)} is no valid Unicode text")
    return said


def _is_text(value: str) -> bool:
    """Whether it can be written as UTF-8: JSON's escapes can make halves of characters."""
    if value.isascii():
        return True
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _entry(name: str, said: Any, body: int) -> Entry:
    """One checked tensor: a known dtype, a shape of whole numbers, as many bytes within the body as these need."""
    if len(name) > _LONGEST_NAME or not _is_text(name):
        raise Unreadable(f"the tensor name {shown(name)} is no name of a weight")
    if not isinstance(said, dict) or said.keys() != _FIELDS:
        raise Unreadable(f"{shown(name)} does not say its dtype, shape and data_offsets")
    dtype = DTYPES.get(said["dtype"]) if isinstance(said["dtype"], str) else None
    if dtype is None:
        raise Unreadable(f"{shown(name)} has the unknown dtype {shown(str(said['dtype']))}")
    shape, offsets = said["shape"], said["data_offsets"]
    if not _are_counts(shape) or len(shape) > _MOST_DIMENSIONS:
        raise Unreadable(f"the shape of {shown(name)} is no list of up to {_MOST_DIMENSIONS} sizes")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise Unreadable(f"the data_offsets of {shown(name)} are not two whole numbers")
    start, stop = offsets
    if not start <= stop <= body:
        raise Unreadable(
            f"{shown(name)} claims the bytes {start} to {stop} of {body}: the file is cut short or its header lies"
        )
    numbers = math.prod(shape)
    if stop - start != numbers * dtype.itemsize:
        raise Unreadable(
            f"the {stop - start} bytes of {shown(name)} are not those of {_times(shape)} numbers of {said['dtype']}"
        )
    if not numbers and math.prod(size or 1 for size in shape) > _MOST_EMPTY:
        raise Unreadable(f"the shape {_times(shape)} of {shown(name)} is absurd")
    return Entry(name, dtype, tuple(shape), start, stop)


def _are_counts(said: Any) -> bool:
    """Whether it is a list of whole numbers, none below zero. True and False are no numbers."""
    return (
        isinstance(said, list) and _WHOLE.issuperset(map(type, said)) and min(said, default=0) >= 0
    )


def _times(shape: list[int]) -> str:
    text = " x ".join(map(str, shape))
    return text if len(text) <= 80 else f"{text[:60]}..."


def _check_cover(entries: list[Entry], body: int) -> None:
    """The tensors follow each other without overlap or gap and fill the body."""
    end, before = 0, None
    for entry in entries:
        if entry.start != end:
            what = "overlaps" if entry.start < end else "leaves a gap after"
            other = "the start" if before is None else shown(before.name)
            raise Unreadable(f"{shown(entry.name)} {what} {other} in the file")
        end, before = entry.stop, entry
    if end != body:
        raise Unreadable(f"{body - end} of its {body} bytes of weights belong to no tensor")
