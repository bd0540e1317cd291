"""How a merge is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ..adapters import AdapterFile
from ..errors import MergeError
from ..files.naming import is_text_encoder
from ..stack.rows import StackRow
from .methods import METHODS, Method
from .ranks import RankRule
from .weight import Parameters

# The rows of a stack with their files, all of them active.
Rows = Sequence[tuple[StackRow, AdapterFile]]
# Called after every weight with (done, of how many). What it raises ends the merge.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """method: one of METHODS. dtype: of the result, None for that of the rows. seed: of methods that draw at random.

    Raises MergeError.
    """

    method: str = "svd"
    rule: RankRule = RankRule()
    parameters: Parameters = field(default_factory=Parameters)
    dtype: torch.dtype | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            known = ", ".join(METHODS)
            raise MergeError(f"No merge method '{self.method}'; choose one of {known}.")

    @property
    def how(self) -> Method:
        return METHODS[self.method]

    @property
    def settings(self) -> tuple[tuple[str, str], ...]:
        """The method's settings for a certificate, those that differ from the defaults."""
        said = {"seed": self.seed, **vars(self.parameters)}
        usual = {"seed": 0, **vars(Parameters())}
        return tuple((name, str(value)) for name, value in said.items() if value != usual[name])


def strength_of(row: StackRow, module: str) -> float:
    """The strength with which a row acts on a module."""
    return row.clip if is_text_encoder(module) else row.model
