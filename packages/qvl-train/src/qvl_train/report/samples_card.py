"""What a run learned from and what it answered: some records of its data, and answers while it trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qvl_core.errors import InputError
from qvl_core.input_file import printable
from qvl_data.inspection.example_article import example_article, figure_of
from qvl_data.inspection.markup import Html, element, join
from qvl_data.inspection.page import card
from qvl_data.inspection.picture_room import PictureRoom
from qvl_data.inspection.report import Thumbnail

from qvl_train.report.question_pictures import question_pictures
from qvl_train.report.run_facts import RunFacts
from qvl_train.report.run_history import RunHistory
from qvl_train.report.training_answers import (
    Answer,
    AnsweredQuestion,
    answered_questions,
    evaluated_steps,
    spread,
)
from qvl_train.reports import EVALUATIONS

_MOST_RECORDS = 6
_MOST_QUESTIONS = 8
_MOST_TEXT = 240
# For answers and for records each; a page is mailed.
_MOST_PICTURE_BYTES = 400_000


class SamplesCards:
    """Gives the cards of runs, and keeps what it has read: records do not change while a page is watched."""

    def __init__(self) -> None:
        self._records: dict[Path, tuple[object, list[Html]]] = {}
        self._answers: dict[Path, tuple[list[int], Html | None]] = {}
        self._runs = 1

    @property
    def _room(self) -> PictureRoom:
        return PictureRoom(_MOST_PICTURE_BYTES // self._runs)

    def cards(self, runs: Sequence[RunHistory]) -> Iterator[Html]:
        """Give the answers of each run, and where there is one run only, records of its data."""
        self._runs = max(1, len(runs))
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
            known = self._records[run.folder] = (sources, list(_records(sources, run.facts, self._room)))
        return known[1]

    def _answered(self, run: RunHistory) -> Html | None:
        try:
            steps = evaluated_steps(run.folder)
            known = self._answers.get(run.folder)
            if known is None or known[0] != steps:
                known = self._answers[run.folder] = (steps, _answers(run, spread(steps), self._room))
        except OSError as error:
            return element("p", f"{EVALUATIONS}/ cannot be read: {error.strerror}.", class_="soft small")
        return known[1]


def _sources(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    data = recipe.get("data")
    found = data.get("sources") if isinstance(data, Mapping) else None
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def _base(facts: RunFacts) -> Path:
    """Give where the run was started, if that is here; an earlier version has not recorded it."""
    base = Path(facts.machine.get("directory", ""))
    return base if base.is_dir() else Path()


def _records(sources: Sequence[Mapping[str, Any]], facts: RunFacts, room: PictureRoom) -> Iterator[Html]:
    """Give the first records of the sources; where they cannot be read (any more), why not."""
    if not sources:
        return
    found: list[Html] = []
    changed: list[str] = []
    why = ""
    try:
        from qvl_data.inspection.first_records import FirstRecords

        records = FirstRecords(_base(facts), room=room, files=facts.files, since=facts.began)
        changed = records.changed
        for example in records.read(sources, most=_MOST_RECORDS):
            found.append(example_article(example))
    except InputError as error:
        why = error.problems[0].message
    except ModuleNotFoundError as error:
        why = f"the package {error.name} is not installed"
    except Exception as error:  # the page is about numbers; no foreign file shall cost it
        why = next(iter(str(error).splitlines()), type(error).__name__)
    if found:
        yield element("p", "Records from the beginning of each source, as they are in its files.", class_="soft small")
    for name in changed:
        text = f"{printable(name)} has changed since the run: its records may be others than those that were learned."
        yield element("p", text, class_="notice")
    if found:
        yield element("div", *found, class_="examples")
    if why:
        paths = ", ".join(printable(str(source.get("path", "?"))) for source in sources)
        text = f"Records of {paths} cannot be shown: {printable(why, _MOST_TEXT)}."
        yield element("p", text, class_="soft small")


def _answers(run: RunHistory, steps: Sequence[int], room: PictureRoom) -> Html | None:
    if not steps:
        return None
    questions = answered_questions(run.folder, steps, most=_MOST_QUESTIONS)
    lost = [step for step in steps if not any(step in one.answers for one in questions)]
    named = ", ".join(f"{step:,}" for step in lost)
    if not questions:
        return element("p", f"No answer after step {named} can be read.", class_="soft small")
    gone = f"After step {named} none of them has an answer that can be read." if lost else ""
    pictures, why = question_pictures(questions, run.facts.recipe, _base(run.facts), room)
    columns = ("question", "right answer", *(f"step {step:,}" for step in steps))
    head = element("tr", *(element("th", name, scope="col") for name in columns))
    rows = [element("tr", *_row(columns, _cells(one, steps, pictures.get(one.index, ())))) for one in questions]
    body = element("table", element("thead", head), element("tbody", *rows), class_="answers")
    notes = ("Some rows of the evaluation, wrong ones and right ones of its last step.", gone, why)
    scrolls = element("div", body, class_="scroll", tabindex=0, role="region", aria_label="answers")
    return element("div", element("p", " ".join(filter(None, notes)), class_="soft small"), scrolls)


def _row(columns: Sequence[str], cells: Sequence[Html | str]) -> Iterator[Html]:
    for place, (name, cell) in enumerate(zip(columns, cells, strict=True)):
        # On a phone, where there is no head, each answer says which step it is of.
        yield element("td", cell, data_of=name if place else None)


def _cells(question: AnsweredQuestion, steps: Sequence[int], pictures: Sequence[Thumbnail]) -> list[Html | str]:
    answers = [_cell(question.answers.get(step)) for step in steps]
    return [_question(question, pictures), printable(question.right, _MOST_TEXT), *answers]


def _question(question: AnsweredQuestion, pictures: Sequence[Thumbnail]) -> Html:
    row = element("span", f"row {printable(question.index, 40)}", class_="soft small")
    figures = [figure_of(picture, "picture") for picture in pictures]
    shown = element("div", *figures, class_="thumbs") if figures else None
    return join(element("span", printable(question.question, _MOST_TEXT), " ", row), shown)


def _cell(answer: Answer | None) -> Html:
    if answer is None:
        return element("span", "–", class_="soft")
    if answer.score is None:
        return element("span", printable(answer.text, _MOST_TEXT))
    is_right = answer.score >= 1
    mark = element("span", "✓" if is_right else "✗", class_=f"verdict-{'good' if is_right else 'bad'}")
    said = printable(answer.text, _MOST_TEXT) or "nothing"
    return element("span", mark, " ", said, title="right" if is_right else f"scored {answer.score:g}")
