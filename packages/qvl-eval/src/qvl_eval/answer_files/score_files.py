"""The files of a scored benchmark: answers as .xlsx, accuracies as .csv and .json."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from qvl_core.durable import atomic_write, explained, make_folder
from qvl_core.errors import OutputError, Problem

from qvl_eval.answer_files.workbook_writer import answers_workbook
from qvl_eval.score.judged import Judged
from qvl_eval.score.summary import Group, Scores

CSV_COLUMNS = (
    *("benchmark", "rules", "kind", "split", "name", "is_headline", "n"),
    *("failed", "failed_percent", "score", "score_without_failed", "unit"),
)


def write_score_files(
    folder: Path,
    model: str,
    benchmark: str,
    results: Sequence[tuple[Scores, Sequence[Judged]]],
    *,
    sources: Sequence[Path] = (),
) -> tuple[Path, ...]:
    """Write `{model}_{benchmark}.xlsx`, `..._acc.csv`, `..._scores.json`, each whole or not at all; give their paths.

    The bytes depend on the arguments alone. Raises OutputError or DiskError where they cannot be written, or where one
    of them would replace one of the `sources`.
    """
    stem = f"{_file_name(model)}_{benchmark}"
    with explained(folder):
        # The sheet passes through a temporary file.
        workbook = answers_workbook([judged for _, judged in results])
    contents = {
        f"{stem}.xlsx": workbook,
        f"{stem}_acc.csv": _bytes(accuracies_csv([scores for scores, _ in results])),
        f"{stem}_scores.json": _bytes(scores_json(model, [scores for scores, _ in results])),
    }
    for name in contents:
        for source in sources:
            if (folder / name).exists() and source.exists() and (folder / name).samefile(source):
                message = "is where the answers come from, and would be replaced"
                raise OutputError(Problem(where=str(folder / name), message=message, fix="--out ANOTHER_FOLDER"))
    with explained(folder):
        make_folder(folder)
    for name, content in contents.items():
        atomic_write(folder / name, content)
    return tuple(folder / name for name in contents)


def accuracies_csv(results: Sequence[Scores]) -> str:
    """Give a table with a row per group: all rows, the splits in file order, then subcategories and categories."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for scores in results:
        for group in all_groups(scores):
            without = group.percent_without_failed
            writer.writerow(
                (
                    *(scores.benchmark, scores.rules, group.kind, group.split, group.name),
                    "yes" if group == scores.headline else "no",
                    *(group.rows, group.failed, f"{group.failed_percent:.4f}", f"{group.percent:.4f}"),
                    "" if without is None else f"{without:.4f}",
                    "percent",
                )
            )
    return text.getvalue()


def scores_json(model: str, results: Sequence[Scores]) -> str:
    """Give model and scores, the headline's rule set first, as JSON text."""
    content = {"model": model, "unit": "percent", "results": [scores.as_json() for scores in results]}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def all_groups(scores: Scores) -> Iterator[Group]:
    """Give every group once: all rows, then `groups`, then those within the other splits."""
    yield scores.overall
    yield from scores.groups
    yield from (group for group in scores.split_groups if group not in scores.groups)


def _bytes(text: str) -> bytes:
    # Half of a character, which JSON can hold, is no UTF-8.
    return text.encode("utf-8", "backslashreplace")


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", text).strip("._")[:100] or "model"
