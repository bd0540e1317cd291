"""What can go wrong, in the user's words: file, key or row, found and expected, and the way out."""

from __future__ import annotations


class LoraError(Exception):
    """Base of every error this package raises on purpose."""


class LoraFileError(LoraError):
    """A file that cannot be read as a LoRA: missing, cut short, another format, not-a-number weights."""


class LoraKeyError(LoraError):
    """The tensors of one LoRA do not fit together: a half is missing, ranks differ, two names say the same."""


class StackError(LoraError):
    """A stack that makes no sense: broken JSON, an unknown field, a strength that is not a number."""


class MatchError(LoraError):
    """A LoRA that does not fit the model it is put on."""


class PatchError(LoraError):
    """The host did not take, or could not compute, a patch that was handed to it."""


class SaveError(LoraError):
    """A LoRA that cannot be written: no place, a name that is taken or no name, metadata that is no text."""


class DatasetError(LoraError):
    """Pictures or captions that cannot be trained on: unreadable, outside the folder, settings that make no sense."""


class MergeError(LoraError):
    """Rows that cannot be merged, or a merge that was asked for in a way that makes no sense."""


class TrainError(LoraError):
    """Training that cannot begin or go on: no layer to train, settings that make no sense, a state that does not fit."""


class SweepError(LoraError):
    """A sweep that makes no sense: an empty range, far too many points, pictures that are not those of its points."""
