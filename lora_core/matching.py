"""What happens when a LoRA does not fit cleanly: decided here and nowhere else."""

from __future__ import annotations

from .account import RowAccount
from .errors import MatchError

MATCHING = ("auto", "strict", "partial")


def check(account: RowAccount, matching: str) -> None:
    """Refuse a row that does not fit. Raises MatchError.

    "auto": another base, a clashing shape, or fewer than half of the model's keys matching is an error; a few
    leftovers are warnings. "strict": any leftover is an error. "partial": whatever fits is applied, all else is a
    warning. Keys for a socket with nothing connected are never an error.
    """
    if matching not in MATCHING:
        raise MatchError(f"No matching mode '{matching}'; choose one of {', '.join(MATCHING)}.")
    if matching == "partial" or account.clean:
        return
    for refusal in (_other_base, _clashes, _hardly_matches):
        if message := refusal(account):
            raise MatchError(f"{account.row.name}: {message}")
    if matching == "strict":
        first = account.unmatched[0]
        raise MatchError(
            f"{account.row.name}: {len(account.unmatched)} of its keys are left over, first '{first.key}': "
            f"{first.reason}. Set matching to 'auto' to apply the rest and be warned."
        )


def _other_base(account: RowAccount) -> str | None:
    lora, model = account.lora_base, account.model_base
    if lora is None or model is None or lora == model or not _minority(account):
        return None
    return (
        f"this LoRA is for {lora}; the model is {model} "
        f"({account.model.matched} of {account.model.total} model keys match). "
        f"Choose a LoRA made for {model}, or load a checkpoint of {lora}."
    )


def _clashes(account: RowAccount) -> str | None:
    if not account.clashes:
        return None
    first, made_for = account.clashes[0], f" ({account.lora_base})" if account.lora_base else ""
    return (
        f"{len(account.clashes)} of its shapes do not fit this model, first '{first.key}': {first.reason}. "
        f"It was made for another base{made_for}. Choose a LoRA made for this model, "
        "or set matching to 'partial' to apply only what fits."
    )


def _hardly_matches(account: RowAccount) -> str | None:
    """A file of which most, or all, is left over is not the LoRA that the person meant to apply."""
    nothing_to_match = not account.model.total and not account.clip.total
    clip_alone = (
        account.clip.total and not account.model.matched and "CLIP" not in account.not_connected
    )
    lost = _minority(account) or nothing_to_match or (clip_alone and not account.clip.matched)
    if not lost or not account.unmatched:
        return None
    found, first = account.model.matched + account.clip.matched, account.unmatched[0]
    share = (
        "none of its keys fits this model"
        if not found
        else "most of its keys do not fit this model"
    )
    return (
        f"{share}, first '{first.key}': {first.reason}. The LoRA: {account.line()}; "
        f"the model: {account.model_base or 'base unknown'}. Choose a LoRA made for this model, "
        "or set matching to 'partial' to apply only what fits."
    )


def _minority(account: RowAccount) -> bool:
    """Whether a MODEL is connected and fewer than half of the file's model keys found their weight."""
    return "MODEL" not in account.not_connected and 2 * account.model.matched < account.model.total
