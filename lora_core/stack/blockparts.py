"""The finer parts of a block: which of a block's weights are q, k, v, feed-forward, norms, and the rows of fused ones.

Tables of name patterns only. Beside the common words every component of a weight's own name is a part, so that a model
whose names no pattern knows can still be addressed in its own words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..targets import Target, TargetMap


@dataclass(frozen=True)
class Piece:
    """Rows start to start + length of a weight (length None: all of it), and the parts they belong to."""

    start: int
    length: int | None
    parts: frozenset[str]


# The words that every family shares, in the order in which messages list them.
WORDS = (
    *("attn", "self", "cross", "q", "k", "v", "out", "ff", "norm", "mod", "proj", "conv"),
    *("img", "txt", "emb"),
)

# Each is looked for in one component of a name, lower case.
_NORM = re.compile(r"norm|^ln_|^layer_?norm|^scale$")
_MODULATION = re.compile(r"^(?:img_|txt_)?mod|modulation|^ada_?ln|^scale_shift|^emb_layers$")
_ATTENTION = re.compile(r"(?:^|_)attn\d?(?:$|_)|attention|^w?qkv")
_CROSS = re.compile(r"cross|encdec|^attn2$")
_FEED_FORWARD = re.compile(
    r"^(?:img_|txt_)?(?:ff|ffn|mlp|feed_?forward|dense)|^layer[12]$|^(?:moe|experts?|channelwise)$"
)
_PROJECTION = re.compile(r"(?:^|_)proj(?:_in|_out)?$|^skip_linear$|^linear2$")
_TEXT = re.compile(r"^txt_|^context_block$|^(?:to_)?add_|added|_y$|_t$|^(?:mlp|mod)c$")
_IMAGE = re.compile(r"^img_|^x_block$|_x$|_i$|^w2[qkvo]$|^(?:mlp|mod)x$")
_ROLES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (role, re.compile(pattern))
    for role, pattern in (
        ("q", r"^(?:to_|add_|w[12]?)?q(?:uery)?(?:_proj|_linear|_t|_img)?$"),
        ("k", r"^(?:to_|add_|w[12]?)?k(?:ey)?(?:_proj|_linear|_t|_img)?$"),
        ("v", r"^(?:to_|add_|w[12]?)?v(?:alue)?(?:_proj|_linear|_t|_img)?$"),
        ("out", r"^(?:to_out(?:_t)?|to_add_out|out(?:put)?_proj|out|o|wo|w[12]o|proj(?:_[xy])?)$"),
        ("ff", r"^proj_mlp$"),
    )
)
_FUSED_QKV = re.compile(r"qkv|^in_proj(?:_weight)?$")
_FUSED_KV = re.compile(r"^(?:to_|w)?kv(?:_proj|_linear)?$")
_FIRST, _SECOND = re.compile(r"\.w1[qkvo]\."), re.compile(r"\.w2[qkvo]\.")
# A block of one stream whose first matrix makes q, k, v and the feed-forward's input at once (Flux).
_FUSED_SINGLE = "linear1"
# The first layer of a UNet's residual halves is their norm; only its place says so.
_UNMARKED_NORMS = (("in_layers", "0"), ("out_layers", "0"))


def all_pieces(
    paths: Mapping[str, tuple[str, ...]], maps: Sequence[TargetMap]
) -> dict[str, tuple[Piece, ...]]:
    """The pieces of every weight. paths: weight -> its name inside its block; maps: where shapes and slices are from."""
    shapes = {key: shape for targets in maps for key, shape in targets.shapes.items()}
    named = _named_slices(item for targets in maps for item in targets.names.items())
    widths = _inner_widths(shapes)
    pieces = {}
    for key, path in paths.items():
        module = key.rpartition(".")[0]
        slices = named.get(key) or named.get(f"{module}.weight", {})
        width = widths.get(module.rpartition(".")[0])
        rows = shapes[key][0] if shapes[key] else 1
        dimensions = len(shapes.get(f"{module}.weight", shapes[key]))
        pieces[key] = _pieces_of(path, rows, dimensions, slices, width)
    _tell_by_siblings(pieces, shapes)
    return pieces


def parts_of(path: Sequence[str], dimensions: int) -> frozenset[str]:
    """The parts of a weight by its name inside its block, without the slices of a fused one.

    path: the components after the block, the last being "weight", "bias" or the parameter's own name.
    dimensions: of the module's weight: more than two are a convolution.
    """
    names = [name.lower() for name in path if name not in ("weight", "bias")]
    # A shared word means the same everywhere: a layer that merely is called "proj" or "out" does not have it.
    # Numbers count at the front only (M00.1); further in they stand with their list (transformer_blocks3).
    parts = {name for name in names if not name.isdigit()} - set(WORDS) | set(names[:1])
    parts |= {a + b for a, b in zip(names, names[1:], strict=False) if b.isdigit()}
    if tuple(names[-2:]) in _UNMARKED_NORMS or any(_NORM.search(name) for name in names):
        parts.add("norm")
    modulates = any(_MODULATION.search(name) for name in names)
    if modulates:
        parts |= {"mod", "emb"} if "emb_layers" in names else {"mod"}
    elif any(_FEED_FORWARD.search(name) for name in names):
        parts.add("ff")
    else:
        parts |= _attention(names, "norm" in parts)
    if not parts & {"attn", "ff", "mod", "norm"} and any(
        _PROJECTION.search(name) for name in names
    ):
        parts.add("proj")
    if dimensions > 2 and path[-1] in ("weight", "bias") and not parts & {"proj", "attn", "norm"}:
        parts.add("conv")
    for stream, pattern in (("txt", _TEXT), ("img", _IMAGE)):
        if any(pattern.search(name) for name in names):
            parts.add(stream)
    return frozenset(parts)


def _attention(names: Sequence[str], norm: bool) -> set[str]:
    """attn with self or cross, and the role of the matrix. A norm inside an attention has no role."""
    role = None if norm else next((r for name in reversed(names) if (r := role_of(name))), None)
    inside = any(_ATTENTION.search(name) for name in names)
    if not inside and role not in ("q", "k", "v") and names[-1:] != ["o"]:
        return set()
    kind = "cross" if any(_CROSS.search(name) for name in names) else "self"
    return {"attn", kind} | ({role} if role else set())


def role_of(name: str) -> str | None:
    """q, k, v, out or ff for one component of a name, None where it says nothing."""
    return next((role for role, pattern in _ROLES if pattern.search(name.lower())), None)


def _named_slices(targets: Iterable[tuple[str, Target]]) -> dict[str, dict[tuple[int, int], str]]:
    """Weight -> (first row, rows) -> role, from the names that the host gives to slices of fused weights."""
    found: dict[str, dict[tuple[int, int], str]] = {}
    for name, target in targets:
        if target.offset is None or target.offset[0] != 0 or "." not in name:
            continue
        role = next((r for part in reversed(name.split(".")) if (r := role_of(part))), None)
        if role is not None:
            found.setdefault(target.key, {})[target.offset[1:]] = role
    return found


def _pieces_of(
    path: Sequence[str],
    rows: int,
    dimensions: int,
    named: Mapping[tuple[int, int], str],
    inner_width: int | None,
) -> tuple[Piece, ...]:
    """A weight's rows by part: one piece for most, one each for q, k, v (and ff) where they are fused.

    rows: of the weight or its bias. dimensions: as in parts_of. named: what the host says of its slices.
    inner_width: how many numbers the attention's output projection reads, which is how many rows q has.
    """
    parts = parts_of(path, dimensions)
    roles = _tiles(named, rows) or _guessed(path, rows, inner_width)
    if not roles or "norm" in parts:
        return (Piece(0, None, parts),)
    stem = parts - {"q", "k", "v", "out", "ff", "attn", "self", "cross"}
    kind = "cross" if "cross" in parts else "self"
    return tuple(
        Piece(start, length, stem | ({"ff"} if role == "ff" else {"attn", kind, role}))
        for start, length, role in roles
    )


def _tiles(named: Mapping[tuple[int, int], str], rows: int) -> list[tuple[int, int, str]]:
    """The named slices in order where they cover all rows without a gap, else nothing."""
    tiles = [(start, length, role) for (start, length), role in sorted(named.items())]
    ends = [0, *(start + length for start, length, _ in tiles)]
    whole = ends[-1] == rows and all(t[0] == end for t, end in zip(tiles, ends, strict=False))
    return tiles if tiles and whole else []


def _guessed(path: Sequence[str], rows: int, inner_width: int | None) -> list[tuple[int, int, str]]:
    """q, k, v by the fused weight's name; k and v have fewer rows where heads share them."""
    names = [name.lower() for name in path]
    if any(_FUSED_KV.search(name) for name in names) and rows % 2 == 0:
        return [(0, rows // 2, "k"), (rows // 2, rows // 2, "v")]
    if any(_FUSED_QKV.search(name) for name in names):
        q = inner_width if inner_width and 0 < inner_width < rows else rows // 3
        if q == rows // 3 and rows % 3 or (rows - q) % 2:
            return []
        shared = (rows - q) // 2
        return [(0, q, "q"), (q, shared, "k"), (q + shared, shared, "v")]
    if _FUSED_SINGLE in names and inner_width and rows > 3 * inner_width:
        w = inner_width
        return [(0, w, "q"), (w, w, "k"), (2 * w, w, "v"), (3 * w, rows - 3 * w, "ff")]
    return []


def _inner_widths(shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """What holds an attention -> how many numbers its output projection reads; Flux's single blocks -> their width."""
    widths = {}
    for key, shape in shapes.items():
        holder, _, name = key.removesuffix(".weight").rpartition(".")
        if len(shape) == 2 and role_of(name) == "out":
            widths[holder] = shape[1]
        elif len(shape) == 2 and name == "linear2":
            widths[holder] = shape[0]
    return widths


def _tell_by_siblings(
    pieces: dict[str, tuple[Piece, ...]], shapes: Mapping[str, Sequence[int]]
) -> None:
    """Write into `pieces` what only the other weights of an attention tell: self or cross, and of which stream each is.

    Where k reads another width than q, it reads the context. One whose q and k are fused attends to itself, whatever
    it is called. Where some weights serve the text, the others serve the picture; AuraFlow numbers the two.
    """
    holders: dict[str, list[str]] = {}
    for key, own in pieces.items():
        if any("attn" in piece.parts for piece in own):
            holders.setdefault(_holder(key), []).append(key)
    for keys in holders.values():
        kind = _kind({key: pieces[key] for key in keys}, shapes)
        numbered = any(_SECOND.search(key) for key in keys)
        texts = {k for k in keys if "txt" in pieces[k][0].parts or numbered and _FIRST.search(k)}
        for key in keys:
            stream = set() if len(texts) in (0, len(keys)) else {"txt" if key in texts else "img"}
            pieces[key] = tuple(
                replace(piece, parts=(piece.parts - {"self", "cross"}) | {kind} | stream)
                if "attn" in piece.parts
                else piece
                for piece in pieces[key]
            )


def _kind(attention: Mapping[str, tuple[Piece, ...]], shapes: Mapping[str, Sequence[int]]) -> str:
    """ "self" or "cross" for the weights of one attention."""
    if any(len(own) > 1 and "q" in own[0].parts for own in attention.values()):
        return "self"
    widths = {
        role: shapes[key][1]
        for key, own in attention.items()
        for role in ("q", "k")
        if role in own[0].parts and len(shapes[key]) == 2
    }
    differ = len(widths) == 2 and widths["q"] != widths["k"]
    named = any("cross" in piece.parts for own in attention.values() for piece in own)
    return "cross" if differ or named else "self"


def _holder(key: str) -> str:
    """The attention that a weight is part of: its path up to the component of its role."""
    parts = key.split(".")
    role = next((n for n in range(len(parts) - 1, -1, -1) if role_of(parts[n])), len(parts) - 2)
    return ".".join(parts[:role])
