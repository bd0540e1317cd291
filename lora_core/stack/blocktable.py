"""The blocks of a model by name, read off its own weight names: nothing here knows a family but the UNet.

A block list is a module list whose items hold several named matrices: `double_blocks.5.img_attn.qkv` is block D05,
`input_blocks.4.1...` is IN04. A model that the host learns tomorrow has a table on that day.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..targets import TargetMap
from .blockparts import Piece, all_pieces

_MODEL = "diffusion_model"
_UNET = {"input_blocks": "IN", "middle_block": "M", "output_blocks": "OUT"}
# Words that say only "list of blocks"; they give the name where nothing else is said.
_PLAIN = {"blocks", "block", "layers", "layer", "stream", "transformer"}
_WHOLE = {"down": "DOWN", "up": "UP"}  # D and U are other things to most people
_INDEXED = re.compile(r"^(?:(?:block|layer)_?)?(\d+)$")
_ENTRY = re.compile(r"_in$")
_EXIT = re.compile(r"^(?:final_\w+|proj_out|norm_out|head|last_layer)$")
OUTSIDE = ("BASE", "IN", "OUT", "OTHER")

# (block, path inside it) of a weight.
_Spot = tuple[str, tuple[str, ...]]


@dataclass(frozen=True)
class Place:
    """Where one weight stands: its block, its name inside it, and its rows by part."""

    block: str
    path: tuple[str, ...]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class BlockTable:
    """All weights of a model (and its text encoders) by block.

    blocks: names in the order of the model. places: weight name -> its one block. weights: block -> its weights.
    groups: names for several blocks: TE, CLIP, T5, one for each text encoder, and BASE, which is all that lies outside
    the model's numbered blocks, text encoders included. complete: whether a MODEL was there to read the names from.
    """

    blocks: tuple[str, ...] = ()
    places: Mapping[str, Place] = field(default_factory=dict)
    weights: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    complete: bool = True

    def numbered(self, prefix: str = "") -> tuple[str, ...]:
        """The model's own blocks, or those of one kind: "IN" gives IN00, IN01, ..."""
        encoders = self.groups.get("TE", ())
        return tuple(
            name
            for name in self.blocks
            if name not in OUTSIDE
            and name not in encoders
            and (not prefix or re.fullmatch(rf"{prefix}\d+", name))
        )


def block_table(model: TargetMap | None, clip: TargetMap | None = None) -> BlockTable:
    """The table of a MODEL and a CLIP; None stands for a socket that is not connected."""
    places: dict[str, _Spot] = {}
    if model is not None:
        places |= _model_places(model.shapes)
    own = {block for block, _ in places.values()}
    encoders = _encoder_places(clip.shapes if clip is not None else {}, own)
    places |= {key: place for found in encoders.values() for key, place in found.items()}
    groups = _groups(own, encoders)
    blocks = tuple(sorted(dict.fromkeys(block for block, _ in places.values()), key=_order(places)))
    maps = [targets for targets in (model, clip) if targets is not None]
    pieces = all_pieces({key: path for key, (_, path) in places.items()}, maps)
    placed = {key: Place(block, path, pieces[key]) for key, (block, path) in places.items()}
    weights: dict[str, list[str]] = {block: [] for block in blocks}
    for key, (block, _) in places.items():
        weights[block].append(key)
    by_block = {block: tuple(keys) for block, keys in weights.items()}
    return BlockTable(blocks, placed, by_block, groups, model is not None)


def _groups(own: set[str], encoders: Mapping[str, Mapping[str, tuple]]) -> dict[str, tuple]:
    named = {
        name: tuple(dict.fromkeys(block for block, _ in found.values()))
        for name, found in encoders.items()
    }
    groups = {"TE": tuple(block for blocks in named.values() for block in blocks)}
    for group, mark in (("CLIP", "CLIP"), ("T5", "T5")):
        groups[group] = tuple(b for name, blocks in named.items() if mark in name for b in blocks)
    outside = tuple(name for name in ("BASE", "IN", "OUT") if name in own)
    return groups | named | {"BASE": outside + groups["TE"]}


def _order(places: Mapping[str, _Spot]) -> Callable[[str], tuple[int, int]]:
    """Kinds of blocks in the order in which the model lists them, indices by number; what lies outside first or last."""
    kinds: dict[str, int] = {}
    for block, _ in places.values():
        kinds.setdefault(block.rstrip("0123456789"), len(kinds))
    edges = {"BASE": -2, "OTHER": len(kinds) + 1}

    def rank(block: str) -> tuple[int, int]:
        kind = block.rstrip("0123456789")
        index = int(block[len(kind) :] or -1)
        if block in ("IN", "OUT"):
            return (-1 if block == "IN" else len(kinds), index)
        return (edges.get(block, kinds[kind]), index)

    return rank


def _model_places(shapes: Mapping[str, Sequence[int]]) -> dict[str, _Spot]:
    """Weight -> (block, path inside it) of the diffusion model; what is no part of it is OTHER."""
    inside = {tuple(key.split(".")[1:]): s for key, s in shapes.items() if _in_model(key)}
    unet = any(path[0] == "input_blocks" for path in inside)
    lists = {(name,) for name in _UNET} if unet else _block_lists(inside)
    names = {(name,): prefix for name, prefix in _UNET.items()} if unet else _list_names(lists)
    places = {}
    for key in shapes:
        path = tuple(key.split(".")[1:])
        if not _in_model(key):
            places[key] = ("OTHER", tuple(key.split(".")))
        elif path[0] == "middle_block" and unet:
            places[key] = ("M00", path[1:])
        elif (found := _placed(path, lists, names)) is not None:
            places[key] = found
        else:
            places[key] = (_outside(path[0], unet), path)
    return _padded(places)


def _in_model(key: str) -> bool:
    return key.startswith(f"{_MODEL}.")


def _outside(module: str, unet: bool) -> str:
    if not unet and _ENTRY.search(module):
        return "IN"
    return "OUT" if not unet and _EXIT.search(module) else "BASE"


def _encoder_places(
    shapes: Mapping[str, Sequence[int]], taken: set[str]
) -> dict[str, dict[str, _Spot]]:
    """Text encoder's name (CLIPL) -> weight -> (block, path): its layers are CLIPL00 and on, the rest CLIPL_BASE."""
    paths: dict[str, dict[str, tuple[str, ...]]] = {}
    for key in shapes:
        encoder, *path = key.split(".")
        paths.setdefault(encoder, {})[key] = tuple(path)
    found = {}
    for encoder, keys in paths.items():
        prefix = encoder.replace("_", "").upper()
        prefix += "_" if prefix[-1].isdigit() or prefix in taken else ""
        lists = _block_lists({path: shapes[key] for key, path in keys.items()})
        sizes = {
            each: sum(
                math.prod(shapes[key]) for key, path in keys.items() if path[: len(each)] == each
            )
            for each in lists
        }
        # The largest list is the encoder itself; others (an encoder of pictures) add their names.
        names = {each: prefix + "_".join(each).upper() + "_" for each in lists}
        if lists:
            names[max(sorted(lists), key=lambda each: sizes[each])] = prefix
        places = {
            key: _placed(path, lists, names) or (f"{prefix.rstrip('_')}_BASE", path)
            for key, path in keys.items()
        }
        found[prefix.rstrip("_")] = _padded(places)
    return found


def _block_lists(shapes: Mapping[tuple[str, ...], Sequence[int]]) -> set[tuple[str, ...]]:
    """Paths of the lists that count from 0 and of which some item has two matrices with names of their own."""
    items: dict[tuple[str, ...], dict[int, set[tuple[str, ...]]]] = {}
    for path, shape in shapes.items():
        for place, name in enumerate(path[:-1]):
            if (index := _INDEXED.match(name)) and place:
                modules = items.setdefault(path[:place], {}).setdefault(int(index[1]), set())
                inner = path[place + 1 : -1]
                if len(shape) >= 2 and any(not part.isdigit() for part in inner):
                    modules.add(inner)
    return {
        path
        for path, modules in items.items()
        if 0 in modules and any(len(each) >= 2 for each in modules.values())
    }


def _placed(
    path: tuple[str, ...], lists: Iterable[tuple[str, ...]], names: Mapping[tuple[str, ...], str]
) -> _Spot | None:
    """(block, path inside it) by the outermost list that the weight stands in."""
    for length in range(1, len(path) - 1):
        if path[:length] in lists and (index := _INDEXED.match(path[length])):
            return f"{names[path[:length]]}{int(index[1])}", path[length + 1 :]
    return None


def _padded(
    places: Mapping[str, _Spot],
) -> dict[str, _Spot]:
    """Indices of two digits, or of as many as the longest needs."""
    split = {block: re.fullmatch(r"(.*?)(\d+)", block) for block, _ in places.values()}
    width: dict[str, int] = {}
    for match in split.values():
        if match:
            width[match[1]] = max(width.get(match[1], 2), len(match[2]))
    names = {
        block: block if not match else match[1] + match[2].zfill(width[match[1]])
        for block, match in split.items()
    }
    return {key: (names[block], path) for key, (block, path) in places.items()}


def _list_names(lists: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """A short prefix for each list, from its own words: double_blocks D, noise_refiner NR, blocks B.

    Of two lists with the same letters the outer one keeps them; the other says more of its path.
    """
    names: dict[tuple[str, ...], str] = {}
    for path in sorted(lists, key=lambda each: (len(each), each)):
        longer = ("_".join(path[start:]).upper() + "_" for start in range(len(path) - 1, -1, -1))
        parents = "".join(_initials(part) for part in path)
        telling = next((part for part in reversed(path) if not _is_plain(part)), path[-1])
        choices = (_initials(telling), parents, *longer)
        used = (*names.values(), "IN", "OUT", "BASE", "OTHER", "A")
        names[path] = next(name for name in choices if name not in used)
    return names


def _is_plain(name: str) -> bool:
    return set(_words(name)) <= _PLAIN


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[_\d]+", name) if word]


def _initials(name: str) -> str:
    words = _words(name)
    telling = [word for word in words if word not in _PLAIN] or words[:1] or ["X"]
    if len(telling) == 1 and telling[0] in _WHOLE:
        return _WHOLE[telling[0]]
    return "".join(word[0] for word in telling).upper()
