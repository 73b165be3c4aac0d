"""`{model}_{benchmark}.xlsx`: each answer with what the rule sets make of it. For people; the .jsonl is the source.

Replies are written as texts whatever they hold: none becomes a formula, a link or a number. Control characters stand in
Excel's spelling, _x000B_. The bytes depend on the rows alone.
"""

from __future__ import annotations

import datetime
import io
import re
from collections.abc import Iterator, Sequence

from qvl_core.errors import DataError, Problem

from qvl_eval.score.judged import AnsweredRow, Judged

# Limits of the file format; a cell's is in UTF-16 code units.
MAX_CELL_UNITS = 32_767
MAX_ROWS = 1_048_576
CUT_MARK = " ... [cut: {} characters in all]"
_LEADING = ("index", "split", "category", "l2-category", "question")
_CUT = re.compile(r" \.\.\. \[cut: [0-9,]+ characters in all\]\Z")
_HALF_CHARACTERS = re.compile("[\ud800-\udfff]")
_NO_CHARACTERS = re.compile("[\ufffe\uffff]")
_WIDTHS = {"index": 14, "question": 50, "prediction": 50}


def answers_workbook(judged: Sequence[Sequence[Judged]]) -> bytes:
    """Give the .xlsx file of the same rows under one or several rule sets. Raises DataError for too many rows."""
    import xlsxwriter

    rows = [one.row for one in judged[0]]
    if len(rows) >= MAX_ROWS:
        message = f"{len(rows):,} answers do not fit into an .xlsx file, which has {MAX_ROWS:,} rows"
        raise DataError(Problem(where="the answers", message=message))
    letters = sorted({letter for row in rows for letter in row.options})
    file = io.BytesIO()
    with xlsxwriter.Workbook(file, {"constant_memory": True}) as book:
        # Otherwise the time of writing is in the file.
        book.set_properties({"created": datetime.datetime(2000, 1, 1, tzinfo=datetime.timezone.utc)})
        sheet = book.add_worksheet("answers")
        header = [*_LEADING, *letters, "answer", "prediction"]
        header += [f"{of[0].rules} {name}" for of in judged for name in ("score", "extracted", "rule")]
        for column, name in enumerate(header):
            sheet.set_column(column, column, _WIDTHS.get(name, 12))
        sheet.freeze_panes(1, 1)
        bold = book.add_format({"bold": True})
        for column, name in enumerate(header):
            sheet.write_string(0, column, cell_text(name), bold)
        for number, verdicts in enumerate(zip(*judged, strict=True), 1):
            for column, value in enumerate(_cells(rows[number - 1], letters, verdicts)):
                if isinstance(value, float):
                    sheet.write_number(number, column, value)
                elif value:
                    sheet.write_string(number, column, cell_text(value))
    return file.getvalue()


def cell_text(text: str) -> str:
    """Give text that fits a cell and can be written: a long one is cut with a mark that says so."""
    text = _HALF_CHARACTERS.sub("\ufffd", text)
    text = _NO_CHARACTERS.sub(lambda match: f"_x{ord(match[0]):04X}_", text)
    if _units(text) <= MAX_CELL_UNITS:
        return text
    mark = CUT_MARK.format(f"{len(text):,}")
    kept = text.encode("utf-16-le")[: 2 * (MAX_CELL_UNITS - len(mark))].decode("utf-16-le", "ignore")
    return kept + mark


def is_cut(text: str) -> bool:
    """Say whether a cell's text was cut, by us or by a tool that leaves no mark."""
    return _units(text) == MAX_CELL_UNITS or _CUT.search(text) is not None


def _cells(row: AnsweredRow, letters: Sequence[str], verdicts: Sequence[Judged]) -> Iterator[str | float]:
    yield from (row.index, row.split, row.category, row.subcategory, row.question)
    yield from (row.options.get(letter, "") for letter in letters)
    yield from (row.answer, row.prediction)
    for one in verdicts:
        yield from (float(one.score), one.extracted or "", one.rule)


def _units(text: str) -> int:
    return len(text) + sum(char > "\uffff" for char in text)
