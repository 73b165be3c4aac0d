"""What a cell of a benchmark file counts as: text as it stands, or what pandas makes of it.

VLMEvalKit reads with pandas: there `NA` and `None` are missing cells, so an option "None" is lost; and a column whose
cells are all numbers becomes one of numbers, so that `007` is shown as 7, and 2 as 2.0 where another cell of the
column is missing. `compat = "pandas"` repeats that, for prompts that are byte-equal to upstream's. Followed is pandas
3.1; versions before 2.0 keep `None` as text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

Compat = Literal["none", "pandas"]

# pandas 3.1, `read_csv`, default `na_values`.
PANDAS_MISSING = frozenset(
    (
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"),
        *("NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    )
)
_INTEGER = re.compile(r"\s*[+-]?[0-9]+\s*")
_FLOAT = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")
_INFINITY = re.compile(r"[+-]?(inf|infinity)", re.IGNORECASE)
_TRUE, _FALSE = ("True", "TRUE", "true"), ("False", "FALSE", "false")


def is_missing(cell: str, compat: Compat) -> bool:
    """Tell whether a cell counts as missing."""
    return cell in PANDAS_MISSING if compat == "pandas" else not cell


def shown_column(cells: Sequence[str], compat: Compat) -> list[str]:
    """Give the cells of a column as prompts show them; "" where one is missing."""
    if compat == "none":
        return list(cells)
    present = [cell for cell in cells if not is_missing(cell, compat)]
    has_missing = len(present) < len(cells)
    if present and all(cell in _TRUE or cell in _FALSE for cell in present):
        return ["" if is_missing(cell, compat) else str(cell in _TRUE) for cell in cells]
    if present and all(_INTEGER.fullmatch(cell) for cell in present) and not has_missing:
        values = [int(cell) for cell in cells]
        return [str(value) for value in values] if _fits(values) else list(cells)
    if present and all(_is_number(cell) for cell in present):
        return ["" if is_missing(cell, compat) else _float_text(float(cell)) for cell in cells]
    return ["" if is_missing(cell, compat) else cell for cell in cells]


def are_integers(indexes: Sequence[str]) -> bool:
    """Tell whether an index column counts as one of whole numbers: every text is one in Python, so `007` is none."""
    return all(re.fullmatch(r"[+-]*(0+|[1-9][0-9]*(_[0-9]+)*)", index.strip()) for index in indexes)


def _is_number(cell: str) -> bool:
    return bool(_FLOAT.fullmatch(cell) or _INFINITY.fullmatch(cell.strip()))


def _fits(values: Sequence[int]) -> bool:
    """Tell whether whole numbers fit in 64 bits, signed or, where none is negative, unsigned; others stay text."""
    return min(values) >= -(2**63) and max(values) < (2**63 if min(values) < 0 else 2**64)


def _float_text(value: float) -> str:
    return ("inf" if value > 0 else "-inf") if math.isinf(value) else repr(value)
