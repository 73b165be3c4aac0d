"""Problems of a recipe's keys; where a key stands is added later."""

from __future__ import annotations

from qvl_core.errors import Problem


def error(key: str, message: str, fix: str) -> Problem:
    """Give an error of a key."""
    return Problem(where="", key=key, message=message, fix=fix)


def warning(key: str, message: str, fix: str) -> Problem:
    """Give a warning of a key."""
    return Problem(where="", key=key, message=message, fix=fix, severity="warning")
