"""What a run learned from and what it answered: some records of its data, and answers while it trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qvl_core.errors import InputError
from qvl_core.input_file import printable
from qvl_data.inspection.example_article import example_article
from qvl_data.inspection.markup import Html, element
from qvl_data.inspection.page import card

from qvl_train.report.run_history import RunHistory
from qvl_train.report.training_answers import (
    Answer,
    AnsweredQuestion,
    answered_questions,
    evaluated_steps,
    spread,
)

_MOST_RECORDS = 6
_MOST_QUESTIONS = 8
_MOST_TEXT = 240


class SamplesCards:
    """Gives the cards of runs, and keeps what it has read: records do not change while a page is watched."""

    def __init__(self) -> None:
        self._records: dict[Path, tuple[object, list[Html]]] = {}
        self._answers: dict[Path, tuple[list[int], Html | None]] = {}

    def cards(self, runs: Sequence[RunHistory]) -> Iterator[Html]:
        """Give the answers of each run, and where there is one run only, records of its data."""
        for run in runs:
            answers = self._answered(run)
            if answers is not None:
                title = "Answers during training" + (f" of {run.name}" if len(runs) > 1 else "")
                yield card(title, answers, id="answers" if len(runs) == 1 else None)
        if len(runs) == 1 and (records := self._recorded(runs[0])):
            yield card("Samples", *records, id="records")

    def _recorded(self, run: RunHistory) -> list[Html]:
        sources = _sources(run.facts.recipe)
        known = self._records.get(run.folder)
        if known is None or known[0] != sources:
            known = self._records[run.folder] = (sources, list(_records(sources, run.facts.machine)))
        return known[1]

    def _answered(self, run: RunHistory) -> Html | None:
        try:
            steps = evaluated_steps(run.folder)
        except OSError:
            steps = []
        known = self._answers.get(run.folder)
        if known is None or known[0] != steps:
            known = self._answers[run.folder] = (steps, _answers(run.folder, spread(steps)))
        return known[1]


def _sources(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    data = recipe.get("data")
    found = data.get("sources") if isinstance(data, Mapping) else None
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def _records(sources: Sequence[Mapping[str, Any]], machine: Mapping[str, str]) -> Iterator[Html]:
    """Give the first records of the sources; where they cannot be read (any more), why not."""
    if not sources:
        return
    # Where the run was started, if that is here; an earlier version has not recorded it.
    base = Path(machine.get("directory", ""))
    found: list[Html] = []
    why = ""
    try:
        from qvl_data.inspection.first_records import first_records

        for example in first_records(sources, base if base.is_dir() else Path(), most=_MOST_RECORDS):
            found.append(example_article(example))
    except InputError as error:
        why = error.problems[0].message
    except Exception as error:  # the page is about numbers; no foreign file shall cost it
        why = next(iter(str(error).splitlines()), type(error).__name__)
    if found:
        yield element("p", "The first records of each source, as they are in its files.", class_="soft small")
        yield element("div", *found, class_="examples")
    if why:
        paths = ", ".join(printable(str(source.get("path", "?"))) for source in sources)
        text = f"Records of {paths} cannot be shown: {printable(why, _MOST_TEXT)}."
        yield element("p", text, class_="soft small")


def _answers(folder: Path, steps: Sequence[int]) -> Html | None:
    try:
        questions = answered_questions(folder, steps, most=_MOST_QUESTIONS)
    except OSError:
        questions = []
    if not questions:
        return None
    columns = ("question", "right answer", *(f"step {step:,}" for step in steps))
    head = element("tr", *(element("th", name, scope="col") for name in columns))
    rows = [element("tr", *_row(columns, _cells(one, steps))) for one in questions]
    body = element("table", element("thead", head), element("tbody", *rows), class_="answers")
    note = "Some rows of the evaluation, wrong ones and right ones of its last step."
    scrolls = element("div", body, class_="scroll", tabindex=0, role="region", aria_label="answers")
    return element("div", element("p", note, class_="soft small"), scrolls)


def _row(columns: Sequence[str], cells: Sequence[Html | str]) -> Iterator[Html]:
    for place, (name, cell) in enumerate(zip(columns, cells, strict=True)):
        # On a phone, where there is no head, each answer says which step it is of.
        yield element("td", cell, data_of=name if place else None)


def _cells(question: AnsweredQuestion, steps: Sequence[int]) -> list[Html | str]:
    answers = [_cell(question.answers.get(step)) for step in steps]
    return [_question(question), printable(question.right, _MOST_TEXT), *answers]


def _question(question: AnsweredQuestion) -> Html:
    row = element("span", f"row {printable(question.index, 40)}", class_="soft small")
    return element("span", printable(question.question, _MOST_TEXT), " ", row)


def _cell(answer: Answer | None) -> Html:
    if answer is None:
        return element("span", "–", class_="soft")
    if answer.score is None:
        return element("span", printable(answer.text, _MOST_TEXT))
    is_right = answer.score >= 1
    mark = element("span", "✓" if is_right else "✗", class_=f"verdict-{'good' if is_right else 'bad'}")
    said = printable(answer.text, _MOST_TEXT) or "nothing"
    return element("span", mark, " ", said, title="right" if is_right else f"scored {answer.score:g}")
