"""Relaxed accuracy of ChartQA: a number may be off by 5 percent, a text by the case of its letters."""

from __future__ import annotations

TOLERANCE = 0.05


def is_relaxed_match(prediction: str, target: str) -> bool:
    """Say whether a prediction answers a chart question. The tolerance is relative to the target.

    A target of 0, and whatever is no number, has to be met as a text.
    """
    predicted, wanted = as_number(prediction), as_number(target)
    if predicted is not None and wanted:
        # In plain double arithmetic and without slack: upstream counts 1.05 for 1 as wrong.
        return abs(predicted - wanted) / abs(wanted) <= TOLERANCE
    return prediction.lower() == target.lower()


def as_number(text: str) -> float | None:
    """Give the number that a text is, of a percentage its hundredth; None for other texts."""
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None
