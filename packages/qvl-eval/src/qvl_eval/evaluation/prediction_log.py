"""The answers of a run, one JSON object a line, only ever appended to: what a killed run has done stays done.

Every replica appends to a file of its own: `predictions.jsonl` the first, `predictions.001.jsonl` the next. `gather`
makes one of them, in the order of the benchmark's file; the same to the byte however often the run was killed, and
with however many replicas it went on. The seconds that an answer took are no part of that; they go to `times.jsonl`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from qvl_core import disk
from qvl_core.durable import FILE_MODE, atomic_write, explained, sync_folder
from qvl_core.errors import OutputError, Problem
from qvl_core.input_file import open_regular_file, printable

LOG_NAME = "predictions.jsonl"
TIMES_NAME = "times.jsonl"
_PART = re.compile(r"predictions(\.[0-9]{3,})?\.jsonl")
_COUNTS = ("prompt_tokens", "new_tokens")
_OTHER_FOLDER = "choose another folder: --set output.dir=runs/another_name"


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


_REQUIRED = ("key", "index", "answer", "prediction", "finish", *_COUNTS)


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
    """The number of answers in a folder's files, but for `beyond`; each look reads only what has been added."""

    def __init__(self, folder: Path, beyond: int = 0) -> None:
        self._folder, self._beyond = folder, beyond
        self._seen: dict[Path, tuple[int, int]] = {}

    def update(self) -> int:
        """Look again, and give the number of whole lines of all files, less those that do not count."""
        for path in part_files(self._folder):
            position, lines = self._seen.get(path, (0, 0))
            with suppress(FileNotFoundError), path.open("rb") as file:
                file.seek(position)
                while piece := file.read(1 << 20):
                    position, lines = position + len(piece), lines + piece.count(b"\n")
            self._seen[path] = position, lines
        return sum(lines for _, lines in self._seen.values()) - self._beyond


def read_answers(folder: Path) -> Iterator[tuple[str, Prediction, float | None]]:
    """Give (place, prediction, seconds) of every answer in the folder; seconds is None where `times.jsonl` has them.

    Raises OutputError for a line that is no prediction.
    """
    for path in part_files(folder):
        yield from read_log(path)


def read_log(path: Path, *, fix: str = _OTHER_FOLDER) -> Iterator[tuple[str, Prediction, float | None]]:
    """Give the answers of one file, as `read_answers` does, in its order; a line of it is in memory at a time.

    A last line without its end is the trace of a kill: that row was never done. Raises OutputError, with this fix, for
    a path that is no regular file and for any other line that is no prediction.
    """
    with explained(path), open_regular_file(path, error_type=OutputError, fix=fix) as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            place = f"{path}:{number}"
            try:
                prediction, seconds = _parsed(line)
            except (ValueError, TypeError, RecursionError) as error:
                message = f"is not a prediction: {printable(str(error))}"
                raise OutputError(Problem(where=place, key="output.dir", message=message, fix=fix)) from None
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
            raise OutputError(Problem(where=place, key="output.dir", message=message, fix=_OTHER_FOLDER))
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


def _parsed(line: bytes) -> tuple[Prediction, float | None]:
    value = json.loads(line.decode("utf-8", "surrogatepass"))
    seconds = value.pop("seconds", None) if isinstance(value, dict) else None
    return _checked(value), None if seconds is None else float(seconds)


def _checked(value: object) -> Prediction:
    if not isinstance(value, dict):
        raise ValueError("the line is not a JSON object")
    unknown = sorted(value.keys() - {one.name for one in fields(Prediction)})
    if unknown:
        raise ValueError(f"unknown keys: {', '.join(unknown[:5])}")
    wrong = [name for name in value if not _fits(name, value[name])]
    if wrong:
        raise ValueError(f"wrong type: {', '.join(wrong)}")
    missing = [name for name in _REQUIRED if name not in value]
    if missing:
        raise ValueError(f"missing: {', '.join(missing)}")
    images, sizes = value.get("images", ()), value.get("sizes", ())
    return Prediction(**{**value, "images": tuple(images), "sizes": tuple((height, width) for height, width in sizes)})


def _fits(name: str, value: object) -> bool:
    """Tell whether a value has the type of its column."""
    if name in _COUNTS:
        return isinstance(value, int)
    if name == "options":
        return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
    if name == "images":
        return isinstance(value, list) and all(isinstance(digest, str) for digest in value)
    if name == "sizes":
        sizes = value if isinstance(value, list) else [None]
        return all(isinstance(size, list) and list(map(type, size)) == [int, int] for size in sizes)
    return isinstance(value, str)
