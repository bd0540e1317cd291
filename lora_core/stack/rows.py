"""The value between the nodes: which LoRA files, how strong, in what role."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from ..adapters import AdapterFile
from ..errors import StackError
from ..files.identity import autov3_of, sha256_of
from .schedule import Schedule, read_schedule

ROLES = ("free", "style", "character", "detail")


@dataclass(frozen=True)
class StackRow:
    """One LoRA of a stack. model and clip are strengths: 1.0 is as trained, 0 is off, negative inverts.

    name: as the host lists it in the loras folders (relative path with extension); for a LoRA in memory, a label.
    adapter: the LoRA itself where it came in memory instead of from a file.
    sha256, autov3: of the file that is meant, where it is known: 64 and 12 hex digits, "" as good as None.
    accept: whether the file under this name is used even if its hash is another.
    size: of the file that is meant, in bytes, where it is known: a lost file is told by it, and fewer are hashed.
    blocks: strengths of single blocks in the block language (blocks.py), as the user wrote it; "" leaves all at 1.
    words: the trigger words that the user chose; None: all that the file names, (): none.
    schedule: the strength over the sampling, as the user wrote it ("0@0,1@0.5" or "start=5:stop=10"); "": constant.
    regions: marks of the conditionings (Loom Region) for which alone the row acts on MODEL; (): for all.
    """

    name: str
    model: float = 1.0
    clip: float = 1.0
    role: str = "free"
    adapter: AdapterFile | None = None
    sha256: str | None = None
    autov3: str | None = None
    accept: bool = False
    blocks: str = ""
    words: tuple[str, ...] | None = None
    schedule: str = ""
    size: int | None = None
    regions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in ("model", "clip"):
            value = getattr(self, field)
            if not _is_finite_number(value):
                raise StackError(
                    f"'{self.name}': the {field} strength is {value!r}; it must be a finite number, for example 0.8."
                )
            # Other packs send numpy numbers; what goes out by a LORA_STACK is a plain float.
            object.__setattr__(self, field, float(value))
        if self.role not in ROLES:
            raise StackError(
                f"'{self.name}': no role '{self.role}'; choose one of {', '.join(ROLES)}."
            )
        self._check_identity()
        self._check_texts()

    def _check_identity(self) -> None:
        for field, read, digits in (("sha256", sha256_of, 64), ("autov3", autov3_of, 12)):
            value = getattr(self, field)
            known = read(value) if isinstance(value, str) else None
            if known is None and value not in (None, ""):
                raise StackError(
                    f"'{self.name}': {field} is {value!r:.100}; it must be {digits} hexadecimal digits."
                )
            object.__setattr__(self, field, known)
        if self.size is not None and (type(self.size) is not int or self.size < 0):
            raise StackError(
                f"'{self.name}': size is {self.size!r:.100}; it must be the file's size in bytes, a whole number."
            )
        if not isinstance(self.accept, bool):
            raise StackError(
                f"'{self.name}': 'accept' must be true or false; found {self.accept!r:.100}."
            )

    def _check_texts(self) -> None:
        for field, example in (("blocks", "IN04=0.5"), ("schedule", "0@0,1@0.5")):
            if not isinstance(getattr(self, field), str):
                raise StackError(
                    f"'{self.name}': {field} must be text such as '{example}'; found {getattr(self, field)!r:.200}."
                )
        try:
            read_schedule(self.schedule)
        except StackError as error:
            raise StackError(f"'{self.name}': {error}") from error
        if self.words is None:
            return
        if not isinstance(self.words, list | tuple) or not all(
            isinstance(word, str) for word in self.words
        ):
            raise StackError(
                f"'{self.name}': words must be a list of texts, or null for all that the file names; "
                f"found {self.words!r:.200}."
            )
        object.__setattr__(self, "words", tuple(self.words))

    @property
    def active(self) -> bool:
        return self.model != 0 or self.clip != 0

    @property
    def timeline(self) -> Schedule | None:
        """The schedule as a value, None for a constant strength."""
        return read_schedule(self.schedule)


def _is_finite_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number with more digits than a float holds
        return False


@dataclass(frozen=True)
class LoraStack:
    """Rows in the order in which they are applied. notes: what a person should know of the stack as a whole."""

    rows: tuple[StackRow, ...] = ()
    notes: tuple[str, ...] = ()

    def __add__(self, other: LoraStack) -> LoraStack:
        return LoraStack(self.rows + other.rows, self.notes + other.notes)

    @property
    def active(self) -> LoraStack:
        return LoraStack(tuple(row for row in self.rows if row.active), self.notes)
