"""Answer questions with a recipe's weights: those of the command line, or of a file of any length.

Questions are read and their media decoded in a thread of their own, a few ahead of the model, which answers as many
at a time as it has slots. A question that cannot be asked becomes an error in its row; the others are answered.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvl_core.answer_sizes import INFER_HELD_TOKENS, INFER_SLOTS
from qvl_core.errors import EXIT_WRONG_INPUT, DataError, InputError, OutputError, Problem, RecipeError
from qvl_core.input_file import printable
from rich.console import Console

from qvl_eval.answers.driver import Driver, answer_all, make_driver, window_of
from qvl_eval.answers.job import Job, make_job
from qvl_eval.answers.model import weights_digest
from qvl_eval.answers.opening import AnsweringModel, open_model
from qvl_eval.evaluation.show import AnsweringProgress
from qvl_eval.questions.answer_file import AnswerFile, in_order
from qvl_eval.questions.question_file import Question, read_questions

if TYPE_CHECKING:
    from qvl_core.recipe import Recipe
    from qvl_core.tasks import StartWorkers

SHOWN_PROBLEMS = 10


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """How many questions are answered at a time, and how many tokens of prompts and answers are held for them.

    Each replica of a layout (dp) has so many.
    """

    slots: int = INFER_SLOTS
    held_tokens: int = INFER_HELD_TOKENS


@dataclass(kw_only=True)
class _Answered:
    """An answer while it grows."""

    question: Question
    prompt_tokens: int = 0
    texts: list[str] = field(default_factory=list)


def answer_questions(
    loaded: AnsweringModel, questions: Iterable[Question], capacity: Capacity, *, driver: Driver | None = None
) -> Iterator[tuple[Question, dict[str, Any]]]:
    """Give each question with its result, as they are done: `answer`, `finish` and counts of tokens, or `error`."""
    driver = driver or make_driver(loaded, slots=capacity.slots, max_tokens=capacity.held_tokens)
    growing: dict[str, _Answered] = {}
    failed: deque[tuple[Question, dict[str, Any]]] = deque()

    def jobs() -> Iterator[Job]:
        for question, made in _prepared(loaded, questions, capacity):
            if isinstance(made, str):
                failed.append((question, {"error": made}))
                continue
            growing[made.job_id] = _Answered(question=question, prompt_tokens=made.prompt_tokens)
            yield made

    for piece in answer_all(driver, jobs(), ahead=capacity.slots * loaded.replicas):
        while failed:
            yield failed.popleft()
        answered = growing[piece.job_id]
        answered.texts.append(piece.text)
        if piece.finish is None:
            continue
        del growing[piece.job_id]
        if piece.finish == "failed":
            yield answered.question, {"error": piece.failure}
            continue
        result = {"answer": "".join(answered.texts).strip(), "finish": piece.finish}
        yield answered.question, {**result, "prompt_tokens": answered.prompt_tokens, "new_tokens": piece.new_tokens}
    yield from failed


def infer(
    recipe: Recipe, questions: Sequence[Question], capacity: Capacity, *, start_workers: StartWorkers | None = None
) -> list[dict[str, Any]]:
    """Answer the questions of a command line, in their order. The first that cannot be asked raises DataError."""
    results: dict[int, dict[str, Any]] = {}
    with open_model(recipe, start_workers) as loaded:
        for question, result in answer_questions(loaded, questions, capacity):
            if "error" in result:
                raise DataError(Problem(where=question.where, message=result["error"]))
            results[question.index] = result
    return [results[question.index] for question in questions]


def as_json(recipe: Recipe, question: Question, result: dict[str, Any]) -> str:
    """Give one line of JSON with the question and the answer."""
    weights = {"weights": recipe.weights.source}
    if recipe.weights.adapter is not None:
        weights["adapter"] = recipe.weights.adapter
    return json.dumps({**question.shown, **result, **weights}, ensure_ascii=False)


def infer_file(
    recipe: Recipe,
    source: Path,
    output: Path,
    capacity: Capacity,
    *,
    media_root: Path | None = None,
    system: str | None = None,
    console: Console | None = None,
    start_workers: StartWorkers | None = None,
) -> int:
    """Answer a file of questions into a file of answers, going on behind what is there, and give the exit code.

    0 all answered, 2 some could not be asked: their rows hold an `error`. Raises InputError for files that cannot be
    read or written and for answers that were given under other settings.
    """
    console = console or Console(stderr=True)
    if output.exists() and source.exists() and output.samefile(source):
        raise OutputError(Problem(where=str(output), message="is the file of questions", fix="--output ANSWERS.jsonl"))
    if media_root is not None and not media_root.is_dir():
        # Else every row would hold an error, and be done.
        raise DataError(Problem(where=printable(str(media_root)), message="is no folder", fix="name that of the media"))
    count = sum(1 for _ in read_questions(source, media_root))
    if not count:
        raise DataError(Problem(where=str(source), message="holds no question", fix='write {"prompt": "..."} in it'))
    run = _run_digest(recipe, system)
    with AnswerFile(output, run) as file:
        questions = read_questions(source, media_root, system)
        if file.done > count:
            message = f"holds {file.done} answers to {count} questions"
            raise OutputError(Problem(where=str(output), message=message, fix="choose another file"))
        for question in itertools.islice(questions, file.done):
            file.check(question.index, question.digest)
        if file.done:
            console.print(f"{output}: {file.done} of {count} were answered before", highlight=False, soft_wrap=True)
        bad: list[str] = []
        if file.done < count:
            with open_model(recipe, start_workers) as loaded:
                bad = _answer_into(file, loaded, questions, count, capacity, console)
    return _conclude(file, count, bad, console)


def _answer_into(
    file: AnswerFile,
    loaded: AnsweringModel,
    questions: Iterator[Question],
    count: int,
    capacity: Capacity,
    console: Console,
) -> list[str]:
    """Answer what is left, and list what could not be answered."""
    bad: list[str] = []
    rows = (
        (question.index, _row(file, question, result))
        for question, result in answer_questions(loaded, questions, capacity)
    )
    with AnsweringProgress(console, done=file.done, rows=count) as bar:
        for row, where in in_order(rows, file.done):
            file.add(row)
            bar.advance(1)
            if "error" in row:
                bad.append(f"{where}: {row['error']}")
    return bad


def _row(file: AnswerFile, question: Question, result: dict[str, Any]) -> tuple[dict[str, Any], str]:
    row = {"index": question.index, **question.shown, **result, "key": file.key(question.digest)}
    return row, question.where


def _conclude(file: AnswerFile, count: int, bad: Sequence[str], console: Console) -> int:
    failed = file.failed + len(bad)
    for line in bad[:SHOWN_PROBLEMS]:
        console.print(printable(line, 400), style="red", highlight=False, markup=False, soft_wrap=True)
    if len(bad) > SHOWN_PROBLEMS:
        console.print(f"and {len(bad) - SHOWN_PROBLEMS} more", highlight=False)
    text = f"{count - failed} of {count} questions answered: {file.path}"
    held = "1 row holds" if failed == 1 else f"{failed} rows hold"
    again = f"; {held} an error; another --output asks them again" if failed else ""
    console.print(text + again, highlight=False, soft_wrap=True)
    return EXIT_WRONG_INPUT if failed else 0


def _prepared(
    loaded: AnsweringModel, questions: Iterable[Question], capacity: Capacity
) -> Iterator[tuple[Question, Job | str]]:
    """Give questions as jobs, or with what is wrong with them; a thread makes as many ahead as there are slots."""
    left = iter(questions)
    with ThreadPoolExecutor(1, thread_name_prefix="questions") as pool:
        made: deque[tuple[Question, Future[Job | str]]] = deque()
        while True:
            for question in itertools.islice(left, capacity.slots * loaded.replicas - len(made)):
                made.append((question, pool.submit(_make, loaded, question, capacity)))
            if not made:
                return
            question, future = made.popleft()
            yield question, future.result()


def _make(loaded: AnsweringModel, question: Question, capacity: Capacity) -> Job | str:
    from qvl_data.prompt import one_question

    if question.problem:
        return question.problem
    messages = one_question(question.images, question.videos, question.prompt, question.system)
    try:
        return make_job(
            loaded.processor,
            messages,
            loaded.options,
            job_id=str(question.index),
            window=min(window_of(loaded), capacity.held_tokens),
            where=question.where,
            row=question.index,
        )
    except InputError as error:
        return "; ".join(problem.message for problem in error.problems)


def _run_digest(recipe: Recipe, system: str | None) -> str:
    """Give one hash for everything but the question that decides an answer."""
    settings = {
        "weights": weights_digest(recipe),
        "dtype": recipe.model.dtype,
        "image": recipe.data.image.model_dump(mode="json"),
        "video": recipe.data.video.model_dump(mode="json"),
        "generation": recipe.generation.model_dump(mode="json"),
        "system": system,
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def require_questions(prompts: Sequence[str], source: Path | None, output: Path | None, where: str) -> None:
    """Raise RecipeError for a command line that asks nothing, or in both ways at once."""
    if bool(prompts) == (source is not None):
        message = "give either --prompt or --input" if prompts else "nothing is asked"
        fix = f'qvl infer {where} --prompt "..."   or   qvl infer {where} --input prompts.jsonl --output answers.jsonl'
        raise RecipeError(Problem(where="qvl infer", message=message, fix=fix))
    if (source is None) != (output is None):
        message = "--input and --output go together"
        fix = f"qvl infer {where} --input prompts.jsonl --output answers.jsonl"
        raise RecipeError(Problem(where="qvl infer", message=message, fix=fix))


def refuse_unused(options: Mapping[str, object], *, beside: str) -> None:
    """Raise RecipeError for the options that were given and say nothing beside another one."""
    given = [name for name, value in options.items() if value]
    if given:
        message = f"{', '.join(given)} would not be used beside {beside}"
        fix = "in the rows of the file: images, videos" if beside == "--input" else "--image FILE, --video FILE"
        raise RecipeError(Problem(where="qvl infer", message=message, fix=fix))
