"""The account of a stack: for every key of every file, what became of it. Nothing is dropped in silence."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from .adapters import AdapterFile, Leftover
from .files.bases import base_of
from .files.cache import once_an_object
from .stack.rows import StackRow


@dataclass(frozen=True)
class PartCount:
    """Modules of one part (model or text encoder) of a file: how many the file has, how many found their weight."""

    matched: int = 0
    total: int = 0


@dataclass(frozen=True)
class RowAccount:
    """What became of one row.

    model, clip: how many low-rank modules found their weight, of all that the file has for that part.
    unmatched: modules or keys that found no weight, with the reason. clashes: the weight is there, its shape differs.
    not_connected: parts of the file with nothing to go on, because MODEL or CLIP is not connected.
    notes: what else a person should know, for example that the file was found by its hash under another name.
    blocks: where the row has block strengths, which blocks the LoRA has, what was changed, and how the text was read.
    """

    row: StackRow
    adapter: AdapterFile
    model: PartCount
    clip: PartCount
    unmatched: tuple[Leftover, ...]
    clashes: tuple[Leftover, ...]
    not_connected: tuple[str, ...]
    model_base: str | None
    notes: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        return not self.unmatched and not self.clashes

    @property
    def lora_base(self) -> str | None:
        return base_of(self.adapter)

    def line(self) -> str:
        """One line for people: 264 of 264 model keys, 72 of 72 text-encoder keys; SDXL, rank 32, alpha 16, LoCon."""
        counts = [f"{self.model.matched} of {self.model.total} model keys"]
        if self.clip.total:
            counts.append(f"{self.clip.matched} of {self.clip.total} text-encoder keys")
        return f"{', '.join(counts)}; {describe(self.adapter)}"


@dataclass(frozen=True)
class Account:
    """The accounts of all rows, in stack order. notes: of the stack as a whole.

    how: in which mode the MODEL got them and why, a line each. alerts: what that mode could not do.
    """

    rows: tuple[RowAccount, ...] = ()
    notes: tuple[str, ...] = ()
    how: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should see on the node: leftovers and parts that went nowhere. Empty when all is well."""
        of_rows = (f"{row.row.name}: {text}" for row in self.rows for text in row_warnings(row))
        return (*self.notes, *of_rows, *self.alerts)

    def report(self) -> str:
        """The whole account as text, every leftover key listed."""
        if not self.rows:
            return "No LoRA is switched on; MODEL and CLIP pass through unchanged."
        lines = (text for row in self.rows for text in _row_lines(row))
        return "\n".join([*self.notes, *lines, *self.how, *self.alerts])


@once_an_object
def describe(adapter: AdapterFile) -> str:
    """Base, rank, alpha and kind in words: "SDXL, rank 32, alpha 16, LoCon"."""
    modules = list(adapter.modules.values())
    ranks = sorted({module.rank for module in modules if module.rank is not None})
    alphas = sorted({module.alpha for module in modules if module.alpha is not None})
    parts = [base_of(adapter) or "base unknown"]
    if ranks:
        parts.append(f"rank {_span(ranks)}")
        parts.append(f"alpha {_span(alphas)}" if alphas else "no alpha (scale 1)")
    parts += families(adapter)
    return ", ".join(parts)


def families(adapter: AdapterFile) -> list[str]:
    """The families of a file's modules, the most frequent first; a LoCon file has LoRA layers too and is named once."""
    count = Counter(module.family for module in adapter.modules.values())
    if count["LoCon"]:
        count["LoCon"] += count.pop("LoRA", 0)
    if not count and adapter.differences:
        return ["whole differences"]
    return [name for name, _ in count.most_common()]


def _span(values: list[float] | list[int]) -> str:
    low, high = values[0], values[-1]
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _row_lines(account: RowAccount) -> list[str]:
    row = account.row
    head = f"{row.name} (model {row.model:g}, clip {row.clip:g}): {account.line()}"
    return [head, *(f"  {text}" for text in (*account.blocks, *row_warnings(account)))]


def row_warnings(account: RowAccount) -> list[str]:
    """What a person should see of one row, a line each, without its name."""
    totals = {"MODEL": account.model.total, "CLIP": account.clip.total}
    lines = list(account.notes)
    lines += [
        f"no {part} connected: its {totals[part]} keys were left aside"
        for part in account.not_connected
    ]
    lines += [f"shape differs: {item.key}: {item.reason}" for item in account.clashes]
    lines += [f"not applied: {item.key}: {item.reason}" for item in account.unmatched]
    return lines
