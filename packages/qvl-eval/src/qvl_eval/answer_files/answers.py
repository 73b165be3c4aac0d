"""Answers to score, out of a run folder, our predictions.jsonl, or a file of VLMEvalKit or MindSpeed-MM.

Columns that the file lacks come from the benchmark's TSV file, joined by index.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qvl_core.errors import DataError, Problem
from qvl_core.input_file import printable

from qvl_eval.answer_files.data_columns import DataRow, read_data_rows
from qvl_eval.answer_files.tables import Record, Table, read_table
from qvl_eval.answer_files.workbook_writer import is_cut
from qvl_eval.score.choice import lettered
from qvl_eval.score.judged import AnsweredRow
from qvl_eval.score.rule_sets import BENCHMARKS, CHOICE_BENCHMARKS
from qvl_eval.score.summary import HEADLINE_SPLITS

LOG_NAME = "predictions.jsonl"
SHOWN = 20
_PARTS = re.compile(r"predictions\.\d{3,}\.jsonl")


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The rows of a file, in its order, with the name of the model that gave them. `notes` are to be shown."""

    path: Path
    model: str
    rows: tuple[AnsweredRow, ...]
    notes: tuple[str, ...] = ()


def read_answers(place: Path, benchmark: str, data: Path | None = None) -> Answers:
    """Read the answers of a run folder or file, with what `data`, the benchmark's TSV file, says of their rows.

    Raises DataError for a file that holds no answers, an index that is empty, repeated or not in `data`, and for rows
    that lack what the benchmark is scored by.
    """
    path = _answers_path(place)
    table = read_table(path)
    _require_columns(table)
    known = {} if data is None else read_data_rows(data)
    rows = _rows(table, known, data)
    _require_references(table, rows, known, benchmark, data)
    notes = [*table.notes, *_remarks(table, rows, known, benchmark)]
    return Answers(path=path, model=_model(place, path, benchmark), rows=tuple(rows), notes=tuple(notes))


def run_record(place: Path) -> Mapping[str, object]:
    """Give the content of `run.json` next to the answers; nothing where there is none that can be read."""
    folder = place if place.is_dir() else place.parent
    try:
        content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _answers_path(place: Path) -> Path:
    if not place.is_dir():
        return place
    path = place / LOG_NAME
    others = sorted(entry.name for entry in place.iterdir() if _PARTS.fullmatch(entry.name))
    if others:
        message = f"the run is not finished: answers lie in {1 + len(others)} files ({LOG_NAME}, {others[0]} ...)"
        raise DataError(Problem(where=printable(str(place)), message=message, fix="qvl run its recipe again"))
    if not path.exists():
        message = f"holds no {LOG_NAME}: it is not the folder of an evaluation"
        raise DataError(Problem(where=printable(str(place)), message=message, fix="give the file of answers"))
    return path


def _require_columns(table: Table) -> None:
    missing = [name for name in ("index", "prediction") if name not in table.names]
    if not table.records:
        raise DataError(Problem(where=printable(str(table.path)), message="holds no rows"))
    if missing:
        found = ", ".join(printable(name, 40) for name in table.names[:SHOWN]) or "nothing"
        message = f"is no file of answers: it has no column {' and '.join(missing)}; it has: {found}"
        fix = "give predictions.jsonl of a run, or {model}_{dataset}.xlsx of VLMEvalKit or MindSpeed-MM"
        raise DataError(Problem(where=printable(str(table.path)), message=message, fix=fix))


def _rows(table: Table, known: Mapping[str, DataRow], data: Path | None) -> list[AnsweredRow]:
    rows: list[AnsweredRow] = []
    problems: list[Problem] = []
    places: dict[str, str] = {}
    for record in table.records:
        index = record.text("index")
        shown = printable(index, 60)
        if not index or index in places:
            message = f"the index {shown!r} occurs twice, first at {places[index]}" if index else "the index is empty"
            problems.append(Problem(where=record.where, key="index", message=message))
        elif data is not None and index not in known:
            message = f"the index {shown!r} is in none of the {len(known):,} rows of {data}"
            problems.append(Problem(where=record.where, key="index", message=message, fix="give the same --data"))
        else:
            places[index] = record.where
            rows.append(_row(index, record, known.get(index)))
    if problems:
        more = len(problems) - SHOWN
        tail = [Problem(where=str(table.path), message=f"and {more:,} more rows like these")] if more > 0 else []
        raise DataError([*problems[:SHOWN], *tail])
    return rows


def _row(index: str, record: Record, data: DataRow | None) -> AnsweredRow:
    """Make a row; what the benchmark's file says of it comes before what the answers' file says."""
    given = data.columns if data is not None else {}
    written = record.cells.get("options")
    options = {**(written if isinstance(written, Mapping) else {}), **record.cells}
    images = record.cells.get("images")

    def column(name: str) -> str:
        return given.get(name) or record.text(name)

    return AnsweredRow(
        index=index,
        answer=column("answer"),
        prediction=record.text("prediction"),
        question=column("question"),
        split=column("split"),
        category=column("category"),
        subcategory=column("subcategory"),
        options=data.options if data is not None else _capital_options(options),
        images=data.images if data is not None else tuple(map(str, images)) if isinstance(images, list) else (),
        question_type=column("question_type"),
    )


def _capital_options(cells: Mapping[str, object]) -> dict[str, str]:
    return lettered({name: value for name, value in cells.items() if len(name) == 1 and name.isupper()})


def _require_references(
    table: Table, rows: Sequence[AnsweredRow], known: Mapping[str, DataRow], benchmark: str, data: Path | None
) -> None:
    fix = f"--data {benchmark.upper()}.tsv" if data is None else "give the TSV file of this benchmark"
    where = printable(str(data or table.path))
    if not any(row.answer for row in rows):
        raise DataError(Problem(where=where, message="no row has a reference answer", fix=fix))
    has_options = any(row.options for row in rows)
    if benchmark == "mmmu_dev_val":
        # A few rows of it may all be open questions.
        columns = "options" in table.names or any(len(name) == 1 and name.isupper() for name in table.names)
        has_options |= any(row.options for row in known.values()) if known else columns
    if benchmark in CHOICE_BENCHMARKS and not has_options:
        message = f"no row has options (columns A, B, ...), by which {benchmark} is scored"
        raise DataError(Problem(where=where, message=message, fix=fix))


def _remarks(table: Table, rows: Sequence[AnsweredRow], known: Mapping[str, DataRow], benchmark: str) -> list[str]:
    remarks = []
    if known and len(rows) < len(known):
        remarks.append(f"{table.path}: answers {len(rows):,} of the {len(known):,} rows of the data")
    given = {record.text("index"): record.text("answer") for record in table.records}
    others = [row.index for row in rows if known and given[row.index] not in ("", row.answer)]
    if others:
        first = printable(others[0], 60)
        remarks.append(f"{table.path}: {len(others):,} rows have another reference than the data (first: {first})")
    missing = sum(not row.prediction for row in rows)
    if missing:
        remarks.append(f"{table.path}: {missing:,} of {len(rows):,} rows have no reply")
    cut = sum(is_cut(row.prediction) for row in rows)
    if cut:
        remarks.append(f"{table.path}: {cut:,} replies are as long as a cell can be: the rest of them is not there")
    wanted = HEADLINE_SPLITS.get(benchmark)
    if wanted and not any(row.split == wanted for row in rows):
        remarks.append(f"{table.path}: no row is of the split {wanted}: the headline counts all rows")
    stem = table.path.stem.lower()
    others = [name for name in BENCHMARKS if name != benchmark and stem.endswith(f"_{name}")]
    if others:
        remarks.append(f"{table.path}: is named after {others[0]}, and scored as {benchmark}")
    return remarks


def _model(place: Path, path: Path, benchmark: str) -> str:
    """Name the model: as the file is named before the benchmark's name, or as the recipe of the run has it."""
    if path.stem.lower().endswith(f"_{benchmark}"):
        return path.stem[: -len(benchmark) - 1]
    recipe = run_record(place).get("recipe")
    model = recipe.get("model") if isinstance(recipe, Mapping) else None
    name = model.get("name") if isinstance(model, Mapping) else None
    if isinstance(name, str) and name:
        return name
    return path.resolve().parent.name if path.name == LOG_NAME else path.stem
