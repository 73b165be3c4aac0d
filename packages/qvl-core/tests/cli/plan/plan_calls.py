"""How the tests of `qvl plan` call it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Call = Callable[..., Any]
SIXTY_FOUR = ("--devices", "64", "--memory-gib", "64")


def values_of(qvl: Call, *words: str) -> dict[str, Any]:
    result = qvl("plan", *words, "--format", "json")
    assert result.code == 0, result.err
    found: dict[str, Any] = json.loads(result.out)
    return found
