"""The answers of a run, one JSON object a line, only ever appended to: what a killed run has done stays done.

Every replica appends to a file of its own: `predictions.jsonl` the first, `predictions.001.jsonl` the next. `gather`
makes one of them, in the order of the benchmark's file; the same to the byte however often the run was killed, and
with however many replicas it went on. The seconds that an answer took are no part of that; they go to `times.jsonl`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from qvl_core import disk
from qvl_core.durable import FILE_MODE, atomic_write, explained, sync_folder
from qvl_core.errors import OutputError, Problem
from qvl_core.input_file import printable

LOG_NAME = "predictions.jsonl"
TIMES_NAME = "times.jsonl"
_PART = re.compile(r"predictions(\.[0-9]{3,})?\.jsonl")
_TEXTS = (
    *("key", "index", "split", "category", "subcategory", "question", "question_type", "answer", "prediction"),
    *("finish", "problem"),
)
_COUNTS = ("prompt_tokens", "new_tokens")


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """An answered row. `key` is the digest of everything that decides the answer.

    The columns are those that scoring needs, under the names that `score.judged.AnsweredRow` has; "" where the file has
    no such column. Nothing in it depends on when or how fast the row was answered: an interrupted run ends with the
    same file.

    `finish` is "stop", "length", or "refused" for a row that cannot be asked: `problem` says why. `images` are the
    sha256 of the pictures, `sizes` their (height, width) after resizing, pixels, as they are shown.
    """

    key: str
    index: str
    split: str = ""
    category: str = ""
    subcategory: str = ""
    question: str
    options: Mapping[str, str] = field(default_factory=dict)
    question_type: str = ""
    answer: str
    prediction: str
    finish: str
    prompt_tokens: int
    new_tokens: int
    images: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    problem: str = ""


class PredictionLog:
    """Append a replica's answers; each call of `add` is on the disk when it returns."""

    def __init__(self, folder: Path, replica: int = 0) -> None:
        self._path = folder / part_name(replica)
        self._descriptor = -1

    def __enter__(self) -> PredictionLog:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with explained(self._path):
            self._descriptor = os.open(self._path, flags, FILE_MODE)
            sync_folder(self._path.parent)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def add(self, answered: Iterable[tuple[Prediction, float]]) -> None:
        """Append predictions, each with its seconds. Raises DiskError, nothing appended, where the disk is full."""
        assert self._descriptor >= 0, "add outside of the with block"
        lines = [_line({**asdict(prediction), "seconds": round(seconds, 3)}) for prediction, seconds in answered]
        data = "".join(lines).encode("utf-8", "surrogatepass")
        with explained(self._path):
            size = os.fstat(self._descriptor).st_size
            try:
                written = 0
                while written < len(data):
                    written += disk.write(self._descriptor, data[written:])
                disk.sync(self._descriptor)
            except OSError:
                # What the disk took of it would be read as a torn row; it is none of the rows that are done.
                with suppress(OSError):
                    disk.resize(self._descriptor, size)
                raise


def part_name(replica: int) -> str:
    """Name the file that a replica appends to."""
    return LOG_NAME if replica == 0 else f"predictions.{replica:03d}.jsonl"


def part_files(folder: Path) -> list[Path]:
    """List the files of answers in a folder, that of the first replica first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _PART.fullmatch(path.name)]
    return sorted(found, key=lambda path: (path.name != LOG_NAME, path.name))


class AnswerCount:
    """The number of answers in a folder's files; each look reads only what was added since the last one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[Path, tuple[int, int]] = {}

    def update(self) -> int:
        """Look again, and give the number of whole lines of all files."""
        for path in part_files(self._folder):
            position, lines = self._seen.get(path, (0, 0))
            with suppress(FileNotFoundError), path.open("rb") as file:
                file.seek(position)
                while piece := file.read(1 << 20):
                    position, lines = position + len(piece), lines + piece.count(b"\n")
            self._seen[path] = position, lines
        return sum(lines for _, lines in self._seen.values())


def read_answers(folder: Path) -> Iterator[tuple[str, Prediction, float | None]]:
    """Give (place, prediction, seconds) of every answer in the folder; seconds is None where `times.jsonl` has them.

    The end of a file without a line end is the trace of a kill: that row was never done. Raises OutputError for any
    other line that is no prediction.
    """
    for path in part_files(folder):
        with explained(path):
            data = path.read_bytes()
        for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
            place = f"{path}:{number}"
            prediction, seconds = _parsed(place, line)
            yield place, prediction, seconds


def done_answers(folder: Path, keys: Mapping[str, str], *, drop_others: bool = False) -> dict[str, Prediction]:
    """Give what is answered of the rows whose keys are given by index; rows beside them stay out of it.

    Raises OutputError for an answer under another key: given with other weights, data or settings. With `drop_others`
    it counts as not answered.
    """
    found: dict[str, Prediction] = {}
    for place, prediction, _ in read_answers(folder):
        wanted = keys.get(prediction.index)
        if prediction.key == wanted:
            found.setdefault(prediction.index, prediction)
        elif not drop_others and wanted is not None:
            message = f"row {printable(prediction.index, 60)} was answered with other weights, data or settings"
            raise OutputError(_problem(place, message))
    return found


def gather(folder: Path, keys: Mapping[str, str]) -> None:
    """Make one `predictions.jsonl` of all files, in the order of `keys`, and keep the seconds in `times.jsonl`.

    Answers under other keys are left out, those of rows beyond `keys` kept behind. A crash at any moment loses nothing:
    the other files are removed last.
    """
    answers: dict[str, Prediction] = {}
    times = _read_times(folder / TIMES_NAME)
    for _, prediction, seconds in read_answers(folder):
        if keys.get(prediction.index, prediction.key) != prediction.key:
            continue
        answers.setdefault(prediction.index, prediction)
        if seconds is not None:
            times.setdefault(prediction.key, seconds)
    order = [*(index for index in keys if index in answers), *(index for index in answers if index not in keys)]
    rows = [answers[index] for index in order]
    kept = [{"index": row.index, "key": row.key, "seconds": times[row.key]} for row in rows if row.key in times]
    atomic_write(folder / TIMES_NAME, "".join(map(_line, kept)))
    atomic_write(folder / LOG_NAME, "".join(_line(asdict(row)) for row in rows).encode("utf-8", "surrogatepass"))
    for path in part_files(folder)[1:]:
        with explained(path):
            disk.unlink(path)
    sync_folder(folder)


def _read_times(path: Path) -> dict[str, float]:
    if not path.exists():
        return {}
    with explained(path):
        lines = path.read_bytes().splitlines()
    try:
        return {row["key"]: float(row["seconds"]) for row in map(json.loads, lines)}
    except (ValueError, TypeError, KeyError) as error:
        message = f"is not the file of seconds that this run wrote: {printable(str(error))}"
        raise OutputError(Problem(where=str(path), message=message, fix="remove it: it changes no answer")) from None


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _parsed(place: str, line: bytes) -> tuple[Prediction, float | None]:
    try:
        value = json.loads(line.decode("utf-8", "surrogatepass"))
        seconds = value.pop("seconds", None) if isinstance(value, dict) else None
        return _checked(value), None if seconds is None else float(seconds)
    except (ValueError, TypeError, RecursionError) as error:
        raise OutputError(_problem(place, f"is not a prediction: {printable(str(error))}")) from None


def _checked(value: object) -> Prediction:
    if not isinstance(value, dict):
        raise ValueError("the line is not a JSON object")
    unknown = sorted(value.keys() - {one.name for one in fields(Prediction)})
    if unknown:
        raise ValueError(f"unknown keys: {', '.join(unknown[:5])}")
    wrong = [key for key in _TEXTS if not isinstance(value.get(key, ""), str)]
    wrong += [key for key in _COUNTS if not isinstance(value.get(key, 0), int)]
    options = value.get("options", {})
    if not isinstance(options, dict) or not all(isinstance(text, str) for text in options.values()):
        wrong.append("options")
    if wrong:
        raise ValueError(f"wrong type: {', '.join(wrong)}")
    images, sizes = _list(value.get("images", [])), _list(value.get("sizes", []))
    return Prediction(**{**value, "images": tuple(images), "sizes": tuple((int(h), int(w)) for h, w in sizes)})


def _list(value: object) -> Sequence[Any]:
    if not isinstance(value, list):
        raise ValueError("images and sizes are lists")
    return value


def _problem(place: str, message: str) -> Problem:
    fix = "choose another folder: --set output.dir=runs/another_name"
    return Problem(where=place, key="output.dir", message=message, fix=fix)
