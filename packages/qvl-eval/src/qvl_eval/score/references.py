"""The references of a row: the elements of a list literal, or the cell as it is."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sequence


def references_of(answer: object) -> tuple[str, ...]:
    """Give the accepted answers as texts. Upstream fails for elements that are not texts; here they become texts."""
    if isinstance(answer, (list, tuple)):
        return tuple(str(element) for element in answer)
    cell = str(answer)
    elements = _list_literal(cell)
    return (cell,) if elements is None else tuple(str(element) for element in elements)


def _list_literal(cell: str) -> Sequence[object] | None:
    if not cell.lstrip().startswith("["):
        return None
    try:
        with warnings.catch_warnings():
            # A backslash in a text is no news to whoever scores answers.
            warnings.simplefilter("ignore")
            value = ast.literal_eval(cell)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, list) else None
