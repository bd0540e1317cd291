"""A row's strength over the sampling: read from text, evaluated step by step.

Keyframes stand between commas, "value@position", as loractl writes them: "0@0,1@0.5" goes from 0 at the start to 1 in
the middle and stays there. Positions are shares of the steps where all of them are 1 or less, else step numbers. A value
is a strength; with "%" it is a share of the row's own. After a colon come keywords: curve=linear, step or cosine says how
values between keyframes are found; start=5 and stop=10 (or step=5-10) keep the row off before and from there on.

Rows that share one sampling (arXiv 2402.16843): turn=1/3 and every=2 let a row act in the first two of every six steps, the
next row (turn=2/3) in the next two (LoRA Switch); composite=1/3 lets it act in the first of three calls of the model, whose
predictions are averaged (LoRA Composite).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import StackError

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_FRAME = re.compile(rf"\s*([+-]?{_NUMBER})\s*(%?)\s*(?:@\s*({_NUMBER})\s*)?")
_TURN = re.compile(r"([1-9]\d{0,3})\s*/\s*([1-9]\d{0,3})")
_SPAN = re.compile(rf"({_NUMBER})\s*-\s*({_NUMBER})")
_EXAMPLE = "Write for example 0@0,1@0.5 or start=0.2:stop=0.8."

# How far along from one keyframe's value to the next: share of the way in positions -> share of the way in values.
CURVES: dict[str, Callable[[float], float]] = {
    "linear": lambda share: share,
    "step": lambda share: 0.0,
    "cosine": lambda share: (1 - math.cos(math.pi * share)) / 2,
}

PRESETS: dict[str, str] = {
    "fade in": "0%@0,100%@1",
    "fade out": "100%@0,0%@1",
    "late": "0%@0,100%@0.5:curve=step",
    "early": "100%@0,0%@0.5:curve=step",
    "soft late": "0%@0.2,100%@0.7:curve=cosine",
    "soft early": "100%@0.3,0%@0.8:curve=cosine",
    "middle": "0%@0,100%@0.5,0%@1:curve=cosine",
}


@dataclass(frozen=True)
class Keyframe:
    """A strength, or with `relative` a share of the row's strength, at a position."""

    value: float
    position: float
    relative: bool = False


@dataclass(frozen=True)
class Turn:
    """A row's place among rows that share the sampling: number (1 is the first) of count."""

    number: int
    count: int


@dataclass(frozen=True)
class Schedule:
    """frames: in order of position. in_steps: positions of frames are step numbers, not shares of the steps.

    start, stop: positions between which the row acts, each a share where it is below 1 and a step number from 1 on.
    turn, every: rows take turns, each for `every` steps. composite: the one of several averaged model calls in which the
    row acts.
    """

    frames: tuple[Keyframe, ...] = ()
    curve: str = "linear"
    in_steps: bool = False
    start: float | None = None
    stop: float | None = None
    turn: Turn | None = None
    every: int = 1
    composite: Turn | None = None

    def strength(self, own: float, step: int, steps: int) -> float:
        """The strength in a step (0 is the first) of `steps`, for a row whose own strength is `own`.

        A step has one strength, the one at its beginning: step 5 of 10 is at 0.5.
        """
        if self.start is not None and step < _first_step(self.start, steps):
            return 0.0
        if self.stop is not None and step >= _first_step(self.stop, steps):
            return 0.0
        if self.turn is not None and step // self.every % self.turn.count != self.turn.number - 1:
            return 0.0
        return self._value(own, float(step) if self.in_steps else step / max(steps, 1))

    def _value(self, own: float, position: float) -> float:
        values = [frame.value * (own if frame.relative else 1.0) for frame in self.frames]
        if not values:
            return own
        after = next((i for i, frame in enumerate(self.frames) if frame.position > position), None)
        if after is None or after == 0:
            return values[-1] if after is None else values[0]
        begin, end = self.frames[after - 1].position, self.frames[after].position
        share = CURVES[self.curve]((position - begin) / (end - begin))
        return values[after - 1] + share * (values[after] - values[after - 1])


def read_schedule(text: str) -> Schedule | None:
    """A schedule from its text, None for an empty one. Raises StackError that names the part."""
    if not text.strip():
        return None
    parts = [part.strip() for part in text.split(":") if part.strip()]
    keywords: dict[str, str] = {}
    for part in parts:
        keywords |= _keyword(part, text) if "=" in part else {}
    frames = [part for part in parts if "=" not in part]
    if len(frames) > 1:
        raise StackError(f"Schedule '{text:.200}' has keyframes in two places. {_EXAMPLE}")
    found = _frames(frames[0], text) if frames else ()
    curve = keywords.get("curve", "linear")
    if curve not in CURVES:
        raise StackError(
            f"Schedule '{text:.200}': no curve '{curve:.100}'; choose of {', '.join(CURVES)}."
        )
    turn, composite = (_turn(keywords.get(name), text) for name in ("turn", "composite"))
    if turn is not None and composite is not None:
        raise StackError(f"Schedule '{text:.200}': a row takes turns or is averaged, not both.")
    if turn is None and "every" in keywords:
        raise StackError(
            f"Schedule '{text:.200}': every= needs turn=, for example turn=1/2:every=2."
        )
    return Schedule(
        found,
        curve,
        any(frame.position > 1 for frame in found),
        _position(keywords.get("start"), text),
        _position(keywords.get("stop"), text),
        turn,
        _every(keywords.get("every", "1"), text),
        composite,
    )


def _first_step(position: float, steps: int) -> float:
    """The first step at or after a position: below 1 a share of the steps, else a step number."""
    return math.ceil(position * steps - 1e-9) if position < 1 else position


def _keyword(part: str, text: str) -> dict[str, str]:
    name, _, value = (side.strip().lower() for side in part.partition("="))
    if name == "step" and (span := _SPAN.fullmatch(value)) is not None:
        return {"start": span[1], "stop": span[2]}
    if name not in ("start", "stop", "curve", "turn", "every", "composite"):
        raise StackError(
            f"Schedule '{text:.200}': '{part:.100}' is not understood. Known are start=, stop=, step=5-10, curve=, "
            "turn=1/2, every=1 and composite=1/2."
        )
    return {name: value}


def _frames(part: str, text: str) -> tuple[Keyframe, ...]:
    """Keyframes in order; one without a position stands at 0 where it is alone or first, else at the end."""
    read = []
    for number, frame in enumerate(part.split(",")):
        match = _FRAME.fullmatch(frame)
        if match is None:
            raise StackError(
                f"Schedule '{text:.200}': '{frame.strip():.100}' is no keyframe. {_EXAMPLE}"
            )
        value = float(match[1]) / (100 if match[2] else 1)
        position = float(match[3]) if match[3] is not None else float(number > 0)
        if not (math.isfinite(value) and math.isfinite(position)):
            raise StackError(
                f"Schedule '{text:.200}': '{frame.strip():.100}' is more than a number can hold."
            )
        read.append(Keyframe(value, position, bool(match[2])))
    if [frame.position for frame in read] != sorted({frame.position for frame in read}):
        raise StackError(
            f"Schedule '{text:.200}': every keyframe must come after the one before it."
        )
    return tuple(read)


def _position(value: str | None, text: str) -> float | None:
    if value is None:
        return None
    try:
        position = float(value)
    except ValueError:
        position = -1.0
    if not 0 <= position < math.inf:
        raise StackError(
            f"Schedule '{text:.200}': '{value:.100}' is no step and no share. {_EXAMPLE}"
        )
    return position


def _turn(value: str | None, text: str) -> Turn | None:
    if value is None:
        return None
    match = _TURN.fullmatch(value)
    if match is None or int(match[1]) > int(match[2]):
        raise StackError(
            f"Schedule '{text:.200}': '{value}' is no turn. Write for example 1/2 or 2/2."
        )
    return Turn(int(match[1]), int(match[2]))


def _every(value: str, text: str) -> int:
    if re.fullmatch(r"0*[1-9]\d{0,3}", value, re.ASCII) is None:
        raise StackError(f"Schedule '{text:.200}': every={value} is no number of steps from 1 on.")
    return int(value)
