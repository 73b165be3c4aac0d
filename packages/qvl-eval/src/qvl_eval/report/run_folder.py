"""Read what a report is made of from the folder of a finished evaluation: answers, rule sets, protocol, pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from qvl_core.errors import DataError, OutputError, Problem
from qvl_core.input_file import printable
from qvl_core.json_file import read_json_object
from qvl_core.run_folder import read_record

from qvl_eval.benchmarks.asking import parts_of, prompt_text
from qvl_eval.benchmarks.catalogue import BENCHMARKS
from qvl_eval.benchmarks.prompts import PromptFamily
from qvl_eval.benchmarks.tsv import read_benchmark
from qvl_eval.evaluation.prediction_log import LOG_NAME, read_log
from qvl_eval.report.row_verdicts import Result
from qvl_eval.score.judge import judge
from qvl_eval.score.judged import AnsweredRow
from qvl_eval.score.rule_sets import fitting_rules
from qvl_eval.score.summary import summarise

SCORES = "scores.json"
_MOST_SCORES_BYTES = 256 * 1024**2
_COLUMNS = tuple(field.name for field in fields(AnsweredRow))
FAMILIES: tuple[PromptFamily, ...] = get_args(PromptFamily)
_FIX = "give the folder of an evaluation that has finished: output.dir of its recipe"


@dataclass(frozen=True, kw_only=True)
class EvaluationFolder:
    """A finished evaluation. `benchmark` is the one by whose rules its rows are scored, `rules` those it was scored by.

    `data_file` is where its benchmark's file was, `data_digest` that file's sha256; "" where the folder does not say.
    """

    path: Path
    title: str
    benchmark: str
    rules: tuple[str, ...]
    rows: tuple[AnsweredRow, ...]
    protocol: Mapping[str, Any]
    data_file: str
    data_digest: str

    def results(self, rules: Sequence[str] = ()) -> list[Result]:
        """Judge the answers again: under these rule sets, or those of the run. Raises DataError for unfitting ones."""
        known = fitting_rules(self.benchmark)
        wrong = [name for name in rules if name not in known]
        if wrong:
            message = f"{printable(', '.join(wrong))} cannot score {self.benchmark}; it has: {', '.join(known)}"
            raise DataError(Problem(where=str(self.path), key="--rules", message=message, fix=f"--rules {known[0]}"))
        results: list[Result] = []
        for name in dict.fromkeys(rules or self.rules):
            judged = [judge(self.benchmark, row, name) for row in self.rows]
            results.append((name, summarise(self.benchmark, name, judged), judged))
        return results


def read_evaluation(folder: Path) -> EvaluationFolder:
    """Read the folder. Raises OutputError where it is no finished evaluation, with the file and line that say so."""
    scores = read_json_object(folder / SCORES, error_type=OutputError, limit=_MOST_SCORES_BYTES, fix=_FIX)
    sets, protocol = scores.get("rule_sets"), scores.get("protocol")
    first = next(iter(sets.values()), None) if isinstance(sets, dict) else None
    if not isinstance(first, dict) or not isinstance(sets, dict) or not isinstance(protocol, dict):
        message = "does not have the tables rule_sets and protocol that an evaluation writes"
        raise OutputError(Problem(where=str(folder / SCORES), message=message, fix=_FIX))
    benchmark = str(first.get("benchmark", ""))
    _check_names(folder, benchmark, sets)
    # Answers of rows beyond a limit that was lowered stand behind those that were scored.
    count = protocol.get("rows")
    rows = tuple(islice(_rows(folder / LOG_NAME), count if isinstance(count, int) and count > 0 else None))
    if not rows:
        raise OutputError(Problem(where=str(folder / LOG_NAME), message="holds no answer", fix=_FIX))
    return EvaluationFolder(
        path=folder,
        title=f"{scores.get('benchmark', benchmark)}: {folder.resolve().name}",
        benchmark=benchmark,
        rules=tuple(sets),
        rows=rows,
        protocol={**protocol, **_versions(folder)},
        data_file=str(protocol.get("data_file", "")),
        data_digest=str(protocol.get("data", "")),
    )


class AskedRows:
    """The rows of the benchmark's file: their pictures, and their prompts as they were sent.

    Raises DataError unless `path` is the file that was answered.
    """

    def __init__(self, path: Path, evaluation: EvaluationFolder) -> None:
        protocol = evaluation.protocol
        file = read_benchmark(path, compat=protocol.get("compat", "none"), is_checked=True)
        digest = evaluation.data_digest
        if digest and file.digest != digest:
            message = f"is not the file that was answered: its sha256 is {file.digest[:16]}…, that one's {digest[:16]}…"
            raise DataError(Problem(where=str(path), key="--data", message=message, fix="give the file as it was then"))
        self._rows = {row.index: row for row in file.rows}
        self._benchmark = BENCHMARKS.get(str(protocol.get("benchmark")))
        self._family: PromptFamily | None = next((name for name in FAMILIES if name == protocol.get("prompts")), None)

    def pictures(self, row: AnsweredRow) -> Sequence[bytes]:
        """Give the bytes of a row's pictures; none for a row that the file does not have."""
        found = self._rows.get(row.index)
        return found.images if found is not None else ()

    def prompt(self, row: AnsweredRow) -> str | None:
        """Give the prompt of a row; None where the protocol does not say how it was made."""
        found = self._rows.get(row.index)
        if found is None or self._benchmark is None or self._family is None:
            return None
        return prompt_text(parts_of(self._benchmark, self._family, found))


def _check_names(folder: Path, benchmark: str, rules: Mapping[str, object]) -> None:
    try:
        known = fitting_rules(benchmark)
    except ValueError as error:
        raise OutputError(Problem(where=str(folder / SCORES), message=printable(str(error)), fix=_FIX)) from None
    wrong = [name for name in rules if name not in known]
    if wrong:
        message = f"names rules that cannot score {benchmark}: {printable(', '.join(wrong))}"
        raise OutputError(Problem(where=str(folder / SCORES), message=message, fix=_FIX))


def _versions(folder: Path) -> dict[str, Any]:
    record = read_record(folder) if (folder / "run.json").exists() else None
    if record is None:
        return {}
    return {"run": record.run_id, "started": record.started, "versions": record.known_versions()}


def _rows(path: Path) -> Iterator[AnsweredRow]:
    """Give the answered rows in the order of the file."""
    for _, prediction, _ in read_log(path, fix=_FIX):
        yield AnsweredRow(**{name: getattr(prediction, name) for name in _COLUMNS})
