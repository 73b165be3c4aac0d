"""What the page's filters know of the rows: numbers into lists of names, about 40 bytes a row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from qvl_eval.report.cut_text import filter_name
from qvl_eval.report.row_verdicts import VERDICTS, JudgedRow

COLUMNS = ("split", "category", "subcategory")


def row_index(rows: Sequence[JudgedRow], names: Sequence[str]) -> dict[str, Any]:
    """Give the index of rows in the order of their cards on the page.

    `rows`: [position, index, differs, split, category, subcategory, then verdict and rule of each rule set]; the last
    ones are places in `values`, VERDICTS and `fired`.
    """
    values = [_Names() for _ in COLUMNS]
    fired = [_Names() for _ in names]
    lines = [_line(row, values, fired) for row in rows]
    return {
        "rules": [filter_name(name) for name in names],
        "verdicts": VERDICTS,
        "values": {column: names_.found for column, names_ in zip(COLUMNS, values, strict=True)},
        "fired": [rules.found for rules in fired],
        "rows": lines,
    }


def index_bytes(row: JudgedRow) -> int:
    """Give what a row costs at most in the index, its names counted as if no other row had them."""
    return len(json.dumps(_names(row))) + 12 * (2 + len(row.judged))


class _Names:
    """Numbers names in the order in which they come."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def place(self, name: str) -> int:
        return self._places.setdefault(name, len(self._places))

    @property
    def found(self) -> list[str]:
        return list(self._places)


def _names(row: JudgedRow) -> list[str]:
    """Give the row's index and its values of COLUMNS."""
    own = row.row
    return [filter_name(text) for text in (own.index, own.split, own.category, own.subcategory)]


def _line(row: JudgedRow, values: Sequence[_Names], fired: Sequence[_Names]) -> list[Any]:
    index, *texts = _names(row)
    line: list[Any] = [row.position, index, int(row.differs)]
    line += [names.place(text) for names, text in zip(values, texts, strict=True)]
    for one, verdict, rules in zip(row.judged, row.verdicts, fired, strict=True):
        line += [VERDICTS.index(verdict), rules.place(filter_name(one.rule))]
    return line
