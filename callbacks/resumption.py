"""How far a run has come, as a checkpoint says that is written in the middle of something."""

from typing import Any


def settle_counts(loops: dict[str, Any], accumulate: int, validating: bool) -> None:
    """Let Lightning's counts in a checkpoint agree with its weights, so that a resumed run repeats what followed them.

    By itself, Lightning does not repeat the batches whose gradients were accumulated before the one that was cut,
    counts a batch too many from then on, which moves later validations, and goes on with a validation behind the
    batches that were scored, or leaves it out.

    Args:
        loops: the checkpoint's ``loops``; changed in place.
        accumulate: number of batches per outer step.
        validating: whether a validation has begun and is not at its end.
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
        # At the end of the last batch of the last outer step: Lightning completes that, and goes on with the next.
        for name in ("total", "current"):
            training[name] = _counts(training[name]["processed"] - pending, completed=-1)
        training["is_last_batch"] = False
        fit["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1
    elif validating:
        # In the middle of the first batch: Lightning goes on with it.
        validation["total"] = _counts(scored, ready=1, started=1)
        validation["current"] = _counts(0)
        validation["is_last_batch"] = False


def begins_with_validation(loops: dict[str, Any]) -> bool:
    """Return whether a run that goes on from a checkpoint with these ``loops`` begins with a validation."""
    total = loops.get("fit_loop", {}).get("epoch_loop.val_loop.batch_progress", {}).get("total", {})
    return bool(total.get("ready", 0) > total.get("processed", 0))


def _counts(number: int, ready: int = 0, started: int = 0, completed: int = 0) -> dict[str, int]:
    return {
        "ready": number + ready,
        "completed": number + completed,
        "started": number + started,
        "processed": number,
    }
