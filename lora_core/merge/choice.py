"""Block-wise choice: which row a block of the model belongs to. After B-LoRA (Frenkel et al. 2024, arXiv 2403.14572)."""

from __future__ import annotations

import re

from ..algebra.factorspace import Factors, concat
from ..errors import MergeError
from ..stack.rows import ROLES
from .weight import Parameters, Weight

EXAMPLE = "output_blocks_0: character, output_blocks_1: style, te: all"
_ALL = "all"


def blockwise(weight: Weight, parameters: Parameters) -> Factors:
    """The sum of the rows that own the weight's block; the exact sum of all where no choice names it."""
    owner = owner_of(weight.name, parameters.choices)
    strengths = [
        strength if _owns(row, weight.roles[row], owner) else 0.0
        for row, strength in zip(weight.rows, weight.strengths, strict=True)
    ]
    return concat(weight.terms, strengths)


def parse_choices(text: str, roles: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """ "output_blocks_0: character, output_blocks_1: 2" -> (part of a module name, owner) pairs.

    roles: of the stack's rows. Raises MergeError for a line that is not such a pair or an owner that is not there.
    """
    pairs = []
    for item in filter(None, (item.strip() for item in re.split(r"[,;\n]", text))):
        block, colon, owner = (part.strip() for part in item.rpartition(":"))
        if not colon or not block:
            raise MergeError(f"'{item}' is not 'block: row'. Write choices like {EXAMPLE}")
        _check_owner(owner, roles)
        pairs.append((_flat(block), owner))
    return tuple(pairs)


def owner_of(name: str, choices: tuple[tuple[str, str], ...]) -> str:
    """Who owns a module: the first choice whose words stand in its name as whole numbers and words."""
    flat = _flat(name)
    for block, owner in choices:
        if block == "*" or re.search(rf"(?<![a-z0-9]){re.escape(block)}(?![0-9])", flat):
            return owner
    return _ALL


def _flat(name: str) -> str:
    return name.replace(".", "_").replace(" ", "").lower()


def _check_owner(owner: str, roles: tuple[str, ...]) -> None:
    if owner == _ALL or owner in roles:
        return
    if owner.isdecimal() and 1 <= int(owner) <= len(roles):
        return
    known = ", ".join(dict.fromkeys([*map(str, range(1, len(roles) + 1)), *roles, _ALL]))
    reason = "no row has that role" if owner in ROLES else "there is no such row"
    raise MergeError(f"A block is given to '{owner}', but {reason}. Choose from {known}.")


def _owns(row: int, role: str, owner: str) -> bool:
    return owner in (_ALL, role, str(row + 1))
