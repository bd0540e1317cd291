"""What happens when a LoRA does not fit cleanly: decided here and nowhere else."""

from __future__ import annotations

from .account import RowAccount
from .errors import MatchError

MATCHING = ("auto", "strict", "partial")


def check(account: RowAccount, matching: str) -> None:
    """Refuse a row that does not fit. Raises MatchError.

    "auto": another base, a clashing shape, or no match at all is an error; a few leftovers are warnings.
    "strict": any leftover is an error. "partial": whatever fits is applied, all else is a warning.
    Keys for a socket with nothing connected are never an error.
    """
    if matching not in MATCHING:
        raise MatchError(f"No matching mode '{matching}'; choose one of {', '.join(MATCHING)}.")
    if matching == "partial" or account.clean:
        return
    for refusal in (_other_base, _clashes, _nothing_matches):
        if message := refusal(account):
            raise MatchError(f"{account.row.name}: {message}")
    if matching == "strict":
        first = account.unmatched[0]
        raise MatchError(
            f"{account.row.name}: {len(account.unmatched)} keys are left over, first '{first.key}': {first.reason}. "
            "Set matching to 'auto' to apply the rest and be warned."
        )


# (LoRA's base, model's base) that people combine on purpose: the model is a pruned child of that base.
_RELATED = {("Flux", "Chroma")}


def _other_base(account: RowAccount) -> str | None:
    lora, model = account.lora_base, account.model_base
    if lora is None or model is None or lora == model or (lora, model) in _RELATED or not account.model.total:
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


def _nothing_matches(account: RowAccount) -> str | None:
    if account.model.matched or account.clip.matched or account.not_connected:
        return None
    first = account.unmatched[0]
    return (
        f"none of its keys fits this model, first '{first.key}': {first.reason}. The LoRA: {account.line()}; "
        f"the model: {account.model_base or 'base unknown'}. Choose a LoRA made for this model."
    )
