"""What a merge or resize made of every layer, in figures: as text and as JSON. The chart is in draw.py."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..adapters import Leftover

CERTIFICATE_VERSION = 1
CERTIFICATE_FIELD = "loom_certificate"
_SHOWN_WORST, _SHOWN_KEYS = 5, 20


@dataclass(frozen=True)
class LayerRecord:
    """One layer. All of it is measured on what is written, its rounding included.

    rows: which rows of the stack (from 0) have it; ranks_in: their ranks; rank_out: 0 where it was dropped.
    energy: squared norm of the exact weighted sum. error: ||written - exact sum|| / ||exact sum||.
    kept: share of the energy of the method's own result that its rank holds; 1 where nothing was cut.
    """

    name: str
    rows: tuple[int, ...]
    ranks_in: tuple[int, ...]
    rank_out: int
    energy: float
    error: float
    kept: float


@dataclass(frozen=True)
class Certificate:
    """The whole account of a merge or resize.

    what: "merge" or "resize". method, limit, dtype: how it was asked for, in words.
    rows: (label, model strength, clip strength, role) of each. dropped: keys that are not in the result, and why.
    plain: parameters summed as they are (norms, biases, whole differences). notes: what a person should know.
    """

    what: str
    method: str
    limit: str
    dtype: str
    rows: tuple[tuple[str, float, float, str], ...]
    layers: tuple[LayerRecord, ...]
    bytes_in: int
    bytes_out: int
    plain: int = 0
    dropped: tuple[Leftover, ...] = ()
    notes: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = field(default_factory=tuple)

    @property
    def error(self) -> float:
        """||written - exact sum|| / ||exact sum|| over all layers together."""
        total = sum(layer.energy for layer in self.layers)
        off = sum(layer.energy * layer.error**2 for layer in self.layers)
        return math.sqrt(off / total) if total > 0 else 0.0

    @property
    def kept(self) -> float:
        """Share of the energy that the ranks hold, weighted by the layers' energies."""
        total = sum(layer.energy for layer in self.layers)
        held = sum(layer.energy * layer.kept for layer in self.layers)
        return held / total if total > 0 else 1.0

    @property
    def one_sided(self) -> tuple[LayerRecord, ...]:
        """Layers that not every row has."""
        return tuple(layer for layer in self.layers if len(layer.rows) < len(self.rows))

    def worst(self, count: int = _SHOWN_WORST) -> tuple[LayerRecord, ...]:
        """The written layers farthest from the exact sum, by the error relative to their own size."""
        written = [layer for layer in self.layers if layer.rank_out]
        return tuple(sorted(written, key=lambda layer: -layer.error)[:count])

    def text(self) -> str:
        """All of it for people, the first of long lists."""
        head = [f"{self.what}: {self.method}, {self.limit}, {self.dtype}"]
        head += [
            f"  row {i}: {name} (model {model:g}, clip {clip:g}, {role})"
            for i, (name, model, clip, role) in enumerate(self.rows, 1)
        ]
        return "\n".join([*head, *self.summary(), *self._lists()])

    def summary(self) -> list[str]:
        """The figures of the whole, a line each."""
        kept_layers = [layer for layer in self.layers if layer.rank_out]
        ranks_in = [rank for layer in self.layers for rank in layer.ranks_in]
        lines = [
            f"layers: {len(kept_layers)} written of {len(self.layers)}, ranks {_span(ranks_in)} in, "
            f"{_span([layer.rank_out for layer in kept_layers])} out",
            f"error to the exact sum: {percent(self.error)}; energy kept by the ranks: {percent(self.kept)}",
            f"size: {self.bytes_out / 1e6:.2f} MB from {self.bytes_in / 1e6:.2f} MB",
        ]
        if self.plain:
            lines.append(f"norms, biases and whole differences summed as they are: {self.plain}")
        return lines

    def _lists(self) -> list[str]:
        lines = [f"note: {note}" for note in self.notes]
        worst = [layer for layer in self.worst() if layer.error > 0]
        lines += [
            f"worst: {layer.name}: error {percent(layer.error)}, rank {layer.rank_out}"
            for layer in worst
        ]
        single = [
            f"only in {' and '.join(self.rows[row][0] for row in layer.rows)}: {layer.name}"
            for layer in self.one_sided
        ]
        dropped = [f"dropped: {item.key}: {item.reason}" for item in self.dropped]
        return [*lines, *_shortened(dropped), *_shortened(single)]

    def as_json(self) -> str:
        """For a file's metadata: every layer as [name, rows, ranks in, rank out, energy, error, kept]."""
        document = {
            "version": CERTIFICATE_VERSION,
            "what": self.what,
            "method": self.method,
            "limit": self.limit,
            "dtype": self.dtype,
            "settings": dict(self.settings),
            "rows": [
                {"lora": name, "model": model, "clip": clip, "role": role}
                for name, model, clip, role in self.rows
            ],
            "error": _figure(self.error),
            "kept": _figure(self.kept),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "plain": self.plain,
            "worst": [layer.name for layer in self.worst()],
            "dropped": [[item.key, item.reason] for item in self.dropped],
            "notes": list(self.notes),
            "layers": [
                [
                    layer.name,
                    [row + 1 for row in layer.rows],
                    list(layer.ranks_in),
                    layer.rank_out,
                    *map(_figure, (layer.energy, layer.error, layer.kept)),
                ]
                for layer in self.layers
            ],
        }
        return json.dumps(document, separators=(",", ":"))


def percent(share: float) -> str:
    """A share for people: 12.3 %, 0.031 %, 0 %."""
    value = 100 * share
    if value == 0 or value >= 0.1:
        digits = 1 if value < 99.95 or value == 100 else 3
        return f"{value:.{digits}f} %" if value else "0 %"
    return f"{value:.2g} %"


def _figure(value: float) -> float:
    return float(f"{value:.6g}")


def _span(ranks: Sequence[int]) -> str:
    if not ranks:
        return "none"
    low, high = min(ranks), max(ranks)
    return f"{low}" if low == high else f"{low} to {high}"


def _shortened(lines: list[str]) -> list[str]:
    hidden = len(lines) - _SHOWN_KEYS
    if hidden <= 0:
        return lines
    return [*lines[:_SHOWN_KEYS], f"and {hidden} more like this (all are in the certificate)"]
