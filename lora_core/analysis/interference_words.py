"""Interference in words, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..stack.blockselect import listed
from .interference import TOLERATED, Interference, Pair, advice, share_of
from .overlap import Overlap

_SHOWN = 20


def report(found: Interference) -> str:
    """The sentence, then for each pair a line for the whole and one for each block, worst first."""
    lines = [sentence(found)]
    if (told := blocks_text(found)) is not None:
        lines.append(f"  in Loom Blocks, row {told['row'] + 1}: {told['text']}")
    how = "on what the model's layers were fed with" if found.weighted else "by the weights alone"
    lines.append(f"measured {how}; each row at its strength")
    for one in found.pairs:
        lines += _table(found, one)
    if found.not_measured:
        hidden = len(found.not_measured) - _SHOWN
        lines.append(f"not measured: {len(found.not_measured)}")
        lines += [f"  {item}" for item in found.not_measured[:_SHOWN]]
        lines += [f"  and {hidden} more"] if hidden > 0 else []
    return "\n".join(lines)


def _table(found: Interference, one: Pair) -> list[str]:
    a, b = (short_name(found.rows[row][0]) for row in (one.a, one.b))
    if not one.cells:
        return [f"{a} and {b}: no weight in common"]
    width = max(map(len, ("whole", *one.cells)))
    lines = [f"{a} (a) and {b} (b):", f"  {'block':<{width}} {_HEAD}"]
    lines.append(f"  {'whole':<{width}} {_figures(one.whole)}")
    worst = sorted(one.cells, key=lambda block: -_taken(one.cells[block]))
    lines += [f"  {block:<{width}} {_figures(one.cells[block])}" for block in worst]
    return lines


_HEAD = f"{'a takes':>8} {'b takes':>8} {'cosine':>7} {'a in b':>14} {'b in a':>14} {'signs':>6} {'joint':>6}"


def _taken(cell: Overlap) -> float:
    return max(cell.taken("a"), cell.taken("b"))


def _figures(cell: Overlap) -> str:
    """a in b: share of a's energy in b's output and input directions, and by chance."""
    sides = [
        f"{side.outward / own:.2f}/{side.inward / own:.2f} {side.outward_chance / own:.2f}"
        for side in (cell.a, cell.b)
        for own in (side.own or 1.0,)
    ]
    return (
        f"{percent(cell.taken('a')):>8} {percent(cell.taken('b')):>8} {cell.cosine:>7.3f} "
        f"{sides[0]:>14} {sides[1]:>14} {cell.sign_conflict:>6.2f} {cell.joint:>6.2f}"
    )


def sentence(found: Interference) -> str:
    """The one thing to know, in plain words."""
    told = advice(found)
    if told is not None:
        taker, victim = (
            short_name(found.rows[told.taker][0]),
            short_name(found.rows[told.victim][0]),
        )
        strength = abs(found.rows[told.taker][2]) * told.factor
        where = listed(told.blocks)
        return (
            f"{taker} takes {percent(told.taken)} of {victim}'s update in {where}; "
            f"try {max(0.1, round(strength, 1)):g} there."
        )
    if not any(one.cells for one in found.pairs):
        return (
            "The rows have no weight in common: they cannot get in each other's way in the weights."
        )
    return (
        "The rows keep out of each other's way: in no block is more than "
        f"{percent(TOLERATED)} of a row's update written over beyond what chance does."
    )


def blocks_text(found: Interference) -> dict[str, Any] | None:
    """The advice as text for Loom Blocks: a factor on the row's strength in each of its blocks.

    None where there is none, or where the blocks are not those of a model.
    """
    told = advice(found)
    if told is None or not found.by_model:
        return None
    text = ", ".join(f"{span}={told.factor:.3g}" for span in listed(told.blocks).split(", "))
    return {"row": told.taker, "text": text}


def short_name(label: str) -> str:
    """A file's name without folders and extension."""
    return label.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".safetensors")


def percent(share: float) -> str:
    """A share in whole percent, small ones with two digits."""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def as_document(found: Interference) -> dict[str, Any]:
    """What the page draws; web/docs/LoomInterference.md says each part."""
    return {
        "version": 1,
        "sentence": sentence(found),
        "blocks_text": blocks_text(found),
        "weighted": found.weighted,
        "rows": [
            {"name": name, "role": role, "model": model, "clip": clip}
            for name, role, model, clip in found.rows
        ],
        "blocks": list(found.blocks),
        "pairs": [
            {
                "a": one.a,
                "b": one.b,
                "whole": _cell(one.whole, (1.0, 1.0)),
                "cells": [_cell_of(found, one, block) for block in found.blocks],
            }
            for one in found.pairs
        ],
        "not_measured": list(found.not_measured),
    }


def _cell_of(found: Interference, one: Pair, block: str) -> dict[str, Any] | None:
    if block not in one.cells:
        return None
    shares = [share_of(found, row, block) for row in (one.a, one.b)]
    return _cell(one.cells[block], (shares[0], shares[1]))


def _cell(cell: Overlap, shares: Sequence[float]) -> dict[str, Any]:
    sides = {}
    for which, side, share in (("a", cell.a, shares[0]), ("b", cell.b, shares[1])):
        own = side.own or 1.0
        sides[which] = {
            "share": _six(share),
            "output": _six(side.outward / own),
            "input": _six(side.inward / own),
            "both": _six(side.both / own),
            "output_unrelated": _six(side.outward_chance / own),
            "input_unrelated": _six(side.inward_chance / own),
            "both_unrelated": _six(side.both_chance / own),
            "takes": _six(cell.taken(which)),
            "takes_unrelated": _six(cell.taken_by_chance(which)),
        }
    return {
        "weights": cell.weights,
        "cosine": _six(cell.cosine),
        "sign_conflict": _six(cell.sign_conflict),
        "joint": _six(cell.joint),
        "joint_unrelated": _six(cell.joint_unrelated),
        **sides,
    }


def _six(value: float) -> float:
    return float(f"{value:.6g}")


def as_json(found: Interference) -> str:
    return json.dumps(as_document(found), separators=(",", ":"))
