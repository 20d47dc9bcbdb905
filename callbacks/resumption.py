"""The counts of Lightning's loops in a checkpoint that is written within a meta-step or a validation."""

from typing import Any

from gtn_lightning.lightning_internals import BATCHES_THAT_STEPPED


def settle_counts(loops: dict[str, Any], accumulate: int, validating: bool) -> None:
    """Make Lightning's counts in a checkpoint agree with its weights, so that a resumed run repeats what followed.

    Lightning itself does not repeat accumulated batches of an interrupted outer step, counts one batch too many from
    then on, which shifts later validations, and continues a validation after the scored batches or skips it.

    Args:
        loops: the checkpoint's ``loops``; changed in place.
        accumulate: number of batches per outer step.
        validating: whether a validation has started and not ended.
    """
    fit = loops["fit_loop"]
    training, validation = fit["epoch_loop.batch_progress"], fit["epoch_loop.val_loop.batch_progress"]
    epoch, now = fit["epoch_progress"]["total"], training["current"]
    is_cut = now["ready"] > now["processed"]
    in_epoch = epoch["processed"] < epoch["started"]
    pending = now["processed"] % accumulate if is_cut or not training["is_last_batch"] else 0
    scored = validation["total"]["completed"]
    validation["total"] = _counts(scored)
    if in_epoch and (is_cut or pending):
        # At the end of the last batch of the last outer step: Lightning completes it and continues with the next.
        for name in ("total", "current"):
            training[name] = _counts(training[name]["processed"] - pending, completed=-1)
        training["is_last_batch"] = False
        fit["epoch_loop.state_dict"][BATCHES_THAT_STEPPED] -= 1
    elif validating:
        # Within the first batch: Lightning continues with it.
        validation["total"] = _counts(scored, ready=1, started=1)
        validation["current"] = _counts(0)
        validation["is_last_batch"] = False


def begins_with_validation(loops: dict[str, Any]) -> bool:
    """Return whether a run resumed from a checkpoint with these ``loops`` starts with a validation."""
    total = loops.get("fit_loop", {}).get("epoch_loop.val_loop.batch_progress", {}).get("total", {})
    return bool(total.get("ready", 0) > total.get("processed", 0))


def _counts(number: int, ready: int = 0, started: int = 0, completed: int = 0) -> dict[str, int]:
    return {
        "ready": number + ready,
        "completed": number + completed,
        "started": number + started,
        "processed": number,
    }
