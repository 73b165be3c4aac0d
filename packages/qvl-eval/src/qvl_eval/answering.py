"""Rows to answers, as many at a time as there are slots: pictures are prepared ahead in a thread, with bounded memory.

The order of rows decides the calls of the scheduler, and nothing else does: all ranks of a replica make the same ones.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING

from qvl_core.errors import DataError, InputError, Problem

from qvl_eval.prediction_log import Prediction

if TYPE_CHECKING:
    from qvl_eval.answers.driver import Driver
    from qvl_eval.asking import PreparedRow
    from qvl_eval.tsv import Row

Prepare = Callable[["Row"], "PreparedRow"]
# Of patches that wait for the model: one picture of 16,384 tokens has 294 MiB.
MOST_WAITING_BYTES = 512 * 1024**2


class PreparedRows:
    """Rows prepared in a thread, in their order: at most `ahead` of them wait, and at most so many bytes of patches.

    Use it as a context manager and iterate it once. An error of the preparation is raised where its row is due.
    """

    def __init__(
        self, rows: Iterable[Row], prepare: Prepare, *, ahead: int, most_bytes: int = MOST_WAITING_BYTES
    ) -> None:
        self._rows, self._prepare = rows, prepare
        self._ahead, self._most_bytes = ahead, most_bytes
        self._condition = threading.Condition()
        self._ready: deque[PreparedRow | BaseException] = deque()
        self._bytes = 0
        self._is_ended = self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="rows", daemon=True)

    def __enter__(self) -> PreparedRows:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
        self._thread.join()

    def __iter__(self) -> Iterator[PreparedRow]:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._ready or self._is_ended)
                if not self._ready:
                    return
                found = self._ready.popleft()
                if not isinstance(found, BaseException):
                    self._bytes -= found.media_bytes
                self._condition.notify_all()
            if isinstance(found, BaseException):
                raise found
            yield found

    def _run(self) -> None:
        try:
            for row in self._rows:
                if not self._put(self._prepare(row)):
                    return
        except BaseException as error:
            self._put(error)
        finally:
            with self._condition:
                self._is_ended = True
                self._condition.notify_all()

    def _put(self, made: PreparedRow | BaseException) -> bool:
        """Add it as soon as there is room, and give whether anybody still wants it."""
        size = 0 if isinstance(made, BaseException) else made.media_bytes
        with self._condition:
            self._condition.wait_for(
                lambda: (
                    self._is_closed
                    or not self._ready
                    or (len(self._ready) < self._ahead and self._bytes + size <= self._most_bytes)
                )
            )
            self._ready.append(made)
            self._bytes += size
            self._condition.notify_all()
            return not self._is_closed


@dataclass(kw_only=True)
class _Growing:
    """An answer while it grows. `bytes_waiting` are those of its patches, until its prompt was run."""

    prepared: PreparedRow
    started: float
    bytes_waiting: int
    texts: list[str] = field(default_factory=list)


def answer_prepared(
    driver: Driver, prepared: Iterable[PreparedRow], *, slots: int, most_bytes: int = MOST_WAITING_BYTES
) -> Iterator[list[tuple[Prediction, float]]]:
    """Give the rows that ended in each step, each with its seconds; an empty list for a step in which none did.

    Prompts whose patches together exceed `most_bytes` are not handed over before they can start. Raises DataError for a
    row that the cache can never hold.
    """
    left = iter(prepared)
    growing: dict[str, _Growing] = {}
    is_more = True
    while is_more or growing:
        refused: list[tuple[Prediction, float]] = []
        while is_more and len(growing) < slots and _waiting(growing) < most_bytes:
            row = next(left, None)
            if row is None:
                is_more = False
            elif row.job is None:
                refused.append((_prediction(row, "", "refused", 0), 0.0))
            else:
                growing[row.job.job_id] = _submitted(driver, row)
        yield refused + (_stepped(driver, growing) if growing else [])


def _waiting(growing: dict[str, _Growing]) -> int:
    return sum(one.bytes_waiting for one in growing.values())


def _submitted(driver: Driver, row: PreparedRow) -> _Growing:
    assert row.job is not None
    try:
        driver.submit(row.job)
    except InputError as error:
        where = f"{row.row.pictures.file.path}:{row.row.line}"
        message = "; ".join(problem.message for problem in error.problems)
        fix = "give the cache more room: a larger eval.held_tokens, or none, for the model's window"
        raise DataError(Problem(where=where, key=f"row {row.row.index}", message=message, fix=fix)) from None
    return _Growing(prepared=row, started=time.monotonic(), bytes_waiting=row.media_bytes)


def _stepped(driver: Driver, growing: dict[str, _Growing]) -> list[tuple[Prediction, float]]:
    ended = []
    for piece in driver.step():
        one = growing[piece.job_id]
        one.bytes_waiting = 0
        one.texts.append(piece.text)
        if piece.finish is None:
            continue
        del growing[piece.job_id]
        prediction = _prediction(one.prepared, "".join(one.texts), piece.finish, piece.new_tokens)
        ended.append((prediction, time.monotonic() - one.started))
    return ended


def _prediction(prepared: PreparedRow, text: str, finish: str, new_tokens: int) -> Prediction:
    row = prepared.row
    return Prediction(
        key=prepared.key,
        index=row.index,
        split=row.split,
        category=row.category,
        subcategory=row.columns.get("l2-category", ""),
        question=row.question,
        options=row.options,
        question_type=row.columns.get("question_type", ""),
        answer=row.answer,
        prediction=text,
        finish=finish,
        prompt_tokens=prepared.job.prompt_tokens if prepared.job is not None else 0,
        new_tokens=new_tokens,
        images=row.digests,
        sizes=prepared.sizes,
        problem=prepared.refused,
    )


def in_order(rows: Sequence[Row], indexes: Iterable[str]) -> list[Row]:
    """Give the rows with these indexes, in their order."""
    by_index = {row.index: row for row in rows}
    return [by_index[index] for index in indexes]
