"""From rows to answers: prepared ahead in order and within bounds, answered as slots come free."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from qvl_core.errors import DataError, InputError, Problem
from qvl_core.recipe.sections import GenerationSection
from qvl_eval.answering import PreparedRows, answer_prepared
from qvl_eval.answers.job import Piece
from qvl_eval.answers.model import generation_options


def row_of(index: str) -> Any:
    return SimpleNamespace(
        index=index,
        line=2,
        split="",
        category="",
        columns={},
        question="q",
        options={},
        answer="a",
        digests=("d",),
        pictures=SimpleNamespace(file=SimpleNamespace(path="x.tsv")),
    )


def prepared_of(index: str, size: int = 1, refused: str = "") -> Any:
    job = None if refused else SimpleNamespace(job_id=index, prompt_tokens=3)
    return SimpleNamespace(row=row_of(index), key=index, job=job, sizes=(), refused=refused, media_bytes=size)


class FakeDriver:
    """Gives job `n` n + 1 pieces, one a step; keeps how many jobs were held in each step."""

    def __init__(self, refuse: str = "") -> None:
        self.left: dict[str, int] = {}
        self.held: list[int] = []
        self.refuse = refuse

    def submit(self, job: Any) -> None:
        if job.job_id == self.refuse:
            raise InputError(Problem(where="request", message="does not fit"))
        self.left[job.job_id] = int(job.job_id) + 1

    def step(self) -> list[Piece]:
        self.held.append(len(self.left))
        pieces = []
        for name in list(self.left):
            self.left[name] -= 1
            done = self.left[name] == 0
            pieces.append(Piece(job_id=name, text=name, new_tokens=1, finish="stop" if done else None))
            if done:
                del self.left[name]
        return pieces


def test_rows_come_in_their_order_and_no_more_than_asked_wait() -> None:
    made: list[str] = []

    def prepare(row: Any) -> Any:
        made.append(row.index)
        return prepared_of(row.index)

    rows = (row_of(str(number)) for number in range(50))
    with PreparedRows(rows, prepare, ahead=2) as prepared:
        for number, one in enumerate(prepared):
            assert one.row.index == str(number)
            # Two wait, and one more is in the preparing thread's hands.
            assert len(made) <= number + 4
    assert len(made) == 50


def test_patches_that_wait_are_bounded_but_one_row_always_may() -> None:
    made: list[str] = []

    def prepare(row: Any) -> Any:
        made.append(row.index)
        return prepared_of(row.index, size=100)

    with PreparedRows((row_of(str(number)) for number in range(9)), prepare, ahead=50, most_bytes=150) as prepared:
        for number, _ in enumerate(prepared):
            assert len(made) <= number + 3
    assert len(made) == 9


def test_an_error_of_the_preparation_is_raised_where_its_row_is_due() -> None:
    def prepare(row: Any) -> Any:
        if row.index == "2":
            raise DataError(Problem(where="x.tsv:4", message="bad"))
        return prepared_of(row.index)

    with PreparedRows((row_of(str(number)) for number in range(9)), prepare, ahead=5) as prepared:
        rows = iter(prepared)
        assert [next(rows).row.index, next(rows).row.index] == ["0", "1"]
        with pytest.raises(DataError, match="bad"):
            next(rows)


def test_leaving_early_ends_the_thread() -> None:
    def endless() -> Iterator[Any]:
        while True:
            yield row_of("0")

    with PreparedRows(endless(), lambda row: prepared_of(row.index), ahead=2) as prepared:
        next(iter(prepared))


def test_a_slot_that_comes_free_is_taken_at_the_next_step() -> None:
    driver = FakeDriver()
    ended = list(answer_prepared(driver, map(prepared_of, "2011"), slots=2))  # type: ignore[arg-type]
    assert [[one.index for one, _ in step] for step in ended] == [["0"], [], ["2", "1"], [], ["1"]]
    assert driver.held == [2, 2, 2, 1, 1]
    assert [one.prediction for step in ended for one, _ in step] == ["0", "222", "11", "11"]


def test_prompts_with_large_pictures_wait_until_those_before_them_have_started() -> None:
    driver = FakeDriver()
    rows = [prepared_of(index, size=60) for index in "3456"]
    list(answer_prepared(driver, rows, slots=4, most_bytes=100))  # type: ignore[arg-type]
    assert driver.held[:2] == [2, 4]


def test_a_row_that_cannot_be_asked_is_an_empty_answer_with_its_reason() -> None:
    rows = [prepared_of("1"), prepared_of("9", refused="too long")]
    found = [one for step in answer_prepared(FakeDriver(), rows, slots=2) for one, _ in step]  # type: ignore[arg-type]
    assert [(one.index, one.finish, one.problem) for one in found] == [("9", "refused", "too long"), ("1", "stop", "")]


def test_a_row_that_the_cache_can_never_hold_stops_the_run_with_its_line() -> None:
    with pytest.raises(DataError, match="does not fit") as caught:
        list(answer_prepared(FakeDriver(refuse="1"), [prepared_of("1")], slots=2))  # type: ignore[arg-type]
    assert caught.value.problems[0].where == "x.tsv:2"
    assert "eval.held_tokens" in caught.value.problems[0].fix


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_temperature_zero_is_greedy_and_carries_no_sampling_settings(temperature: float) -> None:
    options = generation_options(GenerationSection(temperature=temperature, top_k=20, top_p=0.8))
    assert options["do_sample"] is (temperature > 0)
    assert ("top_k" in options) is (temperature > 0)
